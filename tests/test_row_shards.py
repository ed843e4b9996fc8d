"""Row shards: cutting and joining lose nothing, every shard's answer is found whatever was counted, and what does not fit together is said."""

import asyncio
import json

import pytest
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.answers.answer import Answer
from toolkit.answers.row_shards import AnswerPlan
from toolkit.console import StageError
from toolkit.extraction.documents import Document
from toolkit.extraction.run import Judge, prediction_of
from toolkit.schema.target import TargetSchema

LADING = TargetSchema.load(REPOSITORY / "schemas/bill_of_lading.schema.json")


def bill(rows: int) -> dict:
    numbers = [
        {"container_number": f"ABCU{n:07d}", "container_size": "20", "container_type": "GP"} for n in range(rows)
    ]
    return LADING.ordered({"bl_number": "B1", "vessel_name": "V", "containers": numbers})


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 9), st.sampled_from(["json", "positional"]))
def test_joined_shards_are_the_answer(rows, size, fields, wire):
    plan = AnswerPlan(LADING, wire, size, fields)
    shards = plan.training_shards(bill(rows))
    parts = plan.cut(bill(rows), shards)
    for shard, part in zip(shards, parts, strict=True):
        form = plan.wire_of(shard)
        assert shard.schema.validator().is_valid(part) and form.decoded(form.encoded(part)) == part
    answer, origin, sentences = plan.joined(shards, parts)
    assert (answer, sentences) == (bill(rows), [])
    assert [parts[s]["containers"][i] for s, i in origin] == answer["containers"]


@pytest.mark.parametrize("wire", ["json", "positional"])
@pytest.mark.parametrize(
    ("order", "head"), [("a rows b", {"a": "x"}), ("rows a", None), ("a b", None), ("b nested a", {"b": "x"})]
)
def test_what_stands_before_the_first_list_is_known_while_it_is_written(wire, order, head):
    text, rows = (
        {"type": ["string", "null"], "maxLength": 9},
        {"type": "array", "maxItems": 3, "items": {"type": "string", "maxLength": 9}},
    )
    nested = {
        "type": "object",
        "additionalProperties": False,
        "required": ["c", "rows"],
        "properties": {"c": text, "rows": rows},
    }
    fields = {name: {"rows": rows, "nested": nested}.get(name, text) for name in order.split()}
    raw = {"type": "object", "additionalProperties": False, "required": list(fields), "properties": fields}
    plan = AnswerPlan(TargetSchema.parse(raw, "s"), wire)
    answer = {name: {"rows": ["r,"], "nested": {"c": "x", "rows": ["r"]}}.get(name, "x") for name in fields}
    written = plan.wire_of(plan.whole).encoded(answer)
    told = [plan.head_so_far(written[:end]) for end in range(len(written) + 1)]
    assert told[0] is None and told[-1] == head and all(found in (None, head) for found in told)


def test_the_lines_name_counts_header_and_rows():
    plan = AnswerPlan(LADING, "json", 4, 6)
    *lines, far = [shard.line for shard in plan.training_shards(bill(9))]
    assert (
        far.startswith("containers ") and int(far.split("-")[1]) > 16 and far == plan.training_shards(bill(9))[-1].line
    )
    assert lines == [
        "rows",
        "header 1-6",
        "header 7-9",
        "containers 1-4",
        "containers 5-8",
        "containers 9-12",
        "containers 13-16",
    ]
    assert plan.cut(bill(9), [plan.count]) == [{"containers": 9}]
    assert [leaf.name for shard in plan.header for leaf in shard.schema.header] == [leaf.name for leaf in LADING.header]
    assert [shard.line for shard in AnswerPlan(LADING, "json", 4).header] == ["header"]
    # A count that fills the last shard needs one more to see the list's end; one that does not is its own end.
    assert [s.line for s in plan.shards_for({"containers": 8})][2:] == [
        "containers 1-4",
        "containers 5-8",
        "containers 9-12",
    ]
    assert [s.line for s in plan.shards_for({"containers": 7})][2:] == ["containers 1-4", "containers 5-8"]
    whole = AnswerPlan(LADING, "json")
    assert not whole.sharded and whole.first is whole.whole


def test_what_cannot_be_cut_is_refused():
    flat = LADING.without({"containers"})
    with pytest.raises(StageError, match="no list"):
        AnswerPlan(flat, "json", 4)
    with pytest.raises(ValueError, match="at least one"):
        AnswerPlan(LADING, "json", -1)
    with pytest.raises(StageError, match="together with rows"):
        AnswerPlan(LADING, "json", 0, 4)
    assert [shard.line for shard in AnswerPlan(flat, "json", 0, 5).training_shards(bill(0))] == [
        "header 1-5",
        "header 6-9",
    ]


def test_the_last_shard_reaches_no_further_than_the_schema():
    most = LADING.raw["properties"]["containers"]["maxItems"]
    plan = AnswerPlan(LADING, "json", 7)
    last = plan.shards_for({"containers": most})[-1]
    assert (
        last.last == most and plan.shards_behind([last], [{"containers": [{}] * last.size}], {"containers": most}) == []
    )


def test_overlaps_and_gaps_are_said():
    plan = AnswerPlan(LADING, "json", 2)
    shards = plan.shards_for({"containers": 4})
    parts = plan.cut(bill(4), shards)
    rows = bill(6)["containers"]
    parts[2] = {"containers": [rows[1], rows[3]]}  # row 2 again instead of row 3
    answer, origin, sentences = plan.joined(shards, parts)
    assert [row["container_number"][-1] for row in answer["containers"]] == ["0", "1", "3"]
    assert origin == [(1, 0), (1, 1), (2, 1)] and len(sentences) == 1 and "taken once" in sentences[0]
    parts = plan.cut(bill(4), shards)
    parts[1] = {"containers": rows[:1]}
    assert "was not full" in plan.joined(shards, parts)[2][0]
    # A key twice in one shard is what the page says.
    parts[1] = {"containers": [rows[0], rows[0]]}
    assert len(plan.joined(shards, parts)[0]["containers"]) == 4


class Reader:
    """A perfect reader that counts rows as it is told; keeps what it was asked, wave by wave."""

    def __init__(self, plan: AnswerPlan, answer: dict, counted: int) -> None:
        self.plan, self.answer, self.counted = plan, answer, counted
        self.asked: list[str] = []

    def prepare(self, page):
        return page

    async def __call__(self, pages, shard, temperature, seed, hearing=None):
        self.asked.append(shard.line)
        (part,) = self.plan.cut(self.answer, [shard])
        if shard is self.plan.count:
            part = {"containers": self.counted}
        raw = self.plan.wire_of(shard).encoded(part)
        tokens = [(at, at + 1, -0.5 if shard.line == "containers 3-4" else -0.1) for at in range(len(raw))]
        return Answer(raw, "stop", {"completion_tokens": len(raw)}, 0.1, tokens)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 5))
def test_every_row_is_found_whatever_was_counted(rows, counted, size):
    plan = AnswerPlan(LADING, "positional", size)
    ask = Reader(plan, bill(rows), counted)
    line = asyncio.run(prediction_of(Judge(plan), ask, Document("d"), ["p"], window=1, tries=1))
    assert line["status"] == "ok" and line["prediction"] == bill(rows)
    assert line["shards"] == len(ask.asked) == len(set(ask.asked)) and ask.asked[0] == "rows"
    warnings = line.get("warnings", [])
    assert any("rows counted" in warning for warning in warnings) == (rows != counted)


def test_confidence_follows_the_rows_to_their_place():
    plan = AnswerPlan(LADING, "positional", 2)
    line = asyncio.run(prediction_of(Judge(plan), Reader(plan, bill(5), 5), Document("d"), ["p"], window=1, tries=1))
    lowest = {name: features[1] for name, features in line["features"].items()}
    assert lowest["containers[1].container_number"] == -0.1 and lowest["containers[2].container_number"] == -0.5
    assert lowest["containers[4].container_number"] == -0.1 and lowest["bl_number"] == -0.1
    assert (
        set(lowest) >= {f"containers[{n}].container_number" for n in range(5)}
        and "containers[5].container_number" not in lowest
    )
    assert lowest["containers"] == -0.5


def test_a_shard_without_a_valid_answer_fails_the_document_and_names_itself():
    plan = AnswerPlan(LADING, "json", 2)

    class Broken(Reader):
        async def __call__(self, pages, shard, temperature, seed, hearing=None):
            if shard.line == "containers 3-4":
                return Answer('{"containers":[', "length", {}, 0.1)
            return await super().__call__(pages, shard, temperature, seed)

    line = asyncio.run(prediction_of(Judge(plan), Broken(plan, bill(5), 5), Document("d"), ["p"], window=1, tries=2))
    assert (line["status"], line["prediction"]) == ("truncated", None) and "containers 3-4" in line["error"]
    assert 'containers 1-2: {"containers":[' in line["raw"] and line["finish_reason"] == "length"


def test_records_are_written_with_their_parts():
    plan = AnswerPlan(LADING, "positional", 4)
    record = {
        "id": "d",
        "messages": [{"role": "assistant", "content": [{"type": "text", "text": json.dumps(bill(5))}]}],
    }
    made = plan.written(record)
    assert dict(made["parts"])["rows"] == "[5]" and plan.gold(made) == bill(5)
    assert dict(made["parts"])["containers 9-12"] == "[[]]"
    assert plan.alone(record, 0)["messages"][-1]["content"][0]["text"] == "[5]"
    with pytest.raises(StageError, match="cannot be cut"):
        plan.written({"id": "d", "messages": [{"role": "assistant", "content": [{"type": "text", "text": '{"x":1}'}]}]})
