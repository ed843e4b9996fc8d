"""Fields that a schema does not require: what is served, what is valid, what is scored."""

import json

import pytest
from hypothesis import given, strategies

from toolkit.evaluation.scoring import score_document
from toolkit.schema.target import TargetSchema, compact_json

RAW = {
    "type": "object",
    "additionalProperties": False,
    "required": ["number"],
    "properties": {
        "number": {"type": ["string", "null"], "maxLength": 9, "x-extract": {"compare": "id", "key": True}},
        "note": {"type": ["string", "null"], "maxLength": 9},
        "party": {
            "type": "object",
            "additionalProperties": False,
            "required": [],
            "properties": {
                "na/me~1": {"type": ["string", "null"], "maxLength": 9},
                "$ref": {"type": ["integer", "null"]},
            },
        },
        "rows": {
            "type": "array",
            "maxItems": 4,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["a"],
                "properties": {
                    "a": {"type": ["string", "null"], "maxLength": 9, "x-extract": {"key": True}},
                    "b c": {"type": ["number", "null"]},
                },
            },
        },
    },
}
SCHEMA = TargetSchema.parse(RAW, "s.json")
TEXTS = strategies.sampled_from([None, "", "X", "Y 1", "ü"])
ANSWERS = strategies.fixed_dictionaries(
    {"number": TEXTS},
    optional={
        "note": TEXTS,
        "party": strategies.fixed_dictionaries(
            {}, optional={"na/me~1": TEXTS, "$ref": strategies.sampled_from([None, 0, -7, 10**12])}
        ),
        "rows": strategies.lists(
            strategies.fixed_dictionaries({"a": TEXTS}, optional={"b c": strategies.sampled_from([None, 0, 0.5, -3])}),
            max_size=4,
        ),
    },
)


def test_the_grammar_lets_the_model_write_every_field_required_or_not():
    """In the schema's order, as it was trained; a model that may leave out a key is never asked about it."""
    served = SCHEMA.grammar()
    assert served["required"] == ["number", "note", "party", "rows"]
    assert served["properties"]["party"]["required"] == ["na/me~1", "$ref"]
    assert served["properties"]["rows"]["items"]["required"] == ["a", "b c"]


@pytest.mark.parametrize("name", ["note", "party", "rows"])
def test_an_answer_without_an_optional_field_is_valid_and_one_without_a_required_field_is_not(name):
    whole = SCHEMA.ordered({"number": "1"})
    check = SCHEMA.validator()
    assert check.is_valid({key: value for key, value in whole.items() if key != name})
    assert not check.is_valid({key: value for key, value in whole.items() if key != "number"})


def test_the_schema_of_a_table_that_lacks_fields_requires_what_is_left():
    less = SCHEMA.without({"number", "rows[].b c"})
    assert less.validator().is_valid({}) and less.grammar()["properties"]["rows"]["items"]["required"] == ["a"]
    assert SCHEMA.raw == RAW, "the schema itself stays as it was"


@given(ANSWERS)
def test_an_incomplete_answer_is_valid_says_the_same_when_filled_up_and_scores_the_same(answer):
    filled = SCHEMA.ordered(answer)
    check = SCHEMA.validator()
    assert check.is_valid(answer) and check.is_valid(filled)
    assert list(filled) == list(RAW["properties"]) and SCHEMA.ordered(filled) == filled
    scores = [score_document(SCHEMA, "d", *pair, "ok") for pair in ((answer, filled), (filled, answer))]
    assert all(score.exact and not score.errors for score in scores)
    assert scores[0].fields == scores[1].fields == score_document(SCHEMA, "d", filled, filled, "ok").fields
    assert json.loads(compact_json(filled)) == filled
