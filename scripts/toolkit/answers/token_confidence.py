"""How sure the model was of each value: the log-probabilities of an answer's tokens, gathered over the values they spell.

Only free choices count. Names, quotes and brackets around a value are the schema's, not the model's; within a value, a token
whose text the schema leaves no choice about (the rest of an enum's choice, `ull` behind `n`) says nothing either.
Log-probabilities are those among the tokens that the grammar allows: vLLM masks before it reports them (0.32), so the local
backend does too, and one fitted model serves both.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from toolkit.answers.wire_format import WireFormat
from toolkit.schema.target import Leaf, RowList

Token = tuple[int, int, float]  # where its text starts and ends in the answer (characters), its log-probability
_BLANK = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class ValueSpan:
    """Where a value stands in the answer. `name` is the leaf's with row numbers (`containers[0].container_size`), or a
    list's (`containers`), whose `places` are the characters at which the list went on or ended."""

    name: str
    leaf: Leaf | None
    start: int
    end: int
    places: tuple[int, ...] = ()


@dataclass(frozen=True, order=True)
class ValueScore:
    """`logprob`: sum over the value's free tokens; `lowest`: that of the least likely one; both 0 where nothing was free."""

    logprob: float
    lowest: float


def text_tokens(pieces: Iterable[tuple[str, float]], text: str) -> list[Token] | None:
    """Tokens with their place in `text`, from each one's own text; None where these are not the text's.

    A character of several bytes may be spread over tokens, each of which then reads as U+FFFD or as nothing: they share what
    stands up to the next token that can be read. What comes behind the text (the end mark) is left out.
    """
    tokens: list[Token] = []
    unread: list[float] = []
    at = 0
    for piece, logprob in pieces:
        if at == len(text):
            break
        if not piece or "\ufffd" in piece:
            unread.append(logprob)
            continue
        # Four bytes at most make a character, so the next readable token is near.
        start = text.find(piece, at, at + 4 * len(unread) + len(piece))
        if start < 0:
            if unread and len(text) - at <= 4 * len(unread):
                break  # the end mark behind an unreadable end
            return None
        tokens += [(at, start, value) for value in unread]
        tokens.append((start, start + len(piece), logprob))
        unread, at = [], start + len(piece)
    tokens += [(at, len(text), value) for value in unread]
    return tokens if unread or at == len(text) else None


def value_scores(wire: WireFormat, raw: str, tokens: Sequence[Token]) -> dict[str, ValueScore]:
    """The score of every value of a valid answer, by name in schema order, lists included."""
    ends = [end for _, end, _ in tokens]
    scores = {}
    for span in value_spans(wire, raw):
        if span.leaf is None:
            covering = [tokens[i] for place in span.places if (i := bisect_right(ends, place)) < len(tokens)]
            free = [logprob for _, _, logprob in dict.fromkeys(covering)]
        else:
            written = raw[span.start : span.end]
            # A number has no end mark of its own: that it ends here is said by what follows.
            reach = span.end + (written[-1:].isdigit() and span.end < len(raw))
            free = []
            index = bisect_right(ends, span.start)
            while index < len(tokens) and tokens[index][0] < reach:
                start, _, logprob = tokens[index]
                if not forced(wire, span.leaf, written, start - span.start):
                    free.append(logprob)
                index += 1
        scores[span.name] = ValueScore(sum(free), min(free, default=0.0))
    return scores


def forced(wire: WireFormat, leaf: Leaf, written: str, so_far: int) -> bool:
    """Whether the schema leaves one way only to go on behind the first `so_far` characters of the value's text."""
    if so_far <= 0:
        return False
    before = written[:so_far]
    if choices := wire.choices_of(leaf.schema):
        return sum(choice.startswith(before) for choice in choices) <= 1
    return written in ("null", "true", "false")


def value_spans(wire: WireFormat, raw: str) -> list[ValueSpan]:
    """Every value of `raw`, a wire text that keeps the schema. Raises ValueError where it is no such text."""
    leaves = {leaf.path: leaf for leaf in wire.schema.header}
    lists = {rows.path: rows for rows in wire.schema.lists}
    spans: list[ValueSpan] = []

    def blank(at: int) -> int:
        match = _BLANK.match(raw, at)
        return match.end() if match else at

    def members(schema: dict[str, Any], at: int, visit: Any) -> int:
        """Walk an object from its bracket; `visit(name, schema, at)` returns where the value ends."""
        fields = schema.get("properties", {})
        names = iter(fields)
        at = blank(at + 1)
        while raw[at] not in "}]":
            if wire.kind == "positional":
                name = next(names, "")
            else:
                name, at = scanstring(raw, at + 1)
                at = blank(blank(at) + 1)
            at = blank(visit(name, fields.get(name, {}), at))
            if raw[at] == ",":
                at = blank(at + 1)
        return at + 1

    def scalar(name: str, leaf: Leaf | None, at: int) -> int:
        _, end = _DECODER.raw_decode(raw, at)
        if leaf is not None:
            spans.append(ValueSpan(name, leaf, at, end))
        return end

    def value(schema: dict[str, Any], path: tuple[str, ...], at: int) -> int:
        if path in lists and raw[at] == "[":
            return rows_of(lists[path], schema["items"], at)
        if "properties" in schema and raw[at] in "{[":
            return members(schema, at, lambda name, child, place: value(child, (*path, name), place))
        return scalar(".".join(path), leaves.get(path), at)

    def rows_of(rows: RowList, schema: dict[str, Any], at: int) -> int:
        inner = {leaf.path: leaf for leaf in rows.leaves}
        at = blank(at + 1)
        start, places, index = at, [at], 0

        def inside(schema: dict[str, Any], path: tuple[str, ...], place: int) -> int:
            if "properties" in schema and raw[place] in "{[":
                return members(schema, place, lambda name, child, p: inside(child, (*path, name), p))
            leaf = inner.get(path)
            return scalar(rows.value_name(index, leaf) if leaf else "", leaf, place)

        while raw[at] != "]":
            at = blank(inside(schema, (), at))
            places.append(at)
            index += 1
            if raw[at] == ",":
                at = blank(at + 1)
        spans.append(ValueSpan(rows.name, None, start, at + 1, tuple(places)))
        return at + 1

    try:
        value(wire.schema.raw, (), blank(0))
    except IndexError:
        raise ValueError("not a whole answer") from None
    return spans
