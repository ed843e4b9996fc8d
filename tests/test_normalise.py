"""Any ordinary JSON Schema is a target schema: how it becomes explicit, and what is assumed or refused."""

import json

import pytest
from conftest import REPOSITORY

from toolkit.console import StageError
from toolkit.schema.normalise import normalise
from toolkit.schema.target import TargetSchema

NAMES = "bank_statement bill_of_lading form invoice receipt".split()
SHIPPED = [REPOSITORY / f"schemas/{name}.schema.json" for name in NAMES]


def document(field, **more):
    return {"type": "object", "properties": {"a": field}, **more}


def deep(levels):
    schema = {"type": "string"}
    for _ in range(levels):
        schema = document(schema)
    return schema


def field_of(schema, **more):
    """The field `a` as it is normalised, without its annotations."""
    found = normalise(document(schema, **more))
    assert found.problems == []
    made = found.schema["properties"]["a"]
    return {key: value for key, value in made.items() if key != "x-extract"}


def notes_of(schema, name="a"):
    return normalise({"properties": {name: schema}}).schema["properties"][name].get("x-extract", {})


def problems_of(schema):
    return normalise(schema).problems


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_a_shipped_schema_stays_as_it_is_byte_for_byte(path):
    raw = json.loads(path.read_text(encoding="utf-8"))
    found = normalise(raw)
    assert json.dumps(found.schema) == json.dumps(raw)
    assert found.assumed == [] == found.problems


TEXT = {"type": ["string", "null"], "maxLength": 4000}


@pytest.mark.parametrize(
    ("schema", "explicit"),
    [
        ({"type": "string"}, TEXT),
        ({"type": "string", "maxLength": 9}, {"type": ["string", "null"], "maxLength": 9}),
        ({"type": ["null", "string"], "maxLength": 9}, {"type": ["null", "string"], "maxLength": 9}),
        ({"type": "string", "nullable": True}, TEXT),
        ({}, TEXT),
        (True, TEXT),
        ({"minLength": 2}, {"minLength": 2, "type": ["string", "null"], "maxLength": 4000}),
        ({"type": "string", "maxLength": 1e2}, {"type": ["string", "null"], "maxLength": 100}),
        ({"minimum": 0}, {"minimum": 0, "type": ["number", "null"]}),
        ({"type": "integer"}, {"type": ["integer", "null"]}),
        ({"type": "integer", "multipleOf": 5}, {"type": ["integer", "null"], "multipleOf": 5}),
        (
            {"type": "number", "minimum": 1, "exclusiveMinimum": True},
            {"type": ["number", "null"], "exclusiveMinimum": 1},
        ),
        ({"const": "x"}, {"enum": ["x", None]}),
        ({"enum": ["x", "y"]}, {"enum": ["x", "y", None]}),
        ({"enum": ["x", None], "type": "string"}, {"enum": ["x", None], "type": ["string", "null"]}),
        ({"type": "string", "enum": ["x"]}, {"type": ["string", "null"], "enum": ["x", None]}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"type": ["integer", "null"]}),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, {"type": ["number", "null"]}),
        (
            {"oneOf": [{"type": "integer"}, {"type": "string"}]},
            {"type": ["integer", "string", "null"], "maxLength": 4000},
        ),
        ({"anyOf": [{"const": 1}, {"enum": ["x", None]}]}, {"enum": [1, "x", None]}),
        ({"anyOf": [{"anyOf": [{"type": "null"}, {"type": "boolean"}]}]}, {"type": ["boolean", "null"]}),
        ({"allOf": [{"type": "integer"}], "minimum": 2}, {"minimum": 2, "type": ["integer", "null"]}),
        (
            {"allOf": [{"type": "number"}, {"type": "integer", "maximum": 9}]},
            {"type": ["integer", "null"], "maximum": 9},
        ),
        (
            {"type": "string", "x-owner": "me", "evaluation": {"k": 1}},
            {**TEXT, "x-owner": "me", "evaluation": {"k": 1}},
        ),
        ({"type": "string", "format": "date"}, {"type": ["string", "null"], "format": "date", "maxLength": 10}),
    ],
    ids=json.dumps,
)
def test_a_value_becomes_explicit_and_may_be_absent(schema, explicit):
    assert field_of(schema) == explicit


def test_references_are_written_out_and_what_stands_beside_them_is_merged():
    made = field_of(
        {"$ref": "#/$defs/money", "description": "net", "x-extract": {"column": "Net"}},
        **{"$defs": {"money": {"$ref": "#/definitions/n", "minimum": 0}}, "definitions": {"n": {"type": "number"}}},
    )
    assert made == {"type": ["number", "null"], "minimum": 0, "description": "net"}
    assert "$defs" not in normalise(document({"$ref": "#/$defs/m"}, **{"$defs": {"m": {"type": "number"}}})).schema


def test_an_anchor_and_an_escaped_pointer_are_found():
    definitions = {"a/b": {"type": "integer"}, "c": {"$anchor": "here", "type": "boolean"}}
    assert field_of({"$ref": "#/$defs/a~1b"}, **{"$defs": definitions}) == {"type": ["integer", "null"]}
    assert field_of({"$ref": "#here"}, **{"$defs": definitions}) == {"type": ["boolean", "null"]}


def test_a_recursive_reference_is_refused_with_its_cycle():
    definitions = {
        "part": {"type": "object", "properties": {"parts": {"type": "array", "items": {"$ref": "#/$defs/part"}}}}
    }
    (problem,) = problems_of(document({"$ref": "#/$defs/part"}, **{"$defs": definitions}))
    assert problem.startswith("$.a.parts[]: ") and "part -> part" in problem and "as many levels" in problem


def test_references_that_multiply_end_in_a_sentence_and_not_in_a_full_memory():
    definitions = {
        f"d{n}": {"type": "object", "properties": {k: {"$ref": f"#/$defs/d{n + 1}"} for k in "abcdefgh"}}
        for n in range(30)
    }
    definitions["d30"] = {"type": "string"}
    problems = problems_of(document({"$ref": "#/$defs/d0"}, **{"$defs": definitions}))
    assert any("grows beyond" in problem for problem in problems)


def test_objects_are_closed_and_get_their_type():
    made = field_of({"properties": {"b": {"type": "integer"}}, "additionalProperties": {"type": "string"}})
    assert made["type"] == "object" and made["additionalProperties"] is False


def test_a_union_of_objects_is_one_object_with_the_fields_of_all():
    one = {
        "type": "object",
        "properties": {"kind": {"const": "x"}, "b": {"type": "integer"}},
        "required": ["kind", "b"],
    }
    two = {"type": "object", "properties": {"kind": {"const": "y"}, "c": {"type": "string"}}, "required": ["kind"]}
    made = field_of({"oneOf": [one, two, {"type": "null"}], "discriminator": {"propertyName": "kind"}})
    assert list(made["properties"]) == ["kind", "b", "c"]
    assert made["properties"]["kind"]["enum"] == ["x", "y", None]
    assert made["required"] == ["kind"]


def test_lists_get_a_bound_that_is_marked_as_a_default():
    found = normalise(document({"type": "array", "items": {"type": "string"}, "minItems": 1}))
    made = found.schema["properties"]["a"]
    assert made["maxItems"] == 2000 and made["x-extract"]["default_bound"] and "minItems" not in made
    assert made["items"]["type"] == "string"  # a value of a list is there, or it is not in the list
    assert field_of({"type": "array", "items": {"type": "integer"}, "maxItems": 3})["maxItems"] == 3


@pytest.mark.parametrize("schema", [{"type": "array"}, {"type": "array", "items": True}])
def test_a_list_of_anything_is_a_list_of_texts(schema):
    assert field_of(schema)["items"]["type"] == "string"


def test_one_value_or_a_list_of_them_is_a_list():
    made = field_of({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
    assert made["type"] == "array" and made["items"]["type"] == "string"


def test_a_tuple_of_equal_places_is_a_list_and_a_mixed_one_is_refused():
    number, text = {"type": "number"}, {"type": "string"}
    made = field_of({"type": "array", "prefixItems": [number, number], "minItems": 2, "maxItems": 2})
    assert made["items"] == number and made["maxItems"] == 2 and "prefixItems" not in made
    (problem,) = problems_of(document({"type": "array", "prefixItems": [number, text]}))
    assert problem.startswith("$.a: a tuple of different values")


def test_a_map_is_a_list_of_key_and_value():
    made = normalise(document({"type": "object", "additionalProperties": {"type": "integer"}})).schema["properties"][
        "a"
    ]
    assert made["x-extract"]["map"] is True
    assert list(made["items"]["properties"]) == ["key", "value"]
    assert made["items"]["properties"]["key"]["type"] == "string"
    assert made["items"]["properties"]["value"]["type"] == ["integer", "null"]


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda s: {"name": "bill", "schema": s},
        lambda s: {"type": "json_schema", "json_schema": {"name": "bill", "strict": True, "schema": s}},
        lambda s: {"name": "bill", "description": "d", "schema_definition": s},
        lambda s: {"response_format": {"type": "json_schema", "json_schema": {"name": "bill", "schema": s}}},
        lambda s: {"type": "function", "function": {"name": "bill", "parameters": s}},
        lambda s: {"name": "bill", "input_schema": s},
    ],
)
def test_a_wrapper_is_taken_off_and_its_name_becomes_the_title(wrapped):
    made = normalise(wrapped(document({"type": "integer"}))).schema
    assert made["properties"]["a"] == {"type": ["integer", "null"]} and made["title"] == "bill"


@pytest.mark.parametrize(
    ("name", "schema", "compare"),
    [
        ("invoice_number", {"type": "string"}, "id"),
        ("invoiceNo", {"type": ["string", "null"]}, "id"),
        ("IBAN", {"type": "string"}, "id"),
        ("due_date", {"type": "string"}, "date"),
        ("x", {"type": "string", "format": "date"}, "date"),
        ("total_amount", {"type": "string"}, "number"),
        ("invoice_number", {"type": "string", "x-extract": {"compare": "text"}}, "text"),
        ("notes", {"type": "string"}, None),
        ("candidate", {"type": "string"}, None),
        ("when", {"type": ["integer", "string"]}, "text"),
    ],
)
def test_a_field_without_annotation_is_compared_by_its_type_format_and_name(name, schema, compare):
    assert notes_of(schema, name).get("compare") == compare


def test_all_problems_come_at_once_with_place_way_out_and_page():
    raw = {
        "properties": {
            "a": {"not": {}},
            "b": {"if": {"type": "string"}},
            "c": {"$ref": "other.json#/x"},
            "d": {"pattern": "("},
        }
    }
    with pytest.raises(StageError) as refused:
        TargetSchema.parse(raw, "s.json")
    text = str(refused.value)
    assert "4 problems" in text and "docs/DOCUMENT_TYPES.md" in text
    for place in ("$.a: ", "$.b: ", "$.c: ", "$.d: "):
        assert place in text


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ([], "a JSON Schema of an object"),
        ({"type": "array", "items": {"type": "object", "properties": {"a": {}}}}, "an object with fields"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "an object with fields"),
        ({"type": "string"}, "an object with fields"),
        ({"properties": {"a": {"type": 5}}}, "not a valid JSON Schema"),
        ({"properties": []}, "not a valid JSON Schema"),
        (document({"anyOf": [{"type": "string"}, {"type": "object", "properties": {"b": {}}}]}), "keep one of them"),
        (document({"allOf": [{"type": "string"}, {"type": "integer"}]}), "do not make one schema"),
        (document({"$ref": "#/$defs/gone"}), "names nothing"),
        (document({"type": "string", "x-extract": "id"}), "an object is needed"),
        (deep(400), "nested too deep"),
        (document({"enum": [{"x": 1}]}), "a choice is an object"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_a_way_out(raw, sentence):
    with pytest.raises(StageError, match=sentence):
        TargetSchema.parse(raw, "s.json")


def test_loading_says_in_one_line_what_was_assumed(tmp_path, capsys):
    path = tmp_path / "once.schema.json"
    path.write_text(json.dumps(document({"type": "string"})))
    TargetSchema.load(path)
    TargetSchema.load(path)
    (line,) = capsys.readouterr().err.splitlines()
    assert "assumed: objects are closed ($); texts without maxLength get 4000 (a)" in line


def test_what_the_grammar_cannot_force_stays_out_of_it():
    raw = {
        "properties": {
            "a": {"type": "string", "pattern": "[A-Z]{3}"},
            "b": {"type": "string", "pattern": "^[A-Z]{3}$"},
            "c": {"type": "string", "format": "email"},
            "d": {"type": "string", "format": "date"},
            "e": {"type": "integer", "multipleOf": 2},
            "f": {"type": "array", "uniqueItems": True, "items": {"type": "integer"}},
        }
    }
    schema = TargetSchema.parse(raw, "s")
    fields = schema.grammar()["properties"]
    assert "pattern" not in fields["a"] and fields["b"]["pattern"] == "^[A-Z]{3}$"
    assert "format" not in fields["c"] and fields["d"]["format"] == "date"
    assert "multipleOf" not in fields["e"] and "uniqueItems" not in fields["f"]
    assert not schema.validator().is_valid(schema.ordered({"e": 3}))
    assert not schema.validator().is_valid(schema.ordered({"f": [1, 1]}))
    assert not schema.validator().is_valid(schema.ordered({"d": "2024-02-30"}))


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("^[A-Z]{2}-?[0-9]+$", "AB-12"),
        (r"^\d{4}(,\d{3})*\.\d\d$", "1234,567.00"),
        ("^(INV|CN)/[0-9]+$", "CN/7"),
        ("^a.c$", 'a"c'),
        ("^[^x]+$", 'y"'),
        (r"^\w+$", "a_1"),
        ("[0-9]{2}", "x12y"),
        ("^a|b$", "ax"),
        (r"^(?!b)a$", "a"),
        (r"^\bab$", "ab"),
        (r"^(a)\1$", "aa"),
        (r"^a\sb$", "a\nb"),
    ],
)
def test_the_grammar_takes_every_text_that_a_pattern_takes(pattern, text):
    testing = pytest.importorskip("xgrammar.testing")
    import xgrammar

    schema = TargetSchema.parse(document({"type": "string", "pattern": pattern}), "s")
    assert schema.validator().is_valid({"a": text})
    grammar = xgrammar.Grammar.from_json_schema(
        json.dumps(schema.grammar()), any_whitespace=False, separators=(",", ":"), strict_mode=True
    )
    assert testing._is_grammar_accept_string(
        grammar, json.dumps({"a": text}, separators=(",", ":"), ensure_ascii=False)
    )
    if "pattern" in schema.grammar()["properties"]["a"]:
        assert not testing._is_grammar_accept_string(grammar, '{"a":"??"}')


@pytest.mark.parametrize(
    "field",
    [
        {"type": "string", "maxLength": 500, "x-extract": {"compare": "id"}},
        {"type": ["number", "string"], "maxLength": 4000, "x-extract": {"compare": "number"}},
        {"type": "string", "pattern": "^[A-Z]{0,4000}$"},
    ],
)
def test_a_long_text_compiles_whatever_it_is_compared_as(field):
    """A class that repeats 200 times was "Check failed" in the compiler of the server, half a minute later at 4,000."""
    xgrammar = pytest.importorskip("xgrammar")
    letters = [chr(number) for number in range(32, 127)] + ["</s>"]
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo(letters, stop_token_ids=[95]), max_threads=1)
    grammar = TargetSchema.parse(document(field), "s").grammar()
    assert compiler.compile_json_schema(json.dumps(grammar), any_whitespace=False, separators=(",", ":"))
