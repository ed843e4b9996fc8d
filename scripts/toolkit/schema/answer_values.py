"""The values and lists of one answer: `vessel_name`, `containers[0].size`, `groups[0].results[2].time`.

One way to walk an answer of any depth; whoever needs a place for a value (confidence, evidence, checks) walks it here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from toolkit.schema.target import Leaf, RowList, TargetSchema, value_at

_NUMBER = re.compile(r"\[\d+\]")
_STEP = re.compile(r"\[\d+\]|[^.\[\]]+")


class Value(NamedTuple):
    """One value of an answer; `row` is the name of its row (`containers[0]`), empty in the header."""

    name: str
    leaf: Leaf
    value: Any
    row: str


class FoundList(NamedTuple):
    """One list of an answer: `name` with row numbers (`groups[0].results`), its rows, and the row that it is in."""

    name: str
    rows: RowList
    items: list[Any]
    row: str

    def row_name(self, index: int) -> str:
        return f"{self.name}[{index}]"


def dotted(row: str, path: tuple[str, ...]) -> str:
    """The name of what is at `path` in the row of that name; an empty `row` is the document."""
    return ".".join((row, *path)) if row else ".".join(path)


def field_name(name: str) -> str:
    """The schema's name of a value: `containers[].container_size` for `containers[3].container_size`."""
    return _NUMBER.sub("[]", name)


def row_of(name: str) -> str:
    """The row of a value or list: `containers[3]` of `containers[3].size`, `a[0].b[1]` of `a[0].b[1].c`, else empty."""
    return name[: name.rindex("]") + 1] if "]" in name else ""


def as_rows(value: Any) -> list[Any]:
    """The rows of a list; none if the value is not a list."""
    return value if isinstance(value, list) else []


def lists_of(schema: TargetSchema, answer: Any) -> Iterator[FoundList]:
    """Every list of an answer, absent ones as empty; a list comes before the lists in its rows."""
    yield from lists_below(schema.lists, answer, "")


def lists_below(lists: Iterable[RowList], of: Any, row: str) -> Iterator[FoundList]:
    """The `lists` of one row (or of the document), and the lists inside their rows."""
    for rows in lists:
        found = FoundList(dotted(row, rows.path), rows, as_rows(value_at(of, rows.path)), row)
        yield found
        if rows.lists:
            for index, item in enumerate(found.items):
                yield from lists_below(rows.lists, item, found.row_name(index))


def values_of(schema: TargetSchema, answer: Any) -> Iterator[Value]:
    """Every value of an answer, absent ones included: the header's, then those of each list of `lists_of`."""
    for leaf in schema.header:
        yield Value(leaf.name, leaf, value_at(answer, leaf.path), "")
    for found in lists_of(schema, answer):
        for index, item in enumerate(found.items):
            row = found.row_name(index)
            for leaf in found.rows.leaves:
                yield Value(dotted(row, leaf.path), leaf, value_at(item, leaf.path), row)


def values_at(answer: Any, name: str) -> Iterator[tuple[str, Any]]:
    """`(name with row numbers, value)` at a field's dotted name, one for each row: `groups[].results[].time`.

    A name without `[]` is one value, None where it is absent.
    """
    head, separator, tail = name.partition("[]")
    found = value_at(answer, tuple(head.split(".")) if head else ())
    if not separator:
        yield name, found
        return
    for index, item in enumerate(as_rows(found)):
        inner = tail.removeprefix(".")
        if not inner:
            yield f"{head}[{index}]", item
            continue
        for below, value in values_at(item, inner):
            yield f"{head}[{index}]{'' if below.startswith('[') else '.'}{below}", value


def value_named(answer: Any, name: str) -> Any:
    """The value of a name with row numbers: `groups[0].results[2].time`; None where it is absent."""
    for step in _STEP.findall(name):
        if step.startswith("["):
            rows, number = as_rows(answer), int(step[1:-1])
            answer = rows[number] if number < len(rows) else None
        else:
            answer = value_at(answer, (step,))
    return answer


def rows_together(answer: Any, names: Iterable[str]) -> Iterator[list[str]]:
    """The field names with row numbers, once for each row of the deepest list that they name.

    `["issued", "stays[].from", "stays[].to"]` gives `["issued", "stays[0].from", "stays[0].to"]`, and so on.
    """
    names = list(names)
    deepest = max((name.rpartition("[]")[0] for name in names), key=len, default="")
    if not deepest:
        yield names
        return
    for place, _ in values_at(answer, deepest + "[]"):
        numbers = _NUMBER.findall(place)
        yield [numbered(name, numbers) for name in names]


def numbered(name: str, numbers: list[str]) -> str:
    """`groups[].results[].time` with `["[0]", "[2]"]` in place of the brackets."""
    for number in numbers:
        name = name.replace("[]", number, 1)
    return name
