"""Zips, PDFs and pictures made to do harm, or broken in every way that fits a test: each is named or rendered, and
none stops the rest."""

import functools
import io
import json
import random
import stat
import struct
import time
import zipfile
import zlib
from pathlib import Path

import pytest


def good_png() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "gray").save(buffer, "PNG")
    return buffer.getvalue()


# --- zips -----------------------------------------------------------------------------------------------------------


def zipped(members, *, compress=zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compress) as archive:
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


OUTSIDE, OTHER = "leaves the folder", "files of other kinds"
# A member's name in a zip, and the file that it becomes below the zip's folder, or the words that say why it does not.
NAMES = {
    "../up.png": OUTSIDE,
    "../../up.png": OUTSIDE,
    "a/../../up.png": OUTSIDE,
    "..\\up.png": OUTSIDE,
    "/abs.png": OUTSIDE,
    "\\abs.png": OUTSIDE,
    "C:/x.png": OUTSIDE,
    "C:\\x.png": OUTSIDE,
    "//server/share/x.png": OUTSIDE,
    "a/..": OUTSIDE,
    "..": OUTSIDE,
    "a\x00b.png": OTHER,  # Python's zipfile ends a name there
    "a.png.": OTHER,
    "a .png ": OTHER,
    "c:x.png": "c_x.png",
    "a//b.png": "a/b.png",
    "./a.png": "a.png",
    "con.png": "_con.png",
    "COM1.png": "_COM1.png",
    "nul.tar.png": "_nul.tar.png",
    " .png": ".png",
    "a:b.png": "a_b.png",
    "a|b?.png": "a_b_.png",
    "é.png": "é.png",
    "~$a.png": "~$a.png",
}


@functools.cache
def hostile_zips() -> dict[str, tuple[bytes, str]]:
    """Zips, and the words that say why nothing comes out of them; empty where a.png comes out."""
    png = good_png()
    plain = zipped([("a.png", png)])
    no_zip, damaged, link, bomb = (
        "not a zip file",
        "is damaged",
        "is a link or a device",
        "times its size (--max-ratio)",
    )
    return {
        "link": (with_attributes("l.png", stat.S_IFLNK | 0o777, b"/etc/passwd"), link),
        "device": (with_attributes("d.png", stat.S_IFCHR | 0o777, b""), link),
        "fifo": (with_attributes("f.png", stat.S_IFIFO | 0o777, b""), link),
        "encrypted": (flagged(plain, 0x1), "is encrypted"),
        "bomb": (zipped([("b.png", bytes(40_000_000))], compress=zipfile.ZIP_DEFLATED), bomb),
        "bomb_bz2": (zipped([("b.png", bytes(40_000_000))], compress=zipfile.ZIP_BZIP2), bomb),
        "size_huge": (field(plain, b"PK\x01\x02", 24, "<I", 0xFFFFFFF0), bomb),
        "size_too_small": (field(field(plain, b"PK\x03\x04", 22, "<I", 5), b"PK\x01\x02", 24, "<I", 5), damaged),
        "crc": (field(plain, b"PK\x01\x02", 16, "<I", 1), damaged),
        "method": (field(field(plain, b"PK\x03\x04", 8, "<H", 99), b"PK\x01\x02", 10, "<H", 99), damaged),
        "offset": (field(plain, b"PK\x01\x02", 42, "<I", 0x7FFFFFFF), damaged),
        "deflate_garbage": (
            field(zipped([("a.png", b"\xff" * 500)]), b"PK\x01\x02", 10, "<H", 8).replace(
                b"PK\x03\x04\x14\x00\x00\x00\x00\x00", b"PK\x03\x04\x14\x00\x00\x00\x08\x00"
            ),
            damaged,
        ),
        "cut_end": (plain[:-30], no_zip),
        "cut_middle": (plain[: len(plain) // 2], no_zip),
        "no_directory": (plain[: plain.find(b"PK\x01\x02")], no_zip),
        "zeros": (bytes(5000), no_zip),
        "nested": (zipped([("z.zip", plain)]), "is a zip inside the zip"),
        "nothing": (zipped([]), "0 extracted"),
        "prefix": (b"#!/bin/sh\n" * 50 + plain, ""),
        "comment": (plain[:-2] + b"\xff\xff", ""),
    }


def extracted(run, workspace: Path, name: str, data: bytes):
    """The outcome, and the files that came out, relative to the zip's folder; nothing lies elsewhere."""
    (workspace / f"{name}.zip").write_bytes(data)
    folder = workspace / f"data/raw/{name}"
    before = {p for p in workspace.parent.rglob("*") if not p.is_relative_to(folder)}
    began = time.monotonic()
    outcome = run("extract_combined_zip", "--zip", f"{name}.zip")
    assert time.monotonic() - began < 5 and "Traceback" not in outcome.err
    after = {p for p in workspace.parent.rglob("*") if not p.is_relative_to(folder)}
    assert {p.relative_to(workspace).as_posix() for p in after - before} <= {
        "data",
        "data/raw",
        "data/raw/problems.jsonl",
        "data/raw/zips.jsonl",
    }
    assert not Path("/abs.png").exists() and not Path("/x.png").exists()
    files = [p for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()]
    assert not any(p.is_symlink() or p.stat().st_size > 1_000_000 for p in files)
    return outcome, sorted(p.relative_to(folder).as_posix() for p in files)


@pytest.mark.parametrize("member", NAMES, ids=ascii)
def test_a_members_name_stays_in_its_folder_or_the_member_is_named_and_the_others_come_out(run, workspace, member):
    outcome, files = extracted(run, workspace, "z", zipped([(member, good_png()), ("good.png", good_png())]))
    if NAMES[member] in (OUTSIDE, OTHER):
        assert files == ["good.png"] and NAMES[member] in outcome.err
        assert outcome.code == (1 if NAMES[member] == OUTSIDE else 0)
    else:
        assert outcome.code == 0 and files == sorted([NAMES[member], "good.png"])


@pytest.mark.parametrize(
    "member", ["x" * 400 + ".png", "d/" * 200 + "a.png", "\u202egnp.exe.png", "\ud7ff.png"], ids=ascii
)
def test_odd_names_come_out_under_names_that_every_system_can_store(run, workspace, member):
    outcome, files = extracted(run, workspace, "z", zipped([(member, good_png()), ("good.png", good_png())]))
    assert outcome.code == 0 and len(files) == 2 and all(len(name) < 240 and name.endswith(".png") for name in files)


@pytest.mark.parametrize("name", hostile_zips())
def test_a_hostile_zip_is_named_with_its_reason_and_leaves_nothing(run, workspace, name):
    data, words = hostile_zips()[name]
    outcome, files = extracted(run, workspace, name, data)
    assert outcome.code == {"": 0, "0 extracted": 0, "not a zip file": 2}.get(words, 1) and words in outcome.err
    assert files == ([] if words else ["a.png"])
    if outcome.code == 2:
        assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1


def test_of_two_members_of_one_name_the_first_comes_out_and_the_second_is_named(run, workspace):
    twice = zipped([("a.png", good_png()), ("b.png", b"other")]).replace(b"b.png", b"a.png")
    outcome, files = extracted(run, workspace, "z", twice)
    assert outcome.code == 1 and files == ["a.png"] and "has the same name" in outcome.err
    assert (workspace / "data/raw/z/a.png").read_bytes() == good_png()


# --- PDFs and pictures ------------------------------------------------------------------------------------------------


def small_pdf(content=b"BT /F1 24 Tf 50 700 Td (HELLO) Tj ET", box=b"0 0 595 842", extra=b"", page=b"") -> bytes:
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R " + extra + b" >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox ["
        + box
        + b"] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> "
        + page
        + b" >>",
        b"<< /Length %d >>\nstream\n" % len(content) + content + b"\nendstream",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = bytearray(b"%PDF-1.7\n"), []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)


def hostile_documents() -> dict[str, bytes]:
    good = small_pdf()
    draw = random.Random(5)
    documents = {
        "empty.pdf": b"",
        "text.pdf": b"hello",
        "html.pdf": b"<html><body>x</body></html>",
        "svg.pdf": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "png.pdf": good_png(),
        "zip.pdf": zipped([("a.png", b"x")]),
        "zeros.pdf": bytes(20_000),
        "header_only.pdf": b"%PDF-1.7\n",
        "no_header.pdf": good[9:],
        "huge_box.pdf": small_pdf(box=b"0 0 1e9 1e9"),
        "big_page.pdf": small_pdf(box=b"0 0 14400 14400"),
        "strip.pdf": small_pdf(box=b"0 0 20000 20"),
        "flat_box.pdf": small_pdf(box=b"0 0 0 0"),
        "negative_box.pdf": small_pdf(box=b"595 842 0 0"),
        "nan_box.pdf": small_pdf(box=b"nan 0 inf 842"),
        "deep_box.pdf": small_pdf(box=b"[" * 500 + b"]" * 500),
        "turned.pdf": small_pdf(page=b"/Rotate 90"),
        "odd_turn.pdf": small_pdf(page=b"/Rotate 17"),
        "user_unit.pdf": small_pdf(page=b"/UserUnit 75000"),
        "crop_outside.pdf": small_pdf(page=b"/CropBox [9000 9000 9001 9001]"),
        "javascript.pdf": small_pdf(extra=b"/OpenAction << /S /JavaScript /JS (app.launchURL('http://x')) >>"),
        "launch.pdf": small_pdf(extra=b"/OpenAction << /S /Launch /F (/bin/sh) >>"),
        "many_operators.pdf": small_pdf(b"0 0 m 9 9 l S " * 300_000),
        "saves.pdf": small_pdf(b"q " * 200_000),
        "inflate_bomb.pdf": small_pdf().replace(
            b"<< /Length 36 >>\nstream\nBT /F1 24 Tf 50 700 Td (HELLO) Tj ET",
            b"<< /Filter /FlateDecode /Length 60000 >>\nstream\n" + zlib.compress(b" " * 50_000_000),
        ),
        "bad_filter.pdf": good.replace(b"<< /Length 36 >>", b"<< /Length 36 /Filter /No >>"),
        "bad_stream.pdf": good.replace(b"<< /Length 36 >>", b"<< /Length 36 /Filter /FlateDecode >>"),
        "wrong_length.pdf": good.replace(b"/Length 36", b"/Length 999999999"),
        "no_xref.pdf": good.replace(b"startxref", b"startxxxx"),
        "pages_loop.pdf": good.replace(b"/Kids [3 0 R]", b"/Kids [2 0 R]"),
        "count_lies.pdf": good.replace(b"/Count 1", b"/Count 2000000000"),
        "no_pages.pdf": good.replace(b"/Kids [3 0 R] /Count 1", b"/Kids [] /Count 0"),
        "parent_loop.pdf": good.replace(b"/Parent 2 0 R", b"/Parent 3 0 R"),
        "null_bytes.pdf": good.replace(b"HELLO", b"\x00" * 5),
        "noise.pdf": b"%PDF-1.4\n" + draw.randbytes(30_000),
        "cut.png": good_png()[:60],
        "bomb.png": bomb_png(),
        "text.jpg": b"no picture",
        "cut.tiff": b"II*\x00\x08\x00\x00\x00",
        "loop.tiff": b"II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00",
        "empty.bmp": b"BM",
    }
    for number in range(10):
        damaged = bytearray(good)
        for _ in range(3 * number + 1):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        documents[f"damaged_{number}.pdf"] = bytes(damaged)
    return documents


def slow_pdf() -> bytes:
    """Forms that draw each other ten times a level, nine levels deep: a thousand million texts on one page."""
    levels = 9
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        b"/Resources << /XObject << /F 5 0 R >> >> >>",
        b"<< /Length 5 >>\nstream\n/F Do\nendstream",
    ]
    for level in range(levels):
        body = b"/F Do " * 10 if level < levels - 1 else b"0 0 m 500 800 l S " * 10
        inside = b"/Resources << /XObject << /F %d 0 R >> >>" % (6 + level) if level < levels - 1 else b""
        objects.append(
            b"<< /Type /XObject /Subtype /Form /BBox [0 0 595 842] %b /Length %d >>\nstream\n%b\nendstream"
            % (inside, len(body), body)
        )
    out = b"%PDF-1.7\n"
    for number, body in enumerate(objects, 1):
        out += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    return out + b"trailer\n<< /Root 1 0 R >>\n"


def bomb_png() -> bytes:
    """A PNG whose header promises 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    body = b"IDAT" + zlib.compress(bytes(1000))
    pieces = [chunk, body, b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(piece) - 4) + piece + struct.pack(">I", zlib.crc32(piece)) for piece in pieces
    )


def test_a_document_that_hangs_is_named_and_the_others_are_rendered(run, workspace):
    (workspace / "in").mkdir()
    (workspace / "in/hang.pdf").write_bytes(slow_pdf())
    (workspace / "in/zz_good.pdf").write_bytes(small_pdf())
    done = run("pdf_to_images", "--in", "in", "--image-max-tokens", 64, "--time-limit", 1.5, "--workers", 1)
    (problem,) = map(json.loads, (workspace / "data/images/problems.jsonl").read_text().splitlines())
    assert done.code == 1 and "hang.pdf" in problem["source"] and "not finished after 1.5 s" in problem["problem"]
    assert [path.name for path in (workspace / "data/images").glob("*.png")] == ["zz_good_page_0001.png"]


def test_no_document_crashes_hangs_or_stops_the_others(run, workspace):
    documents = hostile_documents()
    assert len(documents) >= 48
    (workspace / "in").mkdir()
    for name, data in documents.items():
        (workspace / "in" / name).write_bytes(data)
    (workspace / "in/zz_good.pdf").write_bytes(small_pdf())
    started = time.monotonic()
    outcome = run("pdf_to_images", "--in", "in", "--image-max-tokens", 64, "--time-limit", 30, "--workers", 2, "--json")
    assert time.monotonic() - started < 60
    assert outcome.code == 1 and "Traceback" not in outcome.err
    manifest = [json.loads(line) for line in (workspace / "data/images/manifest.jsonl").read_text().splitlines()]
    problems = [json.loads(line) for line in (workspace / "data/images/problems.jsonl").read_text().splitlines()]
    rendered = {Path(line["source"]).name for line in manifest}
    named = {Path(line["source"]).name for line in problems}
    assert "zz_good.pdf" in rendered
    assert rendered | named == {*documents, "zz_good.pdf"} and not rendered & named
    assert all(line["tokens"] <= 64 and Path(line["image"]).is_file() for line in manifest)
    assert all(line["problem"] and "\n" not in line["problem"] for line in problems)
    outside = [
        p
        for p in workspace.rglob("*")
        if p.is_file() and p.parts[len(workspace.parts)] not in ("in", "data", "schemas")
    ]
    assert not outside and not list((workspace / "data/images").glob(".*"))
