"""Page images: their sizes, which document a file name belongs to, and files that are no good."""

import json
import random

import pytest
from conftest import png
from receipt_records import record, write_records

from toolkit.pages.images import document_key, fitted_size, image_tokens, match_images, page_gaps, processor_size


def test_page_sizes_are_what_the_processor_keeps():
    from toolkit.model.libraries import declare_missing_operators

    declare_missing_operators()
    from qwen_vl_utils.vision_process import smart_resize

    rng = random.Random(0)
    for _ in range(3000):
        width, height = rng.randint(20, 4000), rng.randint(20, 4000)
        if max(width, height) / min(width, height) > 20:  # Qwen's own formula returns a side of 0 for long strips
            continue
        budget = rng.choice([64, 384, 1280, 2048])
        high, wide = smart_resize(height, width, factor=32, min_pixels=4 * 1024, max_pixels=budget * 1024)
        assert processor_size(width, height, budget) == (wide, high)
        fitted = fitted_size(width, height, budget)
        assert image_tokens(*fitted) <= budget
        if image_tokens(*fitted) >= 4:
            assert processor_size(*fitted, budget) == fitted


def test_bl1_never_takes_the_pages_of_bl10():
    matched, left = match_images(["BL1_page_0001.png", "BL10_page_0001.png", "BL100.png"], ["bl1", "bl10"])
    images = {
        key: sorted(path for pages in document.kinds.values() for paths in pages.values() for path in paths)
        for key, document in matched.items()
    }
    assert images == {"bl1": ["BL1_page_0001.png"], "bl10": ["BL10_page_0001.png"]}
    assert left == ["BL100.png"]


@pytest.mark.parametrize(
    ("label", "image", "kind", "page"),
    [
        ("BL 252670186.pdf", "BL_252670186_single_page.png", "single_page", 0),
        ("HBL MG2505033 (039FX40980).pdf", "HBL_MG2505033_039FX40980_page_0002.jpg", "pages", 2),
        ("02_MEDUHX085903_C.PDF", "02_MEDUHX085903_C_combined_grid.jpg", "combined_grid", 0),
        ("MV SITC INCHON V.2524N- SGNS25093550.pdf", "sub/MV SITC INCHON V.2524N- SGNS25093550-p3.png", "pages", 3),
        ("1. SO7134-036-P3-CC-PS_BL_FINAL_.pdf", "1. SO7134-036-P3-CC-PS_BL_FINAL__1.png", "pages", 1),
        ("BL 1.pdf", "BL 1.jpeg", "pages", 0),
    ],
)
def test_real_names_find_their_images(label, image, kind, page):
    matched, left = match_images([image], [document_key(label)])
    assert not left
    assert matched[document_key(label)].kinds[kind][page] == [image]


@pytest.mark.parametrize(
    ("numbers", "gaps"), [([1, 2, 3], []), ([1, 3], [2]), ([2], [1]), ([0, 1], []), ([0], []), ([0, 2], [1])]
)
def test_missing_pages_are_noticed(numbers, gaps):
    assert page_gaps(numbers) == gaps


def test_image_defects_are_named(run, workspace):
    from PIL import Image

    png(workspace / "ok.png")
    png(workspace / "Case.png")
    Image.new("RGB", (64, 64)).save(workspace / "cut.jpg")
    (workspace / "cut.jpg").write_bytes((workspace / "cut.jpg").read_bytes()[:-40])
    png(workspace / "really.png").rename(workspace / "lies.jpg")
    (workspace / "text.png").write_text("no image")
    records = []
    for number, name in enumerate(("ok.png", "case.png", "cut.jpg", "lies.jpg", "text.png", "gone/x.png")):
        records.append(record(id=str(number)))
        records[-1]["messages"][0]["content"][0]["image"] = name
    write_records(workspace / "d.jsonl", records)
    outcome = run("verify_image_paths", "--in", "d.jsonl", "--report", "bad.jsonl", "--json")
    problems = {
        json.loads(line)["image"]: json.loads(line)["problem"]
        for line in (workspace / "bad.jsonl").read_text().splitlines()
    }
    assert outcome.code == 1 and set(problems) == {"case.png", "cut.jpg", "lies.jpg", "text.png", "gone/x.png"}
    assert "'Case.png'" in problems["case.png"]
    assert "cut off" in problems["cut.jpg"] and "is a PNG file" in problems["lies.jpg"]


def test_images_over_the_budget_are_counted_with_what_becomes_of_them(run, workspace):
    png(workspace / "a.png", size=(1024, 1024))
    write_records(workspace / "d.jsonl", [record()])
    outcome = run("verify_image_paths", "--in", "d.jsonl", "--image-max-tokens", "256", "--json")
    assert (outcome.code, outcome.json["over_budget"]) == (0, 1) and "1024 x 1024 to 512 x 512" in outcome.err
    assert run("verify_image_paths", "--in", "d.jsonl", "--json").json["over_budget"] == 0
