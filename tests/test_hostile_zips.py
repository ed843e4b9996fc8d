"""What becomes of each hostile zip: which file comes out under which name, or which words say why none does."""

import functools
import stat
import time
import zipfile
from pathlib import Path

import pytest
from hostile_archives import field, flagged, good_png, with_attributes, zipped

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
    written = {p.relative_to(workspace).as_posix() for p in after - before}
    assert written <= {"data", "data/raw", "data/raw/problems.jsonl", "data/raw/zips.jsonl"}
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
