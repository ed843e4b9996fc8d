"""Extract zips of page images and PDFs safely, each into its own folder.

Reads --zip FILE (repeat it for more; without it every data/*.zip). Writes data/raw/<zip stem>/... with safe names.
Only images and PDFs come out (--all for everything). Names that leave the folder, links, encrypted or damaged members and
bombs are refused one by one and named; the good members still come out (exit code 1). Running it again changes nothing.

    python scripts/extract_combined_zip.py --zip data/combined.zip
    python scripts/extract_combined_zip.py --zip data/combined.zip --zip data/bls_another.zip
"""

from __future__ import annotations

import hashlib
import io
import stat
import struct
import sys
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import ExitCode, StageError, say
from toolkit.files import argument_path, atomic, expand_inputs, safe_name, shown, write_problems
from toolkit.pages.rendering import SOURCE_SUFFIXES

WANTED = set(SOURCE_SUFFIXES)
CHUNK = 1 << 20
# Of Windows' 260 characters: the rest is for the repository's own path, data/raw/<zip>/ and a temporary file's name.
LONGEST_PLACE = 170


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument(
        "--zip", action="append", default=[], metavar="FILE", help="a zip; repeat for more (default: every data/*.zip)"
    )
    parser.add_argument(
        "--out-dir", type=Path, default=Path("data/raw"), help="parent of the folders (default: data/raw)"
    )
    parser.add_argument("--all", action="store_true", help="extract every kind of file, not only images and PDFs")
    parser.add_argument("--max-total-gb", type=float, default=50, help="stop a zip that unpacks to more (default: 50)")
    parser.add_argument(
        "--max-ratio",
        type=float,
        default=200,
        help="refuse a member that unpacks to more times its packed size (default: 200)",
    )
    parser.add_argument(
        "--names-encoding",
        default="cp437",
        metavar="CODEC",
        help="of member names that are neither marked as UTF-8 nor are it, for example gbk or cp1252 (default: cp437)",
    )
    parser.add_argument("--overwrite", action="store_true", help="write members again that are already there")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        "".encode(args.names_encoding)
    except LookupError:
        raise StageError(f"--names-encoding {args.names_encoding!r}: Python knows no such codec") from None
    zips = [argument_path(name) for name in args.zip] or expand_inputs(["data/*.zip"], [".zip"])
    total: dict[str, Any] = {"zips": 0, "extracted": 0, "unchanged": 0, "other_files": 0, "problems": 0, "folders": []}
    problems: list[dict[str, Any]] = []
    for path in zips:
        folder = args.out_dir / safe_name(path.stem)
        counts, found = extract(path, folder, args)
        problems += found
        total["zips"] += 1
        total["folders"].append(shown(folder))
        for key, value in counts.items():
            total[key] += value
        other = f", {counts['other_files']} files of other kinds left inside" if counts["other_files"] else ""
        say(
            f"{shown(path)}: {counts['extracted']} extracted, {counts['unchanged']} already there{other} -> {shown(folder)}"
        )
    if problems:
        named = console.first_few(f"{p['zip']}: {p['member']!r} {p['problem']}" for p in problems)
        say(f"{len(problems)} members were not extracted: {named}")
    write_problems(args.out_dir / "problems.jsonl", problems, say)
    total["problems"] = len(problems)
    return console.finish(args, total, ExitCode.PROBLEMS if problems else ExitCode.OK)


def extract(path: Path, folder: Path, args: Any) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Extract one zip; `(counts, problems)`. Raises StageError where it is no readable zip."""
    counts = {"extracted": 0, "unchanged": 0, "other_files": 0}
    problems: list[dict[str, Any]] = []
    try:
        file, archive = opened_zip(path)
    except FileNotFoundError:
        raise StageError(f"file not found: {shown(path)}") from None
    except IsADirectoryError:
        raise StageError(f"{shown(path)} is a folder, a zip is needed here") from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise StageError(f"{shown(path)}: not a zip file ({error})") from None
    written = 0
    owners: dict[str, str] = {}
    with file, archive:
        for member in archive.infolist():
            try:
                called = member_name(member, args.names_encoding)
            except UnicodeDecodeError:
                problem = f"its name is not {args.names_encoding} (--names-encoding)"
                problems.append({"zip": shown(path), "member": member.filename, "problem": problem})
                continue
            name = called.replace("\\", "/")
            if name.endswith("/"):
                continue
            refusal = refused(member, name, args.max_ratio)
            if not refusal and not args.all and Path(name).suffix.lower() not in WANTED:
                if Path(name).suffix.lower() == ".zip":
                    refusal = "is a zip inside the zip; extract it by itself"
                else:
                    counts["other_files"] += 1
                    continue
            target = folder / fitting([safe_name(part) for part in name.split("/") if part not in ("", ".")] or ["_"])
            identity = unicodedata.normalize("NFC", target.as_posix()).casefold()
            if not refusal and identity in owners:
                refusal = f"has the same name as {owners[identity]!r} on Windows or macOS"
            if not refusal and written + member.file_size > args.max_total_gb * 2**30:
                refusal = f"would exceed --max-total-gb {args.max_total_gb:g}"
            if not refusal:
                owners[identity] = called
                if not args.overwrite and target.is_file() and same_content(target, member):
                    counts["unchanged"] += 1
                    continue
                refusal = copy_member(archive, member, target)
            if refusal:
                problems.append({"zip": shown(path), "member": called, "problem": refusal})
            else:
                counts["extracted"] += 1
                written += member.file_size
    return counts, problems


class ZipReader(io.BufferedReader):
    """A zip's file, in which a name that is marked as UTF-8 and is not loses the mark.

    Python would refuse the whole zip for one such name.
    """

    reads_directory = True

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self.reads_directory and data.startswith(b"PK\x01\x02"):
            entries, at = bytearray(data), 0
            while entries[at : at + 4] == b"PK\x01\x02" and at + 46 <= len(entries):
                name, extra, comment = struct.unpack_from("<HHH", entries, at + 28)
                unmarked(entries, at + 9, entries[at + 46 : at + 46 + name])
                at += 46 + name + extra + comment
            return bytes(entries)
        if size == 30 and data.startswith(b"PK\x03\x04") and len(data) == 30:
            header, place = bytearray(data), self.tell()
            unmarked(header, 7, super().read(int.from_bytes(header[26:28], "little")))
            self.seek(place)
            return bytes(header)
        return data


def unmarked(header: bytearray, place: int, name: bytes | bytearray) -> None:
    """Clear the UTF-8 mark (bit 11 of the flags, whose upper byte is at `place`) where the name is none."""
    try:
        name.decode()
    except UnicodeDecodeError:
        header[place] &= ~0x08


def opened_zip(path: Path) -> tuple[ZipReader, zipfile.ZipFile]:
    """The zip's file, and the zip with every member whatever its name. Raises as zipfile does."""
    file = ZipReader(io.FileIO(path))
    try:
        archive = zipfile.ZipFile(file)
    except BaseException:
        file.close()
        raise
    file.reads_directory = False
    return file, archive


def fitting(parts: list[str]) -> Path:
    """A member's place below its zip's folder. Where the folders would make a path that Windows cannot open (260 characters in all), one short name stands
    for them; the file keeps its own name, which is what labels are joined by."""
    place = Path(*parts)
    if len(place.as_posix()) <= LONGEST_PLACE:
        return place
    return Path(f"folders~{hashlib.sha256('/'.join(parts[:-1]).encode()).hexdigest()[:8]}", parts[-1])


def member_name(member: zipfile.ZipInfo, encoding: str) -> str:
    """The member's name as its maker meant it.

    A name without the UTF-8 mark is cp437 by the standard, and Python reads it so; macOS writes UTF-8 without the mark, Windows
    the machine's own code page. Info-ZIP's Unicode path field (0x7075) wins where it fits the name.
    Raises UnicodeDecodeError where the name is not in `encoding`.
    """
    if member.flag_bits & 0x800:
        return member.filename
    try:
        raw = member.orig_filename.encode("cp437")
    except UnicodeEncodeError:
        return member.filename  # this Python read the Unicode path field by itself
    extra = member.extra
    while len(extra) >= 4:
        kind, size = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        field = extra[4 : 4 + size]
        if kind == 0x7075 and len(field) > 5 and int.from_bytes(field[1:5], "little") == zlib.crc32(raw):
            return field[5:].decode("utf-8")
        extra = extra[4 + size :]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode(encoding)


def refused(member: zipfile.ZipInfo, name: str, max_ratio: float) -> str:
    """Why this member must not be extracted; empty where it may."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":"):
        return "leaves the folder"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind and kind not in (stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if member.flag_bits & 0x1:
        return "is encrypted"
    if member.file_size > 10 * CHUNK and member.file_size > max_ratio * max(1, member.compress_size):
        return f"unpacks to {member.file_size / max(1, member.compress_size):.0f} times its size (--max-ratio)"
    return ""


def same_content(target: Path, member: zipfile.ZipInfo) -> bool:
    if target.stat().st_size != member.file_size:
        return False
    check = 0
    with target.open("rb") as file:
        while chunk := file.read(CHUNK):
            check = zlib.crc32(chunk, check)
    return check == member.CRC


def copy_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> str:
    """Stream one member into place; a sentence where it is damaged (nothing is written then)."""
    try:
        with archive.open(member) as source, atomic(target, "wb") as file:
            size = 0
            while chunk := source.read(CHUNK):
                size += len(chunk)
                if size > member.file_size:
                    return "is larger than the zip says"
                file.write(chunk)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        return f"is damaged ({error})"
    return ""


if __name__ == "__main__":
    sys.exit(main())
