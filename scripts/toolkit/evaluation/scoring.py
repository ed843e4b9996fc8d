"""Scores of one document: its leaves and rows held against gold under a target schema. `score_table` adds them up.

Definitions: "", null and a missing key are ABSENT. A leaf is TP, WRONG (both present, differ),
MISS, SPURIOUS or TN. Precision = TP / (TP + WRONG + SPURIOUS), recall = TP / (TP + WRONG + MISS). Rows pair by
equal keys first, then by Hungarian assignment on agreeing cells among rows whose keys are at least half alike. A
failed answer scores as all MISS and is never right, also where there is nothing to miss. Leaves that compare as
`skip` are not judged: they count nowhere, pair no rows and are no key, and a list of nothing else is not scored.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolkit.schema.number_text import NumberText, number_of, same_number
from toolkit.schema.target import Leaf, RowList, TargetSchema, value_at
from toolkit.schema.values import as_id, as_text, is_absent, iso_date

OUTCOMES = ("tp", "wrong", "miss", "spurious", "tn")
SAME_ROW = 0.5  # keys less alike than this belong to different rows


def normal_form(leaf: Leaf) -> Callable[[Any], Any]:
    """The function that normalises a leaf's values.

    Equal forms agree; numbers of unequal form may agree too (7 and 7 kg).
    """
    kind = leaf.compare
    if kind == "skip":
        return lambda value: value  # never judged, but a skip key still tells rows of two windows apart
    if kind == "date":
        day_first = bool(leaf.extract.get("day_first"))
        return lambda value: iso_date(str(value), day_first=day_first) or as_text(value)
    if kind == "number":
        return functools.partial(number_form, leaf)
    return {"exact": lambda value: value, "text": as_text, "id": as_id, "enum": as_text}[kind]


def number_form(leaf: Leaf, value: Any) -> Any:
    """The normal form of a number's text: its value and unit; the text itself if it is not a number."""
    number = number_or_none(value)
    if number is None:
        return as_text(value)
    known = number.value(leaf.decimal)
    return (number.point, number.comma, number.unit) if known is None else (known, number.unit)


def number_or_none(value: Any) -> NumberText | None:
    """The number that a value spells; None if it is not a number."""
    try:
        return number_of(value)
    except ValueError:
        return None


def agree(leaf: Leaf, gold: Any, predicted: Any) -> bool:
    """Whether two present values agree under the leaf's comparison; numbers agree as `same_number` says."""
    if leaf.compare == "number":
        gold_number, predicted_number = number_or_none(gold), number_or_none(predicted)
        if gold_number is not None and predicted_number is not None:
            return same_number(gold_number, predicted_number, leaf.decimal)
        return as_text(gold) == as_text(predicted)
    form = normal_form(leaf)
    return bool(form(gold) == form(predicted))


def outcome(leaf: Leaf, gold: Any, predicted: Any) -> str:
    """One of OUTCOMES for one pair of values."""
    if is_absent(gold):
        return "tn" if is_absent(predicted) else "spurious"
    if is_absent(predicted):
        return "miss"
    if gold == predicted and type(gold) is type(predicted):
        return "tp"  # by far the most pairs: nothing to normalise
    return "tp" if agree(leaf, gold, predicted) else "wrong"


@dataclass
class DocumentScore:
    """Counts of one document.

    `fields`: outcomes per leaf name; `errors`: (field, outcome, gold, predicted, row) for people.
    """

    identity: str
    status: str
    fields: dict[str, Counter[str]] = field(default_factory=dict)
    rows_gold: int = 0
    rows_predicted: int = 0
    rows_right: int = 0
    rows_exact: bool = True
    errors: list[tuple[str, str, Any, Any, int | None]] = field(default_factory=list)
    pages: int = 0

    @property
    def answered(self) -> bool:
        """Whether there is a valid answer to judge."""
        return self.status == "ok"

    @property
    def exact(self) -> bool:
        return self.answered and all(not (c["wrong"] or c["miss"] or c["spurious"]) for c in self.fields.values())

    def count(self, leaf: Leaf, gold: Any, predicted: Any, row: int | None = None) -> None:
        result = outcome(leaf, gold, predicted)
        counts = self.fields.get(leaf.name)
        if counts is None:
            counts = self.fields[leaf.name] = Counter()
        counts[result] += 1
        if result not in ("tp", "tn"):
            self.errors.append((leaf.name, result, gold, predicted, row))


def score_document(
    schema: TargetSchema,
    identity: str,
    gold: dict[str, Any],
    predicted: dict[str, Any] | None,
    status: str,
    pages: int = 0,
) -> DocumentScore:
    """Score one document; a status other than ok counts as no answer at all, and so does a prediction that is no
    object."""
    if status == "ok" and not isinstance(predicted, dict):
        status = "missing" if predicted is None else "schema_error"
    score = DocumentScore(identity, status, pages=pages)
    score.rows_exact = score.answered
    gold, answer = schema.normal(gold), schema.normal(predicted) if status == "ok" and predicted is not None else {}
    for leaf in schema.header:
        if leaf.compare != "skip":
            score.count(leaf, value_at(gold, leaf.path), value_at(answer, leaf.path))
    for rows in judged_lists(schema):
        score_rows(score, rows, as_rows(value_at(gold, rows.path)), as_rows(value_at(answer, rows.path)))
    return score


def judged_lists(schema: TargetSchema) -> list[RowList]:
    """The lists with the leaves that are judged alone; a list without one is left out."""
    lists = []
    for rows in schema.lists:
        leaves = tuple(leaf for leaf in rows.leaves if leaf.compare != "skip")
        if leaves:
            lists.append(rows if len(leaves) == len(rows.leaves) else RowList(rows.path, leaves))
    return lists


def judged_values(schema: TargetSchema, gold: dict[str, Any], answer: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """`(name, right)` of every value that an answer says, absent ones included, and of every list: right where it has
    as many rows as gold. Names as in a prediction's confidence: `vessel_name`, `containers[0].container_size`,
    `containers`.
    """
    gold, answer = schema.normal(gold), schema.normal(answer)
    for leaf in schema.header:
        if leaf.compare != "skip":
            yield leaf.name, outcome(leaf, value_at(gold, leaf.path), value_at(answer, leaf.path)) in ("tp", "tn")
    for rows in judged_lists(schema):
        expected, predicted = as_rows(value_at(gold, rows.path)), as_rows(value_at(answer, rows.path))
        partner = {p: g for g, p in pair_rows(rows, expected, predicted)}
        for index, row in enumerate(predicted):
            for leaf in rows.leaves:
                pair = cell(expected[partner[index]], leaf) if index in partner else None
                yield rows.value_name(index, leaf), outcome(leaf, pair, cell(row, leaf)) in ("tp", "tn")
        yield rows.name, len(expected) == len(predicted)


def as_rows(value: Any) -> list[Any]:
    """The rows of a list; none if the value is not a list."""
    return value if isinstance(value, list) else []


def score_rows(score: DocumentScore, rows: RowList, gold: list[Any], predicted: list[Any]) -> None:
    """Pair the rows and count their cells; unpaired gold cells are MISS, unpaired predicted cells SPURIOUS."""
    leaves = rows.leaves
    for leaf in leaves:
        score.fields.setdefault(leaf.name, Counter())
    pairs = pair_rows(rows, gold, predicted)
    score.rows_gold += len(gold)
    score.rows_predicted += len(predicted)
    exact = len(gold) == len(predicted) == len(pairs)
    for g, p in pairs:
        before = len(score.errors)
        for leaf in leaves:
            score.count(leaf, cell(gold[g], leaf), cell(predicted[p], leaf), g)
        whole = len(score.errors) == before
        exact = exact and whole
        # A row is right if its key is right. Where the list or the row has no key, all its cells must be right.
        keyless = rows.key is None or (is_absent(cell(gold[g], rows.key)) and is_absent(cell(predicted[p], rows.key)))
        key_right = whole if keyless else same_key(rows, gold[g], predicted[p])
        score.rows_right += key_right
    for g in set(range(len(gold))) - {g for g, _ in pairs}:
        for leaf in leaves:
            score.count(leaf, cell(gold[g], leaf), None, g)
    for p in set(range(len(predicted))) - {p for _, p in pairs}:
        for leaf in leaves:
            score.count(leaf, None, cell(predicted[p], leaf), None)
    score.rows_exact = score.rows_exact and exact


def cell(row: Any, leaf: Leaf) -> Any:
    """The value of a leaf in a row; the row itself in a list of plain values."""
    return value_at(row, leaf.path) if leaf.path else row


def same_key(rows: RowList, gold: Any, predicted: Any) -> bool:
    """Whether the keys of two rows agree and are present."""
    assert rows.key is not None
    return outcome(rows.key, cell(gold, rows.key), cell(predicted, rows.key)) == "tp"


def pair_rows(rows: RowList, gold: list[Any], predicted: list[Any]) -> list[tuple[int, int]]:
    """`(gold row, predicted row)`: rows of equal keys first, then the rest, each by Hungarian assignment; rows
    without an agreeing cell stay unpaired. Which rows pair does not depend on their order.
    """
    pairs: list[tuple[int, int]] = []
    free_gold, free_predicted = list(range(len(gold))), list(range(len(predicted)))
    if rows.key is not None:
        by_key = keyed(rows, gold), keyed(rows, predicted)
        for value, of_gold in by_key[0].items():
            of_predicted = by_key[1].get(value, [])
            if len(of_gold) == len(of_predicted) == 1:
                pairs.append((of_gold[0], of_predicted[0]))
            else:
                pairs += assigned(rows, gold, predicted, of_gold, of_predicted)
        taken = {g for g, _ in pairs}, {p for _, p in pairs}
        free_gold = [g for g in free_gold if g not in taken[0]]
        free_predicted = [p for p in free_predicted if p not in taken[1]]
    return sorted(pairs + assigned(rows, gold, predicted, free_gold, free_predicted))


def keyed(rows: RowList, items: list[Any]) -> dict[Any, list[int]]:
    """Row numbers by the normal form of their key; rows without one are left out."""
    assert rows.key is not None
    form = normal_form(rows.key)
    numbers: dict[Any, list[int]] = {}
    for number, item in enumerate(items):
        value = cell(item, rows.key)
        if not is_absent(value):
            numbers.setdefault(form(value), []).append(number)
    return numbers


def assigned(
    rows: RowList, gold: list[Any], predicted: list[Any], of_gold: Sequence[int], of_predicted: Sequence[int]
) -> list[tuple[int, int]]:
    """The pairing of these rows with the highest similarity in all; between equally good ones the rows' contents
    decide.
    """
    if not of_gold or not of_predicted:
        return []
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    of_gold = sorted(of_gold, key=lambda g: json.dumps(gold[g], sort_keys=True))
    of_predicted = sorted(of_predicted, key=lambda p: json.dumps(predicted[p], sort_keys=True))
    alike = np.array([[similarity(rows, gold[g], predicted[p]) for p in of_predicted] for g in of_gold])
    chosen = zip(*linear_sum_assignment(-alike), strict=True)
    return [(of_gold[i], of_predicted[j]) for i, j in chosen if alike[i, j] > 0]


def similarity(rows: RowList, gold: Any, predicted: Any) -> float:
    """Agreeing cells of two rows plus how alike their keys are (0 to 1); 0 where they are not the same row at all.

    Two rows whose keys are both there and less than half alike are different rows: a misread container number
    keeps most of its characters, and without this rule guessed sizes and types of other containers would score by
    chance. What settles ties between pairings: rows that agree as a whole, then cells that both leave empty, then
    which fields agree, the first ones first.
    """
    from rapidfuzz.distance import Levenshtein

    outcomes = [outcome(leaf, cell(gold, leaf), cell(predicted, leaf)) for leaf in rows.leaves]
    right, empty = outcomes.count("tp"), outcomes.count("tn")
    whole = right + empty == len(outcomes)
    total = float(right)
    if rows.key is not None:
        keys = cell(gold, rows.key), cell(predicted, rows.key)
        if not any(is_absent(key) for key in keys):
            alike = Levenshtein.normalized_similarity(as_text(keys[0]), as_text(keys[1]))
            if agree(rows.key, *keys):
                alike = 1.0
            if alike < SAME_ROW:
                return 0.0
            total += alike
    if not (total or whole):
        return 0.0
    first = sum(0.5**place for place, result in enumerate(outcomes) if result == "tp")
    return total + 0.01 * whole + 1e-4 * empty + 1e-6 * first
