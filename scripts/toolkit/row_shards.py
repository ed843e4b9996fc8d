"""One document, several short answers: the header, rows 1-4, rows 5-8, ..., asked at the same time over the same pages.

An answer's time is that of its tokens one after the other. Cut into shards that are decoded together it is that of the longest shard,
while the server encodes the pages once: all requests of a document share system turn, pages and question to the byte, and differ in
the last line only. The idea of decoding fields in parallel is PIP's (arXiv 2601.19613); this one needs no engine of its own.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from toolkit.scoring import is_absent, normal_form
from toolkit.target_schema import RowList, TargetSchema, put_at, value_at
from toolkit.wire_format import WireFormat

HEADER_LINE = "header"


@dataclass(frozen=True)
class Shard:
    """A part of a document's answer. `line` ends the prompt; `schema` is what this part may hold; `rows` is its list (None: the header)
    with the rows `first` to `last`, counted from 1."""

    line: str
    schema: TargetSchema
    rows: RowList | None = None
    first: int = 0
    last: int = 0

    def wire(self, kind: str) -> WireFormat:
        return WireFormat(self.schema, kind)


def shards_of(schema: TargetSchema, size: int, longest: dict[str, int]) -> list[Shard]:
    """The header's shard, and for each list as many of `size` rows as `longest` (rows by list name) needs and one more, which must
    come back empty: a document with more rows than any before is noticed there. Raises ValueError for a size under 1."""
    if size < 1:
        raise ValueError("a shard holds at least one row")
    lists = {rows.name for rows in schema.lists}
    shards = [Shard(HEADER_LINE, schema.without(lists))] if schema.header else []
    for rows in schema.lists:
        alone = only_list(schema, rows, size)
        most = value_at_schema(schema.raw, rows.path)["maxItems"]
        count = min(-(-longest.get(rows.name, 0) // size) + 1, -(-most // size))
        for index in range(count):
            first, last = index * size + 1, (index + 1) * size
            shards.append(Shard(f"{rows.name} {first}-{last}", alone, rows, first, last))
    return shards


def value_at_schema(raw: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for step in path:
        raw = raw["properties"][step]
    return raw


def only_list(schema: TargetSchema, rows: RowList, size: int) -> TargetSchema:
    """The schema of one list alone, of at most `size` rows."""
    raw = copy.deepcopy(schema.raw)
    part = raw
    for step in rows.path:
        part["properties"] = {step: part["properties"][step]}
        if "required" in part:
            part["required"] = [step]
        part = part["properties"][step]
    part["maxItems"] = size
    part.pop("minItems", None)
    raw.get("x-extract", {}).pop("checks", None)
    return TargetSchema(raw, schema.source)


def cut(schema: TargetSchema, answer: dict[str, Any], shards: list[Shard]) -> list[dict[str, Any]]:
    """The public answer of each shard, in their order."""
    whole = schema.ordered(answer)
    parts = []
    for shard in shards:
        part: dict[str, Any] = {}
        if shard.rows is None:
            for leaf in schema.header:
                put_at(part, leaf.path, value_at(whole, leaf.path))
        else:
            put_at(part, shard.rows.path, value_at(whole, shard.rows.path)[shard.first - 1 : shard.last])
        parts.append(shard.schema.ordered(part))
    return parts


def joined(schema: TargetSchema, shards: list[Shard], parts: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """The public answer of a document from its shards' answers, and a sentence for whatever does not fit together: a row that two
    shards give (taken once), rows behind a shard that was not full, a last shard that is not empty."""
    merged: dict[str, Any] = {}
    warnings: list[str] = []
    for shard, part in zip(shards, parts, strict=True):
        if shard.rows is None:
            for leaf in schema.header:
                put_at(merged, leaf.path, value_at(part, leaf.path))
    for rows in schema.lists:
        own = [(shard, value_at(part, rows.path) or []) for shard, part in zip(shards, parts, strict=True) if shard.rows is not None and shard.rows.name == rows.name]  # fmt: skip
        found: list[Any] = []
        seen: dict[Any, str] = {}
        short = ""
        form = normal_form(rows.key) if rows.key is not None else None
        for shard, given in own:
            if given and short:
                warnings.append(f"{shard.line} holds rows, but {short} was not full: rows may be missing between them")
                short = ""
            if len(given) < shard.last - shard.first + 1:
                short = short or shard.line
            for row in given:
                value = None if rows.key is None else value_at(row, rows.key.path) if rows.key.path else row
                key = form(value) if form is not None and not is_absent(value) else None
                if key is not None and seen.get(key, shard.line) != shard.line:
                    warnings.append(f"{value!r} is in {seen[key]} and again in {shard.line}; taken once")
                    continue
                if key is not None:
                    seen[key] = shard.line
                found.append(row)
        if (
            own
            and own[-1][1]
            and len(own) * (own[-1][0].last - own[-1][0].first + 1) < value_at_schema(schema.raw, rows.path)["maxItems"]
        ):
            warnings.append(f"{own[-1][0].line} is not empty: the document may have more rows than were asked for")
        put_at(merged, rows.path, found)
    return schema.ordered(merged), warnings
