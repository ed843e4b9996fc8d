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
