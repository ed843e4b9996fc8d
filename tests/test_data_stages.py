"""Zips, pages, the join, validation, images, statistics, splits: what they promise, on files a user could have."""

import codecs
import json
import os
import random
import stat
import zipfile
from pathlib import Path

import pytest
from conftest import png, write_results

from toolkit.pages.images import document_key, fitted_size, image_tokens, match_images, page_gaps, processor_size

ROW = {
    "Filename": "BL1.pdf",
    "bl_number": "A1",
    "Container_Number": "CSQU3054383",
    "Container_Size": "40",
    "Container_Type": "HC",
}


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


# --- zips -------------------------------------------------------------------------------------------------------------


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
    assert (twins.code, twins.json["extracted"], twins.json["problems"]) == (
        1,
        1,
        1,
    ) and "has the same name" in twins.err
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
    assert (
        outcome.code == 2 and outcome.err.startswith("error: no.zip: not a zip file") and outcome.err.count("\n") == 1
    )


# --- page sizes and names -----------------------------------------------------------------------------------------------


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
    found, left = match_images(["BL1_page_0001.png", "BL10_page_0001.png", "BL100.png"], ["bl1", "bl10"])
    assert {key: sorted(p for n in d.kinds.values() for ps in n.values() for p in ps) for key, d in found.items()} == {
        "bl1": ["BL1_page_0001.png"],
        "bl10": ["BL10_page_0001.png"],
    }
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
    found, left = match_images([image], [document_key(label)])
    assert not left
    assert found[document_key(label)].kinds[kind][page] == [image]


@pytest.mark.parametrize(
    ("numbers", "gaps"), [([1, 2, 3], []), ([1, 3], [2]), ([2], [1]), ([0, 1], []), ([0], []), ([0, 2], [1])]
)
def test_missing_pages_are_noticed(numbers, gaps):
    assert page_gaps(numbers) == gaps


# --- rendering ----------------------------------------------------------------------------------------------------------


def pdf(path: Path, pages: int = 1, size=(595, 842), text="HELLO") -> Path:
    import pymupdf

    path.parent.mkdir(parents=True, exist_ok=True)
    document = pymupdf.open()
    for number in range(pages):
        page = document.new_page(width=size[0], height=size[1])
        if text:
            page.insert_text((50, 80), f"{text} {number}")
    document.save(path)
    document.close()
    return path


def test_pages_are_rendered_to_the_budget_and_bad_files_stop_nothing(run, workspace):
    pdf(workspace / "pdfs/good one.pdf", pages=2)
    pdf(workspace / "pdfs/blank.pdf", text="")
    pdf(workspace / "pdfs/huge.pdf", size=(14000, 14000), text="")
    pdf(workspace / "pdfs/GOOD ONE.PDF" if os.name != "nt" else workspace / "pdfs/other/good one.pdf")
    (workspace / "pdfs/empty.pdf").write_bytes(b"")
    (workspace / "pdfs/page.pdf").write_text("<html><body>no pdf</body></html>")
    (workspace / "pdfs/cut.pdf").write_bytes(pdf(workspace / "whole.pdf", pages=3).read_bytes()[:300])
    import pymupdf

    document = pymupdf.open(workspace / "whole.pdf")
    document.save(workspace / "pdfs/locked.pdf", encryption=pymupdf.PDF_ENCRYPT_AES_256, owner_pw="o", user_pw="u")
    outcome = run("pdf_to_images", "--in", "pdfs", "--image-max-tokens", "300", "--json")
    assert outcome.code == 1
    problems = {
        Path(json.loads(line)["source"]).name: json.loads(line)["problem"]
        for line in (workspace / "data/images/problems.jsonl").read_text().splitlines()
    }
    assert set(problems) - {"GOOD ONE.PDF", "good one.pdf"} == {"empty.pdf", "page.pdf", "cut.pdf", "locked.pdf"}
    assert "password" in problems["locked.pdf"] and "overwrite" in problems.get(
        "GOOD ONE.PDF", problems.get("good one.pdf")
    )
    manifest = [json.loads(line) for line in (workspace / "data/images/manifest.jsonl").read_text().splitlines()]
    assert all(0 < line["tokens"] <= 300 and line["width"] % 32 == 0 for line in manifest)
    assert [Path(line["image"]).name for line in manifest if line["blank"]] == [
        "blank_page_0001.png",
        "huge_page_0001.png",
    ]


def test_unchanged_documents_are_not_rendered_again(run, workspace):
    source = pdf(workspace / "pdfs/a.pdf")
    run("pdf_to_images", "--in", "pdfs", "--image-max-tokens", "100")
    first = (workspace / "data/images/a_page_0001.png").stat().st_mtime_ns
    assert run("pdf_to_images", "--in", "pdfs", "--image-max-tokens", "100", "--json").json["unchanged"] == 1
    assert (workspace / "data/images/a_page_0001.png").stat().st_mtime_ns == first
    source.unlink()
    pdf(source, text="OTHER")
    assert run("pdf_to_images", "--in", "pdfs", "--image-max-tokens", "100", "--json").json["unchanged"] == 0


def test_the_text_layer_has_word_boxes_in_image_pixels(run, workspace):
    pdf(workspace / "a.pdf")
    run("pdf_to_images", "--in", "a.pdf", "--text-layer", "--image-max-tokens", "300")
    page = json.loads((workspace / "data/ocr/a.json").read_text())["pages"][0]
    x0, y0, x1, y1, word = page["words"][0]
    assert word == "HELLO" and 0 < x0 < x1 < page["width"] and 0 < y0 < y1 < page["height"]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_words_of_turned_pages_lie_where_their_ink_is(workspace, rotation):
    import numpy
    import pymupdf
    from PIL import Image

    from toolkit.pages.rendering import render_document

    document = pymupdf.open()
    page = document.new_page(width=600, height=800)
    page.insert_text((260, 400), "HELLO", fontsize=40)
    page.set_cropbox(pymupdf.Rect(200, 300, 500, 700))
    page.set_rotation(rotation)
    document.save(workspace / "a.pdf")
    line = render_document("a.pdf", "img", 400, "png", "ocr", ())[0]
    ((x0, y0, x1, y1, word),) = json.loads((workspace / "ocr/a.json").read_text())["pages"][0]["words"]
    rows, columns = numpy.where(numpy.asarray(Image.open(line["image"]).convert("L")) < 100)
    assert word == "HELLO" and x0 <= columns.min() < columns.max() <= x1 and y0 <= rows.min() < rows.max() <= y1


def test_a_list_of_inputs_is_an_input(run, workspace):
    for name in ("a", "b", "c"):
        pdf(workspace / f"pdfs/{name}.pdf")
    (workspace / "list.txt").write_bytes(codecs.BOM_UTF8 + b"pdfs/a.pdf\r\n\r\npdfs\\c.pdf\r\n")
    assert run("pdf_to_images", "--in", "list.txt", "--image-max-tokens", 64, "--json").json["documents"] == 2
    (workspace / "list.txt").write_text("\n")
    assert "the list is empty" in run("pdf_to_images", "--in", "list.txt").err


def test_scans_are_taken_as_they_are(run, workspace):
    from PIL import Image

    frames = [Image.new("RGB", (900, 1200), shade) for shade in ("white", "gray")]
    frames[0].save(workspace / "scan.tiff", save_all=True, append_images=frames[1:])
    assert run("pdf_to_images", "--in", "scan.tiff", "--image-max-tokens", "400", "--json").json["pages"] == 2


# --- the join -----------------------------------------------------------------------------------------------------------


def test_rows_of_one_document_become_one_record_in_page_order(run, workspace):
    write_results(workspace / "data/results.json", [ROW, {**ROW, "Container_Number": "MSCU6639870"}])
    for number in (2, 1, 10, 3, 4, 5, 6, 7, 8, 9):
        png(workspace / f"img/BL1_page_{number}.png", shade=number)
    outcome = run("build_jsonl_from_results", "--images-dir", "img", "--json")
    assert outcome.code == 0, outcome.err
    record = json.loads((workspace / "data/train.jsonl").read_text())
    images = [item["image"] for item in record["messages"][1]["content"] if item["type"] == "image"]
    assert images == [f"img/BL1_page_{n}.png" for n in range(1, 11)]
    answer = json.loads(record["messages"][2]["content"][0]["text"])
    assert [row["container_number"] for row in answer["containers"]] == ["CSQU3054383", "MSCU6639870"]
    assert "consignee_name" not in answer and "consignee_name" in outcome.json["fields_left_out"]
    assert run("validate_jsonl", "data/train.jsonl").code == 0


@pytest.mark.parametrize(
    "encode",
    [
        lambda t: codecs.BOM_UTF8 + t.encode(),
        lambda t: codecs.BOM_UTF16_LE + t.encode("utf-16-le"),
        lambda t: t.encode("utf-16-le"),
    ],
)
def test_tables_saved_by_powershell_are_read(run, workspace, encode):
    png(workspace / "img/BL1.png")
    (workspace / "data").mkdir()
    (workspace / "data/results.json").write_bytes(
        encode(json.dumps([{**ROW, "consignee_name": "MÜLLER"}], ensure_ascii=False))
    )
    assert run("build_jsonl_from_results", "--images-dir", "img").code == 0
    assert "MÜLLER" in (workspace / "data/train.jsonl").read_text(encoding="utf-8")


def test_a_csv_is_a_table_too(run, workspace):
    png(workspace / "img/BL1.png")
    (workspace / "labels.csv").write_text(
        "Filename;bl_number;detention_free_days;Container Number\nBL1.pdf;A1;7;CSQU3054383\n", encoding="utf-8"
    )
    assert run("build_jsonl_from_results", "--results", "labels.csv", "--images-dir", "img").code == 0
    assert '\\"detention_free_days\\":7' in (workspace / "data/train.jsonl").read_text()


def test_rows_that_disagree_are_left_out_with_both_values(run, workspace):
    write_results(
        workspace / "data/results.json",
        [ROW, {**ROW, "bl_number": "A2", "Container_Number": "MSCU6639870"}, {**ROW, "Filename": "BL2.pdf"}],
    )
    png(workspace / "img/BL1.png")
    png(workspace / "img/BL2.png", shade=3)
    outcome = run("build_jsonl_from_results", "--images-dir", "img", "--json")
    assert (outcome.code, outcome.json["records"], outcome.json["documents_with_problems"]) == (1, 1, 1)
    assert "'A1'" in outcome.err and "'A2'" in outcome.err


def test_leftovers_on_both_sides_are_one_line_and_a_file_each(run, workspace):
    write_results(workspace / "data/results.json", [{**ROW, "Filename": f"BL{n}.pdf"} for n in range(929)])
    png(workspace / "img/BL0.png")
    png(workspace / "img/stranger.png")
    outcome = run("build_jsonl_from_results", "--images-dir", "img", "--json")
    assert outcome.code == 1 and outcome.json["labels_without_images"] == 928 and outcome.err.count("\n") < 6
    assert len((workspace / "data/train.labels_without_images.txt").read_text().splitlines()) == 928
    assert (workspace / "data/train.images_without_labels.txt").read_text() == "img/stranger.png\n"
    assert run("build_jsonl_from_results", "--images-dir", "img", "--allow-problems").code == 0


def test_labels_that_cannot_be_told_apart_are_both_left_out(run, workspace):
    write_results(
        workspace / "data/results.json",
        [{**ROW, "Filename": "BL 1.pdf"}, {**ROW, "Filename": "BL_1.pdf"}, {**ROW, "Filename": "BL2.pdf"}],
    )
    for name in ("BL 1.png", "BL2.png"):
        png(workspace / "img" / name)
    outcome = run("build_jsonl_from_results", "--images-dir", "img", "--json")
    assert outcome.json["records"] == 1 and "'BL_1.pdf'" in outcome.err and "BL 1.pdf" in outcome.err


def test_second_pictures_of_a_document_are_counted_and_can_be_preferred(run, workspace):
    write_results(workspace / "data/results.json", [ROW])
    for name in ("BL1_page_1.png", "BL1_page_2.png", "BL1_combined_grid.png"):
        png(workspace / "img" / name, shade=len(name) * 7 + int(name[-5] == "2"))
    first = run("build_jsonl_from_results", "--images-dir", "img", "--json")
    assert (first.code, first.json["pages"], first.json["images_not_used"]) == (
        0,
        2,
        1,
    ) and "1 images not used" in first.err
    grid = run("build_jsonl_from_results", "--images-dir", "img", "--prefer", "combined_grid", "--json")
    assert (grid.json["pages"], grid.json["images_not_used"]) == (1, 2)


def test_enum_synonyms_are_normalised_and_unknown_values_named(run, workspace):
    rows = [
        {**ROW, "port_of_discharge": "PORT KLANG (WESTPORT)"},
        {**ROW, "Filename": "BL2.pdf", "port_of_discharge": "Atlantis"},
    ]
    write_results(workspace / "data/results.json", rows)
    png(workspace / "img/BL1.png")
    png(workspace / "img/BL2.png", shade=9)
    outcome = run("build_jsonl_from_results", "--images-dir", "img")
    assert outcome.code == 1 and "'Atlantis' is none of" in outcome.err
    assert '\\"port_of_discharge\\":\\"Port Klang\\"' in (workspace / "data/train.jsonl").read_text()


def test_a_failed_build_leaves_the_old_file_alone(run, workspace):
    write_results(workspace / "data/results.json", [ROW])
    (workspace / "data/train.jsonl").write_text("old\n")
    (workspace / "img").mkdir()
    assert run("build_jsonl_from_results", "--images-dir", "img").code == 1
    assert (workspace / "data/train.jsonl").read_text() == "old\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "the file is empty"),
        ("{", "not JSON"),
        ("[]", "no rows"),
        ("[1]", "a row must be an object"),
        ('[{"a": 1, "a": 2}]', "stands twice"),
        ('[{"Filename": NaN}]', "NaN is not JSON"),
    ],
)
def test_a_broken_table_is_one_sentence(run, workspace, content, sentence):
    (workspace / "results.json").write_text(content)
    (workspace / "img").mkdir()
    outcome = run("build_jsonl_from_results", "--images-dir", "img")
    assert outcome.code == 2 and sentence in outcome.err and outcome.err.count("\n") == 1


# --- validation -----------------------------------------------------------------------------------------------------------


def record(answer='{"company":"A","date":null,"address":null,"total":"1"}', **change):
    value = {
        "id": "r",
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "json"}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ],
        "meta": {"schema": "schemas/receipt.schema.json"},
    }
    return value | change


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (record("Sure! {}"), "not only JSON"),
        (record('{"a":1,"a":2}'), "stands twice"),
        (record('{"company":NaN}'), "NaN"),
        (record('{"company":1,"date":null,"address":null,"total":"1"}'), "answer.company"),
        (record('{"company":"A"}'), "'date' is a required property"),
        (record(id=""), "$.id"),
        (record(messages=[]), "$.messages"),
        (record(messages=list(reversed(record()["messages"]))), "the roles are assistant, user"),
        (
            record(
                messages=[
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "json"}, {"type": "image", "image": "a.png"}],
                    },
                    record()["messages"][1],
                ]
            ),
            "images come first",
        ),
        (
            record(
                messages=[
                    {
                        "role": "user",
                        "content": [{"type": "image", "image": "a\\b.png"}, {"type": "text", "text": "j"}],
                    },
                    record()["messages"][1],
                ]
            ),
            "back slash",
        ),
    ],
)
def test_every_defect_of_a_record_has_its_line_and_place(run, workspace, bad, sentence):
    (workspace / "d.jsonl").write_text(json.dumps(record(id="good")) + "\n" + json.dumps(bad) + "\n")
    outcome = run("validate_jsonl", "d.jsonl")
    assert outcome.code == 1 and outcome.out.startswith("d.jsonl:2: ") and sentence in outcome.out


def test_broken_lines_and_missing_files(run, workspace):
    (workspace / "d.jsonl").write_text('{"id": \n')
    assert run("validate_jsonl", "d.jsonl").code == 1
    assert run("validate_jsonl", "missing.jsonl").err == "error: file not found: missing.jsonl\n"
    (workspace / "e.jsonl").write_text("")
    assert run("validate_jsonl", "e.jsonl").code == 2


# --- images, statistics, splits ---------------------------------------------------------------------------------------------


def write_records(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")


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
        one = record(id=str(number))
        one["messages"][0]["content"][0]["image"] = name
        records.append(one)
    write_records(workspace / "d.jsonl", records)
    outcome = run("verify_image_paths", "--in", "d.jsonl", "--report", "bad.jsonl", "--json")
    problems = {
        json.loads(line)["image"]: json.loads(line)["problem"]
        for line in (workspace / "bad.jsonl").read_text().splitlines()
    }
    assert outcome.code == 1 and set(problems) == {"case.png", "cut.jpg", "lies.jpg", "text.png", "gone/x.png"}
    assert (
        "'Case.png'" in problems["case.png"]
        and "cut off" in problems["cut.jpg"]
        and "is a PNG file" in problems["lies.jpg"]
    )


def test_images_over_the_budget_are_counted_with_what_becomes_of_them(run, workspace):
    png(workspace / "a.png", size=(1024, 1024))
    write_records(workspace / "d.jsonl", [record()])
    outcome = run("verify_image_paths", "--in", "d.jsonl", "--image-max-tokens", "256", "--json")
    assert (outcome.code, outcome.json["over_budget"]) == (0, 1) and "1024 x 1024 to 512 x 512" in outcome.err
    assert run("verify_image_paths", "--in", "d.jsonl", "--json").json["over_budget"] == 0


def test_statistics_count_tokens_as_training_does(run, easy_dataset, tiny_model, monkeypatch):
    from toolkit.model.lengths import record_length
    from toolkit.model.loading import load_processor
    from toolkit.records.record import read_records

    monkeypatch.chdir(easy_dataset)
    found = run("dataset_stats", "--in", "data/train.jsonl", "--model", tiny_model, "--html", "s.html", "--json").json
    processor = load_processor(str(tiny_model), 1280)
    lengths = [record_length(processor, r, Path(), 1280) for r in read_records("data/train.jsonl")]
    assert found["total_tokens"]["max"] == max(lengths) and found["total_tokens"]["min"] == min(lengths)
    assert found["longest"][0]["tokens"] == max(lengths) and found["tokens_are"] == "exact"
    assert found["fits_max_length"]["2048"] == sum(length <= 2048 for length in lengths)
    assert "http" not in Path("s.html").read_text() and "port_of_discharge" in Path("s.html").read_text()


def test_statistics_count_what_is_there(run, easy_dataset, monkeypatch):
    monkeypatch.chdir(easy_dataset)
    found = run("dataset_stats", "--in", "data/train.jsonl", "--json").json
    ports = found["values"]["port_of_discharge"]
    assert sum(count for _, count in ports["top"]) <= 24 and ports["distinct"] >= len(ports["top"]) > 1
    assert found["predicted"]["training"]["qlora"]["memory_gib"] < found["predicted"]["training"]["lora"]["memory_gib"]
    assert found["documents"] == 24 and found["vision_tokens"] == {"min": 384, "median": 384, "p95": 384, "max": 384}
    assert found["fill_rate"]["bl_number"] == 1.0


def split_records(workspace: Path, count: int) -> list[dict]:
    records = []
    for number in range(count):
        one = record(f'{{"company":"C{number % 7}","date":null,"address":null,"total":"{number}"}}', id=f"doc {number}")
        one["messages"][0]["content"][0]["image"] = (
            png(workspace / f"i/{number}.png", shade=number % 250, size=(32 + number // 250, 32))
            .relative_to(workspace)
            .as_posix()
        )
        records.append(one)
    return records


def splits_of(workspace: Path) -> dict[str, str]:
    return {
        json.loads(line)["id"]: name
        for name in ("train", "val", "test")
        for line in (workspace / f"data/splits/{name}.jsonl").read_text().splitlines()
    }


def test_adding_documents_moves_none_and_order_does_not_matter(run, workspace):
    records = split_records(workspace, 120)
    write_records(workspace / "d.jsonl", records[:80])
    run("split_jsonl", "--in", "d.jsonl")
    before = splits_of(workspace)
    write_records(workspace / "d.jsonl", list(reversed(records)))
    run("split_jsonl", "--in", "d.jsonl")
    after = splits_of(workspace)
    assert len(before) == 80 and len(after) == 120
    assert all(after[name] == place for name, place in before.items())
    assert 0.6 < sum(place == "train" for place in after.values()) / 120 < 0.95


def test_copies_and_groups_never_lie_on_both_sides(run, workspace):
    records = split_records(workspace, 60)
    for number in range(0, 60, 2):
        records[number]["messages"][0]["content"][0]["image"] = records[number + 1]["messages"][0]["content"][0][
            "image"
        ]
    write_records(workspace / "d.jsonl", records)
    run("split_jsonl", "--in", "d.jsonl", "--ratios", "50/25/25")
    places = splits_of(workspace)
    assert all(places[f"doc {n}"] == places[f"doc {n + 1}"] for n in range(0, 60, 2))
    run("split_jsonl", "--in", "d.jsonl", "--ratios", "50/25/25", "--group-by", "company")
    places = splits_of(workspace)
    assert all(len({places[f"doc {n}"] for n in range(company, 60, 7)}) == 1 for company in range(7))


def test_one_page_in_two_formats_is_one_page(run, workspace):
    from PIL import Image

    records = split_records(workspace, 40)
    for number in range(0, 40, 2):  # the next record's page again, as another file with the same pixels
        image = records[number + 1]["messages"][0]["content"][0]["image"]
        Image.open(image).save(image.replace(".png", ".bmp"))
        records[number]["messages"][0]["content"][0]["image"] = image.replace(".png", ".bmp")
    write_records(workspace / "d.jsonl", records)
    assert run("split_jsonl", "--in", "d.jsonl", "--json").json["groups"] == 20
    assert run("split_jsonl", "--in", "d.jsonl", "--compare-images", "bytes", "--json").json["groups"] == 40


def test_a_form_printed_on_every_document_joins_none_and_label_keys_join(run, workspace):
    schema = json.loads((workspace / "schemas/receipt.schema.json").read_text())
    schema["properties"]["total"]["x-extract"]["key"] = True
    (workspace / "s.json").write_text(json.dumps(schema))
    records = split_records(workspace, 30)
    back = png(workspace / "back.png", shade=3).relative_to(workspace).as_posix()
    for number, one in enumerate(records):
        one["meta"]["schema"] = "s.json"
        one["messages"][0]["content"].insert(1, {"type": "image", "image": back})
        if number >= 20:  # a revised copy: other page and company, the same key
            one["messages"][1]["content"][0]["text"] = json.dumps(
                {"company": f"NEW {number}", "date": None, "address": None, "total": str(number - 20)}
            )
    write_records(workspace / "d.jsonl", records)
    outcome = run("split_jsonl", "--in", "d.jsonl", "--json")
    assert outcome.json["groups"] == 20 and "1 pages stand in more than five" in outcome.err
    joined = json.loads((workspace / "data/splits/report.json").read_text())["joined_by"]
    assert (joined["label"], joined["image"], joined["common_pages"]) == (10, 0, 1)


def test_balanced_splits_meet_the_ratios_and_keep_an_earlier_split(run, workspace):
    records = split_records(workspace, 100)
    write_records(workspace / "d.jsonl", records[:80])
    first = run("split_jsonl", "--in", "d.jsonl", "--assign", "balanced", "--out-dir", "one", "--json").json
    assert (first["train"], first["val"], first["test"]) == (64, 8, 8)
    write_records(workspace / "d.jsonl", records)
    again = run("split_jsonl", "--in", "d.jsonl", "--assign", "balanced", "--keep", "one", "--json").json
    assert (again["train"], again["val"], again["test"]) == (80, 10, 10)
    after = splits_of(workspace)
    for name in ("train", "val", "test"):
        for line in (workspace / f"one/{name}.jsonl").read_text().splitlines():
            assert after[json.loads(line)["id"]] == name


def test_every_stratum_gets_its_share(run, workspace):
    """Documents of one to three pages: balanced within one document, by hash within chance."""
    records = split_records(workspace, 90)
    for number, one in enumerate(records):
        for page in range(number % 3):
            extra = png(workspace / f"x/{number}_{page}.png", shade=number + 100 * page, size=(96, 64))
            one["messages"][0]["content"].insert(1, {"type": "image", "image": extra.relative_to(workspace).as_posix()})
    write_records(workspace / "d.jsonl", records)
    run("split_jsonl", "--in", "d.jsonl", "--assign", "balanced")
    strata = json.loads((workspace / "data/splits/report.json").read_text())["strata"]
    assert [list(places.values()) for places in strata.values()] == [[24, 3, 3]] * 3
    assert set(strata) == {"1 pages, 0 rows", "2 pages, 0 rows", "3-5 pages, 0 rows"}


def test_held_out_documents_go_to_test_and_unknown_ids_are_named(run, workspace):
    write_records(workspace / "d.jsonl", split_records(workspace, 30))
    (workspace / "held.txt").write_text("doc 3\ndoc 7\n\ndoc 999\n")
    outcome = run("split_jsonl", "--in", "d.jsonl", "--holdout-file", "held.txt")
    places = splits_of(workspace)
    assert outcome.code == 1 and "1 ids of held.txt are in no record: doc 999" in outcome.err
    assert places["doc 3"] == places["doc 7"] == "test"


def test_near_duplicates_on_both_sides_are_listed_and_stay(run, workspace):
    records = []
    words = [f"word{n}" for n in range(400)]
    for number in range(60):
        own = random.Random(number // 2).sample(words, 30)  # pairs share all words but one
        own[0] = f"only{number}"
        answer = json.dumps({"company": " ".join(own), "date": None, "address": None, "total": str(number)})
        records.append(record(answer, id=f"doc {number}"))
        records[-1]["messages"][0]["content"][0]["image"] = (
            png(workspace / f"i/{number}.png", shade=number, size=(64 + number, 64)).relative_to(workspace).as_posix()
        )
    write_records(workspace / "d.jsonl", records)
    outcome = run("split_jsonl", "--in", "d.jsonl", "--ratios", "60/20/20", "--near-bits", "-1", "--json")
    places = splits_of(workspace)
    across = {n for n in range(60) if places[f"doc {n}"] != "train" and places[f"doc {n ^ 1}"] == "train"}
    listed = [json.loads(line) for line in (workspace / "data/splits/near_duplicates.jsonl").read_text().splitlines()]
    assert across and {pair["held_out"] for pair in listed} == {f"doc {n}" for n in across}
    assert all(int(p["held_out"][4:]) ^ 1 == int(p["train"][4:]) and p["text"] > 0.8 for p in listed)
    assert outcome.code == 0 and outcome.json["near_duplicates"] == len(across) and len(places) == 60


def test_the_same_seed_makes_the_same_documents(run, workspace):
    for folder in ("one", "two"):
        run("make_sample_documents", "--out-dir", folder, "--documents", "9", "--layout", "realistic", "--seed", "4")
    names = sorted(p.relative_to("one").as_posix() for p in Path("one").rglob("*") if p.is_file())
    assert names == sorted(p.relative_to("two").as_posix() for p in Path("two").rglob("*") if p.is_file())
    assert all(Path("one", n).read_bytes() == Path("two", n).read_bytes() for n in names)


@pytest.mark.parametrize("kind", ["invoice", "receipt"])
@pytest.mark.parametrize("layout", ["realistic", "scan"])
def test_other_document_types_go_through_the_data_stages(run, workspace, kind, layout):
    run("make_sample_documents", "--out-dir", "s", "--documents", "6", "--type", kind, "--layout", layout, "--no-mess")
    run("extract_combined_zip", "--zip", "s/combined.zip", "--zip", "s/bls_another.zip")
    run("pdf_to_images", "--in", "s/pdfs")
    built = run(
        "build_jsonl_from_results",
        "--results",
        "s/results.json",
        "--schema",
        f"schemas/{kind}.schema.json",
        "--images-dir",
        "data/raw",
        "--images-dir",
        "data/images",
        "--json",
    )
    assert (built.code, built.json["records"]) == (0, 6), built.err
    assert run("validate_jsonl", "data/train.jsonl", "--json").json["warnings"] == 0


# --- other people's tables, protected PDFs, shares -----------------------------------------------------------------------


def workbook(path, rows, sheets=("Sheet1",), formats=None):
    import openpyxl

    book = openpyxl.Workbook()
    book.active.title = sheets[0]
    for name in sheets[1:]:
        book.create_sheet(name)
    for row in rows:
        book[sheets[-1]].append(row)
    for place, text in (formats or {}).items():
        book[sheets[-1]][place].number_format = text
    book.save(path)


def test_an_excel_table_is_read_as_people_see_it(run, workspace):
    import datetime

    png(workspace / "img/Rechnung 7_page_0001.png")
    header = ["file", "supplier_name", "invoice_number", "invoice_date", "net_total"]
    row = ["Rechnung 7.pdf", "Müller", 123, datetime.datetime(2024, 4, 3), 1234.5]
    workbook(workspace / "t.xlsx", [header, row, [None] * 5], ("notes", "data"), {"C2": "00000"})
    schema = json.loads((workspace / "schemas/invoice.schema.json").read_text(encoding="utf-8"))
    leaves = schema["properties"]
    mapping = {"document": "file", "columns": {}}
    for field, column in (("invoice_number", "invoice_number"), ("invoice_date", "invoice_date")):
        assert field in leaves
        mapping["columns"][field] = column
    (workspace / "map.json").write_text(json.dumps(mapping))
    common = [
        "--results",
        "t.xlsx",
        "--schema",
        "schemas/invoice.schema.json",
        "--images-dir",
        "img",
        "--mapping",
        "map.json",
    ]
    several = run("build_jsonl_from_results", *common)
    assert several.code == 2 and "2 sheets; name one with --sheet: notes, data" in several.err
    done = run("build_jsonl_from_results", *common, "--sheet", "data", "--json")
    assert done.json["records"] == 1, done.err
    gold = json.loads(
        json.loads((workspace / "data/train.jsonl").read_text(encoding="utf-8"))["messages"][-1]["content"][0]["text"]
    )
    assert gold["invoice_number"] == "00123" and gold["invoice_date"] == "2024-04-03"


def test_a_mapping_that_names_what_is_not_there_is_one_sentence(run, workspace):
    write_results(workspace / "t.json", [{"doc": "a.pdf", "Konossement": "B1", "Cntr": "MSKU1234565"}])
    png(workspace / "img/a.png")
    common = ["--results", "t.json", "--images-dir", "img", "--mapping", "m.json"]
    for mapping, sentence in (
        ({"document": "doc", "columns": {"bl_no": "Konossement"}}, "the schema has no field 'bl_no'"),
        ({"document": "doc", "columns": {"bl_number": "B/L"}}, "has no column 'B/L'; it has Cntr, Konossement, doc"),
        ({"columns": {"bl_number": 7}}, "a column name or a list of them"),
        ({"fields": {}}, "a mapping is"),
    ):
        (workspace / "m.json").write_text(json.dumps(mapping))
        done = run("build_jsonl_from_results", *common)
        assert done.code == 2 and sentence in done.err and done.err.count("\n") == 1, done.err
    (workspace / "m.json").write_text(
        json.dumps(
            {"document": "doc", "columns": {"bl_number": "Konossement", "containers[].container_number": "Cntr"}}
        )
    )
    done = run("build_jsonl_from_results", *common, "--json")
    gold = json.loads(json.loads((workspace / "data/train.jsonl").read_text())["messages"][-1]["content"][0]["text"])
    assert gold == {"bl_number": "B1", "containers": [{"container_number": "MSKU1234565"}]}, done.err


def test_dates_become_iso_only_where_the_schema_says_so_and_never_by_a_guess(run, workspace):
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": [],
        "properties": {
            "printed": {"type": ["string", "null"], "maxLength": 20, "x-extract": {"compare": "date"}},
            "iso": {
                "type": ["string", "null"],
                "maxLength": 10,
                "x-extract": {"compare": "date", "normalise": "iso_date"},
            },
        },
    }
    rows = [
        {"Filename": f"{n}.pdf", "printed": text, "iso": text}
        for n, text in enumerate(("13/04/2024", "3 Apr 2024", "03/04/2024", "soon"))
    ]
    write_results(workspace / "t.json", rows)
    for number in range(4):
        png(workspace / f"img/{number}.png")
    (workspace / "s.json").write_text(json.dumps(schema))
    done = run("build_jsonl_from_results", "--results", "t.json", "--schema", "s.json", "--images-dir", "img")
    golds = [
        json.loads(json.loads(line)["messages"][-1]["content"][0]["text"])
        for line in (workspace / "data/train.jsonl").read_text().splitlines()
    ]
    assert golds == [{"printed": "13/04/2024", "iso": "2024-04-13"}, {"printed": "3 Apr 2024", "iso": "2024-04-03"}]
    problems = (workspace / "data/train.problems.jsonl").read_text()
    assert done.code == 1 and "is two dates" in problems and "'soon' is no date" in problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.50", 1234.5),
        ("1.234,50 EUR", 1234.5),
        ("$ 7", 7),
        ("(12.5)", -12.5),
        ("1 234", 1234),
        ("7 days", None),
        ("a7", None),
        ("1234567890123456789012", None),
    ],
)
def test_numbers_are_read_as_people_write_them(text, value):
    from toolkit.records.label_table import coerce
    from toolkit.schema.target import Leaf

    leaf = Leaf(("n",), {"type": ["number", "null"]})
    if value is None and text[0] in "7a":
        with pytest.raises(ValueError, match="no number"):
            coerce(text, leaf)
    elif value is not None:
        assert coerce(text, leaf) == value
    else:
        assert coerce(text, leaf) == float(text)


def protected_pdf(path, password):
    import pymupdf

    document = pymupdf.open()
    document.new_page().insert_text((72, 72), "secret cargo")
    document.save(path, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw=password, owner_pw=password)


def test_a_protected_pdf_opens_with_a_password_of_the_file(run, workspace):
    (workspace / "pdfs").mkdir()
    protected_pdf(workspace / "pdfs/a.pdf", "open sesame")
    protected_pdf(workspace / "pdfs/b.pdf", "unknown")
    (workspace / "words.txt").write_text("wrong\nopen sesame\n")
    without = run("pdf_to_images", "--in", "pdfs", "--out-dir", "img")
    assert without.code == 1 and "--password-file" in without.err
    done = run("pdf_to_images", "--in", "pdfs", "--out-dir", "img", "--password-file", "words.txt", "--json")
    assert done.code == 1 and done.json["documents"] == 1 and "b.pdf" in done.err
    assert (workspace / "img/a_page_0001.png").is_file() and "open sesame" not in (
        workspace / "img/manifest.jsonl"
    ).read_text()


def test_the_shares_of_all_machines_are_the_whole(run, workspace):
    run("make_sample_documents", "--out-dir", "s", "--documents", 24, "--no-mess")
    whole = run("pdf_to_images", "--in", "s/pdfs", "--out-dir", "whole", "--image-max-tokens", 64, "--json").json
    counts = [
        run(
            "pdf_to_images",
            "--in",
            "s/pdfs",
            "--out-dir",
            "shared",
            "--image-max-tokens",
            64,
            "--shard",
            f"{n}/3",
            "--json",
        ).json["documents"]
        for n in (1, 2, 3)
    ]
    assert sum(counts) == whole["documents"] and min(counts) > 0
    images = {p.name: p.read_bytes() for p in (workspace / "whole").glob("*.png")}
    assert images == {p.name: p.read_bytes() for p in (workspace / "shared").glob("*.png")}
    assert len(list((workspace / "shared").glob("manifest.shard-*.jsonl"))) == 3
    assert "give I/N" in run("pdf_to_images", "--in", "s/pdfs", "--shard", "4/3").err


def test_an_azure_ml_parallel_job_calls_the_same_function(run, workspace, monkeypatch):
    """The service calls init() once and run() with the paths of a mini-batch; rows returned are appended to one file."""
    import pdf_to_images

    run("make_sample_documents", "--out-dir", "s", "--documents", 4, "--no-mess")
    (workspace / "s/pdfs/broken.pdf").write_text("no pdf")
    whole = run("pdf_to_images", "--in", "s/pdfs", "--out-dir", "whole", "--image-max-tokens", 64)
    assert whole.code == 1
    monkeypatch.setattr("sys.argv", ["driver", "--out-dir", "step", "--image-max-tokens", "64", "--amlbi_unknown", "1"])
    pdf_to_images.init()
    sources = sorted(str(path) for path in (workspace / "s/pdfs").iterdir())
    rows = [row for start in (0, 3) for row in pdf_to_images.run(sources[start : start + 3])]
    expected = (workspace / "whole/manifest.jsonl").read_text().replace("whole/", "step/").splitlines()
    assert sorted(map(json.loads, rows), key=str) == sorted(map(json.loads, expected), key=str)
    assert len(list((workspace / "step").glob("problems_*.jsonl"))) == 1


def test_any_number_of_workers_writes_the_same_bytes(run, workspace):
    run("make_sample_documents", "--out-dir", "s", "--documents", 12, "--no-mess", "--layout", "realistic")
    for workers, order in ((1, 1), (4, -1)):
        sources = sorted((workspace / "s/pdfs").iterdir())[::order]
        run("pdf_to_images", "--in", *sources, "--out-dir", "img", "--workers", workers, "--text-layer", "--overwrite")
        files = {p: p.read_bytes() for folder in ("img", "data/ocr") for p in (workspace / folder).iterdir()}
        if workers == 1:
            first = files
    assert len(first) > 8 and files == first


def test_a_page_that_one_engine_renders_blank_goes_to_the_other(workspace, monkeypatch):
    """MuPDF leaves some JBIG2 pages blank; none can be made here, so its answer is replaced by a blank one."""
    from PIL import Image

    from toolkit.pages import rendering as pdf_pages

    pdf(workspace / "a.pdf", pages=2)
    monkeypatch.setattr(pdf_pages, "page_image", lambda page, budget: Image.new("RGB", (64, 96), "white"))
    lines = pdf_pages.render_document(str(workspace / "a.pdf"), str(workspace / "img"), 64, "png", None, ())
    assert [(line["engine"], line["blank"]) for line in lines] == [("pypdfium2", False)] * 2
    assert "rendered by the second engine" in lines[0]["warnings"][-1]


def test_several_lists_come_from_flat_rows_and_from_nested_objects(run, workspace):
    def leaf(column, **more):
        return {"type": ["string", "null"], "maxLength": 40, "x-extract": {"column": column, **more}}

    def rows(**properties):
        item = {"type": "object", "additionalProperties": False, "required": [], "properties": properties}
        return {"type": "array", "maxItems": 50, "items": item}

    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": [],
        "x-extract": {"document_column": "file"},
        "properties": {
            "containers": rows(number=leaf("cntr", compare="id", key=True), size=leaf("size")),
            "charges": rows(code=leaf("charge", key=True), amount=leaf("amount")),
        },
    }
    (workspace / "s.json").write_text(json.dumps(schema))
    png(workspace / "img/a.png")
    flat = [
        {"file": "a.pdf", "cntr": "MSKU1234565", "size": "40", "charge": "THC", "amount": "10"},
        {"file": "a.pdf", "cntr": "CSQU3054383", "size": "20", "charge": None, "amount": None},
        {"file": "a.pdf", "cntr": None, "size": None, "charge": "DOC", "amount": "5"},
    ]
    nested = [
        {
            "file": "a.pdf",
            "containers": [{"cntr": "MSKU1234565", "size": "40"}, {"cntr": "CSQU3054383", "size": "20"}],
            "charges": [{"charge": "THC", "amount": "10"}, {"charge": "DOC", "amount": "5"}],
        }
    ]
    for table in (flat, nested):
        write_results(workspace / "t.json", table)
        done = run("build_jsonl_from_results", "--results", "t.json", "--schema", "s.json", "--images-dir", "img")
        gold = json.loads(
            json.loads((workspace / "data/train.jsonl").read_text())["messages"][-1]["content"][0]["text"]
        )
        assert done.code == 0, done.err
        assert gold == {
            "containers": [{"number": "MSKU1234565", "size": "40"}, {"number": "CSQU3054383", "size": "20"}],
            "charges": [{"code": "THC", "amount": "10"}, {"code": "DOC", "amount": "5"}],
        }
