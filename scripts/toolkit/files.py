"""Files between the stages: atomic writes, text by byte-order mark, JSON files, JSONL streams, inputs, safe names.

Half of a surrogate pair is no character and has no UTF-8. Strict reading refuses it and says where; every text written
here shows it as `\\udXXX`, so that no output ends with an encoding error.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

from toolkit.console import StageError
from toolkit.json_text import strict_json

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "scripts"
WINDOWS_RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(1, 10)), *(f"lpt{i}" for i in range(1, 10))}

# How every text file is written. Within JSON the replacement is the character's own escape.
TEXT_OPTIONS: dict[str, Any] = {"encoding": "utf-8", "newline": "\n", "errors": "backslashreplace"}
# Errors of this machine that would meet every document: a full or read-only disk, no more open files, no memory.
MACHINE_ERRORS = {
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS", "EMFILE", "ENFILE", "ENOMEM") if hasattr(errno, name)
}
JOURNAL = ".files_in_transit.json"  # of a folder, while a group of files is moved into place
# Inside outputs.together: the temporary files that wait to be moved into place, and where to.
TOGETHER: ContextVar[list[tuple[Path, Path]] | None] = ContextVar("together", default=None)
MIB = 2**20
MOST_TEXT_BYTES = 1024 * MIB  # of a file that is read whole, such as a table
MOST_SETTINGS_BYTES = 16 * MIB  # of a schema, a mapping, settings, a prompt
MOST_LINE_BYTES = 256 * MIB  # of one line of JSONL
_SURROGATE = re.compile("[\ud800-\udfff]")


class NotWritten(OSError):
    """A file of ours could not be written: this machine's fault, never the document's that was being read."""


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Operating-system errors in here become NotWritten, with the same number, text and file name."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # an encoder's complaint, not the system's
            raise
        raise NotWritten(error.errno, error.strerror, error.filename) from error


def is_machine_failure(error: BaseException) -> bool:
    """Whether an error would meet every document alike, so that it must not be held against one."""
    return isinstance(error, NotWritten) or (isinstance(error, OSError) and error.errno in MACHINE_ERRORS)


@contextlib.contextmanager
def atomic(path: Path | str, mode: str = "w", *, sync: bool = True) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` and move it into place on success; on any failure `path` is left as it was.

    Text is UTF-8 with `\\n`, a lone surrogate in it `\\udXXX`; mode is "w" or "wb". Without `sync` a power failure may
    leave an empty file, and a killed process none: for many files whose content is checked later.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {} if "b" in mode else TEXT_OPTIONS
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, mode, **options) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~umask())
        if (waiting := TOGETHER.get()) is None:
            replace(name, path)
        else:
            waiting.append((Path(name), path))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def half_replaced(path: Path) -> bool:
    """Whether a file is one of a group that a run was killed in the middle of replacing."""
    return path.name in {name for _, name in moves_of(path.parent)}


def moves_of(folder: Path) -> list[tuple[str, str]]:
    """The moves in the folder's journal, as names in it: from, to. None where there is no journal."""
    try:
        moves = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))
        return [(Path(part).name, Path(name).name) for part, name in moves]
    except (OSError, ValueError, TypeError):
        return []


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
        os.chmod(made, 0o777 & ~umask())
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


def umask() -> int:
    """The permissions that this process takes from new files."""
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


def move_file(source: Path, target: Path) -> None:
    """Move a file into place, also from another file system (then by way of a temporary file beside the target)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with source.open("rb") as read, atomic(target, "wb") as written:
            shutil.copyfileobj(read, written)
        source.unlink()


def is_temporary(path: Path) -> bool:
    """Whether a path lies below one of our temporary names (`.name.xxxx.part`, `.old`): never an input of a stage."""
    return any(part.startswith(".") and part.endswith((".part", ".old")) for part in path.parts)


def escaped(text: str) -> str:
    """The text with every lone surrogate as `\\udXXX`, so that it can be encoded and printed."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-8", "backslashreplace").decode()


def with_replacement(text: str) -> str:
    """The text with every lone surrogate as U+FFFD, the character that stands for an unknown one."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def with_whole_pairs(text: str) -> str:
    """The text with both halves of a surrogate pair as one character: the pieces of a stream may part them."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def escaped_values(value: Any) -> Any:
    """A JSON value with every text and key of it `escaped`."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, dict):
        return {escaped(key) if isinstance(key, str) else key: escaped_values(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [escaped_values(child) for child in value]
    return value


def name_problem(path: Path | str) -> str:
    """A sentence where a file's path is not valid UTF-8 (no file of ours can name it); else empty."""
    # Only a suspect is resolved, which asks the file system: the folder that we work in may be called anything.
    if not _SURROGATE.search(str(path)) or not _SURROGATE.search(name := _from_here(path)):
        return ""
    part = next(part for part in name.split("/") if _SURROGATE.search(part))
    return f"the name {escaped(part)} is not valid UTF-8; rename it"


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically: afterwards the old or the new file is there, never a part."""
    with atomic(path) as file:
        file.write(text)


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: Path | str, values: Iterable[Any]) -> int:
    """One compact JSON object a line; returns how many lines were written."""
    count = 0
    with atomic(path) as file:
        for value in values:
            file.write(json_line(value))
            count += 1
    return count


def json_line(value: Any) -> str:
    """A value as one line of JSONL."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def open_to_append(path: Path) -> IO[str]:
    """A JSONL file to append to; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a", **TEXT_OPTIONS)


def decode_text(data: bytes, where: str) -> str:
    """`data` as text: UTF-8 or UTF-16 by its byte-order mark; without one, UTF-16 by its zero bytes, else UTF-8."""
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


@contextlib.contextmanager
def opened(path: Path | str, what: str = "a file") -> Iterator[IO[bytes]]:
    """A regular file, open to read bytes. Raises StageError where it does not exist, cannot be read, or is a folder, a
    named pipe or a device, which may never end; `what` says what is needed instead."""
    path = Path(path)
    try:
        # A named pipe would wait here for a writer.
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise StageError(f"{shown(path)} is a folder, {what} is needed here")
        if not stat.S_ISREG(mode):
            raise StageError(f"{shown(path)} is a pipe or a device, {what} is needed here; save the data as a file")
        if half_replaced(path):
            again = "run the command that wrote it again, which finishes that first"
            raise StageError(f"{shown(path)} and the files beside it were being replaced when a run was ended; {again}")
        file = path.open("rb")
    except FileNotFoundError:
        raise StageError(f"file not found: {shown(path)}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise unreadable(path, error) from None
    with file:
        yield file


def unreadable(path: Path | str, error: Exception) -> StageError:
    """The sentence for a file that the system does not let us read."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    remedy = "close programs that have it open, or correct its permissions"
    return StageError(f"{escaped(str(path))} cannot be read ({reason}); {remedy}")


def read_bytes(path: Path | str, most: int = MOST_TEXT_BYTES) -> bytes:
    """The file's content. Raises StageError where it cannot be read (see opened) or has more than `most` bytes."""
    with opened(path) as file:
        try:
            large = os.fstat(file.fileno()).st_size > most
            data = b"" if large else file.read(most + 1)
        except OSError as error:
            raise unreadable(path, error) from None
    if large or len(data) > most:
        raise StageError(f"{shown(path)} is larger than {most // MIB} MiB, the most that is read here; is it the file?")
    return data


def read_text(path: Path | str, most: int = MOST_TEXT_BYTES) -> str:
    """The file's text. Raises StageError where it cannot be read (see read_bytes), or is no text."""
    return decode_text(read_bytes(path, most), shown(path))


def read_json(path: Path | str, *, lone_surrogates: bool = False, most: int = MOST_TEXT_BYTES) -> Any:
    """The file's JSON value, strictly (see strict_json). Raises StageError with line and column where it is none, and
    where the file has more than `most` bytes."""
    text = read_text(path, most)
    if not text.strip():
        raise StageError(f"{shown(path)}: the file is empty, JSON is needed here")
    try:
        return strict_json(text, lone_surrogates=lone_surrogates)
    except json.JSONDecodeError as error:
        raise StageError(f"{shown(path)}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except ValueError as error:
        raise StageError(f"{shown(path)}: not JSON: {error}") from None


def iter_data_lines(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """`(line number, line as UTF-8 bytes without its end)` of the non-empty lines, streamed.

    A byte-order mark at the start decides the encoding. Raises StageError where the file cannot be read (see opened).
    """
    with opened(path, "a JSONL file") as file:
        start = file.read(4)
        file.seek(0)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or (len(start) == 4 and 0 in start):
            for number, line in enumerate(read_text(path).splitlines(), 1):
                if line.strip():
                    yield number, line.encode()
            return
        if start.startswith(codecs.BOM_UTF8):
            file.seek(3)
        number = 0
        while raw := file.readline(MOST_LINE_BYTES + 1):
            number += 1
            if len(raw) > MOST_LINE_BYTES:
                raise StageError(f"{shown(path)}:{number}: a line of over {MOST_LINE_BYTES // MIB} MiB; is it JSONL?")
            line_data = raw.rstrip(b"\r\n")
            if line_data and not line_data.isspace():
                yield number, line_data


def iter_lines(path: Path | str) -> Iterator[tuple[int, str]]:
    """`(line number, line)` of the non-empty lines, streamed. Raises StageError where a line is no UTF-8."""
    for number, data in iter_data_lines(path):
        yield number, decode_text(data, f"{shown(path)}:{number}")


def read_jsonl(path: Path | str, *, lone_surrogates: bool = False) -> Iterator[tuple[int, Any]]:
    """`(line number, value)` of every line. Raises StageError with file and line where one is no strict JSON."""
    for number, line in iter_lines(path):
        try:
            yield number, strict_json(line, lone_surrogates=lone_surrogates)
        except ValueError as error:
            raise StageError(f"{shown(path)}:{number}: not JSON: {error}") from None


def shown(path: Path | str) -> str:
    """A path as people and files see it: POSIX, relative to the working directory where it lies below it.

    Bytes of a name that are not UTF-8 are shown escaped (see name_problem).
    """
    return escaped(_from_here(path))


def _from_here(path: Path | str) -> str:
    path, here = Path(path), Path.cwd().resolve()
    if ".." not in path.parts:  # a link keeps its own name: two links to one file are two documents
        with contextlib.suppress(ValueError):
            return path.absolute().relative_to(here).as_posix() or "."
    with contextlib.suppress(ValueError, OSError, RuntimeError):  # below another folder; a loop of links
        return path.resolve().relative_to(here).as_posix() or "."
    return path.as_posix()


def argument_path(text: str) -> Path:
    """A path from the command line. Back slashes, also doubled ones, separate folders on every platform."""
    if os.sep == "/" and "\\" in text and not os.path.exists(text):
        text = re.sub(r"\\+", "/", text)
    return Path(text)


def expand_inputs(patterns: Iterable[Path | str], suffixes: Iterable[str]) -> list[Path]:
    """Files named by files, folders (searched below) and globs, sorted, each once.

    PowerShell and cmd do not expand globs, so they are expanded here. Raises StageError where one matches nothing.
    """
    wanted = {suffix.lower() for suffix in suffixes}
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = argument_path(str(pattern))
        if path.is_dir():
            found_below = (p for p in path.rglob("*") if p.suffix.lower() in wanted and p.is_file())
            matches = [p for p in found_below if not is_temporary(p.relative_to(path))]
        elif path.is_file():
            matches = [path]
        else:
            matches = [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
        if not matches:
            kinds = ", ".join(sorted(wanted))
            raise StageError(
                f"nothing found for {escaped(str(pattern))!r}; "
                f"give a file, a folder that holds {kinds} files, or a pattern"
            )
        for match in sorted(matches, key=lambda p: (p.as_posix().casefold(), p.as_posix())):
            found[match] = None
    return list(found)


def safe_name(name: str) -> str:
    """One path component that every platform can store.

    It has no separators, reserved names or trailing dots, and at most 150 bytes.
    """
    name = unicodedata.normalize("NFC", escaped(name))
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "_", name).rstrip(" .").lstrip(" ")
    if not name or name.strip(".") == "":
        name = "_"
    if name.split(".")[0].lower() in WINDOWS_RESERVED:
        name = f"_{name}"
    if len(name.encode()) > 150:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        stem, dot, suffix = name.rpartition(".")
        if not dot or len(suffix) > 10:
            stem, suffix = name, ""
        stem = stem.encode("utf-8", "ignore")[:120].decode("utf-8", "ignore")
        name = f"{stem}~{digest}" + (f".{suffix}" if suffix else "")
    return name


def sha256_of(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_problems(path: Path, problems: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    """Write every problem as a JSONL line, and tell where; no problems, no file (an older one is removed)."""
    if problems:
        write_jsonl(path, problems)
        say(f"all {len(problems)} in {shown(path)}")
    else:
        path.unlink(missing_ok=True)
