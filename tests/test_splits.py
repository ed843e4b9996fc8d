"""Splits: nothing moves, nothing lies on both sides, ratios and strata are met, and near duplicates are listed."""

import json
import random
from pathlib import Path

import pytest
from conftest import png
from receipt_records import record, write_records


def split_records(workspace: Path, count: int) -> list[dict]:
    """Records of one page each; every seventh has the same company."""
    records = []
    for number in range(count):
        answer = f'{{"company":"C{number % 7}","date":null,"address":null,"total":"{number}"}}'
        page = png(workspace / f"i/{number}.png", shade=number % 250, size=(32 + number // 250, 32))
        records.append(record(answer, id=f"doc {number}"))
        set_page(records[-1], page.relative_to(workspace).as_posix())
    return records


def page_of(value: dict) -> str:
    return value["messages"][0]["content"][0]["image"]


def set_page(value: dict, image: str) -> None:
    value["messages"][0]["content"][0]["image"] = image


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
        set_page(records[number], page_of(records[number + 1]))
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
        image = page_of(records[number + 1])
        Image.open(image).save(image.replace(".png", ".bmp"))
        set_page(records[number], image.replace(".png", ".bmp"))
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
            answer = {"company": f"NEW {number}", "date": None, "address": None, "total": str(number - 20)}
            one["messages"][1]["content"][0]["text"] = json.dumps(answer)
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


def noisy_page(path: Path, seed: int, grain: int = 0, other_rows: int = 0) -> None:
    """A page of 16 rows of random grey cells. `grain` changes each pixel by so much at most, as a second scan does;
    `other_rows` are those of another page."""
    import numpy
    from PIL import Image

    cells, others = (numpy.random.default_rng(n).integers(0, 256, (16, 17)) for n in (seed, seed + 1000))
    cells[:other_rows] = others[:other_rows]
    pixels = cells.repeat(6, axis=0).repeat(6, axis=1)
    noise = numpy.random.default_rng(seed + 2000).integers(-grain, grain + 1, pixels.shape)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray((pixels + noise).clip(0, 255).astype("uint8")).convert("RGB").save(path)


def pairs_of_documents(workspace: Path, *, words: int = 0, rows: int = 0) -> list[dict]:
    """Sixty documents. Two neighbours share so many of the 30 words of their answers, and of the 16 rows of pages."""
    pool, records = [f"word{n}" for n in range(4000)], []
    for number in range(60):
        own = random.Random(number // 2).sample(pool[:2000], words)
        own += random.Random(100 + number).sample(pool[2000:], 30 - words)
        answer = json.dumps({"company": " ".join(own), "date": None, "address": None, "total": f"{number} only"})
        records.append(record(answer, id=f"doc {number}"))
        page = workspace / f"i/{number}.png"
        second = number % 2
        noisy_page(page, number // 2 if rows else 5000 + number, grain=second, other_rows=(16 - rows) * second)
        set_page(records[-1], page.relative_to(workspace).as_posix())
    return records


@pytest.mark.parametrize("like", ["words", "pages"])
def test_near_duplicates_on_both_sides_are_listed_and_stay(run, workspace, like):
    """Revised answers that share all words but two, or second scans of one page; both with the script's own limits."""
    records = pairs_of_documents(workspace, words=30) if like == "words" else pairs_of_documents(workspace, rows=16)
    write_records(workspace / "d.jsonl", records)
    outcome = run("split_jsonl", "--in", "d.jsonl", "--ratios", "60/20/20", "--json")
    places = splits_of(workspace)
    across = {n for n in range(60) if places[f"doc {n}"] != "train" and places[f"doc {n ^ 1}"] == "train"}
    listed = [json.loads(line) for line in (workspace / "data/splits/near_duplicates.jsonl").read_text().splitlines()]
    assert across and {pair["held_out"] for pair in listed} == {f"doc {n}" for n in across}
    assert all(int(pair["held_out"][4:]) ^ 1 == int(pair["train"][4:]) for pair in listed)
    if like == "words":
        assert all(pair["text"] > 0.8 and pair["image_bits"] is None for pair in listed)
    else:
        assert all(pair["image_bits"] <= 6 and pair["text"] is None for pair in listed)
    assert outcome.code == 0 and outcome.json["near_duplicates"] == len(across) and len(places) == 60
    assert outcome.json["groups"] == 60, "what is only nearly the same joins no group"


@pytest.mark.parametrize(("words", "rows"), [(0, 0), (20, 0), (0, 13)])
def test_what_is_less_alike_is_not_listed(run, workspace, words, rows):
    """Two thirds of the words, and pages with three of sixteen rows of cells of their own, are other documents."""
    write_records(workspace / "d.jsonl", pairs_of_documents(workspace, words=words, rows=rows))
    outcome = run("split_jsonl", "--in", "d.jsonl", "--ratios", "60/20/20", "--json")
    assert outcome.code == 0 and outcome.json["near_duplicates"] == 0


def test_a_document_s_stratum_is_that_of_its_longest_list(run, workspace):
    """An invoice of seven lines and no other rows lies with documents of seven rows."""
    schema = json.loads((workspace / "schemas/receipt.schema.json").read_text())
    item = {"type": "object", "additionalProperties": False, "properties": {"a": {"type": "string", "maxLength": 9}}}
    rows = {"type": "array", "maxItems": 20, "items": item}
    schema["properties"] |= {"short": rows, "long": rows}
    (workspace / "two_lists.json").write_text(json.dumps(schema))
    records = split_records(workspace, 12)
    for number, one in enumerate(records):
        answer = {"company": f"C{number}", "short": [{"a": "x"}], "long": [{"a": str(n)} for n in range(7)]}
        one["messages"][1]["content"][0]["text"] = json.dumps(answer)
        one["meta"]["schema"] = "two_lists.json"
    write_records(workspace / "d.jsonl", records)
    assert run("split_jsonl", "--in", "d.jsonl").code == 0
    assert set(json.loads((workspace / "data/splits/report.json").read_text())["strata"]) == {"1 pages, 6-20 rows"}


@pytest.mark.parametrize(("sharing", "groups"), [(5, 1), (6, 6)])
def test_a_page_of_up_to_five_different_documents_joins_them_and_a_page_of_more_is_a_form(
    run, workspace, sharing, groups
):
    records = split_records(workspace, sharing)
    for one in records:
        set_page(one, page_of(records[0]))
    write_records(workspace / "d.jsonl", records)
    assert run("split_jsonl", "--in", "d.jsonl", "--json").json["groups"] == groups
