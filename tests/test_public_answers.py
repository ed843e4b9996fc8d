"""Answers as the original schema has them; and what holds for any schema and any value."""

import copy
import json

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_normalise import SHIPPED, document

from toolkit.answers.wire_format import WIRES, WireFormat
from toolkit.schema.normalise import normalise
from toolkit.schema.public import ABSENT_BUT_REQUIRED, PublicForm, with_maps, without_maps
from toolkit.schema.target import TargetSchema


def public(raw, answer):
    return TargetSchema.parse(raw, "s").public(answer)


def test_absent_fields_come_back_as_the_original_schema_has_them():
    raw = {
        "properties": {
            "optional": {"type": "string"},
            "nullable": {"type": ["string", "null"]},
            "needed": {"type": "string"},
            "there": {"type": "string"},
            "party": {"type": "object", "properties": {"name": {"type": "string"}}},
            "rows": {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "integer"}}}},
        },
        "required": ["nullable", "needed", "there"],
    }
    answer = {
        "optional": None,
        "nullable": None,
        "needed": None,
        "there": "x",
        "party": {"name": None},
        "rows": [{"b": None}],
    }
    made, warnings = public(raw, answer)
    assert made == {"nullable": None, "needed": None, "there": "x", "rows": [{}]}
    assert warnings == [f"$.needed: {ABSENT_BUT_REQUIRED}"]


def test_a_map_is_an_object_in_the_public_answer_and_a_key_that_stands_twice_is_said():
    raw = document({"type": "object", "additionalProperties": {"type": "integer"}})
    rows = [{"key": "x", "value": 1}, {"key": "y", "value": 2}, {"key": "x", "value": 3}]
    made, warnings = public(raw, {"a": rows})
    assert made == {"a": {"x": 1, "y": 2}} and "'x' stands twice" in warnings[0]
    assert TargetSchema.parse(raw, "s").normal(made) == {"a": rows[:2]}


def test_a_list_or_a_map_of_lists_comes_back_as_it_was():
    texts = {"type": "array", "items": {"type": "string"}}
    schema = TargetSchema.parse(document({"type": "string"}), "s")
    found = normalise(document({"anyOf": [texts, {"type": "object", "additionalProperties": texts}]})).schema
    form = PublicForm(found["x-extract"]["original"])
    for value in (["p", "q"], {"k": ["p"], "l": ["q"]}):
        inside = without_maps({"a": value}, found)
        jsonschema.validate(inside, found)
        assert form.fitted(with_maps(inside, found, "$", [])) == ({"a": value}, [])
    assert schema.public_form is not None


def test_overlapping_branches_of_a_one_of_are_said_and_do_not_fail_the_answer():
    branch = {"type": "object", "properties": {"b": {"type": "string"}}}
    schema = TargetSchema.parse(document({"oneOf": [branch, {**branch, "title": "other"}]}), "s")
    made, warnings = schema.public({"a": {"b": "x"}})
    assert made == {"a": {"b": "x"}} and "more than one branch" in warnings[0]
    assert schema.public_form.complaint(made) == ""


def test_an_explicit_schema_leaves_answers_as_they_are():
    schema = TargetSchema.load(SHIPPED[1])
    answer = schema.ordered({"bl_number": "x"})
    assert schema.public(answer) == (answer, []) and schema.normal(answer) is answer


# --- any schema, any value ---

plain = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer"},
        {"type": "number", "minimum": 0},
        {"type": "boolean"},
        {"type": ["string", "null"]},
        {"type": ["integer", "string"]},
        {"enum": ["red", "blue"]},
        {"const": "fixed"},
        {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?$"}]},
        {"type": "string", "format": "date"},
        {"$ref": "#/$defs/word"},
        True,
    ]
)


SHORT = st.text("abcdef", min_size=1, max_size=3)


def objects_of(children, names=SHORT):
    fields = st.dictionaries(names, children, min_size=1, max_size=3)
    return st.builds(
        lambda properties, keep: {"type": "object", "properties": properties, "required": sorted(properties)[:keep]},
        fields,
        st.integers(0, 3),
    )


nested = st.recursive(
    plain,
    lambda children: st.one_of(
        objects_of(children),
        children.map(lambda child: {"type": "array", "items": child}),
        children.map(lambda child: {"type": "object", "additionalProperties": child}),
        objects_of(children).map(lambda child: {"anyOf": [child, {"type": "null"}]}),
        st.builds(
            lambda one, two: {"anyOf": [one, two]}, objects_of(children), objects_of(children, st.sampled_from("uvw"))
        ),
    ),
    max_leaves=8,
)
schemas = objects_of(nested).map(lambda schema: schema | {"$defs": {"word": {"type": "string", "maxLength": 8}}})


def values_of(schema):
    """Values that a normalised schema allows."""
    if "properties" in schema:
        return st.fixed_dictionaries({name: values_of(child) for name, child in schema["properties"].items()})
    if "items" in schema:
        rows = st.lists(values_of(schema["items"]), max_size=2)
        is_map = "map" in schema.get("x-extract", {})
        return rows.map(lambda rows: list({row["key"]: row for row in rows}.values())) if is_map else rows
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    text = st.just("2024-02-29") if schema.get("format") == "date" else st.text("xyz ", min_size=1, max_size=5)
    known = {
        "string": text,
        "integer": st.integers(0, 9),
        "number": st.integers(0, 9),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    return st.one_of([known[kind] for kind in kinds])


@settings(max_examples=80, deadline=None)
@given(schemas)
def test_normalising_twice_changes_nothing(raw):
    before = copy.deepcopy(raw)
    once = normalise(raw)
    again = normalise(once.schema)
    assert raw == before
    assert once.problems == [] and json.dumps(again.schema) == json.dumps(once.schema) and again.assumed == []


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_public_answer_without_a_warning_keeps_the_original_schema(data):
    raw = data.draw(schemas)
    made = normalise(raw).schema
    form = PublicForm(made["x-extract"]["original"])
    answer = data.draw(values_of(made))
    jsonschema.validate(answer, made)
    warnings = []
    shown, more = form.fitted(with_maps(answer, made, "$", warnings))
    warnings += more
    if not warnings:
        jsonschema.validate(shown, raw)
    # Nothing that was read is lost on the way, and back it is the same answer.
    assert filled(without_maps(shown, made), made) == filled(answer, made)


def filled(value, schema):
    """An answer with every field: what is left out is null, and a list without rows is empty."""
    if "properties" in schema:
        return {name: filled((value or {}).get(name), child) for name, child in schema["properties"].items()}
    if "items" in schema:
        return [filled(item, schema["items"]) for item in value or []]
    return value


def accepted_by(wire):
    """Whether the grammar that a server enforces takes a text."""
    testing = pytest.importorskip("xgrammar.testing")
    import xgrammar

    text = json.dumps(wire.grammar())
    grammar = xgrammar.Grammar.from_json_schema(text, any_whitespace=False, separators=(",", ":"), strict_mode=True)
    return lambda answer: testing._is_grammar_accept_string(grammar, answer)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(WIRES))
def test_the_grammar_takes_the_wire_form_of_every_normalised_value_and_no_wrong_key_type_or_choice(data, kind):
    schema = TargetSchema.parse(data.draw(schemas), "s")
    wire = WireFormat(schema, kind)
    answer = data.draw(values_of(schema.raw))
    text = wire.encoded(answer)
    accepts = accepted_by(wire)
    assert accepts(text) and wire.decoded(text) == schema.ordered(answer)
    assert not accepts(text[:-1] + ("," if len(text) > 2 else "") + ('"more":1}' if kind == "json" else "1]"))
    if kind == "json":
        for name in schema.raw["properties"]:
            assert not accepts(json.dumps(schema.ordered(answer) | {name: {"no": ["such"]}}, separators=(",", ":")))
        for leaf in schema.header:
            if leaf.compare == "enum" and len(leaf.path) == 1:
                wrong = schema.ordered(answer) | {leaf.path[0]: "none of them"}
                assert not accepts(json.dumps(wrong, separators=(",", ":")))
