"""The wire forms: lossless for any schema and value, served by the grammar that belongs to them, and shorter."""

import json

import pytest
from conftest import REPOSITORY
from hypothesis import given, settings, strategies

from toolkit.answers.wire_format import WIRES, WireFormat
from toolkit.schema.target import TargetSchema

SCHEMA = TargetSchema.load(REPOSITORY / "schemas/bill_of_lading.schema.json")
names = strategies.lists(strategies.sampled_from([f"field_{n}" for n in range(9)]), min_size=1, max_size=5, unique=True)
choices = strategies.lists(
    strategies.sampled_from(["HC", "GP", "Port Klang", "Penang", "1", "10"]), min_size=1, max_size=4, unique=True
)
texts = strategies.text(strategies.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
leaves = strategies.one_of(
    strategies.just({"type": ["string", "null"], "maxLength": 12}),
    strategies.just({"type": "string", "maxLength": 12}),
    strategies.just({"type": ["integer", "null"]}),
    strategies.just({"type": ["number", "null"]}),
    strategies.just({"type": "boolean"}),
    choices.map(lambda values: {"enum": values}),
    choices.map(lambda values: {"enum": [*values, None]}),
)


def closed(fields):
    return {"type": "object", "additionalProperties": False, "required": list(fields), "properties": fields}


def objects(values):
    return names.flatmap(lambda keys: strategies.fixed_dictionaries(dict.fromkeys(keys, values))).map(closed)


rows = strategies.one_of(leaves, objects(leaves)).map(lambda item: {"type": "array", "maxItems": 4, "items": item})
schemas = objects(strategies.one_of(leaves, rows, objects(leaves)))


def values_of(schema):
    if "properties" in schema:
        return strategies.fixed_dictionaries({name: values_of(child) for name, child in schema["properties"].items()})
    if "items" in schema:
        return strategies.lists(values_of(schema["items"]), max_size=4)
    if "enum" in schema:
        return strategies.sampled_from(schema["enum"])
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    made = {
        "string": texts,
        "integer": strategies.integers(-(10**6), 10**6),
        "boolean": strategies.booleans(),
        "null": strategies.none(),
        "number": strategies.floats(-1e6, 1e6, allow_nan=False).map(lambda f: round(f, 3) + 0.0),
    }
    return strategies.one_of(*(made[kind] for kind in kinds))


cases = schemas.flatmap(lambda raw: strategies.tuples(strategies.just(raw), values_of(raw)))


@given(cases, strategies.sampled_from(WIRES))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_every_answer_comes_back_as_it_was(case, kind):
    raw, answer = case
    wire = WireFormat(TargetSchema.parse(raw, "s"), kind)
    assert wire.decoded(wire.encoded(answer)) == answer


@given(cases, strategies.sampled_from(WIRES), strategies.data())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_its_first_values_are_known_as_soon_as_the_next_begins(case, kind, data):
    raw, answer = case
    schema = TargetSchema.parse(raw, "s")
    wire, ordered = WireFormat(schema, kind), schema.ordered(answer)
    text, values = wire.encoded(answer), data.draw(strategies.integers(1, len(ordered)))
    told = [wire.beginning(text[:end], values) for end in range(len(text) + 1)]
    first = dict(list(ordered.items())[:values])
    assert all(found in (None, first) for found in told)
    if values < len(ordered):
        after = next(end for end, found in enumerate(told) if found is not None)
        assert all(found == first for found in told[after:])
    else:
        assert told[-1] is None  # the whole answer is `decoded`


@pytest.fixture(scope="module")
def accepts():
    """`accepts(grammar, text)`: does xgrammar, as the server compiles it, take this text to its end."""
    import xgrammar

    vocabulary = [*(bytes([n]) for n in range(256)), b"</s>"]
    info = xgrammar.TokenizerInfo(vocabulary, xgrammar.VocabType.RAW, stop_token_ids=[256])
    compiler = xgrammar.GrammarCompiler(info)

    def check(grammar, text):
        compiled = compiler.compile_json_schema(
            json.dumps(grammar), any_whitespace=False, separators=(",", ":"), strict_mode=True
        )
        matcher = xgrammar.GrammarMatcher(compiled)
        return all(matcher.accept_token(byte) for byte in text.encode()) and matcher.accept_token(256)

    return check


@given(case=cases, kind=strategies.sampled_from(WIRES))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_served_grammar_takes_what_the_model_is_trained_to_write(accepts, case, kind):
    raw, answer = case
    wire = WireFormat(TargetSchema.parse(raw, "s"), kind)
    assert accepts(wire.grammar(), wire.encoded(answer)), (wire.grammar(), wire.encoded(answer))


def bill(rows):
    return {
        "consignee_name": 'MÜLLER "12" LTD',
        "bl_number": "A1",
        "port_of_discharge": "Port Klang",
        "detention_free_days": 7,
        "containers": [
            {"container_number": f"CSQU30543{n:02d}", "container_size": "40", "container_type": "HC"}
            for n in range(rows)
        ],
    }


def test_a_bill_of_lading_in_positions_reads_as_its_docstring_says(accepts):
    wire = WireFormat(SCHEMA, "positional")
    text = wire.encoded(bill(1))
    number = SCHEMA.raw["properties"]["port_of_discharge"]["enum"].index("Port Klang") + 1
    assert text == f'["MÜLLER \\"12\\" LTD","A1",null,null,{number},7,null,null,null,[["CSQU3054300","40","HC"]]]'
    assert wire.decoded(text) == SCHEMA.ordered(bill(1)) and accepts(wire.grammar(), text)
    for bad in (
        text[:-1],
        text.replace('"HC"', '"HC","x"'),
        text.replace(f",{number},", ",99,"),
        text.replace(",7,", ", 7,"),
    ):
        assert not accepts(wire.grammar(), bad), bad


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", r"\$: 10 values in a list"),
        ("[]", r"\$: 10 values in a list"),
        ("[null,null,null,null,99,null,null,null,null,[]]", r"\$.port_of_discharge: a number from 1 to"),
        ("[null,null,null,null,true,null,null,null,null,[]]", "a number from 1 to"),
        ("[null,null,null,null,1,null,null,null,null,[[1]]]", r"\$.containers\[0\]: 3 values"),
        ("[null,null,null,null,1,null,null,null,null,7]", r"\$.containers: a list"),
        ("[NaN", "NaN|not JSON|Expecting"),
    ],
)
def test_a_text_that_is_no_answer_is_one_sentence_with_its_place(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        WireFormat(SCHEMA, "positional").decoded(text)


def test_what_the_schema_does_not_have_is_not_encoded():
    for answer, sentence in (({"port_of_discharge": "Atlantis"}, "none of the choices"), ({"x": 1}, "unknown field")):
        with pytest.raises(ValueError, match=sentence):
            WireFormat(SCHEMA, "positional").encoded(answer)
    with pytest.raises(ValueError, match="unknown wire form"):
        WireFormat(SCHEMA, "yaml")


def test_positions_halve_a_long_answer():
    lengths = {kind: len(WireFormat(SCHEMA, kind).encoded(bill(50))) for kind in WIRES}
    spaced = len(json.dumps(SCHEMA.ordered(bill(50))))
    assert lengths["positional"] < 0.45 * lengths["json"] < 0.45 * spaced
