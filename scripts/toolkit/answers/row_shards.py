"""How a model's answer is asked for: in one piece, or in shards that are decoded at the same time over the same pages.

An answer's time is that of its tokens one after the other. Cut into shards (`rows`: how many rows each list has; `header 1-8`; `containers 1-4`;
`containers 5-8`; ...) it is that of the longest shard, while the server reads the pages once: all requests of a document share system
turn, pages and question to the byte, and differ in the last line only. The count comes first and tells how many shards there are; it is a
hint, not a promise: whoever asks goes on until a shard comes back that is not full. The idea of decoding parts of an answer in
parallel is PIP's (arXiv 2601.19613); this one needs no engine of its own.
"""

from __future__ import annotations

import copy
import itertools
import random
from dataclasses import dataclass
from typing import Any

from toolkit.answers.wire_format import WireFormat
from toolkit.console import StageError
from toolkit.evaluation.scoring import normal_form
from toolkit.files import strict_json
from toolkit.records.record import answer_text, images_of, make_record, prompt_of
from toolkit.schema.target import RowList, TargetSchema, compact_json, put_at, value_at
from toolkit.schema.values import is_absent

COUNT_LINE = "rows"


@dataclass(frozen=True)
class Shard:
    """A part of a document's answer. `line` ends the prompt (empty: the whole answer); `schema` is what this part may hold; `rows` is its
    list with the rows `first` to `last`, counted from 1 (None: counts, header fields, or the whole)."""

    line: str
    schema: TargetSchema
    rows: RowList | None = None
    first: int = 0
    last: int = 0

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    def is_full(self, part: dict[str, Any]) -> bool:
        """Whether more rows may follow behind this shard's answer."""
        return self.rows is not None and len(value_at(part, self.rows.path) or []) >= self.size


class AnswerPlan:
    """How answers of one target schema are asked for: `wire` (of WIRES), `rows` of a list and `fields` of the header a shard; 0: not cut.

    Raises ValueError for negative numbers, StageError where there is nothing to cut.
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
        """The values before the first list, as soon as a whole answer that is still being written has them all; None before, and where there are none."""
        if self.head is None:
            return None
        try:
            found = self.wire_of(self.whole).beginning(text, len(self.head.schema.raw["properties"]))
        except ValueError:
            return None  # what this is will be judged when it is all there
        return found if isinstance(found, dict) else None

    @property
    def first(self) -> Shard:
        """What is asked first of all."""
        return self.count or (self.header[0] if self.sharded else self.whole)

    def wire_of(self, shard: Shard) -> WireFormat:
        """The wire form of a shard's part of the schema; shards of one list share one."""
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
        """`count` shards of a list from its shard number `begin` (from 0) on, as far as the schema's maxItems reaches."""
        most = schema_at(self.schema.raw, rows.path)["maxItems"]
        found = []
        for index in range(begin, begin + count):
            first, last = index * self.rows + 1, min((index + 1) * self.rows, most)
            if first <= most:
                found.append(Shard(f"{rows.name} {first}-{last}", self._lists[rows.name], rows, first, last))
        return found

    def shards_for(self, counts: dict[str, int]) -> list[Shard]:
        """The header's shards, and of each list as many that the last one has room left for a row more than were counted: it ends the
        list by not being full."""
        return self.header + [
            shard
            for rows in self.schema.lists
            for shard in self.row_shards(rows, 0, counts[rows.name] // self.rows + 1)
        ]

    def shards_behind(self, shards: list[Shard], parts: list[dict[str, Any]], counts: dict[str, int]) -> list[Shard]:
        """What is to be asked next: behind every list whose last shard came back full one more, then one, two, four, ...: a count that was
        too low is mostly so by little, and a model that makes rows up beyond the list's end must not be asked for all of them at once."""
        more = []
        for rows in self.schema.lists if self.rows else []:
            own = [
                (s, p) for s, p in zip(shards, parts, strict=True) if s.rows is not None and s.rows.name == rows.name
            ]
            if own and own[-1][0].is_full(own[-1][1]):
                further = len(own) - (counts[rows.name] // self.rows + 1)
                more += self.row_shards(rows, -(-own[-1][0].last // self.rows), max(1, further))
        return more

    def counts(self, answer: dict[str, Any]) -> dict[str, int]:
        return {rows.name: len(value_at(answer, rows.path) or []) for rows in self.schema.lists}

    def training_shards(self, answer: dict[str, Any]) -> list[Shard]:
        """What a model learns of one document: the count, every shard that serving asks for, and of each list two that are empty, the next and
        one further on (which, is drawn from the answer): documents are counted too high, and a line that was never seen must not make rows up."""
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

    def joined(
        self, shards: list[Shard], parts: list[dict[str, Any]]
    ) -> tuple[dict[str, Any], list[tuple[int, int]], list[str]]:
        """`(answer, rows, sentences)`: the public answer of a document from its shards' answers; where each of its rows comes from, as (shard,
        row within it), list by list; a sentence for whatever does not fit together: a row that two shards give (taken once), rows
        behind a shard that was not full."""
        merged: dict[str, Any] = {}
        origin: list[tuple[int, int]] = []
        sentences: list[str] = []
        for shard, part in zip(shards, parts, strict=True):
            if shard.rows is None and shard.line != COUNT_LINE:
                for leaf in shard.schema.header:
                    put_at(merged, leaf.path, value_at(part, leaf.path))
        for rows in self.schema.lists:
            found: list[Any] = []
            seen: dict[Any, str] = {}
            short = ""
            form = normal_form(rows.key) if rows.key is not None else None
            for number, (shard, part) in enumerate(zip(shards, parts, strict=True)):
                if shard.rows is None or shard.rows.name != rows.name:
                    continue
                given = value_at(part, rows.path) or []
                if given and short:
                    sentences.append(
                        f"{shard.line} holds rows, but {short} was not full: rows may be missing between them"
                    )
                    short = ""
                if not shard.is_full(part):
                    short = short or shard.line
                for index, row in enumerate(given):
                    value = None if rows.key is None else value_at(row, rows.key.path) if rows.key.path else row
                    key = form(value) if form is not None and not is_absent(value) else None
                    if key is not None and seen.get(key, shard.line) != shard.line:
                        sentences.append(f"{value!r} is in {seen[key]} and again in {shard.line}; taken once")
                        continue
                    if key is not None:
                        seen[key] = shard.line
                    found.append(row)
                    origin.append((number, index))
            put_at(merged, rows.path, found)
        return self.schema.ordered(merged), origin, sentences

    def written(self, record: dict[str, Any]) -> dict[str, Any]:
        """A training record, whose answer is public JSON, as the model is to write it: with another assistant's text, or with `parts`,
        pairs of a shard's line and its text. Raises StageError where its answer does not keep the schema."""
        if not self.sharded:
            return self.wire_of(self.whole).written(record)
        try:
            answer = self.schema.ordered(strict_json(answer_text(record)))
            shards = self.training_shards(answer)
            parts = [
                (s.line, self.wire_of(s).encoded(part))
                for s, part in zip(shards, self.cut(answer, shards), strict=True)
            ]
        except ValueError as error:
            raise StageError(
                f"record {record['id']!r}: its answer cannot be cut into shards: {error}; run validate_jsonl.py"
            ) from None
        return record | {"parts": parts}

    def requests(self, record: dict[str, Any], shards: list[Shard]) -> list[dict[str, Any]]:
        """Shards of a training record as plain records, each one request and its answer."""
        parts = self.cut(self.schema.ordered(strict_json(answer_text(record))), shards)
        pages, prompt, meta = images_of(record), prompt_of(record), record.get("meta", {})
        return [
            make_record(record["id"], pages, prompt.asking(shard.line), self.wire_of(shard).encoded(part), meta)
            for shard, part in zip(shards, parts, strict=True)
        ]

    def alone(self, record: dict[str, Any], number: int) -> dict[str, Any]:
        """A training record as one plain request and its answer: the whole, or shard number `number` (from 0, counted round)."""
        if not self.sharded:
            return self.written(record)
        shards = self.training_shards(self.schema.ordered(strict_json(answer_text(record))))
        return self.requests(record, [shards[number % len(shards)]])[0]

    def gold(self, record: dict[str, Any]) -> dict[str, Any]:
        """The public answer of a record that `written` gave back."""
        text = answer_text(record)
        return dict(strict_json(text) if "parts" in record else self.wire_of(self.whole).decoded(text))


def schema_at(raw: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for step in path:
        raw = raw["properties"][step]
    return raw


def head_of(schema: TargetSchema) -> Shard | None:
    """What a whole answer begins with: the fields before the first list, under the header's name; None where no list follows fields."""
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
