"""Cells of a label table that say nothing: N/A, empty, null. They are no values, of any type of field."""

import json

import pytest
from conftest import png, write_results

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "amount", "kind", "paid", "day"],
    "x-extract": {"document_column": "file"},
    "properties": {
        "name": {"type": ["string", "null"], "maxLength": 20},
        "amount": {"type": ["number", "null"], "x-extract": {"compare": "number"}},
        "kind": {"enum": ["A", "B", None]},
        "paid": {"type": ["boolean", "null"]},
        "day": {"type": ["string", "null"], "maxLength": 20, "x-extract": {"compare": "date", "normalise": "iso_date"}},
    },
}
FULL = {"name": "X", "amount": 1, "kind": "A", "paid": True, "day": "2026-03-01"}


@pytest.fixture
def build(run, workspace):
    """`build(rows)`: the outcome, and the answers of the records."""

    def call(rows):
        (workspace / "s.json").write_text(json.dumps(SCHEMA))
        for row in rows:
            png(workspace / f"img/{row['file']}.png")
        write_results(workspace / "t.json", rows)
        words = ["--results", "t.json", "--schema", "s.json", "--images-dir", "img"]
        done = run("build_jsonl_from_results", *words)
        lines = (workspace / "data/train.jsonl").read_text(encoding="utf-8").splitlines() if done.code == 0 else []
        return done, [json.loads(json.loads(line)["messages"][-1]["content"][0]["text"]) for line in lines]

    return call


@pytest.mark.parametrize("field", list(SCHEMA["properties"]))
@pytest.mark.parametrize("cell", ["N/A", "n/a", " N/A ", "", "  ", None, "null", "None", "NaN"], ids=repr)
def test_a_cell_that_says_nothing_is_null_in_a_field_of_every_type(build, field, cell):
    done, answers = build([{"file": "a", **FULL}, {"file": "b", **FULL, field: cell}])
    assert done.code == 0, done.err
    assert answers == [FULL, FULL | {field: None}]


@pytest.mark.parametrize("cell", ["Na", "NA Trading", "None Ltd", "0", "-"])
def test_a_text_that_only_looks_like_it_is_kept(build, cell):
    done, answers = build([{"file": "a", **FULL, "name": cell}])
    assert done.code == 0 and answers == [FULL | {"name": cell}]


def test_an_absent_cell_of_one_row_is_no_disagreement_with_the_value_of_another(build):
    done, answers = build([{"file": "a", **FULL}, {"file": "a", **FULL, "name": "N/A", "amount": None}])
    assert done.code == 0 and answers == [FULL], done.err
