"""What a target schema must be, and what is derived from it."""

import json

import jsonschema
import pytest
from conftest import REPOSITORY

from toolkit.console import StageError
from toolkit.schema.checks import business_problems, is_container_number, summary_count
from toolkit.schema.target import TargetSchema, compact_json
from toolkit.schema.values import iso_date

OTHERS = ("qwen_vl_pdf_extract", "prediction_line")  # they describe files of this project, not documents
SHIPPED = sorted(p for p in (REPOSITORY / "schemas").glob("*.schema.json") if not p.name.startswith(OTHERS))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_schema_loads_and_its_grammar_is_a_closed_schema(path):
    schema = TargetSchema.load(path)
    grammar = schema.grammar()
    jsonschema.Draft202012Validator.check_schema(grammar)
    assert "x-extract" not in json.dumps(grammar)
    assert grammar["required"] == list(schema.raw["properties"])


def test_annotation_words_may_be_field_names():
    raw = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"title": {"type": "string", "maxLength": 9}, "description": {"type": "string", "maxLength": 9}},
    }
    assert list(TargetSchema.parse(raw, "s").grammar()["properties"]) == ["title", "description"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"properties": {"a": {"type": "string", "maxLength": 3, "x-extract": {"compare": "fuzzy"}}}},
            "compare 'fuzzy' is unknown",
        ),
        ({"properties": {"a": {"not": {"type": "null"}}}}, "'not' is not followed"),
        ({"properties": {"a": {"type": "strin"}}}, "not a valid JSON Schema"),
        ({"properties": {}}, 'give "properties"'),
        ({"type": "array", "items": {}}, "is an object with fields"),
    ],
)
def test_a_bad_schema_is_refused_with_its_place(change, sentence):
    raw = {"type": "object", "additionalProperties": False, "properties": {"a": {"type": "integer"}}} | change
    with pytest.raises(StageError, match=sentence):
        TargetSchema.parse(raw, "bad.schema.json")


def test_fields_can_be_left_out_with_the_checks_that_need_them():
    schema = TargetSchema.load(SHIPPED[1]).without({"container_summary", "containers[].container_type"})
    names = [leaf.name for leaf in schema.leaves]
    assert "container_summary" not in names and "containers[].container_type" not in names
    assert schema.checks == []
    assert "container_summary" not in schema.raw["required"]


def test_answers_are_written_in_schema_order_with_nulls():
    schema = TargetSchema.load(REPOSITORY / "schemas/receipt.schema.json")
    assert (
        compact_json(schema.ordered({"total": "1", "company": "Ä"}))
        == '{"company":"Ä","date":null,"address":null,"total":"1"}'
    )
    with pytest.raises(ValueError, match="unknown field 'x'"):
        schema.ordered({"x": 1})


@pytest.mark.parametrize(
    ("number", "valid"),
    [
        ("CSQU3054383", True),
        ("CSQU3054384", False),
        ("MSKU1234567", False),
        ("csqu3054383", False),
        ("CSQ3054383", False),
    ],
)
def test_iso_6346(number, valid):
    assert is_container_number(number) is valid


@pytest.mark.parametrize(
    ("text", "count"), [("10 X 20GP", 10), ("2 x 20GP + 3 x 40HC", 5), ("1X40HC 2X45RF", 3), ("ONE CONTAINER", None)]
)
def test_printed_totals_are_counted(text, count):
    assert summary_count(text) == count


def test_a_list_that_contradicts_its_printed_total_is_reported():
    schema = TargetSchema.load(REPOSITORY / "schemas/bill_of_lading.schema.json")
    answer = schema.ordered({"container_summary": "2X20GP", "containers": [{"container_number": "CSQU3054383"}]})
    assert [where for where, *_ in business_problems(schema, answer)] == ["$.containers"]


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("25/12/2018", "2018-12-25"),
        ("12-01-19", "2019-01-12"),
        ("3 Mar 2026", "2026-03-03"),
        ("2026/03/01", "2026-03-01"),
        ("2026-03-01T10:20:00Z", "2026-03-01"),
        ("2026-03-01 10:20", "2026-03-01"),
        ("soon", None),
    ],
)
def test_dates(text, iso):
    assert iso_date(text, day_first=True) == iso
