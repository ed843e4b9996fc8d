"""Token confidence of each value: the log-probabilities of an answer's tokens, summed over the values that they spell.

Only free tokens count, those for which the schema allowed alternatives. Field names, quotes and brackets are given
by the schema. Within a value a token is forced if only one continuation is allowed (the rest of an enum choice,
`ull` after `n`). Log-probabilities are normalised over the tokens that the grammar allows. vLLM (0.32) masks
before it reports them, so the local backend does the same, and one fitted model serves both.
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
from toolkit.schema.answer_values import dotted
from toolkit.schema.target import Leaf, RowList

Token = tuple[int, int, float]  # start and end of its text in the answer (characters), and its log-probability
_BLANK = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class ValueSpan:
    """The characters `start` to `end` of the raw answer that spell a value.

    `name` is the leaf's name with row numbers (`containers[0].container_size`), or the name of a list (`containers`). A
    list's `places` are the characters at which the model decided to go on or to end the list.
    """

    name: str
    leaf: Leaf | None
    start: int
    end: int
    places: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fields:
    """The leaves and lists of the document, or of the row of that name, by their path in it."""

    row: str
    leaves: dict[tuple[str, ...], Leaf]
    lists: dict[tuple[str, ...], RowList]

    @classmethod
    def of(cls, row: str, leaves: Iterable[Leaf], lists: Iterable[RowList]) -> Fields:
        return cls(row, {leaf.path: leaf for leaf in leaves}, {rows.path: rows for rows in lists})


@dataclass(frozen=True, order=True)
class ValueScore:
    """`logprob`: sum over the value's free tokens; `lowest`: the least likely of them; both 0 if no token was free."""

    logprob: float
    lowest: float


def text_tokens(pieces: Iterable[tuple[str, float]], text: str) -> list[Token] | None:
    """Tokens with their place in `text`, from `(token text, log-probability)` pairs; None if the pairs do not spell
    `text`.

    A character of several bytes may be spread over tokens, each of which decodes to U+FFFD or to nothing. Such
    tokens share the characters up to the next readable token. Tokens after the text (the end token) are left out.
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
        # A character has at most four bytes, so the next readable token is near.
        start = text.find(piece, at, at + 4 * len(unread) + len(piece))
        if start < 0:
            if unread and len(text) - at <= 4 * len(unread):
                break  # the end token after an unreadable end of the text
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
            # A number has no closing mark: the token after it decides that it ends here.
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
    """Whether the schema allows only one continuation after the first `so_far` characters of the value's text."""
    if so_far <= 0:
        return False
    before = written[:so_far]
    if choices := wire.choices_of(leaf.schema):
        return sum(choice.startswith(before) for choice in choices) <= 1
    return written in ("null", "true", "false")


def value_spans(wire: WireFormat, raw: str) -> list[ValueSpan]:
    """Every value of `raw`, an answer in wire format that keeps the schema. Raises ValueError if it is not one."""
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

    def value(schema: dict[str, Any], here: Fields, path: tuple[str, ...], at: int) -> int:
        """Walk the value at `path` of the document or the row `here`."""
        if path in here.lists and raw[at] == "[":
            return rows_of(schema["items"], here.lists[path], dotted(here.row, path), at)
        if "properties" in schema and raw[at] in "{[":
            return members(schema, at, lambda name, child, place: value(child, here, (*path, name), place))
        _, end = _DECODER.raw_decode(raw, at)
        if (leaf := here.leaves.get(path)) is not None:
            spans.append(ValueSpan(dotted(here.row, path), leaf, at, end))
        return end

    def rows_of(schema: dict[str, Any], rows: RowList, name: str, at: int) -> int:
        at = blank(at + 1)
        start, places, of = at, [at], Fields.of(name, rows.leaves, rows.lists)
        while raw[at] != "]":
            row = Fields(f"{name}[{len(places) - 1}]", of.leaves, of.lists)
            at = blank(value(schema, row, (), at))
            places.append(at)
            if raw[at] == ",":
                at = blank(at + 1)
        spans.append(ValueSpan(name, None, start, at + 1, tuple(places)))
        return at + 1

    try:
        value(wire.schema.raw, Fields.of("", wire.schema.header, wire.schema.lists), (), blank(0))
    except IndexError:
        raise ValueError("not a whole answer") from None
    return spans
