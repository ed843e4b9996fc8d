"""Zips as they come: opened member by member, so that one bad member or name stops no other.

Python's zipfile refuses a whole zip for one bad entry of its directory. `ZipReader` repairs such entries while they are
read; the member itself is then refused or taken by what it holds.
"""

from __future__ import annotations

import hashlib
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toolkit.console import one_line
from toolkit.files import atomic, is_machine_failure
from toolkit.pages.pictures import file_problem

CHUNK = 1 << 20
SMALL = 10 * CHUNK  # what may unpack to any size: white pages compress well
# Of Windows' 260 characters: the rest is for the repository's own path, data/raw/<zip>/ and a temporary file's name.
LONGEST_PLACE = 170
NEWEST_VERSION = 63  # "version needed to extract"; zipfile refuses the whole zip for a higher one
_UTF8 = 0x08  # bit 11 of the flags, in their upper byte
_UNICODE_PATH, _ZIP64, _UNKNOWN_FIELD = 0x7075, 0x0001, 0xFFFE


class UnreadableZip(Exception):
    """The file is no zip that can be opened; the message is one sentence without the file's name."""


class ZipReader(io.BufferedReader):
    """A zip's file, in which entries of the directory that Python would refuse are repaired."""

    reads_directory = True

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self.reads_directory and data.startswith(b"PK\x01\x02"):
            entries, at = bytearray(data), 0
            while entries[at : at + 4] == b"PK\x01\x02" and at + 46 <= len(entries):
                name, extra, comment = struct.unpack_from("<HHH", entries, at + 28)
                unmarked(entries, at + 9, entries[at + 46 : at + 46 + name])
                if int.from_bytes(entries[at + 6 : at + 8], "little") > NEWEST_VERSION:
                    struct.pack_into("<H", entries, at + 6, NEWEST_VERSION)
                repair_extra(entries, at + 46 + name, extra, struct.unpack_from("<II", entries, at + 20))
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
        header[place] &= ~_UTF8


def repair_extra(entries: bytearray, start: int, length: int, sizes: tuple[int, int]) -> None:
    """Make an entry's extra fields well formed, in place: one that is too short, or no UTF-8, becomes an unknown one.

    `sizes`: the entry's packed and unpacked size, which say what a ZIP64 field must hold.
    """
    at, end = start, min(start + length, len(entries))
    while at + 4 <= end:
        kind, size = struct.unpack_from("<HH", entries, at)
        if at + 4 + size > end:
            kind, size = _UNKNOWN_FIELD, end - at - 4
        field = bytes(entries[at + 4 : at + 4 + size])
        needed = 8 * sum(value == 0xFFFFFFFF for value in sizes)
        if (kind == _ZIP64 and size < needed) or (kind == _UNICODE_PATH and not is_utf8(field[5:])):
            kind = _UNKNOWN_FIELD
        struct.pack_into("<HH", entries, at, kind, size)
        at += 4 + size


def is_utf8(data: bytes) -> bool:
    """Whether the bytes are valid UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def opened_zip(path: Path) -> tuple[ZipReader, zipfile.ZipFile]:
    """The zip's file, and the zip with every member whatever its name. Raises UnreadableZip with a sentence."""
    try:
        if problem := file_problem(path):
            raise UnreadableZip(f"{problem}; a zip is needed here")
        file = ZipReader(io.FileIO(path))
    except FileNotFoundError:
        raise UnreadableZip("file not found") from None
    except OSError as error:
        raise UnreadableZip(f"it cannot be read ({error.strerror})") from None
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:
        file.close()
        if is_machine_failure(error):
            raise
        raise UnreadableZip(f"not a zip file ({one_line(error)})") from None
    except BaseException:
        file.close()
        raise
    file.reads_directory = False
    return file, archive


def fitting(parts: list[str]) -> Path:
    """A member's place below its zip's folder.

    Where the path would be too long for Windows (260 characters in all), one short name replaces the folders. The file
    keeps its own name, because labels are joined by it.
    """
    place = Path(*parts)
    if len(place.as_posix()) <= LONGEST_PLACE:
        return place
    return Path(f"folders~{hashlib.sha256('/'.join(parts[:-1]).encode()).hexdigest()[:8]}", parts[-1])


def member_name(member: zipfile.ZipInfo, encoding: str) -> str:
    """The member's name as its maker meant it.

    A name without the UTF-8 mark is cp437 by the standard, and Python reads it so. macOS writes UTF-8 without the mark,
    Windows the machine's own code page. Info-ZIP's Unicode path field (0x7075) wins where it fits the name.
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
        if kind == _UNICODE_PATH and len(field) > 5 and int.from_bytes(field[1:5], "little") == zlib.crc32(raw):
            return field[5:].decode("utf-8")
        extra = extra[4 + size :]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode(encoding)


def refused(member: zipfile.ZipInfo, name: str) -> str:
    """Why this member must not be extracted, by its name and kind; empty where it may."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":"):
        return "leaves the folder"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind and kind not in (stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if member.flag_bits & 0x1:
        return "is encrypted"
    if name.endswith("/"):
        return "has the name of a folder and is none"
    return ""


@dataclass
class Allowance:
    """What may still come out of one zip of `packed` bytes: of all members together, and of those that unpack much.

    Members of a high ratio may give SMALL bytes together, so that many small bombs are no way round the ratio. All
    together may give `max_ratio` times the zip's own size: members may overlap in the file.
    """

    packed: int
    max_bytes: float
    max_ratio: float
    written: int = 0
    inflated: int = 0

    def refusal(self, member: zipfile.ZipInfo) -> str:
        """Why the member would be too much; empty where it may come out, and counts then (see `take`)."""
        if self.written + member.file_size > self.max_bytes:
            return f"would exceed --max-total-gb {self.max_bytes / 2**30:g}"
        ratio = member.file_size / max(1, member.compress_size)
        if self._is_inflated(member) and self.inflated + member.file_size > SMALL:
            rest = " (together with members before it)" if member.file_size <= SMALL else ""
            return f"unpacks to {ratio:.0f} times its size{rest} (--max-ratio)"
        together = self.written + member.file_size
        if together > SMALL and together > self.max_ratio * self.packed:
            return f"would make the zip unpack to {together / max(1, self.packed):.0f} times its size (--max-ratio)"
        return ""

    def take(self, member: zipfile.ZipInfo) -> None:
        self.written += member.file_size
        if self._is_inflated(member):
            self.inflated += member.file_size

    def _is_inflated(self, member: zipfile.ZipInfo) -> bool:
        return member.file_size > self.max_ratio * max(1, member.compress_size)


def same_content(target: Path, member: zipfile.ZipInfo) -> bool:
    """Whether the file is the member, by size and CRC."""
    if target.stat().st_size != member.file_size:
        return False
    check = 0
    with target.open("rb") as file:
        while chunk := file.read(CHUNK):
            check = zlib.crc32(chunk, check)
    return check == member.CRC


def copy_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, *, sync: bool = True) -> str:
    """Stream one member into place; a sentence where that cannot be done (nothing is written then).

    Without `sync` a power failure may cut it off; its CRC tells that to the next run, which writes it again.
    Raises OSError where the machine fails.
    """
    try:
        with atomic(target, "wb", sync=sync) as file:
            for chunk in unpacked(archive, member):
                file.write(chunk)
    except BadMember as bad:
        return str(bad)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        return "has the name of a folder, or a folder of its path has the name of a file"
    except MemoryError:
        return "needs more memory to unpack than there is"
    except OSError as error:
        if is_machine_failure(error):
            raise
        return f"cannot be written ({error.strerror})"
    return ""


class BadMember(Exception):
    """What a member holds is not what the zip says; the message is one sentence part."""


def unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """The member's bytes in chunks. Raises BadMember where it is damaged or longer than the zip says."""
    size = 0
    try:
        with archive.open(member) as source:
            while chunk := source.read(CHUNK):
                size += len(chunk)
                if size > member.file_size:
                    raise BadMember("is larger than the zip says")
                yield chunk
    except (BadMember, MemoryError):
        raise
    except Exception as error:  # zipfile, zlib, bz2 and lzma each have their own
        if is_machine_failure(error):
            raise
        raise BadMember(f"is damaged ({one_line(error) or type(error).__name__})") from None
