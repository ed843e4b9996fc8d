"""Answer plan: an answer is requested as a whole, or in shards that are decoded in parallel over the same pages.

A model writes an answer token by token. Cut into shards (`rows`: the number of rows of each list; `header 1-8`;
`containers 1-4`; `containers 5-8`; ...) it takes only as long as its longest shard. The server reads the pages
once: all requests of a document share the system turn, the pages and the question to the byte, and differ only in
the last line. The row count is asked first and gives the number of shards. It is a hint: more shards are requested
until one comes back that is not full. Decoding parts of an answer in parallel is the idea of PIP (arXiv
2601.19613); no special engine is needed here.
"""

from __future__ import annotations

import copy
import itertools
import random
from dataclasses import dataclass
from typing import Any, NamedTuple

from toolkit.answers.wire_format import WireFormat
from toolkit.console import StageError
from toolkit.evaluation.comparison import normal_form
from toolkit.json_text import strict_json
from toolkit.records.record import answer_text, images_of, make_record, prompt_of
from toolkit.schema.target import RowList, TargetSchema, compact_json, put_at, value_at
from toolkit.schema.values import is_absent

COUNT_LINE = "rows"


@dataclass(frozen=True)
class Shard:
    """A part of a document's answer.

    `line` ends the prompt (empty: the whole answer). `schema` describes this part. `rows` is its list, of which it
    holds the rows `first` to `last`, counted from 1 (None: counts, header fields, or the whole answer).
    """

    line: str
    schema: TargetSchema
    rows: RowList | None = None
    first: int = 0
    last: int = 0

    @property
    def size(self) -> int:
        """How many rows the shard has room for."""
        return self.last - self.first + 1

    def is_full(self, part: dict[str, Any]) -> bool:
        """Whether more rows may follow after this shard's answer."""
        return self.rows is not None and len(value_at(part, self.rows.path) or []) >= self.size


class AssembledAnswer(NamedTuple):
    """A public answer that was put together from shards.

    `origin`: the source of each row as (number of its shard, row within it), list by list. `sentences`: what does
    not fit together: a row that two shards give (taken once), rows after a shard that was not full.
    """

    answer: dict[str, Any]
    origin: list[tuple[int, int]]
    sentences: list[str]


class AnswerPlan:
    """How answers of one target schema are requested.

    `wire` is one of WIRES. A shard holds `rows` rows of a list or `fields` header fields; 0: not cut into shards.
    Raises ValueError for negative numbers, StageError if the schema has nothing to cut.
    """

    def __init__(self, schema: TargetSchema, wire: str, rows: int = 0, fields: int = 0) -> None:
        if rows < 0 or fields < 0:
            raise ValueError("a shard holds at least one row or field")
        if rows and not schema.lists:
            raise StageError(f"{schema.source}: the schema has no list whose rows could be shared out among shards")
        if fields and not rows and schema.lists:
            raise StageError("header fields are shared out together with rows; give rows a shard too")
        self.schema, self.wire = schema, wire
        self.rows, self.fields = rows, fields
        self.sharded = bool(rows or fields)
        self.whole = Shard("", schema)
        self.head = head_of(schema)
        self._lists = {rows_.name: only_list(schema, rows_, rows) for rows_ in schema.lists} if rows else {}
        self._wires: dict[int, WireFormat] = {}
        self.count = Shard(COUNT_LINE, counts_schema(schema)) if rows else None
        self.header = self._header_shards() if self.sharded else []

    def head_so_far(self, text: str) -> dict[str, Any] | None:
        """The values before the first list of a whole answer that is still being written.

        None while they are not complete, and if the schema has none.
        """
        if self.head is None:
            return None
        try:
            values = self.wire_of(self.whole).beginning(text, len(self.head.schema.raw["properties"]))
        except ValueError:
            return None  # an invalid answer is judged when it is complete
        return values if isinstance(values, dict) else None

    @property
    def first(self) -> Shard:
        """The shard that is requested first."""
        return self.count or (self.header[0] if self.sharded else self.whole)

    def wire_of(self, shard: Shard) -> WireFormat:
        """The wire format of a shard's part of the schema; shards of one list share it."""
        key = id(shard.schema)
        if key not in self._wires:
            self._wires[key] = WireFormat(shard.schema, self.wire)
        return self._wires[key]

    def _header_shards(self) -> list[Shard]:
        leaves = self.schema.header
        if not leaves:
            return []
        size = self.fields or len(leaves)
        groups = [leaves[start : start + size] for start in range(0, len(leaves), size)]
        shards = []
        for index, group in enumerate(groups):
            others = {rows.name for rows in self.schema.lists} | {leaf.name for leaf in leaves if leaf not in group}
            line = "header" if len(groups) == 1 else f"header {index * size + 1}-{index * size + len(group)}"
            shards.append(Shard(line, self.schema.without(others)))
        return shards

    def row_shards(self, rows: RowList, begin: int, count: int) -> list[Shard]:
        """`count` shards of a list, starting at its shard number `begin` (from 0), within the schema's maxItems."""
        most = schema_at(self.schema.raw, rows.path)["maxItems"]
        shards = []
        for index in range(begin, begin + count):
            first, last = index * self.rows + 1, min((index + 1) * self.rows, most)
            if first <= most:
                shards.append(Shard(f"{rows.name} {first}-{last}", self._lists[rows.name], rows, first, last))
        return shards

    def shards_for(self, counts: dict[str, int]) -> list[Shard]:
        """The header's shards and, for each list, enough for one row more than were counted.

        So the last shard of a list is not full, which shows that the list has ended.
        """
        shards = list(self.header)
        for rows in self.schema.lists:
            shards += self.row_shards(rows, 0, counts[rows.name] // self.rows + 1)
        return shards

    def shards_behind(self, shards: list[Shard], parts: list[dict[str, Any]], counts: dict[str, int]) -> list[Shard]:
        """The shards to request next: for each list whose last shard came back full one more, then one, two, four, ...

        A count that is too low is usually too low by little. A model that invents rows after the end of a list
        must not be asked for all possible rows at once.
        """
        more = []
        for rows in self.schema.lists if self.rows else []:
            answers = zip(shards, parts, strict=True)
            own = [(shard, part) for shard, part in answers if shard.rows is not None and shard.rows.name == rows.name]
            if own and own[-1][0].is_full(own[-1][1]):
                further = len(own) - (counts[rows.name] // self.rows + 1)
                more += self.row_shards(rows, -(-own[-1][0].last // self.rows), max(1, further))
        return more

    def counts(self, answer: dict[str, Any]) -> dict[str, int]:
        """The number of rows of each list of a public answer."""
        return {rows.name: len(value_at(answer, rows.path) or []) for rows in self.schema.lists}

    def training_shards(self, answer: dict[str, Any]) -> list[Shard]:
        """The shards that a model learns from one document.

        They are the count, every shard that serving requests, and two empty ones of each list: the next one and a
        later one, drawn by a random generator that the answer seeds. A count may be too high, and the model must
        then answer with no rows rather than invent some.
        """
        if not self.rows:
            return self.header
        counts = self.counts(answer)
        draw = random.Random(compact_json(answer))
        surplus = []
        for rows in self.schema.lists:
            end = counts[rows.name] // self.rows + 1
            surplus += self.row_shards(rows, end, 1) + self.row_shards(rows, end + draw.randint(1, end + 4), 1)
        assert self.count is not None
        return [self.count, *self.shards_for(counts), *surplus]

    def cut(self, answer: dict[str, Any], shards: list[Shard]) -> list[dict[str, Any]]:
        """The public answer of each shard, in their order."""
        whole = self.schema.ordered(answer)
        parts = []
        for shard in shards:
            if shard.line == COUNT_LINE:
                parts.append(dict(self.counts(whole)))
                continue
            part: dict[str, Any] = {}
            if shard.rows is None:
                for leaf in shard.schema.header:
                    put_at(part, leaf.path, value_at(whole, leaf.path))
            else:
                put_at(part, shard.rows.path, value_at(whole, shard.rows.path)[shard.first - 1 : shard.last])
            parts.append(shard.schema.ordered(part))
        return parts

    def assembled(self, shards: list[Shard], parts: list[dict[str, Any]]) -> AssembledAnswer:
        """The public answer of a document from the answers of its shards."""
        merged: dict[str, Any] = {}
        origin: list[tuple[int, int]] = []
        sentences: list[str] = []
        for shard, part in zip(shards, parts, strict=True):
            if shard.rows is None and shard.line != COUNT_LINE:
                for leaf in shard.schema.header:
                    put_at(merged, leaf.path, value_at(part, leaf.path))
        for rows in self.schema.lists:
            merged_rows, row_origin, problems = assembled_rows(rows, shards, parts)
            put_at(merged, rows.path, merged_rows)
            origin += row_origin
            sentences += problems
        return AssembledAnswer(self.schema.ordered(merged), origin, sentences)

    def written(self, record: dict[str, Any]) -> dict[str, Any]:
        """A training record (its answer is public JSON) with the answer as the model must write it.

        That is another text of the assistant, or `parts`: pairs of a shard's line and its text. Raises StageError
        if the answer does not keep the schema.
        """
        if not self.sharded:
            return self.wire_of(self.whole).written(record)
        try:
            answer = self.schema.ordered(strict_json(answer_text(record)))
            shards = self.training_shards(answer)
            pairs = zip(shards, self.cut(answer, shards), strict=True)
            parts = [(shard.line, self.wire_of(shard).encoded(part)) for shard, part in pairs]
        except ValueError as error:
            problem = f"its answer cannot be cut into shards: {error}"
            raise StageError(f"record {record['id']!r}: {problem}; run validate_jsonl.py") from None
        return record | {"parts": parts}

    def requests(self, record: dict[str, Any], shards: list[Shard]) -> list[dict[str, Any]]:
        """Shards of a training record as plain records: one request and its answer each."""
        parts = self.cut(self.schema.ordered(strict_json(answer_text(record))), shards)
        pages, prompt, meta = images_of(record), prompt_of(record), record.get("meta", {})
        return [
            make_record(record["id"], pages, prompt.asking(shard.line), self.wire_of(shard).encoded(part), meta)
            for shard, part in zip(shards, parts, strict=True)
        ]

    def alone(self, record: dict[str, Any], number: int) -> dict[str, Any]:
        """A training record as one plain request and its answer.

        It is the whole answer, or the shard number `number` (from 0, modulo the number of shards).
        """
        if not self.sharded:
            return self.written(record)
        shards = self.training_shards(self.schema.ordered(strict_json(answer_text(record))))
        return self.requests(record, [shards[number % len(shards)]])[0]

    def gold(self, record: dict[str, Any]) -> dict[str, Any]:
        """The public answer of a record that `written` returned."""
        text = answer_text(record)
        return dict(strict_json(text) if "parts" in record else self.wire_of(self.whole).decoded(text))


def assembled_rows(
    rows: RowList, shards: list[Shard], parts: list[dict[str, Any]]
) -> tuple[list[Any], list[tuple[int, int]], list[str]]:
    """`(rows, origin, sentences)` of one list from the answers of all shards, see AssembledAnswer."""
    merged: list[Any] = []
    origin: list[tuple[int, int]] = []
    sentences: list[str] = []
    seen: dict[Any, str] = {}
    short = ""  # line of a shard that was not full, so that the list should have ended there
    form = normal_form(rows.key) if rows.key is not None else None
    for number, (shard, part) in enumerate(zip(shards, parts, strict=True)):
        if shard.rows is None or shard.rows.name != rows.name:
            continue
        own = value_at(part, rows.path) or []
        if own and short:
            sentences.append(f"{shard.line} holds rows, but {short} was not full: rows may be missing between them")
            short = ""
        if not shard.is_full(part):
            short = short or shard.line
        for index, row in enumerate(own):
            value = None if rows.key is None else value_at(row, rows.key.path) if rows.key.path else row
            key = form(value) if form is not None and not is_absent(value) else None
            if key is not None and seen.get(key, shard.line) != shard.line:
                sentences.append(f"{value!r} is in {seen[key]} and again in {shard.line}; taken once")
                continue
            if key is not None:
                seen[key] = shard.line
            merged.append(row)
            origin.append((number, index))
    return merged, origin, sentences


def schema_at(raw: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The part of a JSON Schema at the property path `path`."""
    for step in path:
        raw = raw["properties"][step]
    return raw


def head_of(schema: TargetSchema) -> Shard | None:
    """The fields before the first list of a whole answer, as a shard named `header`; None if no list follows fields."""
    lists = {rows.path[0] for rows in schema.lists}
    before = list(itertools.takewhile(lambda name: name not in lists, schema.raw["properties"]))
    if not lists or not before:
        return None
    behind = {rows.name for rows in schema.lists} | {leaf.name for leaf in schema.header if leaf.path[0] not in before}
    return Shard("header", schema.without(behind))


def counts_schema(schema: TargetSchema) -> TargetSchema:
    """`{"containers": 17}`: the number of rows of each list, by its dotted name."""
    counts = {
        rows.name: {"type": "integer", "minimum": 0, "maximum": schema_at(schema.raw, rows.path)["maxItems"]}
        for rows in schema.lists
    }
    return TargetSchema({"type": "object", "additionalProperties": False, "properties": counts}, schema.source)


def only_list(schema: TargetSchema, rows: RowList, size: int) -> TargetSchema:
    """The schema of one list alone, of at most `size` rows."""
    raw = copy.deepcopy(schema.raw)
    part = raw
    for step in rows.path:
        part["properties"] = {step: part["properties"][step]}
        if "required" in part:
            part["required"] = [step]
        part = part["properties"][step]
    part["maxItems"] = min(size, part["maxItems"])
    part.pop("minItems", None)
    raw.get("x-extract", {}).pop("checks", None)
    return TargetSchema(raw, schema.source)
