"""Documents with more pages than the model was trained on: windows of pages, and one answer out of the windows' answers.

Neighbouring windows share one page, so that a row at a page's edge is whole in one of them; the rows that both read are
taken once.
"""

from __future__ import annotations

from typing import Any, TypeVar

from toolkit.evaluation.scoring import agree, cell, normal_form
from toolkit.schema.target import Leaf, RowList, TargetSchema, put_at, value_at
from toolkit.schema.values import is_absent

P = TypeVar("P")
S = TypeVar("S", bound=Any)


def windows_of(pages: list[P], size: int) -> list[list[P]]:
    """Windows of at most `size` pages, the last page of one the first of the next (from size 2 on)."""
    if len(pages) <= size:
        return [pages]
    step = max(1, size - 1)
    starts = range(0, len(pages) - (size - step), step)
    return [pages[start : start + size] for start in starts]


def union(schema: TargetSchema, answers: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """One answer from the windows' answers in page order, and a sentence for every header field that they disagree on.

    A header field is the first one that is there. Rows are taken in order; a row whose key was read before is the same row
    (its empty cells are filled), rows without a key are taken once where one window ends as the next begins.
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
        put_at(merged, rows.path, united_rows(rows, [list(value_at(a, rows.path) or []) for a in answers]))
    return schema.ordered(merged), disagreements


def same(leaf: Leaf, value: Any, other: Any) -> bool:
    return bool(value == other) if leaf.compare == "skip" else agree(leaf, value, other)


def united_scores(
    schema: TargetSchema, answers: list[dict[str, Any]], scores: list[dict[str, S]], merged: dict[str, Any]
) -> dict[str, S]:
    """What was known of the windows' values, by name, as what is known of the merged answer's: each value has it from the first
    window that said it. A list as a whole has it from the window that was least sure, by the order of `S`."""
    found: dict[str, S] = {}
    for leaf in schema.header:
        value = value_at(merged, leaf.path)
        for answer, known in zip(answers, scores, strict=True):
            if value_at(answer, leaf.path) == value and leaf.name in known:
                found.setdefault(leaf.name, known[leaf.name])
    for rows in schema.lists:
        for index, row in enumerate(value_at(merged, rows.path) or []):
            for leaf in rows.leaves:
                for answer, known in zip(answers, scores, strict=True):
                    for place, other in enumerate(value_at(answer, rows.path) or []):
                        name = rows.value_name(place, leaf)
                        if name in known and same_row(rows, row, other) and cell(row, leaf) == cell(other, leaf):
                            found.setdefault(rows.value_name(index, leaf), known[name])
        of_list = [known[rows.name] for known in scores if rows.name in known]
        if of_list:
            found[rows.name] = min(of_list)
    return found


def same_row(rows: RowList, row: Any, other: Any) -> bool:
    return cell(row, rows.key) == cell(other, rows.key) if rows.key is not None else row == other


def united_rows(rows: RowList, windows: list[list[Any]]) -> list[Any]:
    result: list[Any] = []
    places: dict[Any, int] = {}
    for window in windows:
        if rows.key is None:
            shared = next((n for n in range(min(len(result), len(window)), 0, -1) if result[-n:] == window[:n]), 0)
            result += window[shared:]
            continue
        form = normal_form(rows.key)
        # Only rows of an earlier window are the same row; a key twice within one window is what the page says.
        earlier = dict(places)
        for row in window:
            value = value_at(row, rows.key.path) if rows.key.path else row
            known = None if is_absent(value) else earlier.get(form(value))
            if known is not None:
                if isinstance(result[known], dict):
                    result[known] = filled(result[known], row)
                continue
            if not is_absent(value):
                places.setdefault(form(value), len(result))
            result.append(row)
    return result


def filled(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """`row` with its absent cells taken from `other`."""
    return {
        name: filled(value, other.get(name) or {})
        if isinstance(value, dict)
        else other.get(name)
        if is_absent(value)
        else value
        for name, value in row.items()
    }
