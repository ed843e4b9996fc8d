"""Picture files: their ink is kept, cut ones are found, and large ones are refused before they are decoded."""

import json
import os
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from hostile_documents import bad_pictures, good_pictures, large_png, saved, sheet

from toolkit.pages.opening import UnreadablePage, open_page
from toolkit.pages.pictures import UnreadablePicture, damage, opened_picture, picture_size
from toolkit.pages.workers import WorkerPool

INK = ["gray16.png", "gray16_tiff.tiff", "gray12.tif", "white_zero16.tif", "float.tiff", "whole32.tiff"]
CLEAR = ["clear.png", "clear.webp.webp", "clear.tif.tiff", "clear_gray.png", "clear_colour.png"]


def written(name: str) -> Path:
    path = Path(name)
    path.write_bytes((good_pictures() | bad_pictures())[name][0])
    return path


def record(*images: str) -> None:
    """A training record of these page images, in train.jsonl."""
    words = {"role": "user", "content": [{"type": "image", "image": image} for image in images]}
    words["content"].append({"type": "text", "text": "Extract."})
    answer = {"role": "assistant", "content": [{"type": "text", "text": '{"bl_number":"A1"}'}]}
    meta = {"schema": str(REPOSITORY / "schemas/bill_of_lading.schema.json")}
    system = {"role": "system", "content": [{"type": "text", "text": "You extract."}]}
    line = json.dumps({"id": "a", "messages": [system, words, answer], "meta": meta})
    Path("train.jsonl").write_text(line + "\n")


@pytest.mark.parametrize("name", [*INK, *CLEAR])
def test_ink_of_deep_gray_and_on_transparent_ground_is_dark_on_white(workspace, name):
    from PIL import ImageChops

    page, wanted = open_page(written(name)), sheet()
    low, high = page.convert("L").getextrema()
    assert (low < 60, high) == (True, 255)
    assert ImageChops.difference(page.convert("L"), wanted.convert("L")).getextrema()[1] <= 60


def test_white_ink_on_a_transparent_ground_is_not_called_blank(run, workspace):
    written("clear_white_ink.png")
    done = run("pdf_to_images", "--in", "clear_white_ink.png", "--json")
    assert done.json["blank"] == 0


def test_a_second_view_or_an_animation_is_no_page_and_is_counted(run, workspace):
    for name in ("apng.png", "phone.jpg", "moving.webp", "preview.tiff"):
        written(name)
    done = run("pdf_to_images", "--in", *sorted(workspace.glob("*.*")), "--json")
    lines = [json.loads(line) for line in Path("data/images/manifest.jsonl").read_text().splitlines()]
    assert done.json["pages"] == len(lines) == 4
    assert all("further pictures in the file are no pages" in line["warnings"][-1] for line in lines)


@pytest.mark.parametrize("name", [name for name, (_, word) in bad_pictures().items() if word == "cut off"])
def test_a_cut_picture_is_found_also_where_its_decoder_accepts_it(workspace, name):
    path = written(name)
    with opened_picture(path) as image:
        assert "cut off" in damage(path, image)


@pytest.mark.parametrize("name", [n for n in good_pictures() if n.endswith((".jpg", ".png", ".tif", ".tiff", ".bmp"))])
def test_a_whole_picture_is_not_called_damaged(workspace, name):
    path = written(name)
    with opened_picture(path) as image:
        assert damage(path, image) == ""


def test_verification_names_every_damaged_image_and_reads_all_others(run, workspace):
    names = [*good_pictures(), *bad_pictures()]
    for name in names:
        written(name)
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe.png")
        names.append("pipe.png")
    record(*names, "gone.png")
    done = run("verify_image_paths", "--in", "train.jsonl", "--report", "problems.jsonl", "--json")
    named = {
        line["image"]: line["problem"] for line in map(json.loads, Path("problems.jsonl").read_text().splitlines())
    }
    assert done.code == 1 and done.json["images"] == len(names) + 1 and "Traceback" not in done.err
    strips = {"strip.png", "strip_png.png", "palette_missing.png"}  # whole files, which only rendering refuses
    assert bad_pictures().keys() - strips <= named.keys() and named["gone.png"] == "not found"
    wrong_names = {"moving_gif.png", "turned_photo.jpg"}
    assert named.keys() & good_pictures().keys() == wrong_names


def test_workers_verify_as_one_process_does(run, workspace, monkeypatch):
    from toolkit.pages import image_check

    names = ["cut_ended.jpg", "progressive.jpg", "gray_bomb.png", "gray16.png"]
    for name in names:
        written(name)
    record(*names)
    alone = run("verify_image_paths", "--in", "train.jsonl", "--report", "alone.jsonl", "--json")
    monkeypatch.setattr(image_check, "FEW", 0)
    together = run("verify_image_paths", "--in", "train.jsonl", "--report", "together.jsonl", "--json", "--workers", 1)
    assert alone.json == together.json and alone.json["problems"] == 2
    assert Path("alone.jsonl").read_text() == Path("together.jsonl").read_text()


def test_a_picture_that_decodes_to_more_than_the_limit_is_named_by_its_size(run, workspace):
    written("gray_bomb.png")
    with pytest.raises(UnreadablePicture, match=r"24000 x 24000 pixels take 549 MB decoded, more than 256 MB"):
        picture_size(Path("gray_bomb.png"))
    Path("small.png").write_bytes(saved(sheet(), "PNG"))
    done = run("pdf_to_images", "--in", "small.png", "--max-decoded-mb", 0.2)
    assert done.code == 1 and "320 x 448 pixels take 1 MB decoded, more than 0.2 MB" in done.err
    assert run("pdf_to_images", "--in", "small.png").code == 0


def test_the_split_the_statistics_and_training_refuse_a_bomb_in_a_sentence(run, workspace):
    Path("bomb.png").write_bytes(large_png(60_000, 60_000, 2))
    record("bomb.png")
    split = run("split_jsonl", "--in", "train.jsonl")
    assert split.code == 2 and "60000 x 60000 pixels" in split.err and split.err.count("\n") == 1
    statistics = run("dataset_stats", "--in", "train.jsonl", "--json")
    assert "Traceback" not in statistics.err and statistics.json["records_with_unreadable_images"] == 1
    with pytest.raises(UnreadablePage, match="60000 x 60000"):
        open_page(Path("bomb.png"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs")
def test_a_fifo_as_a_page_is_refused_and_not_waited_for(run, workspace):
    os.mkfifo("pipe.png")
    record("pipe.png")
    with pytest.raises(UnreadablePage, match="FIFO"):
        open_page(Path("pipe.png"))
    for words in (["split_jsonl"], ["split_jsonl", "--compare-images", "bytes"], ["dataset_stats"]):
        done = run(words[0], "--in", "train.jsonl", *words[1:])
        assert "Traceback" not in done.err
        assert done.code == 2 if words[0] == "split_jsonl" else "cannot be read" in done.out + done.err


def hungry(megabytes: int) -> int:
    return len(bytearray(megabytes * 2**20))


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_worker_that_wants_more_memory_than_its_limit_fails_alone():
    pool = WorkerPool(1, memory_mb=512)
    try:
        jobs = [pool.schedule(hungry, [size], timeout=60) for size in (1, 2000, 2)]
        assert jobs[0].result() == 2**20
        with pytest.raises(MemoryError):
            jobs[1].result()
        assert jobs[2].result() == 2 * 2**20
    finally:
        pool.stop()
