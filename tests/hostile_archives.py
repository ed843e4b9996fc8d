"""Zips made to do harm, or broken in one way each."""

import bz2
import functools
import io
import lzma
import random
import stat
import struct
import zipfile
import zlib


def good_png() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "gray").save(buffer, "PNG")
    return buffer.getvalue()


# --- zips -----------------------------------------------------------------------------------------------------------


def zipped(members, *, compress=zipfile.ZIP_STORED, level=None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compress, compresslevel=level) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def with_attributes(name: str, mode: int, data: bytes) -> bytes:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return zipped([(info, data)])


def flagged(data: bytes, bit: int) -> bytes:
    """Set a general-purpose flag in both headers of every member."""
    changed = bytearray(data)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = changed.find(mark)
        while at >= 0:
            flags = struct.unpack_from("<H", changed, at + offset)[0] | bit
            struct.pack_into("<H", changed, at + offset, flags)
            at = changed.find(mark, at + 4)
    return bytes(changed)


def field(data: bytes, mark: bytes, offset: int, kind: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(kind, changed, changed.find(mark) + offset, value)
    return bytes(changed)


@functools.cache
def hostile_zips() -> dict[str, bytes]:
    png = good_png()
    plain = zipped([("a.png", png)])
    names = [
        "../up.png",
        "../../up.png",
        "a/../../up.png",
        "..\\up.png",
        "/abs.png",
        "\\abs.png",
        "C:/x.png",
        "C:\\x.png",
        "c:x.png",
        "//server/share/x.png",
        "a/..",
        "..",
        "a//b.png",
        "./a.png",
        "a\x00b.png",
        "con.png",
        "COM1.png",
        "nul.tar.png",
        "x" * 400 + ".png",
        "d/" * 200 + "a.png",
        " .png",
        "a.png.",
        "a .png ",
        "a:b.png",
        "a|b?.png",
        "\u202egnp.exe.png",
        "\ud7ff.png",
        "é.png",
        "~$a.png",
    ]
    zips = {f"name_{number:02d}": zipped([(name, png), ("good.png", png)]) for number, name in enumerate(names)}
    zips |= {
        "link": with_attributes("l.png", stat.S_IFLNK | 0o777, b"/etc/passwd"),
        "device": with_attributes("d.png", stat.S_IFCHR | 0o777, b""),
        "fifo": with_attributes("f.png", stat.S_IFIFO | 0o777, b""),
        "encrypted": flagged(plain, 0x1),
        "bomb": zipped([("b.png", bytes(40_000_000))], compress=zipfile.ZIP_DEFLATED),
        "bomb_bz2": zipped([("b.png", bytes(40_000_000))], compress=zipfile.ZIP_BZIP2),
        "size_too_small": field(field(plain, b"PK\x03\x04", 22, "<I", 5), b"PK\x01\x02", 24, "<I", 5),
        "size_huge": field(plain, b"PK\x01\x02", 24, "<I", 0xFFFFFFF0),
        "crc": field(plain, b"PK\x01\x02", 16, "<I", 1),
        "method": field(field(plain, b"PK\x03\x04", 8, "<H", 99), b"PK\x01\x02", 10, "<H", 99),
        "offset": field(plain, b"PK\x01\x02", 42, "<I", 0x7FFFFFFF),
        "overlap": zipped([("a.png", png), ("b.png", png)]).replace(b"b.png", b"a.png"),
        "cut_end": plain[:-30],
        "cut_middle": plain[: len(plain) // 2],
        "no_directory": plain[: plain.find(b"PK\x01\x02")],
        "prefix": b"#!/bin/sh\n" * 50 + plain,
        "deflate_garbage": field(zipped([("a.png", b"\xff" * 500)]), b"PK\x01\x02", 10, "<H", 8).replace(
            b"PK\x03\x04\x14\x00\x00\x00\x00\x00", b"PK\x03\x04\x14\x00\x00\x00\x08\x00"
        ),
        "comment": plain[:-2] + b"\xff\xff",
        "nothing": zipped([]),
        "zeros": bytes(5000),
        "nested": zipped([("z.zip", plain)]),
    }
    return zips | zips_with_a_good_member()


def with_extra(data: bytes, extra: bytes) -> bytes:
    """The zip with these bytes as the first member's extra field in the directory."""
    directory = data.find(b"PK\x01\x02")
    name = struct.unpack_from("<H", data, directory + 28)[0]
    changed = bytearray(data)
    struct.pack_into("<H", changed, directory + 30, len(extra))
    changed[directory + 46 + name : directory + 46 + name] = extra
    end = changed.rfind(b"PK\x05\x06")
    struct.pack_into("<I", changed, end + 12, struct.unpack_from("<I", changed, end + 12)[0] + len(extra))
    return bytes(changed)


def as_method(number: int, packed: bytes) -> bytes:
    """Two members: `a.png`, which claims to be packed by this method, and `good.png`."""
    data = zipped([("a.png", packed), ("good.png", good_png())])
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data = field(data, mark, offset, "<H", number)
    return data


def sharing_one_body() -> bytes:
    """A small zip whose 2,000 directory entries all unpack the same data: 100 MB at 100:1 each."""
    body = random.Random(4).randbytes(500) + bytes(50_000)
    plain = zipped([("0000.png", body), ("good.png", good_png())], compress=zipfile.ZIP_DEFLATED)
    start = plain.find(b"PK\x01\x02")
    entry = plain[start : start + 46 + 8]
    entries = plain[start : plain.rfind(b"PK\x05\x06")]
    entries += b"".join(entry.replace(b"0000", b"%04d" % number) for number in range(1, 2000))
    return plain[:start] + entries + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 2001, 2001, len(entries), start, 0)


def zips_with_a_good_member() -> dict[str, bytes]:
    """One bad member each, and `good.png`, which must come out all the same."""
    png = good_png()
    two = zipped([("a.png", png), ("good.png", png)])
    zips = {
        "lzma_garbage": as_method(14, b"\x09\x04\x05\x00\x5d\x00\x00\x10\x00" + b"\xff" * 300),
        "lzma_no_header": as_method(14, b"\x00"),
        "lzma_cut": as_method(14, b"\x09\x04\x05\x00" + lzma.compress(png, lzma.FORMAT_ALONE)[:40]),
        "bz2_garbage": as_method(12, b"\xff" * 300),
        "bz2_cut": as_method(12, bz2.compress(png)[:30]),
        "deflate_garbage": as_method(8, b"\xff" * 300),
        "deflate64": as_method(9, png),
        "zstandard": as_method(93, png),
        "unknown_method": as_method(1234, png),
        "file_and_folder": zipped([("a.png", png), ("a.png/b.png", png), ("good.png", png)]),
        "folder_and_file": zipped([("a.png/b.png", png), ("a.png", png), ("good.png", png)]),
        "folder_with_content": zipped([("a.png/", png), ("good.png", png)]),
        "twice": zipped([("a.png", png), ("A.png", png[:-1]), ("good.png", png)]),
        "no_utf8": zipped([("é.png", png), ("good.png", png)]).replace("é".encode(), b"\xff\xfe"),
        "short_extra": with_extra(two, struct.pack("<HH", 0x5455, 400) + b"abc"),
        "odd_extra": with_extra(two, b"\x01"),
        "short_zip64": field(with_extra(two, struct.pack("<HHI", 1, 4, 7)), b"PK\x01\x02", 24, "<I", 0xFFFFFFFF),
        "unicode_path_no_utf8": with_extra(two, struct.pack("<HHBI", 0x7075, 7, 1, zlib.crc32(b"a.png")) + b"\xff\xfe"),
        "newer_version": field(two, b"PK\x01\x02", 6, "<H", 99),
        "strong_encryption": field(two, b"PK\x01\x02", 8, "<H", 0x41),
        "patch_data": field(field(two, b"PK\x01\x02", 8, "<H", 0x20), b"PK\x03\x04", 6, "<H", 0x20),
        "no_date": field(two, b"PK\x01\x02", 12, "<I", 0),
        "wrong_crc": field(two, b"PK\x01\x02", 16, "<I", 1),
        "larger_than_said": field(field(two, b"PK\x03\x04", 22, "<I", 5), b"PK\x01\x02", 24, "<I", 5),
        "behind_the_end": field(two, b"PK\x01\x02", 42, "<I", 0x7FFFFFF0),
        "other_local_name": two.replace(b"a.png", b"b.png", 1),
        "inner_zip": zipped([("in.zip", two), ("good.png", png)], compress=zipfile.ZIP_DEFLATED),
        "sixty_bombs": zipped(
            [*((f"{number}.png", bytes(10 * 2**20)) for number in range(60)), ("good.png", png)],
            compress=zipfile.ZIP_DEFLATED,
            level=1,
        ),
        "one_body_often": sharing_one_body(),
    }
    return {f"beside_{name}": data for name, data in zips.items()}


# --- PDFs and pictures ------------------------------------------------------------------------------------------------
