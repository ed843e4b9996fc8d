"""Zips of page images: what comes out, what is refused, and what is said about the rest."""

import json
import stat
import time
import zipfile
from pathlib import Path

import pytest


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_zip_is_extracted_once_and_the_second_run_changes_nothing(run, workspace):
    make_zip(workspace / "combined.zip", {"a/BL1_page_0001.png": b"x", "b\\BL2.jpg": b"y", "notes.txt": b"z"})
    assert run("extract_combined_zip", "--zip", "combined.zip", "--json").json["extracted"] == 2
    assert (workspace / "data/raw/combined/b/BL2.jpg").read_bytes() == b"y"
    again = run("extract_combined_zip", "--zip", "combined.zip", "--json")
    assert (again.code, again.json["extracted"], again.json["unchanged"], again.json["other_files"]) == (0, 0, 2, 1)


def test_hostile_members_are_refused_and_the_others_come_out(run, workspace):
    members = {
        "../out.png": b"1",
        "/abs.png": b"2",
        "C:\\win.png": b"3",
        "good.png": b"4",
        "GOOD.PNG": b"5",
        "con.png": b"6",
        "x" * 300 + ".png": b"7",
    }
    path = make_zip(workspace / "evil.zip", members)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("bomb.png", b"\0" * 30_000_000, compress_type=zipfile.ZIP_DEFLATED)
    outcome = run("extract_combined_zip", "--zip", "evil.zip", "--json")
    assert outcome.code == 1
    refused = {
        json.loads(line)["member"]: json.loads(line)["problem"]
        for line in (workspace / "data/raw/problems.jsonl").read_text().splitlines()
    }
    assert set(refused) == {"../out.png", "/abs.png", "C:\\win.png", "GOOD.PNG", "link.png", "bomb.png"}
    assert outcome.json["extracted"] == 3
    outside = [p for p in workspace.rglob("*") if p.is_file() and "schemas" not in p.parts and "raw" not in p.parts]
    assert [p.name for p in outside] == ["evil.zip"]


def test_a_damaged_member_is_named_and_the_rest_comes_out(run, workspace):
    path = make_zip(workspace / "half.zip", {"a.png": b"A" * 100, "b.png": b"B" * 100})
    data = bytearray(path.read_bytes())
    data[data.index(b"A" * 100) + 5] ^= 0xFF
    path.write_bytes(bytes(data))
    outcome = run("extract_combined_zip", "--zip", "half.zip")
    assert outcome.code == 1 and "'a.png' is damaged" in outcome.err
    assert (workspace / "data/raw/half/b.png").exists() and not (workspace / "data/raw/half/a.png").exists()


def test_names_come_out_as_their_maker_meant_them(run, workspace):
    """Made by macOS (UTF-8 without the mark), by a Chinese Windows (gbk), and as one letter or two (NFC, NFD)."""

    def unmarked(path, members):
        with zipfile.ZipFile(path, "w") as archive:
            for raw in members:
                archive.writestr(zipfile.ZipInfo("~" * len(raw)), b"x")
        data = path.read_bytes()
        for raw in members:
            data = data.replace(b"~" * len(raw), raw)
        path.write_bytes(data)

    unmarked(workspace / "mac.zip", ["Zo\u0308e.png".encode()])
    unmarked(workspace / "cn.zip", ["提单一.png".encode("gbk")])
    make_zip(workspace / "twins.zip", {"Zo\u0308e.png": b"1", "Z\u00f6e.png": b"2"})
    assert run("extract_combined_zip", "--zip", "mac.zip").code == 0
    assert (workspace / "data/raw/mac/Z\u00f6e.png").is_file()
    assert run("extract_combined_zip", "--zip", "cn.zip", "--names-encoding", "gbk").code == 0
    assert (workspace / "data/raw/cn/提单一.png").is_file()
    twins = run("extract_combined_zip", "--zip", "twins.zip", "--json")
    assert twins.code == 1 and "has the same name" in twins.err
    assert twins.json["extracted"] == twins.json["problems"] == 1
    wrong = run("extract_combined_zip", "--zip", "cn.zip", "--names-encoding", "ascii", "--json")
    assert (wrong.code, wrong.json["extracted"], wrong.json["problems"]) == (1, 0, 1) and "is not ascii" in wrong.err
    assert "knows no such codec" in run("extract_combined_zip", "--zip", "cn.zip", "--names-encoding", "latin-99").err


def test_zip64_archives_come_out_and_nested_ones_are_reported(run, workspace):
    with zipfile.ZipFile(workspace / "big.zip", "w") as archive:
        with archive.open(zipfile.ZipInfo("a.png"), "w", force_zip64=True) as member:
            member.write(b"x" * 1000)
        for number in range(70_000):  # more members than the old format can count
            archive.writestr(f"n/{number}.txt", b"")
        archive.write(make_zip(workspace / "inner.zip", {"b.png": b"y"}), "inner.zip")
    outcome = run("extract_combined_zip", "--zip", "big.zip", "--json")
    assert (outcome.code, outcome.json["extracted"], outcome.json["other_files"]) == (1, 1, 70_000)
    assert "'inner.zip' is a zip inside the zip" in outcome.err


def test_totals_and_ratios_are_limits_that_users_set(run, workspace):
    make_zip(workspace / "z.zip", {f"{n}.png": bytes(2**20) for n in range(5)})
    outcome = run("extract_combined_zip", "--zip", "z.zip", "--max-total-gb", "0.0021", "--json")
    assert (outcome.code, outcome.json["extracted"]) == (1, 2) and "--max-total-gb" in outcome.err
    assert run("extract_combined_zip", "--zip", "z.zip", "--json").json["extracted"] == 3


@pytest.mark.parametrize("content", [b"", b"this is no zip"])
def test_a_file_that_is_no_zip_is_one_sentence(run, workspace, content):
    (workspace / "no.zip").write_bytes(content)
    outcome = run("extract_combined_zip", "--zip", "no.zip")
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert outcome.err.startswith("error: no.zip: not a zip file")


def test_two_zips_of_one_name_do_not_share_a_folder(run, workspace):
    for place in ("one", "two"):
        (workspace / place).mkdir()
        make_zip(workspace / place / "batch.zip", {"a.png": place.encode()})
    done = run("extract_combined_zip", "--zip", "one/batch.zip", "--zip", "two/batch.zip", "--json")
    assert (done.code, done.json["extracted"], done.json["unreadable_zips"]) == (1, 1, 1)
    assert "two/batch.zip: its folder data/raw/batch belongs to one/batch.zip; rename one" in done.err
    assert (workspace / "data/raw/batch/a.png").read_bytes() == b"one"
    alone = run("extract_combined_zip", "--zip", "two/batch.zip")
    assert alone.code == 2 and (workspace / "data/raw/batch/a.png").read_bytes() == b"one"
    assert run("extract_combined_zip", "--zip", "two/batch.zip", "--overwrite").code == 0
    assert (workspace / "data/raw/batch/a.png").read_bytes() == b"two"


def test_a_changed_zip_replaces_its_own_files_and_nobody_elses(run, workspace):
    make_zip(workspace / "batch.zip", {"a.png": b"first"})
    (workspace / "data/raw/batch").mkdir(parents=True)
    (workspace / "data/raw/batch/a.png").write_bytes(b"mine")
    done = run("extract_combined_zip", "--zip", "batch.zip")
    assert done.code == 1 and "of an unknown origin" in done.err
    assert (workspace / "data/raw/batch/a.png").read_bytes() == b"mine"
    (workspace / "data/raw/batch/a.png").unlink()
    run("extract_combined_zip", "--zip", "batch.zip")
    make_zip(workspace / "batch.zip", {"a.png": b"second"})
    assert run("extract_combined_zip", "--zip", "batch.zip").code == 0
    assert (workspace / "data/raw/batch/a.png").read_bytes() == b"second"


def test_an_unreadable_zip_stops_no_other(run, workspace):
    make_zip(workspace / "good.zip", {"a.png": b"x"})
    (workspace / "cut.zip").write_bytes((workspace / "good.zip").read_bytes()[:40])
    done = run("extract_combined_zip", "--zip", "cut.zip", "--zip", "gone.zip", "--zip", "good.zip", "--json")
    assert (done.code, done.json["extracted"], done.json["unreadable_zips"], done.json["zips"]) == (1, 1, 2, 3)
    assert "cut.zip: not a zip file" in done.err and "gone.zip: file not found" in done.err


def test_many_members_below_the_size_limit_do_not_evade_the_ratio(run, workspace):
    with zipfile.ZipFile(workspace / "sixty.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(60):
            archive.writestr(f"{number}.png", bytes(10 * 2**20))
    done = run("extract_combined_zip", "--zip", "sixty.zip", "--json")
    assert (done.json["extracted"], done.json["problems"]) == (1, 59) and "together with members before" in done.err


@pytest.mark.parametrize("count", [3000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_many_members_take_no_sync_each(run, workspace, count):
    """100,000 members took seven minutes with a sync each."""
    make_zip(workspace / "many.zip", {f"d{n % 100}/{n}.png": b"x" * 200 for n in range(count)})
    started = time.monotonic()
    done = run("extract_combined_zip", "--zip", "many.zip", "--json")
    seconds = time.monotonic() - started
    print(f"{count} members: {seconds:.1f} s, {1000 * seconds / count:.2f} ms each")
    assert done.json["extracted"] == count and seconds < 3 + count / 1000
