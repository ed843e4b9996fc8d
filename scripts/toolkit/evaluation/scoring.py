"""Scores of one document: its leaves and rows held against gold under a target schema. `score_table` adds them up.

Definitions: "", null and a missing key are ABSENT. A leaf is TP, WRONG (both present, differ),
MISS, SPURIOUS or TN. Precision = TP / (TP + WRONG + SPURIOUS), recall = TP / (TP + WRONG + MISS). Rows pair by
equal keys first, then by Hungarian assignment on agreeing cells among rows whose keys are at least half alike. A
failed answer scores as all MISS and is never right, also where there is nothing to miss. Leaves that compare as
`skip` are not judged: they count nowhere, pair no rows and are no key, and a list of nothing else is not scored.
Lists inside rows are scored within the pairs of rows that hold them; rows of every depth count as rows.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from toolkit.evaluation.comparison import outcome
from toolkit.evaluation.row_pairs import pair_rows, same_key
from toolkit.schema.answer_values import as_rows, dotted
from toolkit.schema.target import Leaf, RowList, TargetSchema, value_at
from toolkit.schema.values import is_absent


@dataclass
class DocumentScore:
    """Counts of one document.

    `fields`: outcomes per leaf name; `errors`: (field, outcome, gold, predicted, name of gold's row) for people.
    """

    identity: str
    status: str
    fields: dict[str, Counter[str]] = field(default_factory=dict)
    rows_gold: int = 0
    rows_predicted: int = 0
    rows_right: int = 0
    rows_exact: bool = True
    errors: list[tuple[str, str, Any, Any, str | None]] = field(default_factory=list)
    pages: int = 0

    @property
    def answered(self) -> bool:
        """Whether there is a valid answer to judge."""
        return self.status == "ok"

    @property
    def exact(self) -> bool:
        return self.answered and all(not (c["wrong"] or c["miss"] or c["spurious"]) for c in self.fields.values())

    def count(self, leaf: Leaf, gold: Any, predicted: Any, row: str | None = None) -> None:
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
        score_rows(score, rows, value_at(gold, rows.path), value_at(answer, rows.path), rows.name)
    return score


@functools.lru_cache(maxsize=64)
def judged_lists(schema: TargetSchema) -> tuple[RowList, ...]:
    """The outermost lists with the leaves that are judged alone; a list without one, at any depth, is left out."""
    return judged_of(schema.lists)


def judged_of(lists: Iterable[RowList]) -> tuple[RowList, ...]:
    """As `judged_lists`, of these lists."""
    found = []
    for rows in lists:
        leaves, inner = tuple(leaf for leaf in rows.leaves if leaf.compare != "skip"), judged_of(rows.lists)
        if leaves or inner:
            found.append(RowList(rows.path, leaves, inner, rows.parent))
    return tuple(found)


def judged_values(schema: TargetSchema, gold: dict[str, Any], answer: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """`(name, right)` of every value that an answer says, absent ones included, and of every list: right where it has
    as many rows as gold. Names as in a prediction's confidence: `vessel_name`, `containers[0].container_size`,
    `containers`.
    """
    gold, answer = schema.normal(gold), schema.normal(answer)
    for leaf in schema.header:
        if leaf.compare != "skip":
            yield leaf.name, outcome(leaf, value_at(gold, leaf.path), value_at(answer, leaf.path)) in ("tp", "tn")
    yield from judged_below(judged_lists(schema), gold, answer, "")


def judged_below(lists: Iterable[RowList], gold: Any, answer: Any, row: str) -> Iterator[tuple[str, bool]]:
    """As `judged_values`, of the lists in one predicted row and its partner in gold (None: it has none)."""
    for rows in lists:
        name = dotted(row, rows.path)
        expected, predicted = as_rows(value_at(gold, rows.path)), as_rows(value_at(answer, rows.path))
        partner = {p: g for g, p in pair_rows(rows, expected, predicted)}
        for index, item in enumerate(predicted):
            pair = expected[partner[index]] if index in partner else None
            for leaf in rows.leaves:
                right = outcome(leaf, value_at(pair, leaf.path), value_at(item, leaf.path)) in ("tp", "tn")
                yield dotted(f"{name}[{index}]", leaf.path), right
            yield from judged_below(rows.lists, pair, item, f"{name}[{index}]")
        yield name, len(expected) == len(predicted)


def score_rows(score: DocumentScore, rows: RowList, gold_list: Any, predicted_list: Any, name: str) -> None:
    """Pair the rows of two lists and count their cells, and the lists inside them in the same way.

    Unpaired gold cells are MISS, unpaired predicted cells SPURIOUS. `name`: gold's list with row numbers.
    """
    gold, predicted = as_rows(gold_list), as_rows(predicted_list)
    for leaf in rows.leaves:
        score.fields.setdefault(leaf.name, Counter())
    for inner in rows.lists if not gold and not predicted else ():
        score_rows(score, inner, None, None, "")
    pairs = pair_rows(rows, gold, predicted)
    score.rows_gold += len(gold)
    score.rows_predicted += len(predicted)
    score.rows_exact = score.rows_exact and len(gold) == len(predicted) == len(pairs)
    for g, p in pairs:
        before = len(score.errors)
        score_row(score, rows, gold[g], predicted[p], f"{name}[{g}]")
        whole = len(score.errors) == before
        score.rows_exact = score.rows_exact and whole
        # A row is right if its key is right. Where the list or the row has no key, all its cells must be right.
        keyless = rows.key is None or (
            is_absent(value_at(gold[g], rows.key.path)) and is_absent(value_at(predicted[p], rows.key.path))
        )
        score.rows_right += whole if keyless else same_key(rows, gold[g], predicted[p])
    for g in set(range(len(gold))) - {g for g, _ in pairs}:
        score_row(score, rows, gold[g], None, f"{name}[{g}]")
    for p in set(range(len(predicted))) - {p for _, p in pairs}:
        score_row(score, rows, None, predicted[p], None)


def score_row(score: DocumentScore, rows: RowList, gold: Any, predicted: Any, name: str | None) -> None:
    """Count the cells of one pair of rows (None: the other has no partner), and of the lists inside them."""
    for leaf in rows.leaves:
        score.count(leaf, value_at(gold, leaf.path), value_at(predicted, leaf.path), name)
    for inner in rows.lists:
        of = dotted(name or "", inner.path)
        score_rows(score, inner, value_at(gold, inner.path), value_at(predicted, inner.path), of)
