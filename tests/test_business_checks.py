"""Checks that a schema declares beyond JSON Schema: what they report, where, and what they leave alone."""

import json

import pytest
from conftest import REPOSITORY
from hypothesis import given, strategies
from receipt_records import record

from toolkit.schema.checks import business_problems, check_states
from toolkit.schema.target import TargetSchema, compact_json


def shipped(name: str) -> TargetSchema:
    return TargetSchema.load(REPOSITORY / f"schemas/{name}.schema.json")


ORDERED = [("bank_statement", "period_start", "period_end"), ("invoice", "invoice_date", "due_date")]


@pytest.mark.parametrize(("name", "first", "second"), ORDERED)
def test_dates_that_run_backwards_are_reported_at_the_later_field(name, first, second):
    answer = shipped(name).ordered({first: "2026-03-31", second: "2026-03-01"})
    assert [(where, severity) for where, _, severity in business_problems(shipped(name), answer)] == [
        (f"$.{second}", "warning")
    ]
    sentence = business_problems(shipped(name), answer)[0][1]
    assert first in sentence and "2026-03-31" in sentence and "2026-03-01" in sentence
    assert check_states(shipped(name), answer) == {first: -1, second: -1}


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2026-03-01", "2026-03-31"),
        ("2026-03-01", "2026-03-01"),  # a statement of one day, a bill due at once
        ("2025-12-31", "2026-01-01"),
        ("31 Dec 2025", "2026-01-01"),
        ("2026-03-31", None),
        (None, "2026-03-01"),
        ("at sight", "2026-03-01"),
    ],
)
def test_dates_in_order_absent_ones_and_texts_that_are_none_are_left_alone(earlier, later):
    schema = shipped("invoice")
    answer = schema.ordered({"invoice_date": earlier, "due_date": later})
    assert business_problems(schema, answer) == []
    compared = {"invoice_date": 1, "due_date": 1}
    assert check_states(schema, answer) == ({} if later is None or earlier in (None, "at sight") else compared)


def test_an_absent_date_between_two_others_does_not_part_them():
    schema = TargetSchema.parse(
        {
            "type": "object",
            "additionalProperties": False,
            "x-extract": {"checks": [{"check": "date_order", "fields": ["a", "b", "c"], "severity": "error"}]},
            "properties": {
                name: {"type": ["string", "null"], "maxLength": 20, "x-extract": {"compare": "date"}} for name in "abc"
            },
        },
        "s",
    )
    found = business_problems(schema, {"a": "2026-02-02", "b": None, "c": "2026-01-01"})
    assert [(where, severity) for where, _, severity in found] == [("$.c", "error")]


def test_a_check_whose_field_the_table_lacks_says_nothing():
    schema = shipped("bank_statement").without({"period_start"})
    assert business_problems(schema, schema.ordered({"period_end": "2026-03-01"})) == []


def test_validation_shows_a_failed_check_as_a_warning_and_the_record_stays_valid(run, workspace):
    schema = shipped("invoice")
    answer = compact_json(schema.ordered({"invoice_date": "2026-03-31", "due_date": "2026-03-01"}))
    one = record(answer, meta={"schema": "schemas/invoice.schema.json"})
    (workspace / "d.jsonl").write_text(json.dumps(one) + "\n")
    done = run("validate_jsonl", "d.jsonl", "--json")
    assert done.code == 0 and done.json["warnings"] == 1 and "answer.due_date: warning: " in done.out


@pytest.mark.parametrize("name", ["bill_of_lading", "invoice", "bank_statement", "receipt", "form"])
def test_an_answer_that_says_nothing_breaks_no_check(name):
    schema = shipped(name)
    for answer in ({}, schema.ordered({})):
        assert business_problems(schema, answer) == [] and check_states(schema, answer) == {}


CONTAINERS = strategies.lists(
    strategies.fixed_dictionaries(
        {}, optional={"container_number": strategies.sampled_from(["CSQU3054383", "CSQU3054384", "X", None])}
    ),
    max_size=4,
)


SUMMARIES = {None: None, "": None, "ONE CONTAINER": None, "2X20GP": 2, "1 x 40HC + 1 x 20GP": 2, "3*20": 3}


@given(CONTAINERS, strategies.sampled_from(list(SUMMARIES)))
def test_of_incomplete_rows_exactly_what_breaks_a_check_is_reported(rows, summary):
    schema = shipped("bill_of_lading")
    answer = {"containers": rows} | ({} if summary is None else {"container_summary": summary})
    wanted = [
        f"$.containers[{n}].container_number"
        for n, row in enumerate(rows)
        if row.get("container_number") not in (None, "CSQU3054383")
    ]
    if SUMMARIES[summary] not in (None, len(rows)):
        wanted.append("$.containers")
    assert [where for where, *_ in business_problems(schema, answer)] == wanted
