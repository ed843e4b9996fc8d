"""Validation of record files: every defect has its line and its place."""

import json

import pytest
from receipt_records import record


def asking(*content: dict) -> dict:
    """A record whose first message has this content."""
    return record(messages=[{"role": "user", "content": list(content)}, record()["messages"][1]])


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
        (asking({"type": "text", "text": "json"}, {"type": "image", "image": "a.png"}), "images come first"),
        (asking({"type": "image", "image": "a\\b.png"}, {"type": "text", "text": "j"}), "back slash"),
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


def lines_of(*records: dict) -> str:
    return "".join(json.dumps(one) + "\n" for one in records)


@pytest.mark.parametrize("between", [0, 1, 700])
def test_an_id_that_stands_twice_is_named_at_both_lines_however_far_apart(run, workspace, between):
    others = [record(id=f"other {n}") for n in range(between)]
    (workspace / "d.jsonl").write_text(lines_of(record(id="twice"), *others, record(id="twice")))
    done = run("validate_jsonl", "d.jsonl", "--json")
    assert done.code == 1 and (done.json["valid"], done.json["invalid"]) == (between, 2)
    assert f"d.jsonl:1: $.id: the id 'twice' stands twice, again in d.jsonl:{between + 2}" in done.out
    assert f"d.jsonl:{between + 2}: $.id: the id 'twice' stands twice, first in d.jsonl:1" in done.out


def test_an_id_that_stands_in_two_files_is_named(run, workspace):
    (workspace / "a.jsonl").write_text(lines_of(record(id="one"), record(id="both")))
    (workspace / "b.jsonl").write_text(lines_of(record(id="two"), record(id="both"), record(id="both")))
    done = run("validate_jsonl", "a.jsonl", "b.jsonl", "--json")
    assert done.code == 1 and (done.json["valid"], done.json["invalid"]) == (2, 3)
    for line in (2, 3):
        assert f"b.jsonl:{line}: $.id: the id 'both' stands twice, first in a.jsonl:2" in done.out


def test_fix_out_writes_the_valid_records_as_they_were_and_names_the_others(run, workspace):
    good = [record(id="ä"), record(id="b")]
    text = lines_of(good[0]) + '{"id": \n' + lines_of(record("no JSON", id="c"), good[1])
    (workspace / "d.jsonl").write_text(text, encoding="utf-8")
    done = run("validate_jsonl", "d.jsonl", "--fix-out", "out/valid.jsonl")
    assert done.code == 1 and "2 valid records" in done.err
    assert (workspace / "out/valid.jsonl").read_text(encoding="utf-8") == lines_of(*good)
    problems = [json.loads(line) for line in (workspace / "out/valid.problems.jsonl").read_text().splitlines()]
    assert [problem["line"] for problem in problems] == [2, 3]
    assert "not only JSON" in problems[1]["problem"]
    assert run("validate_jsonl", "out/valid.jsonl").code == 0


def test_fix_out_never_chooses_between_two_records_of_one_id(run, workspace):
    """Neither is written, and both are among the problems."""
    two = '{"company":"B","date":null,"address":null,"total":"2"}'
    (workspace / "d.jsonl").write_text(lines_of(record(id="x"), record(id="y"), record(two, id="x")))
    assert run("validate_jsonl", "d.jsonl", "--fix-out", "valid.jsonl").code == 1
    assert (workspace / "valid.jsonl").read_text() == lines_of(record(id="y"))
    problems = [json.loads(line) for line in (workspace / "valid.problems.jsonl").read_text().splitlines()]
    assert [problem["line"] for problem in problems] == [1, 3]


def test_keys_of_rows_in_another_order_than_the_schema_s_are_a_warning(run, workspace):
    """The served grammar writes keys in the schema's order, whatever order a model was trained on."""
    keys = ("container_number", "container_size", "container_type")
    good = {"containers": [{"container_number": "CSQU3054383", "container_size": "20", "container_type": "GP"}] * 2}
    turned = {"containers": [good["containers"][0], {key: good["containers"][1][key] for key in reversed(keys)}]}
    raw = json.loads((workspace / "schemas/bill_of_lading.schema.json").read_text(encoding="utf-8"))
    raw["properties"], raw["required"] = {"containers": raw["properties"]["containers"]}, ["containers"]
    raw["x-extract"].pop("checks")
    (workspace / "s.json").write_text(json.dumps(raw))
    for answer, warnings in ((good, 0), (turned, 1)):
        text = json.dumps(answer, separators=(",", ":"))
        (workspace / "d.jsonl").write_text(lines_of(record(text, meta={"schema": "s.json"})))
        done = run("validate_jsonl", "d.jsonl", "--json")
        assert (done.code, done.json["warnings"]) == (0, warnings), done.out
        assert ("schema order" in done.out) == bool(warnings)
