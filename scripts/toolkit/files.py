"""Files between the stages: atomic writes, text by byte-order mark, strict JSON, JSONL streams, inputs, safe names."""

from __future__ import annotations

import codecs
import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from toolkit.console import StageError

WINDOWS_RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(1, 10)), *(f"lpt{i}" for i in range(1, 10))}


@contextlib.contextmanager
def atomic(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` and move it into place on success; on any failure `path` is left as it was.

    Text is UTF-8 with `\\n`; mode is "w" or "wb".
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder beside `path` to fill; on success it becomes `path`, on any failure nothing of it stays.

    Raises StageError where `path` already holds files and `overwrite` is not given.
    """
    if path.exists() and not path.is_dir():
        raise StageError(f"{shown(path)} is a file, a folder is needed here")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise StageError(f"{shown(path)} already holds files; choose another --out, or --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{path.name[:80]}.", suffix=".part", dir=path.parent))
    try:
        os.chmod(made, 0o777 & ~_umask())
        yield made
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name[:80]}.", suffix=".old", dir=path.parent))
            replace(path, old / path.name)
            replace(made, path)
            shutil.rmtree(old)
        else:
            replace(made, path)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def replace(source: Path | str, target: Path | str) -> None:
    """`os.replace`, retried for two seconds: on Windows a virus scanner may hold the target for a moment."""
    for attempt in range(20):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if attempt == 19:
                raise
            time.sleep(0.1)


def write_text(path: Path | str, text: str) -> None:
    with atomic(path) as file:
        file.write(text)


def write_json(path: Path | str, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: Path | str, values: Iterable[Any]) -> int:
    """One compact JSON object a line; returns how many lines were written."""
    count = 0
    with atomic(path) as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
            count += 1
    return count


def decode_text(data: bytes, where: str) -> str:
    """Text by its byte-order mark (UTF-8, UTF-16); without one UTF-16 is known by its zero bytes, else it must be UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif len(data) >= 4 and data[1] == 0 and data[3] == 0 and data[0] != 0:
        encoding = "utf-16-le"
    elif len(data) >= 4 and data[0] == 0 and data[2] == 0 and data[1] != 0:
        encoding = "utf-16-be"
    else:
        encoding = "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise StageError(
            f"{where}: not valid {encoding.replace('-sig', '')} text at byte {error.start}; save the file as UTF-8"
        ) from None


def read_text(path: Path | str) -> str:
    """The file's text. Raises StageError where it does not exist, is a folder, or is no text."""
    path = Path(path)
    if path.is_dir():
        raise StageError(f"{shown(path)} is a folder, a file is needed here")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise StageError(f"file not found: {shown(path)}") from None
    return decode_text(data, shown(path))


class DuplicateKey(ValueError):
    """A JSON object holds one key twice; both parsers of the standard library would keep the last silently."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKey(f"the key {key!r} stands twice in one object")
            seen.add(key)
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def strict_json(text: str) -> Any:
    """`json.loads` that refuses duplicate keys, NaN and Infinity (ValueError) and too deep nesting."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None


def parsers() -> tuple[Any, Any]:
    """`(loads, dumps)` of orjson, or of json with the same bytes where orjson is not installed; neither is strict."""
    try:
        import orjson
    except ModuleNotFoundError:
        return json.loads, lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "surrogatepass"
        )
    return orjson.loads, orjson.dumps


def read_json(path: Path | str) -> Any:
    """The file's JSON value, strictly. Raises StageError with line and column where it is none."""
    text = read_text(path)
    if not text.strip():
        raise StageError(f"{shown(path)}: the file is empty, JSON is needed here")
    try:
        return strict_json(text)
    except json.JSONDecodeError as error:
        raise StageError(f"{shown(path)}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except ValueError as error:
        raise StageError(f"{shown(path)}: not JSON: {error}") from None


def iter_data_lines(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """`(line number, line as UTF-8 bytes without its end)` of the non-empty lines, streamed; byte-order marks are honoured."""
    path = Path(path)
    if path.is_dir():
        raise StageError(f"{shown(path)} is a folder, a JSONL file is needed here")
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise StageError(f"file not found: {shown(path)}") from None
    with file:
        start = file.read(4)
        file.seek(0)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or (len(start) == 4 and 0 in start):
            for number, line in enumerate(decode_text(file.read(), shown(path)).splitlines(), 1):
                if line.strip():
                    yield number, line.encode()
            return
        if start.startswith(codecs.BOM_UTF8):
            file.seek(3)
        for number, raw in enumerate(file, 1):
            line_data = raw.rstrip(b"\r\n")
            if line_data and not line_data.isspace():
                yield number, line_data


def iter_lines(path: Path | str) -> Iterator[tuple[int, str]]:
    """`(line number, line)` of the non-empty lines, streamed. Raises StageError where a line is no UTF-8."""
    for number, data in iter_data_lines(path):
        yield number, decode_text(data, f"{shown(path)}:{number}")


def read_jsonl(path: Path | str) -> Iterator[tuple[int, Any]]:
    """`(line number, value)` of every line. Raises StageError with file and line at the first that is no JSON."""
    for number, line in iter_lines(path):
        try:
            yield number, strict_json(line)
        except ValueError as error:
            raise StageError(f"{shown(path)}:{number}: not JSON: {error}") from None


def shown(path: Path | str) -> str:
    """A path as people and files see it: POSIX, relative to the working directory where it lies below it."""
    path = Path(path)
    with contextlib.suppress(ValueError):
        return path.resolve().relative_to(Path.cwd().resolve()).as_posix() or "."
    return path.as_posix()


def argument_path(text: str) -> Path:
    """A path from a command line; back slashes (also doubled, as documentation often prints them) separate on every platform."""
    if os.sep == "/" and "\\" in text and not os.path.exists(text):
        text = re.sub(r"\\+", "/", text)
    return Path(text)


def expand_inputs(patterns: Iterable[Path | str], suffixes: Iterable[str]) -> list[Path]:
    """Files named by files, folders (searched below) and globs, sorted, each once.

    PowerShell and cmd hand globs over unexpanded, so they are expanded here. Raises StageError where one matches nothing.
    """
    wanted = {suffix.lower() for suffix in suffixes}
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = argument_path(str(pattern))
        if path.is_dir():
            matches = [p for p in path.rglob("*") if p.suffix.lower() in wanted and p.is_file()]
        elif path.is_file():
            matches = [path]
        else:
            matches = [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
        if not matches:
            kinds = ", ".join(sorted(wanted))
            raise StageError(
                f"nothing found for {str(pattern)!r}; give a file, a folder that holds {kinds} files, or a pattern"
            )
        for match in sorted(matches, key=lambda p: (p.as_posix().casefold(), p.as_posix())):
            found[match] = None
    return list(found)


def safe_name(name: str) -> str:
    """One path component that every platform can store: no separators, reserved names, trailing dots, at most 150 bytes."""
    name = unicodedata.normalize("NFC", name)
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "_", name).rstrip(" .").lstrip(" ")
    if not name or name.strip(".") == "":
        name = "_"
    if name.split(".")[0].lower() in WINDOWS_RESERVED:
        name = f"_{name}"
    if len(name.encode("utf-8", "surrogatepass")) > 150:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        stem, dot, suffix = name.rpartition(".")
        if not dot or len(suffix) > 10:
            stem, suffix = name, ""
        stem = stem.encode("utf-8", "ignore")[:120].decode("utf-8", "ignore")
        name = f"{stem}~{digest}" + (f".{suffix}" if suffix else "")
    return name


def sha256_of(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_problems(path: Path, problems: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    """Write every problem as a JSONL line, and tell where; no problems, no file (an older one is removed)."""
    if problems:
        write_jsonl(path, problems)
        say(f"all {len(problems)} in {shown(path)}")
    else:
        path.unlink(missing_ok=True)
