"""Documents with more pages than the model was trained on: windows of pages, and one answer merged from their answers.

Neighbouring windows share one page, so that a row at the edge of a page is complete in one of them. Rows that both
windows read are taken once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from toolkit.evaluation.comparison import agree, normal_form
from toolkit.schema.answer_values import as_rows, dotted
from toolkit.schema.target import Leaf, RowList, TargetSchema, put_at, value_at
from toolkit.schema.values import is_absent

P = TypeVar("P")
S = TypeVar("S", bound=Any)


def windows_of(pages: list[P], size: int) -> list[list[P]]:
    """Windows of at most `size` pages; from size 2 on, the last page of one is the first page of the next."""
    if len(pages) <= size:
        return [pages]
    step = max(1, size - 1)
    starts = range(0, len(pages) - (size - step), step)
    return [pages[start : start + size] for start in starts]


def union(schema: TargetSchema, answers: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """One answer from the windows' answers (in page order), and a sentence for each header field on which they
    disagree.

    A header field takes the first value present. Rows are taken in order. A row whose key an earlier window has
    read is the same row: its empty cells are filled, and the lists inside it are united in the same way. Rows without
    a key are taken once if one window ends with the rows that begin the next; of rows that hold lists, the cells
    beside the lists decide.
    """
    if len(answers) == 1:
        return answers[0], []
    merged: dict[str, Any] = {}
    disagreements = []
    for leaf in schema.header:
        values = [value for answer in answers if not is_absent(value := value_at(answer, leaf.path))]
        others = [value for value in values[1:] if not same(leaf, values[0], value)]
        if others:
            disagreements.append(f"{leaf.name}: {values[0]!r} on earlier pages, {others[0]!r} on later ones")
        put_at(merged, leaf.path, values[0] if values else None)
    for rows in schema.lists:
        put_at(merged, rows.path, united_rows(rows, [as_rows(value_at(a, rows.path)) for a in answers]))
    return schema.ordered(merged), disagreements


def same(leaf: Leaf, value: Any, other: Any) -> bool:
    """Whether two windows read the same value; a leaf that is not scored is compared exactly."""
    return bool(value == other) if leaf.compare == "skip" else agree(leaf, value, other)


def united_scores(
    schema: TargetSchema, answers: list[dict[str, Any]], scores: list[dict[str, S]], merged: dict[str, Any]
) -> dict[str, S]:
    """The windows' scores, by value name, as scores of the merged answer.

    A value takes the score of the first window that gave it. A list as a whole takes the lowest score, by the
    order of `S`.
    """
    united: dict[str, S] = {}
    for leaf in schema.header:
        value = value_at(merged, leaf.path)
        for answer, known in zip(answers, scores, strict=True):
            if value_at(answer, leaf.path) == value and leaf.name in known:
                united.setdefault(leaf.name, known[leaf.name])
    windows = [(answer, known, "") for answer, known in zip(answers, scores, strict=True)]
    return united | united_list_scores(schema.lists, windows, merged, "")


def united_list_scores(
    lists: Iterable[RowList], windows: list[tuple[Any, dict[str, S], str]], merged: Any, name: str
) -> dict[str, S]:
    """The scores of the lists in one merged row (or the document).

    `windows`: the same row in each window that has it, the window's scores, and the row's name there.
    """
    united: dict[str, S] = {}
    for rows in lists:
        own_name = dotted(name, rows.path)
        for index, row in enumerate(as_rows(value_at(merged, rows.path))):
            sources = [
                (other, known, f"{dotted(before, rows.path)}[{place}]")
                for of, known, before in windows
                for place, other in enumerate(as_rows(value_at(of, rows.path)))
                if same_row(rows, row, other)
            ]
            for leaf in rows.leaves:
                for other, known, source in sources:
                    equal = value_at(row, leaf.path) == value_at(other, leaf.path)
                    if equal and dotted(source, leaf.path) in known:
                        united.setdefault(dotted(f"{own_name}[{index}]", leaf.path), known[dotted(source, leaf.path)])
            united |= united_list_scores(rows.lists, sources, row, f"{own_name}[{index}]")
        of_list = [known[place] for _, known, before in windows if (place := dotted(before, rows.path)) in known]
        if of_list:
            united[own_name] = min(of_list)
    return united


def same_row(rows: RowList, row: Any, other: Any) -> bool:
    """Whether two rows are the same: equal keys, or equal cells where the list has no key.

    The lists inside rows say nothing where the rows have cells beside them: a page may end within them.
    """
    if rows.key is not None:
        return bool(value_at(row, rows.key.path) == value_at(other, rows.key.path))
    if not rows.lists:
        return bool(row == other)
    cells = [(value_at(row, leaf.path), value_at(other, leaf.path)) for leaf in rows.leaves]
    if all(is_absent(cell) for cell, _ in cells):
        return bool(row == other)
    return all(one == two for one, two in cells)


def united_rows(rows: RowList, windows: list[list[Any]]) -> list[Any]:
    """One list of rows from the lists of the windows, see `union`."""
    result: list[Any] = []
    places: dict[Any, int] = {}
    for window in windows:
        if rows.key is None:
            shared = shared_rows(rows, result, window)
            for place in range(shared):
                result[place - shared] = filled(rows, result[place - shared], window[place])
            result += window[shared:]
            continue
        form = normal_form(rows.key)
        # Only a row of an earlier window can be the same row: a key twice within one window is printed twice.
        earlier = dict(places)
        for row in window:
            value = value_at(row, rows.key.path)
            known = None if is_absent(value) else earlier.get(form(value))
            if known is not None:
                result[known] = filled(rows, result[known], row)
                continue
            if not is_absent(value):
                places.setdefault(form(value), len(result))
            result.append(row)
    return result


def shared_rows(rows: RowList, before: list[Any], after: list[Any]) -> int:
    """How many rows end one list and begin the next."""
    for count in range(min(len(before), len(after)), 0, -1):
        if all(same_row(rows, one, other) for one, other in zip(before[-count:], after[:count], strict=True)):
            return count
    return 0


def filled(rows: RowList, row: Any, other: Any) -> Any:
    """`row` with its absent cells taken from `other`, and the lists inside both united."""
    if not isinstance(row, dict) and rows.leaves:
        return row
    merged: Any = copied(row)
    for leaf in rows.leaves:
        if is_absent(value_at(row, leaf.path)):
            put_at(merged, leaf.path, value_at(other, leaf.path))
    for inner in rows.lists:
        items = united_rows(inner, [as_rows(value_at(row, inner.path)), as_rows(value_at(other, inner.path))])
        if not inner.path:
            return items
        put_at(merged, inner.path, items)
    return merged


def copied(row: Any) -> Any:
    """A copy of a row and of the objects inside it."""
    return {name: copied(value) for name, value in row.items()} if isinstance(row, dict) else row
