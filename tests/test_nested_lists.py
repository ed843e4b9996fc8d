"""Lists in lists, to any depth: names, wire forms, grammar, spans of values, windows and shards."""

import json

import jsonschema
import pytest
from hypothesis import given, settings, strategies
from nested_schemas import MEET, cases, closed, many

from toolkit.answers.answer import repeated_key
from toolkit.answers.page_windows import union, united_scores
from toolkit.answers.row_shards import AnswerPlan
from toolkit.answers.token_confidence import value_scores, value_spans
from toolkit.answers.wire_format import WIRES, WireFormat
from toolkit.extraction.run import shard_scores
from toolkit.records.prompt import generated_prompt
from toolkit.records.record_check import KeyOrder
from toolkit.schema.answer_values import field_name, lists_of, row_of, value_named, values_of
from toolkit.schema.checks import business_problems, check_states
from toolkit.schema.target import TargetSchema, compact_json

TEXT = {"type": ["string", "null"], "maxLength": 20}


def result(swimmer, time="1:00", **more):
    return {"swimmer": swimmer, "time": time, "records": [], "splits": [], **more}


def meet(**groups):
    """An answer of MEET: a group for each keyword."""
    return MEET.ordered({"age_groups": [{"group": name, "results": results} for name, results in groups.items()]})


GIRLS = meet(girls=[result("Ann", splits=[{"metres": 50, "time": "0:31"}]), result("Bea", records=["WR", "CR"])])


def test_a_field_has_one_name_at_every_depth():
    assert [leaf.name for leaf in MEET.leaves] == [
        "title",
        "age_groups[].group",
        "age_groups[].results[].swimmer",
        "age_groups[].results[].time",
        "age_groups[].results[].records[]",
        "age_groups[].results[].splits[].metres",
        "age_groups[].results[].splits[].time",
        "notes[]",
        "grid[][]",
    ]
    assert [rows.name for rows in MEET.lists] == ["age_groups", "notes", "grid"]
    assert [rows.name for rows in MEET.every_list][:4] == [
        "age_groups",
        "age_groups[].results",
        "age_groups[].results[].records",
        "age_groups[].results[].splits",
    ]


def test_every_value_of_an_answer_has_a_name_with_its_row_numbers():
    values = {one.name: one.value for one in values_of(MEET, GIRLS | {"grid": [[1], [2, 3]]})}
    assert values["age_groups[0].results[1].records[1]"] == "CR"
    assert values["age_groups[0].results[0].splits[0].metres"] == 50
    assert values["grid[1][0]"] == 2
    assert {field_name(name) for name in values} <= {leaf.name for leaf in MEET.leaves}
    assert row_of("age_groups[0].results[1].time") == "age_groups[0].results[1]"
    assert [found.name for found in lists_of(MEET, GIRLS)][:3] == [
        "age_groups",
        "age_groups[0].results",
        "age_groups[0].results[0].records",
    ]


@given(cases)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_name_leads_back_to_its_value(case):
    raw, answer = case
    for one in values_of(TargetSchema.parse(raw, "s"), answer):
        assert value_named(answer, one.name) == one.value


def test_fields_are_left_out_at_every_depth_by_their_names():
    less = MEET.without({"age_groups[].results[].splits[].metres", "age_groups[].results[].records[]", "grid"})
    assert [leaf.name for leaf in less.leaves] == [
        "title",
        "age_groups[].group",
        "age_groups[].results[].swimmer",
        "age_groups[].results[].time",
        "age_groups[].results[].splits[].time",
        "notes[]",
    ]
    assert "splits" not in json.dumps(MEET.without({"age_groups[].results[].splits"}).raw)


def test_one_of_two_fields_that_share_a_definition_can_be_changed_alone():
    shared = dict(TEXT)
    schema = TargetSchema.parse(closed(a=shared, rows=many(closed(inner=many(closed(b=shared))))), "s")
    named = schema.with_columns({"columns": {"rows[].inner[].b": "B"}}, "mapping")
    assert [leaf.columns for leaf in named.leaves] == [["a"], ["B"]]


@given(cases, strategies.sampled_from(WIRES))
@settings(max_examples=120, deadline=None, derandomize=True)
def test_every_answer_comes_back_as_it_was_and_its_grammar_accepts_it(case, kind):
    raw, answer = case
    wire = WireFormat(TargetSchema.parse(raw, "s"), kind)
    text = wire.encoded(answer)
    assert wire.decoded(text) == answer
    jsonschema.Draft202012Validator(wire.grammar()).validate(json.loads(text))


@pytest.mark.parametrize("kind", WIRES)
def test_the_grammar_refuses_what_breaks_the_schema_deep_inside(kind):
    wire = WireFormat(MEET, kind)
    valid = json.loads(wire.encoded(GIRLS))
    validator = jsonschema.Draft202012Validator(wire.grammar())
    assert validator.is_valid(valid)

    def broken(change):
        value = json.loads(json.dumps(valid))
        girl = value["age_groups"][0]["results"][0] if kind == "json" else value[1][0][1][0]
        change(girl)
        return value

    names = {"json": ("splits", "records"), "positional": (3, 2)}[kind]
    assert not validator.is_valid(broken(lambda girl: girl[names[0]].append({"metres": "x", "time": None})))
    assert not validator.is_valid(broken(lambda girl: girl[names[1]].append("XX")))
    assert not validator.is_valid(broken(lambda g: g.update(other=1) if kind == "json" else g.append(1)))
    assert not validator.is_valid(broken(lambda g: g.pop("time") if kind == "json" else g.pop()))


def accepted(wire):
    """What the server's own grammar engine says of a text."""
    xgrammar = pytest.importorskip("xgrammar")
    from xgrammar.testing import _is_grammar_accept_string as accepts

    grammar = xgrammar.Grammar.from_json_schema(
        json.dumps(wire.grammar()), any_whitespace=False, separators=(",", ":"), strict_mode=True
    )
    return lambda value: accepts(grammar, value if isinstance(value, str) else compact_json(value))


@given(cases, strategies.sampled_from(WIRES), strategies.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_grammar_engine_writes_every_answer_and_nothing_else(case, kind, data):
    raw, answer = case
    wire = WireFormat(TargetSchema.parse(raw, "s"), kind)
    accepts, text = accepted(wire), wire.encoded(answer)
    assert accepts(text)
    places = list(places_in(json.loads(text)))
    place = data.draw(strategies.sampled_from(places))
    for wrong in ({"no such key": 1}, "no such choice" * 3, 1.5, True):
        broken = put(json.loads(text), place, wrong)
        assert accepts(broken) == jsonschema.Draft202012Validator(wire.grammar()).is_valid(broken)
    assert not accepts(text[:-1]) and not accepts(f"{text} ")


def places_in(value, path=()):
    """The path of every value in a JSON value."""
    yield path
    for step, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places_in(item, (*path, step))


def put(value, path, item):
    if not path:
        return item
    value[path[0]] = put(value[path[0]], path[1:], item)
    return value


@given(cases, strategies.sampled_from(WIRES))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_every_value_and_list_has_its_place_in_the_raw_answer(case, kind):
    raw, answer = case
    schema = TargetSchema.parse(raw, "s")
    wire = WireFormat(schema, kind)
    text = wire.encoded(answer)
    spans = {span.name: text[span.start : span.end] for span in value_spans(wire, text)}
    named = {one.name: one for one in values_of(schema, answer)}
    assert set(spans) == set(named) | {found.name for found in lists_of(schema, answer)}
    if kind == "json":
        assert all(json.loads(spans[name]) == one.value for name, one in named.items())


def test_the_prompt_shows_the_lists_inside_rows():
    lines = generated_prompt(MEET).system.splitlines()
    start = lines.index("age_groups: list of")
    assert lines[start : start + 5] == [
        "age_groups: list of",
        "  group",
        "  results: list of",
        "    swimmer",
        "    time",
    ]
    assert lines[-3:] == ["grid: list of", "  value: list of", "    value: number"]


def test_the_label_check_knows_the_order_of_keys_at_every_depth():
    in_order = KeyOrder(MEET)
    assert in_order(GIRLS) and in_order(MEET.ordered({}))
    turned = json.loads(json.dumps(GIRLS))
    girl = turned["age_groups"][0]["results"][0]
    girl["swimmer"] = girl.pop("swimmer")
    assert not in_order(turned)


def test_checks_look_at_rows_of_every_depth():
    stay = closed(arrived=TEXT, left=TEXT, container=TEXT | {"x-extract": {"check": "iso6346"}})
    raw = closed(guests=many(closed(name=TEXT, stays=many(stay))))
    fields = ["guests[].stays[].arrived", "guests[].stays[].left"]
    schema = TargetSchema.parse(raw | {"x-extract": {"checks": [{"check": "date_order", "fields": fields}]}}, "s")
    good = {"arrived": "2026-01-01", "left": "2026-01-02", "container": "MSKU1234565"}
    bad = {"arrived": "2026-01-03", "left": "2026-01-02", "container": "MSKU1234566"}
    answer = {"guests": [{"name": "A", "stays": [good]}, {"name": "B", "stays": [good, bad]}]}
    assert [where for where, *_ in business_problems(schema, answer)] == [
        "$.guests[1].stays[1].container",
        "$.guests[1].stays[1].left",
    ]
    states = check_states(schema, answer)
    assert states["guests[1].stays[0].left"] == states["guests[0].stays[0].container"] == 1
    assert states["guests[1].stays[1].left"] == states["guests[1].stays[1].container"] == -1


def test_a_key_that_repeats_inside_a_row_is_a_loop():
    assert repeated_key(MEET, meet(girls=[result("Ann")] * 5)) == "age_groups[0].results repeats the key 'Ann' 5 times"
    assert repeated_key(MEET, meet(**{f"g{n}": [result("Ann")] for n in range(5)})) == ""


def test_a_row_that_two_windows_read_is_one_row_and_its_lists_are_united():
    first = meet(girls=[result("Ann"), result("Bea", time=None)])
    second = meet(girls=[result("Bea", splits=[{"metres": 50, "time": None}]), result("Cid")], boys=[result("Dan")])
    merged, problems = union(MEET, [first, second])
    assert problems == []
    assert merged == meet(
        girls=[result("Ann"), result("Bea", splits=[{"metres": 50, "time": None}]), result("Cid")],
        boys=[result("Dan")],
    )
    scores = [{"age_groups[0].results[0].time": 1, "age_groups[0].results": 4}, {"age_groups[0].results[1].time": 2}]
    assert united_scores(MEET, [first, second], scores, merged) == {
        "age_groups[0].results[0].time": 1,
        "age_groups[0].results[2].time": 2,
        "age_groups[0].results": 4,
    }


def test_a_section_without_a_key_that_goes_on_behind_a_page_is_one_section():
    schema = TargetSchema.parse(closed(parts=many(closed(title=TEXT, lines=many(closed(what=TEXT))))), "s")

    def part(title, *lines):
        return {"title": title, "lines": [{"what": line} for line in lines]}

    windows = [{"parts": [part("A", "1"), part("B", "2", "3")]}, {"parts": [part("B", "3", "4"), part("C", "5")]}]
    merged, _ = union(schema, windows)
    assert merged == {"parts": [part("A", "1"), part("B", "2", "3", "4"), part("C", "5")]}


@given(cases.filter(lambda case: any("items" in child for child in case[0]["properties"].values())))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_shards_are_cut_at_the_outermost_list_and_give_the_answer_again(case):
    raw, answer = case
    schema = TargetSchema.parse(raw, "s")
    keyless = TargetSchema.parse(json.loads(json.dumps(schema.raw).replace('"key": true', '"key": false')), "s")
    plan = AnswerPlan(keyless, "positional", rows=2)
    counts = plan.counts(answer)
    assert set(counts) == {rows.name for rows in schema.lists}
    shards = plan.shards_for(counts)
    assert plan.assembled(shards, plan.cut(answer, shards)).answer == schema.ordered(answer)


def test_scores_of_values_cover_every_depth():
    wire = WireFormat(MEET, "json")
    text = wire.encoded(GIRLS)
    scores = value_scores(wire, text, [(place, place + 1, -0.5) for place in range(len(text))])
    assert scores["age_groups[0].results[1].records[0]"].lowest == -0.5
    assert scores["age_groups[0].results[0].splits"].logprob == -1.0


def test_scores_of_shards_go_by_the_names_of_the_assembled_answer():
    plan = AnswerPlan(MEET, "json", rows=1)
    answer = meet(girls=[result("Ann", records=["WR"])], boys=[result("Bob", records=["CR"])])
    shards = plan.shards_for(plan.counts(answer))
    parts = plan.cut(answer, shards)
    assembled = plan.assembled(shards, parts)
    scores = []
    for number, (shard, part) in enumerate(zip(shards, parts, strict=True)):
        wire = plan.wire_of(shard)
        text = wire.encoded(part)
        scores.append(value_scores(wire, text, [(at, at + 1, -1.0 - number) for at in range(len(text))]))
    merged = shard_scores(plan, shards, scores, assembled.origin)
    lines = [shard.line for shard in shards]
    for index in (0, 1):
        lowest = -1.0 - lines.index(f"age_groups {index + 1}-{index + 1}")
        assert merged[f"age_groups[{index}].results[0].records[0]"].lowest == lowest
        assert merged[f"age_groups[{index}].results"].lowest == lowest
