"""Tables, schemas, mappings and settings made to do harm: each fault is named, and everything else is built."""

import json
import os
import time

import pytest
from conftest import png
from hostile_tables import GOOD, HEAD, SHEET, csv_of, file_faults, row_faults, with_part, workbook

ROW_FAULTS, FILE_FAULTS = row_faults(), file_faults()
LIMIT = 20  # seconds; each takes a fraction of one


@pytest.fixture
def place(workspace):
    for name in ("good", "bad"):
        png(workspace / f"img/{name}.png", shade=len(name) * 20)
    return workspace


def build(run, table, *more):
    words = ["--results", table, "--images-dir", "img", "--schema", "schemas/receipt.schema.json", "--json"]
    started = time.monotonic()
    done = run("build_jsonl_from_results", *words, *more)
    assert "Traceback" not in done.err and time.monotonic() - started < LIMIT
    return done


def refused(done):
    """One sentence on stderr, exit code 2; what a schema leaves open may be told before it."""
    lines = [line for line in done.err.splitlines() if ": assumed: " not in line]
    assert done.code == 2 and len(lines) == 1 and lines[0].startswith("error: "), done.err
    return lines[0]


@pytest.mark.parametrize("case", ROW_FAULTS)
def test_a_bad_row_is_its_documents_problem_and_stops_no_other(run, place, case):
    name, content, sentence = ROW_FAULTS[case]
    (place / name).write_bytes(content)
    done = build(run, name)
    problems = [json.loads(line) for line in (place / "data/train.problems.jsonl").read_text().splitlines()]
    assert done.code == 1 and done.json["records"] == 1 and done.json["documents_with_problems"] == 1, done.err
    assert [p["document"] for p in problems] == ["bad.pdf"] and sentence in " ".join(problems[0]["problems"])
    values = done.json["values"]
    assert values["given"] == sum(count for name, count in values.items() if name != "given"), values
    assert [json.loads(line)["id"] for line in (place / "data/train.jsonl").read_text().splitlines()] == ["good.pdf"]


@pytest.mark.parametrize("case", FILE_FAULTS)
def test_a_table_that_cannot_be_trusted_is_one_sentence_and_writes_nothing(run, place, case):
    name, content, sentence = FILE_FAULTS[case]
    (place / name).write_bytes(content)
    assert sentence in refused(build(run, name))
    assert not (place / "data/train.jsonl").exists()


def test_one_cell_at_the_far_corner_of_a_sheet_costs_nothing(run, place):
    (place / "t.xlsx").write_bytes(workbook(["bad.pdf", "B", None, None, 1], cells={"XFD1048576": "far"}))
    refused(build(run, "t.xlsx"))  # its row has no file name
    (place / "t.xlsx").write_bytes(workbook(["bad.pdf", "B", None, None, 1], cells={"XFD3": "far"}))
    done = build(run, "t.xlsx")
    assert done.code == 0 and done.json["records"] == 2
    assert done.json["labels_not_used"] == {"column 16384 (no name)": 1}


def test_a_sheet_that_claims_to_be_small_is_read_to_its_end(run, place):
    shrunk = with_part(workbook(["bad.pdf", "B", None, None, 1]), SHEET, lambda xml: xml.replace(b"A1:E3", b"A1:B2"))
    (place / "t.xlsx").write_bytes(shrunk)
    assert build(run, "t.xlsx").json["records"] == 2


@pytest.mark.parametrize(("limit", "said"), [("MOST_ROWS", "more than 20 rows"), ("MOST_CELLS", "more than 20 cells")])
def test_a_sheet_beyond_the_limit_is_refused_by_name(run, place, monkeypatch, limit, said):
    monkeypatch.setattr(f"toolkit.records.excel_table.{limit}", 20)
    (place / "t.xlsx").write_bytes(workbook(*(["good.pdf", "A"] for _ in range(30))))
    assert said in refused(build(run, "t.xlsx")) and "save the table as .csv" in refused(build(run, "t.xlsx"))


# --- what is no file ------------------------------------------------------------------------------------------------


def odd_files(place):
    """A named pipe, links that lead nowhere, a folder; `{name: sentence}`."""
    os.mkfifo(place / "pipe.json")
    (place / "loop.json").symlink_to("loop.json")
    (place / "dead.json").symlink_to("gone.json")
    (place / "folder.json").mkdir()
    return {
        "pipe.json": "is a pipe or a device",
        "/dev/zero": "is a pipe or a device",
        "loop.json": "loop.json",
        "dead.json": "not found",
        "folder.json": "is a folder",
    }


BUILD = ["build_jsonl_from_results", "--images-dir", "img"]
RECEIPT = ["--schema", "schemas/receipt.schema.json"]
USES = {
    "schema": [*BUILD, "--results", "t.csv", "--schema"],
    "mapping": [*BUILD, *RECEIPT, "--results", "t.csv", "--mapping"],
    "prompt": [*BUILD, *RECEIPT, "--results", "t.csv", "--prompt"],
    "results": [*BUILD, *RECEIPT, "--results"],
    "records": ["split_jsonl", "--in"],
    "validated": ["validate_jsonl"],
    "statistics": ["dataset_stats", "--in"],
    "audited": ["audit_labels", "--text-layer-dir", "img", "--in"],
    "verified": ["verify_image_paths", "--in"],
    "predictions": ["evaluate_predictions", "--gold", "g.jsonl", *RECEIPT, "--pred"],
    "gold": ["evaluate_predictions", "--pred", "p.jsonl", *RECEIPT, "--gold"],
    "imported": ["import_predictions", *RECEIPT, "--gold", "g.jsonl", "--out", "o.jsonl", "--in"],
    "reviewed": ["review_predictions", "--images-dir", "img", "--out", "o.html", "--pred"],
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes and links")
@pytest.mark.parametrize("use", USES)
def test_what_is_no_regular_file_is_refused_by_name(run, place, use):
    (place / "t.csv").write_bytes(csv_of())
    (place / "g.jsonl").write_text('{"id": "a", "gold": {}}\n')
    (place / "p.jsonl").write_text('{"id": "a", "status": "ok", "prediction": {}}\n')
    for name, sentence in odd_files(place).items():
        if use in ("imported", "results", "validated") and name == "folder.json":
            continue  # these read folders
        started = time.monotonic()
        said = refused(run(*USES[use], name))
        assert sentence in said and time.monotonic() - started < LIMIT, (name, said)


def test_a_file_that_is_too_large_for_what_it_is_is_refused(run, place):
    (place / "t.csv").write_bytes(csv_of())
    with (place / "big.json").open("wb") as file:
        file.truncate(2**34)  # without a byte on the disk
    for use in ("schema", "mapping", "prompt"):
        assert "larger than 16 MiB" in refused(run(*USES[use], "big.json"))
    assert "a table of over 512 MiB" in refused(run(*USES["results"], "big.json"))
    assert "larger than" in refused(run("dataset_stats", "--in", "big.json"))


def test_settings_that_are_no_file_are_refused(place):
    from toolkit.console import StageError
    from toolkit.training.settings import values_of_file

    for name, sentence in {**odd_files(place), "big.json": "larger than 16 MiB"}.items():
        if name == "big.json":
            with (place / name).open("wb") as file:
                file.truncate(2**34)
        with pytest.raises(StageError, match=sentence):
            values_of_file(place / name)


# --- schemas ----------------------------------------------------------------------------------------------------------


STRING = {"type": ["string", "null"], "maxLength": 50}


def schema_with(field=STRING, **root):
    properties = {"company": STRING, "total": STRING, "x": field}
    return {"type": "object", "additionalProperties": False, "properties": properties} | root


def annotated(**annotation):
    return schema_with(STRING | {"x-extract": annotation})


def deep_schema(levels):
    inner = {"type": ["string", "null"], "maxLength": 5}
    for _ in range(levels):
        inner = {"type": "object", "additionalProperties": False, "properties": {"a": inner}}
    return inner


SCHEMAS = {
    "no object": [1],
    "x-extract a list": schema_with(STRING | {"x-extract": ["id"]}),
    "x-extract a text": schema_with(STRING | {"x-extract": "id"}),
    "x-extract null": schema_with(STRING | {"x-extract": None}),
    "x-extract of the root a number": schema_with(**{"x-extract": 5}),
    "x-extract of a list's row": schema_with({"type": "array", "maxItems": 3, "items": STRING | {"x-extract": 7}}),
    "column a number": annotated(column=5),
    "column of numbers": annotated(column=["a", 5]),
    "column empty": annotated(column=[]),
    "column an object": annotated(column={"a": "b"}),
    "compare a list": annotated(compare=["id"]),
    "compare an object": annotated(compare={}),
    "compare unknown": annotated(compare="like"),
    "key a text": annotated(key="yes"),
    "day_first a text": annotated(day_first="yes"),
    "synonyms a list": annotated(synonyms=["a"]),
    "synonyms of texts": annotated(synonyms={"a": "b"}),
    "check a number": annotated(check=1),
    "normalise a list": annotated(normalise=["iso_date"]),
    "decimal an object": schema_with({"type": ["number", "null"], "x-extract": {"decimal": {}}}),
    "document_column a number": schema_with(**{"x-extract": {"document_column": 3}}),
    "checks an object": schema_with(**{"x-extract": {"checks": {"check": "date_order"}}}),
    "checks of texts": schema_with(**{"x-extract": {"checks": ["date_order"]}}),
    "date_order without fields": schema_with(**{"x-extract": {"checks": [{"check": "date_order"}]}}),
    "date_order of a text": schema_with(**{"x-extract": {"checks": [{"check": "date_order", "fields": "x"}]}}),
    "count without a list": schema_with(**{"x-extract": {"checks": [{"check": "count_equals_summary", "field": "x"}]}}),
    "pattern no expression": schema_with(STRING | {"pattern": "("}),
    "pattern a number": schema_with(STRING | {"pattern": 5}),
    "pattern too large": schema_with(STRING | {"pattern": "(((a{1,999}){1,999}){1,999}){1,999}"}),
    "properties a list": {"type": "object", "additionalProperties": False, "properties": ["a"]},
    "no field": {"type": "object", "additionalProperties": False, "properties": {}},
    "nested 60": deep_schema(60),
    "nested 120": deep_schema(120),
    "nested 900": deep_schema(400),
}


@pytest.mark.parametrize("case", SCHEMAS)
def test_a_malformed_schema_is_one_sentence(run, place, case):
    (place / "t.csv").write_bytes(csv_of())
    (place / "s.json").write_text(json.dumps(SCHEMAS[case]))
    assert "s.json" in refused(run(*USES["schema"], "s.json"))


@pytest.mark.parametrize(
    "mapping",
    [
        5,
        [],
        "x",
        None,
        {"columns": []},
        {"columns": {"company": 5}},
        {"columns": {"company": [5]}},
        {"document": {}},
        {"x": 1},
    ],
)
def test_a_malformed_mapping_is_one_sentence(run, place, mapping):
    (place / "t.csv").write_bytes(csv_of())
    (place / "g.jsonl").write_text('{"id": "a", "gold": {}}\n')
    (place / "m.json").write_text(json.dumps(mapping))
    assert "m.json" in refused(run(*USES["mapping"], "m.json"))
    imported = ["import_predictions", "--gold", "g.jsonl", "--out", "o.jsonl", "--in", "t.csv", "--mapping", "m.json"]
    assert "m.json" in refused(run(*imported, "--schema", "schemas/receipt.schema.json"))


EVIL = {
    "^(a|a)*$": ("a" * 40, "a" * 40 + "b"),
    "^(a+)+$": ("a" * 40, "a" * 40 + "b"),
    "^([a-z]+[0-9]*)*!$": ("abc1!", "a" * 45),
    "^(?=a)(a|a)*$": ("aaa", "a" * 45 + "b"),
    r"^(a*)*\1b$": ("b", "a" * 45 + "c"),
    r"^\d{2}$": ("12", "\u0663\u0663"),
}


@pytest.mark.parametrize("pattern", EVIL)
def test_no_pattern_takes_long_and_every_checker_says_the_same(pattern):
    from toolkit.answers.predictions import judged
    from toolkit.answers.wire_format import WireFormat
    from toolkit.records.record_check import RecordCheck
    from toolkit.schema.target import TargetSchema
    from toolkit.schema.validation import fast_validator

    started = time.monotonic()
    target = TargetSchema.parse(schema_with(STRING | {"pattern": pattern}), "s.json")
    check = RecordCheck(None)
    check.fixed = target
    for value, fits in zip(EVIL[pattern], (True, False), strict=True):
        answer = {"company": None, "total": None, "x": value}
        text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
        assert fast_validator(target.raw)(answer) is fits
        assert target.validator().is_valid(answer) is fits
        assert (check.answer_problems(text, None) == []) is fits
        verdict = judged(WireFormat(target, "json"), target.validator(), text, "stop").status
        assert (verdict == "ok") is fits
    assert time.monotonic() - started < LIMIT / 4


def test_the_good_row_is_good():
    assert dict(zip(HEAD, GOOD, strict=True))["Filename"] == "good.pdf"
