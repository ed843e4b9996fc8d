"""The pages of a document appear together or not at all; what replaced documents left is no training data."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, png, write_results

from toolkit.pages.manifest import PageManifest

WORDS = ["--in", "pdfs", "--image-max-tokens", 64]


def pdf(path: Path, pages: int = 1, text: str = "HELLO") -> Path:
    import pymupdf

    path.parent.mkdir(parents=True, exist_ok=True)
    document = pymupdf.open()
    for number in range(pages):
        document.new_page(width=200, height=280).insert_text((20, 40), f"{text} {number}")
    path.unlink(missing_ok=True)
    document.save(path)
    return path


def files(folder: str = "data/images") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def pages(name: str, count: int, suffix: str = "png") -> list[str]:
    return [f"{name}_page_{number:04d}.{suffix}" for number in range(1, count + 1)]


def listed(folder: str = "data/images") -> list[str]:
    lines = Path(folder, "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return [Path(json.loads(line)["image"]).name for line in lines]


@pytest.fixture
def build(run, workspace):
    """Build the given documents with a one-field schema: `(outcome, {id: page names})`."""
    schema = {
        "type": "object",
        "title": "d",
        "additionalProperties": False,
        "required": ["number"],
        "properties": {"number": {"type": ["string", "null"], "maxLength": 9}},
    }
    (workspace / "d.schema.json").write_text(json.dumps(schema))

    def call(*names: str, images: tuple[str, ...] = ("data/images",), more: tuple[str, ...] = ()):
        write_results(workspace / "labels.json", [{"Filename": name, "number": "1"} for name in names])
        folders = [word for folder in images for word in ("--images-dir", folder)]
        words = "--results labels.json --schema d.schema.json --json".split()
        done = run("build_jsonl_from_results", *words, *folders, *more)
        out = workspace / "data/train.jsonl"
        records = [json.loads(line) for line in out.read_text().splitlines()] if done.out else []
        images_of = {
            r["id"]: [c["image"] for c in r["messages"][1]["content"] if c["type"] == "image"] for r in records
        }
        return done, {name: [Path(image).name for image in found] for name, found in images_of.items()}

    return call


# --- rendering ------------------------------------------------------------------------------------------------------


def test_a_replaced_shorter_pdf_leaves_no_old_pages(run, workspace, build):
    pdf(workspace / "pdfs/a.pdf", pages=5)
    run("pdf_to_images", *WORDS)
    pdf(workspace / "pdfs/a.pdf", pages=2, text="NEW")
    done = run("pdf_to_images", *WORDS, "--json")
    assert done.code == 0 and done.json["removed"] == 3 and "3 files of replaced" in done.err
    assert files() == ["a_page_0001.png", "a_page_0002.png", "manifest.jsonl"]
    built, found = build("a.pdf")
    assert built.code == 0 and found == {"a.pdf": pages("a", 2)}


def test_a_document_that_now_fails_leaves_neither_pages_nor_text_layer(run, workspace):
    pdf(workspace / "pdfs/a.pdf", pages=3)
    pdf(workspace / "pdfs/b.pdf")
    run("pdf_to_images", *WORDS, "--text-layer")
    assert (workspace / "data/ocr/a.json").is_file()
    (workspace / "pdfs/a.pdf").write_bytes(b"no PDF any more")
    done = run("pdf_to_images", *WORDS)
    assert done.code == 1 and files() == ["b_page_0001.png", "manifest.jsonl", "problems.jsonl"]
    assert files("data/ocr") == ["b.json"] and listed() == pages("b", 1)


def test_another_format_takes_the_place_of_the_first(run, workspace):
    pdf(workspace / "pdfs/a.pdf", pages=2)
    run("pdf_to_images", *WORDS, "--text-layer")
    run("pdf_to_images", *WORDS, "--format", "jpg")
    assert files() == [*pages("a", 2, "jpg"), "manifest.jsonl"] and listed() == pages("a", 2, "jpg")
    assert files("data/ocr") == ["a.json"]  # the words of the same source stay true


def test_words_of_a_replaced_source_do_not_stay(run, workspace):
    pdf(workspace / "pdfs/a.pdf")
    run("pdf_to_images", *WORDS, "--text-layer", "--text-layer-dir", "words")
    pdf(workspace / "pdfs/a.pdf", text="OTHER")
    run("pdf_to_images", *WORDS)
    assert files("words") == []


def test_pages_before_a_failure_or_a_time_limit_never_appear(run, workspace):
    """Page 3 hangs or fails: pages 1 and 2 were made before."""
    import pymupdf
    from hostile_documents import slow_pdf

    slow = pymupdf.open(stream=slow_pdf(), filetype="pdf")
    with pymupdf.open() as document:
        for _ in range(2):
            document.new_page().insert_text((20, 40), "quick")
        document.insert_pdf(slow)
        (workspace / "pdfs").mkdir()
        document.save(workspace / "pdfs/slow.pdf")
    with pymupdf.open() as document:
        for _ in range(2):
            document.new_page().insert_text((20, 40), "fine")
        document.new_page(width=20_000, height=20)  # longer than any model takes
        document.save(workspace / "pdfs/strip.pdf")
    pdf(workspace / "pdfs/good.pdf")
    done = run("pdf_to_images", *WORDS, "--time-limit", 3)
    assert done.code == 1 and "slow.pdf: not finished after 3 s" in done.err and "strip.pdf: page 3" in done.err
    assert files() == ["good_page_0001.png", "manifest.jsonl", "problems.jsonl"]


def test_a_second_source_of_the_same_name_does_not_take_the_pages_of_the_first(run, workspace):
    pdf(workspace / "pdfs/a.pdf", pages=3)
    pdf(workspace / "more/a.pdf", pages=2, text="OTHER")
    run("pdf_to_images", *WORDS)
    first = {name: Path("data/images", name).read_bytes() for name in pages("a", 3)}
    done = run("pdf_to_images", "--in", "more", *WORDS[2:])
    assert done.code == 1 and "more/a.pdf: its page images would replace those of pdfs/a.pdf" in done.err
    assert first == {name: Path("data/images", name).read_bytes() for name in pages("a", 3)}
    assert run("pdf_to_images", "--in", "more", *WORDS[2:], "--overwrite").code == 0
    assert files()[:3] == [*pages("a", 2), "manifest.jsonl"] and listed() == pages("a", 2)


def test_a_moved_source_keeps_one_set_of_pages(run, workspace):
    pdf(workspace / "pdfs/a.pdf", pages=3)
    run("pdf_to_images", *WORDS)
    (workspace / "pdfs").rename(workspace / "papers")
    assert run("pdf_to_images", "--in", "papers", *WORDS[2:]).code == 0
    assert listed() == pages("a", 3) and files() == [*pages("a", 3), "manifest.jsonl"]


def test_only_files_that_a_rendering_wrote_are_ever_removed(run, workspace):
    pdf(workspace / "pdfs/a.pdf")
    run("pdf_to_images", *WORDS, "--text-layer")
    png(workspace / "precious.png")
    (workspace / "notes.json").write_text('{"source": "mine", "pages": []}')
    manifest = workspace / "data/images/manifest.jsonl"
    line = json.loads(manifest.read_text()) | {"text_layer": "notes.json", "pages": 2}
    lines = [line, line | {"image": "../../precious.png", "page": 2}, line | {"image": "data/images/manifest.jsonl"}]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (workspace / "pdfs/a.pdf").write_bytes(b"")
    assert run("pdf_to_images", *WORDS).code == 1
    assert (workspace / "precious.png").is_file() and (workspace / "notes.json").is_file()


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_run_loses_the_documents_under_way_only(run, workspace):
    for number in range(60):
        pdf(workspace / f"pdfs/d{number:02d}.pdf", pages=3)
    script = [sys.executable, str(REPOSITORY / "scripts/pdf_to_images.py"), "--in", "pdfs", "--image-max-tokens", "900"]
    process = subprocess.Popen([*script, "--text-layer"], cwd=workspace, start_new_session=True, stderr=subprocess.PIPE)
    journal = workspace / "data/images/manifest.journal"
    limit = time.monotonic() + 60
    while (not journal.exists() or journal.read_bytes().count(b"\n") < 12) and time.monotonic() < limit:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert journal.exists()
    left = set(files())
    done = run("pdf_to_images", "--in", "pdfs", "--image-max-tokens", 900, "--text-layer", "--json")
    assert done.code == 0 and done.json["documents"] == 60 and 6 <= done.json["unchanged"] < 60
    assert any(name.startswith(".rendering") for name in left)
    assert files() == sorted([*(p for n in range(60) for p in pages(f"d{n:02d}", 3)), "manifest.jsonl"])
    assert sorted(listed()) == files()[:-1]


def test_a_document_cut_off_while_its_files_moved_is_rendered_again(run, workspace, build):
    """The journal of a run that was killed between the first and the second page of b: a was finished."""
    pdf(workspace / "pdfs/a.pdf", pages=2)
    pdf(workspace / "pdfs/b.pdf", pages=3)
    run("pdf_to_images", *WORDS)
    folder = workspace / "data/images"
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    of = {name: [line for line in lines if line["document"] == name] for name in "ab"}
    entries = [("announced", "a"), ("done", "a"), ("announced", "b")]
    journal = "".join(json.dumps({"state": s, "source": f"pdfs/{d}.pdf", "pages": of[d]}) + "\n" for s, d in entries)
    (folder / "manifest.journal").write_text(journal + '{"state": "do')
    (folder / "manifest.jsonl").unlink()
    (folder / "b_page_0002.png").unlink()
    built, found = build("a.pdf", "b.pdf")
    assert built.code == 1 and found == {"a.pdf": pages("a", 2)}
    assert "b.pdf: rendering it was cut off" in built.err
    done = run("pdf_to_images", *WORDS, "--json")
    assert done.json["unchanged"] == 1 and files() == [*pages("a", 2), *pages("b", 3), "manifest.jsonl"]


def seconds_to_clean_up(folder: Path, count: int) -> float:
    """To refuse every one of `count` documents, whose pages lie in one folder."""
    folder.mkdir()
    lines = []
    for number in range(count):
        name = f"d{number:06d}"
        png_name = folder / f"{name}_page_0001.png"
        png_name.touch()
        lines.append(
            {"document": name, "source": f"{name}.pdf", "source_sha256": name, "page": 1, "pages": 1}
            | {
                "image": png_name.as_posix(),
                "width": 32,
                "height": 32,
                "tokens": 1,
                "blank": False,
                "engine": "pymupdf",
            }
            | {"image_max_tokens": 64, "warnings": [], "text_layer": None}
        )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    started = time.process_time()
    with PageManifest(folder) as manifest:
        for line in lines:
            manifest.refuse(line["source"])
        assert manifest.removed == count
    return time.process_time() - started


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.soak)])
def test_cleaning_up_takes_a_time_in_proportion_to_the_documents(workspace, count):
    few = min(seconds_to_clean_up(workspace / f"few{n}", count) for n in range(3))
    many = min(seconds_to_clean_up(workspace / f"many{n}", 8 * count) for n in range(2))
    print(f"clean-up: {count} documents {few:.3f} s, {8 * count} documents {many:.3f} s, ratio {many / few:.1f}")
    assert many / few < 24  # 8 where it is linear, 64 where it is quadratic


# --- the build ------------------------------------------------------------------------------------------------------


def test_leftover_pages_that_the_manifest_does_not_list_are_counted_and_not_used(run, workspace, build):
    pdf(workspace / "pdfs/a.pdf", pages=2)
    run("pdf_to_images", *WORDS)
    for number in (3, 4):
        png(workspace / f"data/images/a_page_{number:04d}.png", shade=number)
    png(workspace / "data/images/c_page_0001.png")
    built, found = build("a.pdf", "c.pdf")
    assert found == {"a.pdf": pages("a", 2), "c.pdf": pages("c", 1)}
    assert built.code == 1 and built.json["images_leftover"] == 2 and built.json["images_in_no_manifest"] == 1
    left = (workspace / "data/train.leftover_images.txt").read_text().splitlines()
    assert left == ["data/images/a_page_0003.png", "data/images/a_page_0004.png"]
    assert "2 leftover images not used" in built.err and "1 of them in no manifest" in built.err
    for path in left:
        Path(path).unlink()
    built, _ = build("a.pdf", "c.pdf")
    assert built.code == 0 and not (workspace / "data/train.leftover_images.txt").exists()


@pytest.mark.parametrize("gone", [pages("a", 1), pages("a", 3)[2:], pages("a", 3)])
def test_a_listed_page_whose_file_is_missing_is_its_documents_problem(run, workspace, build, gone):
    pdf(workspace / "pdfs/a.pdf", pages=3)
    pdf(workspace / "pdfs/b.pdf")
    run("pdf_to_images", *WORDS)
    for name in gone:
        (workspace / "data/images" / name).unlink()
    built, found = build("a.pdf", "b.pdf")
    assert built.code == 1 and found == {"b.pdf": pages("b", 1)} and built.json["documents_with_problems"] == 1
    assert f"a.pdf: data/images/{gone[0]} is missing although data/images/manifest.jsonl lists it" in built.err


def test_shard_manifests_count_and_a_moved_folder_is_still_known(run, workspace, build):
    for name in ("a", "b", "c", "d"):
        pdf(workspace / f"pdfs/{name}.pdf", pages=2)
    for number in (1, 2):
        run("pdf_to_images", *WORDS, "--shard", f"{number}/2")
    (workspace / "data/images").rename(workspace / "moved")
    png(workspace / "moved/c_page_0003.png")
    built, found = build("a.pdf", "c.pdf", "d.pdf", images=("moved",))
    assert found == {f"{name}.pdf": pages(name, 2) for name in "acd"} and built.json["images_leftover"] == 1
    assert built.json["images_in_no_manifest"] == 0


def test_pages_of_another_folder_do_not_lengthen_a_rendered_document(run, workspace, build):
    pdf(workspace / "pdfs/a.pdf", pages=2)
    run("pdf_to_images", *WORDS)
    png(workspace / "raw/a_page_3.png")
    (workspace / "raw/a_page_1.png").write_bytes((workspace / "data/images/a_page_0001.png").read_bytes())
    png(workspace / "raw/a_single_page.png")
    built, found = build("a.pdf", images=("raw", "data/images"))
    assert found == {"a.pdf": pages("a", 2)} and built.json["images_leftover"] == 1
    assert built.json["images_not_used"] == 2  # the copy, and the other kind of picture


def test_two_manifests_that_list_different_pages_of_one_document_are_its_problem(run, workspace, build):
    pdf(workspace / "pdfs/a.pdf", pages=2)
    pdf(workspace / "other/a.pdf", pages=3, text="OTHER")
    run("pdf_to_images", *WORDS, "--out-dir", "one")
    run("pdf_to_images", "--in", "other", *WORDS[2:], "--out-dir", "two")
    pdf(workspace / "pdfs/b.pdf")
    run("pdf_to_images", *WORDS, "--out-dir", "one")
    built, found = build("a.pdf", "b.pdf", images=("one", "two"))
    assert built.code == 1 and found == {"b.pdf": pages("b", 1)} and "listed twice and differ" in built.err


def test_a_manifest_that_is_none_is_one_sentence(run, workspace, build):
    pdf(workspace / "pdfs/a.pdf")
    run("pdf_to_images", *WORDS)
    (workspace / "data/images/manifest.jsonl").write_text('{"image": 1}\n')
    for done in (build("a.pdf")[0], run("pdf_to_images", *WORDS)):
        assert done.code == 2 and done.err.startswith("error: data/images/manifest.jsonl:1: no manifest line"), done.err
        assert done.err.count("\n") == 1


def test_a_manifest_of_before_there_was_a_version_is_read_and_a_later_one_says_what_to_do(run, workspace, build):
    pdf(workspace / "pdfs/a.pdf")
    run("pdf_to_images", *WORDS)
    manifest = workspace / "data/images/manifest.jsonl"
    line = json.loads(manifest.read_text(encoding="utf-8"))
    earlier = {name: value for name, value in line.items() if name != "version"}
    manifest.write_text(json.dumps(earlier) + "\n", encoding="utf-8")
    assert build("a.pdf")[1] == {"a.pdf": pages("a", 1)}
    manifest.write_text(json.dumps(line | {"version": 2}) + "\n", encoding="utf-8")
    for done in (build("a.pdf")[0], run("pdf_to_images", *WORDS)):
        assert done.code == 2 and "manifest.jsonl:1: it has version 2" in done.err and "update the program" in done.err
