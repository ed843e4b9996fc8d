"""Scores of predictions against gold under a target schema: leaves, fields, rows, documents, intervals.

Definitions (DESIGN, "Scoring"): "", null and a missing key are ABSENT. A leaf is TP, WRONG (both present, differ), MISS,
SPURIOUS or TN. Precision = TP / (TP + WRONG + SPURIOUS), recall = TP / (TP + WRONG + MISS). Rows pair by equal keys first,
then by Hungarian assignment on agreeing cells among rows whose keys are at least half alike. A failed answer scores as all
MISS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from toolkit.target_schema import Leaf, RowList, TargetSchema, value_at
from toolkit.values import as_id, as_number, as_text, iso_date

OUTCOMES = ("tp", "wrong", "miss", "spurious", "tn")
ROW_METRICS = ("row_precision", "row_recall", "row_f1", "cell_f1", "row_set_exact", "row_count_error")
SAME_ROW = 0.5  # keys less alike than this belong to different rows
ROW_BUCKETS = ((0, 0, "0"), (1, 5, "1-5"), (6, 20, "6-20"), (21, 50, "21-50"), (51, None, ">50"))


def is_absent(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, str) and not value.strip())


def normal_form(leaf: Leaf) -> Callable[[Any], Any]:
    """What two values of this leaf are compared as."""
    kind = leaf.compare
    if kind == "date":
        day_first = bool(leaf.extract.get("day_first"))
        return lambda value: iso_date(str(value), day_first=day_first) or as_text(value)
    return {"exact": lambda value: value, "text": as_text, "id": as_id, "number": as_number, "enum": as_text}[kind]


def outcome(leaf: Leaf, gold: Any, predicted: Any) -> str:
    """One of OUTCOMES for one pair of values."""
    if is_absent(gold):
        return "tn" if is_absent(predicted) else "spurious"
    if is_absent(predicted):
        return "miss"
    form = normal_form(leaf)
    return "tp" if form(gold) == form(predicted) else "wrong"


@dataclass
class DocumentScore:
    """Counts of one document. `fields`: outcomes per leaf name; `errors`: (field, outcome, gold, predicted, row) for people."""

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
    def exact(self) -> bool:
        return all(not (c["wrong"] or c["miss"] or c["spurious"]) for c in self.fields.values())

    def count(self, leaf: Leaf, gold: Any, predicted: Any, row: int | None = None) -> None:
        result = outcome(leaf, gold, predicted)
        self.fields.setdefault(leaf.name, Counter())[result] += 1
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
    """Score one document; a status other than ok counts as no answer at all."""
    score = DocumentScore(identity, status, pages=pages)
    answer = predicted if status == "ok" and isinstance(predicted, dict) else {}
    for leaf in schema.header:
        if leaf.compare != "skip":
            score.count(leaf, value_at(gold, leaf.path), value_at(answer, leaf.path))
    for rows in schema.lists:
        score_rows(score, rows, as_rows(value_at(gold, rows.path)), as_rows(value_at(answer, rows.path)))
    return score


def as_rows(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def score_rows(score: DocumentScore, rows: RowList, gold: list[Any], predicted: list[Any]) -> None:
    """Pair the rows and count their cells; unpaired gold cells are MISS, unpaired predicted cells SPURIOUS."""
    leaves = [leaf for leaf in rows.leaves if leaf.compare != "skip"]
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
        # A row is right only if its key is: where the list declares a key the key decides, else the whole row.
        key_right = whole if rows.key is None else same_key(rows, gold[g], predicted[p])
        score.rows_right += key_right
    for g in set(range(len(gold))) - {g for g, _ in pairs}:
        for leaf in leaves:
            score.count(leaf, cell(gold[g], leaf), None, g)
    for p in set(range(len(predicted))) - {p for _, p in pairs}:
        for leaf in leaves:
            score.count(leaf, None, cell(predicted[p], leaf), None)
    score.rows_exact = score.rows_exact and exact


def cell(row: Any, leaf: Leaf) -> Any:
    return value_at(row, leaf.path) if leaf.path else row


def same_key(rows: RowList, gold: Any, predicted: Any) -> bool:
    assert rows.key is not None
    return outcome(rows.key, cell(gold, rows.key), cell(predicted, rows.key)) == "tp"


def pair_rows(rows: RowList, gold: list[Any], predicted: list[Any]) -> list[tuple[int, int]]:
    """`(gold row, predicted row)`: equal keys in order, then Hungarian assignment of the rest; rows without an agreeing
    cell stay unpaired."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    pairs: list[tuple[int, int]] = []
    free_gold, free_predicted = list(range(len(gold))), list(range(len(predicted)))
    if rows.key is not None:
        form = normal_form(rows.key)
        waiting: dict[Any, list[int]] = {}
        for p in free_predicted:
            value = cell(predicted[p], rows.key)
            if not is_absent(value):
                waiting.setdefault(form(value), []).append(p)
        for g in list(free_gold):
            value = cell(gold[g], rows.key)
            if not is_absent(value) and waiting.get(form(value)):
                p = waiting[form(value)].pop(0)
                pairs.append((g, p))
                free_gold.remove(g)
                free_predicted.remove(p)
    if free_gold and free_predicted:
        agree = np.array([[similarity(rows, gold[g], predicted[p]) for p in free_predicted] for g in free_gold])
        for i, j in zip(*linear_sum_assignment(-agree), strict=True):
            if agree[i, j] > 0:
                pairs.append((free_gold[i], free_predicted[j]))
    return sorted(pairs)


def similarity(rows: RowList, gold: Any, predicted: Any) -> float:
    """Agreeing cells of two rows plus how alike their keys are (0 to 1); 0 where they are not the same row at all.

    Two rows whose keys are both there and less than half alike are different rows: a misread container number keeps most of
    its characters, and without this rule guessed sizes and types of other containers would score by chance.
    """
    from rapidfuzz.distance import Levenshtein

    total = float(sum(outcome(leaf, cell(gold, leaf), cell(predicted, leaf)) == "tp" for leaf in rows.leaves))
    if rows.key is not None:
        keys = cell(gold, rows.key), cell(predicted, rows.key)
        alike = Levenshtein.normalized_similarity(as_text(keys[0] or ""), as_text(keys[1] or ""))
        if alike < SAME_ROW and not any(is_absent(key) for key in keys):
            return 0.0
        total += alike
    return total


def ratio(numerator: float, denominator: float, empty: float = 1.0) -> float:
    """A share; where nothing was there to find and nothing was found it is 1."""
    return numerator / denominator if denominator else empty


def f1(tp: float, wrong: float, miss: float, spurious: float) -> float:
    """2 TP / (2 TP + 2 WRONG + MISS + SPURIOUS): the harmonic mean of precision and recall."""
    return ratio(2 * tp, 2 * tp + 2 * wrong + miss + spurious)


def totals(scores: list[DocumentScore]) -> dict[str, Counter[str]]:
    result: dict[str, Counter[str]] = {}
    for score in scores:
        for name, counts in score.fields.items():
            result.setdefault(name, Counter()).update(counts)
    return result


def field_f1(counts: Counter[str]) -> float:
    return f1(counts["tp"], counts["wrong"], counts["miss"], counts["spurious"])


def summary(schema: TargetSchema, scores: list[DocumentScore]) -> dict[str, Any]:
    """The metrics of DESIGN over documents: micro, macro, header, rows, cells, exact, valid. Row metrics are None
    where the schema has no list."""
    fields = totals(scores)
    everything: Counter[str] = sum(fields.values(), Counter())
    header = {leaf.name for leaf in schema.header}
    # A field that neither gold nor predictions ever fill says nothing and stays out of the macro mean.
    seen = {name: counts for name, counts in fields.items() if sum(counts.values()) - counts["tn"]}
    header_seen = [field_f1(counts) for name, counts in seen.items() if name in header]
    cells: Counter[str] = sum((counts for name, counts in fields.items() if name not in header), Counter())
    rows_gold, rows_predicted, rows_right = (
        sum(getattr(s, a) for s in scores) for a in ("rows_gold", "rows_predicted", "rows_right")
    )
    count = len(scores)
    result: dict[str, Any] = {
        "documents": count,
        "valid": sum(s.status == "ok" for s in scores),
        "micro_f1": field_f1(everything),
        "micro_precision": ratio(everything["tp"], everything["tp"] + everything["wrong"] + everything["spurious"]),
        "micro_recall": ratio(everything["tp"], everything["tp"] + everything["wrong"] + everything["miss"]),
        "macro_f1": ratio(sum(map(field_f1, seen.values())), len(seen)),
        "header_macro_f1": ratio(sum(header_seen), len(header_seen)),
        "row_precision": ratio(rows_right, rows_predicted, float(rows_gold == 0)),
        "row_recall": ratio(rows_right, rows_gold, float(rows_predicted == 0)),
        "row_f1": f1(rows_right, 0, rows_gold - rows_right, rows_predicted - rows_right),
        "cell_f1": field_f1(cells),
        "row_set_exact": ratio(sum(s.rows_exact for s in scores), count),
        "row_count_error": ratio(sum(abs(s.rows_gold - s.rows_predicted) for s in scores), count, 0.0),
        "document_exact": ratio(sum(s.exact for s in scores), count),
    }
    if not schema.lists:
        # Nothing to say about rows, rather than a perfect score for them.
        result |= dict.fromkeys(ROW_METRICS)
    return result


def field_table(schema: TargetSchema, scores: list[DocumentScore]) -> list[dict[str, Any]]:
    """One line a field: outcome counts, precision, recall, F1; costliest (most errors) first."""
    lines = []
    for name, c in totals(scores).items():
        lines.append(
            {"field": name, **{o: c[o] for o in OUTCOMES}, "f1": field_f1(c), "errors": c["wrong"] + c["miss"] + c["spurious"],
             "precision": ratio(c["tp"], c["tp"] + c["wrong"] + c["spurious"]), "recall": ratio(c["tp"], c["tp"] + c["wrong"] + c["miss"])}
        )  # fmt: skip
    return sorted(lines, key=lambda line: (-line["errors"], line["field"]))


def row_bucket(score: DocumentScore) -> str:
    return next(
        name for low, high, name in ROW_BUCKETS if score.rows_gold >= low and (high is None or score.rows_gold <= high)
    )


def buckets(schema: TargetSchema, scores: list[DocumentScore]) -> dict[str, dict[str, Any]]:
    """micro F1, row F1 and exact by number of gold rows and by pages."""
    groups: dict[str, list[DocumentScore]] = {}
    for score in scores:
        if schema.lists:
            groups.setdefault(f"rows {row_bucket(score)}", []).append(score)
        groups.setdefault(f"pages {score.pages}", []).append(score)
    order = [f"rows {name}" for *_, name in ROW_BUCKETS]
    names = [name for name in order if name in groups] + sorted(n for n in groups if n.startswith("pages"))
    kept = ("documents", "micro_f1", "row_f1", "document_exact")
    return {name: {key: value for key, value in summary(schema, groups[name]).items() if key in kept} for name in names}


def intervals(scores: list[DocumentScore], *, seed: int, samples: int = 1000) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals over documents of micro_f1, row_f1 and document_exact (percentiles)."""
    import numpy as np

    table = np.zeros((len(scores), 8))
    for i, score in enumerate(scores):
        everything: Counter[str] = sum(score.fields.values(), Counter())
        table[i] = [
            everything["tp"],
            everything["wrong"],
            everything["miss"],
            everything["spurious"],
            score.rows_right,
            score.rows_gold,
            score.rows_predicted,
            score.exact,
        ]
    generator = np.random.default_rng(seed)
    picks = generator.integers(0, len(scores), (samples, len(scores)))
    sums = np.stack([table[pick].sum(0) for pick in picks])
    values = {
        "micro_f1": [f1(*row[:4]) for row in sums],
        "row_f1": [f1(row[4], 0, row[5] - row[4], row[6] - row[4]) for row in sums],
        "document_exact": list(sums[:, 7] / len(scores)),
    }
    return {name: (float(np.percentile(v, 2.5)), float(np.percentile(v, 97.5))) for name, v in values.items()}
