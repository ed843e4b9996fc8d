"""Scores of many documents as one array of counts: metrics, fields, buckets, bootstrap intervals, differences of two runs.

Every metric is a function of sums over documents, so a bootstrap sample is a weighting of the documents and its sums one matrix
product. Precision = TP / (TP + WRONG + SPURIOUS), recall = TP / (TP + WRONG + MISS), F1 = 2 TP / (2 TP + 2 WRONG + MISS + SPURIOUS).
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from toolkit.evaluation.scoring import DocumentScore, judged_lists
from toolkit.schema.target import TargetSchema

COUNTED = ("tp", "wrong", "miss", "spurious")  # per field; "tn" is not counted
WHOLE = ("rows_gold", "rows_predicted", "rows_right", "row_error", "rows_exact", "exact", "valid")
HIGHER, LOWER = "higher", "lower"
# Every metric, and whether higher or lower is better: the one place that says so.
METRICS = {
    "micro_f1": HIGHER,
    "micro_precision": HIGHER,
    "micro_recall": HIGHER,
    "macro_f1": HIGHER,
    "header_macro_f1": HIGHER,
    "row_precision": HIGHER,
    "row_recall": HIGHER,
    "row_f1": HIGHER,
    "cell_f1": HIGHER,
    "row_set_exact": HIGHER,
    "row_count_error": LOWER,
    "document_exact": HIGHER,
}
RATES = tuple(METRICS)
ROUNDING = 1e-12  # two rates that are nearer than this are equal
ROW_BUCKETS = ((0, "0"), (5, "1-5"), (20, "6-20"), (50, "21-50"))
# What an answer must pass, in order; the states in which it fails there.
FUNNEL = (
    ("answered", {"missing", "http_error", "refused", "unreadable"}),
    ("finished", {"truncated"}),
    ("JSON", {"not_json"}),
    ("schema", {"schema_error"}),
    ("checks", {"ok, a check fails"}),
)
SAMPLES = 2000
BLOCK = 100  # bootstrap samples weighted at once


class ScoreTable:
    """Counts of documents in the order they were added; `table` is int32 [documents, 4 x fields + 7].

    `states` is the status of each; `groups` the buckets that each belongs to (rows, pages, and the caller's own).
    """

    def __init__(self, schema: TargetSchema) -> None:
        self.schema = schema
        self.fields = [leaf.name for leaf in schema.leaves if leaf.compare != "skip"]
        self.header = {leaf.name for leaf in schema.header}
        self.has_rows = bool(judged_lists(schema))
        self.ids: list[str] = []
        self.states: list[str] = []
        self.checked: list[bool] = []
        self.groups: dict[str, list[int]] = {}
        self._counts = array("i")

    def add(self, score: DocumentScore, *, checked: bool = True, groups: Iterable[str] = ()) -> None:
        """Count one document; `checked`: its answer passed the business checks."""
        number = len(self.ids)
        self.ids.append(score.identity)
        self.states.append(score.status)
        self.checked.append(checked)
        for name in self.fields:
            counts = score.fields.get(name)
            self._counts.extend([counts[o] for o in COUNTED] if counts else (0, 0, 0, 0))
        self._counts.extend(
            (
                score.rows_gold,
                score.rows_predicted,
                score.rows_right,
                abs(score.rows_gold - score.rows_predicted),
                score.rows_exact,
                score.exact,
                score.answered,
            )
        )
        own = [f"rows {row_bucket(score.rows_gold)}"] if self.has_rows else []
        for group in (*own, f"pages {score.pages}", *groups):
            self.groups.setdefault(group, []).append(number)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def table(self) -> Any:
        import numpy

        return numpy.frombuffer(self._counts, dtype=numpy.int32).reshape(len(self.ids), -1)

    def metrics(self, sums: Any, documents: Any) -> dict[str, Any]:
        """Every rate of `sums` (counts summed over documents, [..., columns]); row metrics are left out where there
        are no lists.

        A rate of 0 / 0 (nothing was to be found, and nothing was) is the share of documents with a valid answer: a
        valid answer that finds nothing where nothing is scores 1, a failed one 0. Only `row_count_error` is then 0.
        """
        import numpy

        sums = numpy.asarray(sums, dtype=float)
        width = 4 * len(self.fields)
        cells = sums[..., :width].reshape(*sums.shape[:-1], len(self.fields), 4)
        whole = {name: sums[..., width + i] for i, name in enumerate(WHOLE)}
        is_header = numpy.array([name in self.header for name in self.fields])
        answered = ratio(whole["valid"], documents, 0.0)
        tp, wrong, miss, spurious = (cells.sum(-2)[..., i] for i in range(4))
        field_scores = f1(*(cells[..., i] for i in range(4)), empty=0.0)
        # A field that neither gold nor predictions ever fill says nothing and stays out of the mean.
        seen = cells.sum(-1) > 0
        found = {
            "micro_f1": f1(tp, wrong, miss, spurious, empty=answered),
            "micro_precision": ratio(tp, tp + wrong + spurious, answered),
            "micro_recall": ratio(tp, tp + wrong + miss, answered),
            "macro_f1": ratio((field_scores * seen).sum(-1), seen.sum(-1), answered),
            "header_macro_f1": ratio((field_scores * seen * is_header).sum(-1), (seen & is_header).sum(-1), answered),
            "document_exact": ratio(whole["exact"], documents, 0.0),
        }
        if self.has_rows:
            inner = cells[..., ~is_header, :].sum(-2)
            gold, predicted, right = whole["rows_gold"], whole["rows_predicted"], whole["rows_right"]
            found |= {
                "row_precision": ratio(right, predicted, answered * (gold == 0)),
                "row_recall": ratio(right, gold, answered * (predicted == 0)),
                "row_f1": f1(right, 0, gold - right, predicted - right, empty=answered),
                "cell_f1": f1(*(inner[..., i] for i in range(4)), empty=answered),
                "row_set_exact": ratio(whole["rows_exact"], documents, 0.0),
                "row_count_error": ratio(whole["row_error"], documents, 0.0),
            }
        return found

    def summary(self, members: Sequence[int] | None = None) -> dict[str, Any]:
        """The metrics of DESIGN over all documents or `members`; row metrics are None where the schema has no list."""
        table = self.table if members is None else self.table[list(members)]
        sums = table.sum(0, dtype=float)
        rates = {name: float(value) for name, value in self.metrics(sums, len(table)).items()}
        return {
            "documents": len(table),
            "valid": int(sums[-1]),
            **{name: rates.get(name) for name in RATES},
        }

    def field_table(self) -> list[dict[str, Any]]:
        """One line a field: outcome counts, precision, recall, F1 (0 / 0 as in `metrics`); costliest (most errors)
        first."""
        sums = self.table.sum(0, dtype=float)
        answered = ratio(sums[-1], len(self), 0.0)
        lines = []
        for index, name in enumerate(self.fields):
            tp, wrong, miss, spurious = (float(v) for v in sums[4 * index : 4 * index + 4])
            line = {
                "field": name,
                "tp": int(tp),
                "wrong": int(wrong),
                "miss": int(miss),
                "spurious": int(spurious),
                "f1": float(f1(tp, wrong, miss, spurious, empty=answered)),
                "errors": int(wrong + miss + spurious),
                "precision": float(ratio(tp, tp + wrong + spurious, answered)),
                "recall": float(ratio(tp, tp + wrong + miss, answered)),
            }
            lines.append(line)
        return sorted(lines, key=lambda line: (-line["errors"], line["field"]))

    def buckets(self) -> dict[str, dict[str, Any]]:
        """A few metrics by number of gold rows, by pages, and by the caller's groups."""
        order = [f"rows {name}" for _, name in ROW_BUCKETS] + ["rows >50"]
        names = [name for name in order if name in self.groups] + sorted(
            (n for n in self.groups if n not in order), key=by_number
        )
        kept = ("documents", "micro_f1", "row_f1", "document_exact")
        return {
            name: {key: value for key, value in self.summary(self.groups[name]).items() if key in kept}
            for name in names
        }

    def states_counted(self) -> dict[str, int]:
        return dict(Counter(self.states).most_common())

    def funnel(self) -> dict[str, int]:
        """Documents that are left after each gate: answered, finished, JSON, schema, checks. An unknown status is no
        answer."""
        states = Counter(
            "ok, a check fails" if state == "ok" and not passed else state
            for state, passed in zip(self.states, self.checked, strict=True)
        )
        known = {"ok"}.union(*(failing for _, failing in FUNNEL))
        left, found = len(self), {"documents": len(self)}
        left -= sum(count for state, count in states.items() if state not in known)
        for gate, failing in FUNNEL:
            left -= sum(states[state] for state in failing)
            found[gate] = left
        return found

    def intervals(self, *, seed: int, samples: int = SAMPLES) -> dict[str, tuple[float, float]]:
        """95 % intervals of every rate: percentiles of a bootstrap over documents."""
        drawn = self.resampled(seed, samples)
        return {name: bounds(values) for name, values in drawn.items()}

    def resampled(self, seed: int, samples: int) -> dict[str, Any]:
        """Every rate in each bootstrap sample, [samples]. The same seed and number of documents draw the same documents."""
        import numpy

        draw = numpy.random.default_rng(seed)
        count, table = len(self), self.table.astype(float)
        blocks = []
        for start in range(0, samples, BLOCK):
            rows = min(BLOCK, samples - start)
            picks = draw.integers(0, count, (rows, count))
            weights = numpy.stack([numpy.bincount(pick, minlength=count) for pick in picks])
            blocks.append(weights @ table)
        return self.metrics(numpy.concatenate(blocks), count)


def compared(first: ScoreTable, second: ScoreTable, *, seed: int, samples: int = SAMPLES) -> dict[str, dict[str, Any]]:
    """`first` minus `second` on the same documents: difference, 95 % interval (paired bootstrap), verdict.

    The verdict on the first is "better" or "worse" where the interval leaves out 0, else "no difference shown". Raises
    ValueError where the two hold other documents.
    """
    if first.ids != second.ids:
        raise ValueError("the two runs hold different documents")
    ours, theirs = first.summary(), second.summary()
    a, b = first.resampled(seed, samples), second.resampled(seed, samples)
    found = {}
    for name, values in a.items():
        low, high = bounds(values - b[name])
        above, under = low > ROUNDING, high < -ROUNDING
        better, worse = (above, under) if METRICS[name] == HIGHER else (under, above)
        verdict = "better" if better else "worse" if worse else "no difference shown"
        found[name] = {"difference": ours[name] - theirs[name], "interval": (low, high), "verdict": verdict}
    return found


def bounds(values: Any) -> tuple[float, float]:
    import numpy

    return float(numpy.percentile(values, 2.5)), float(numpy.percentile(values, 97.5))


def ratio(numerator: Any, denominator: Any, empty: Any) -> Any:
    """Shares; where nothing was there to find and nothing was found (0 / 0) they are `empty`."""
    import numpy

    numerator, denominator = numpy.asarray(numerator, float), numpy.asarray(denominator, float)
    return numpy.where(denominator == 0, empty, numerator / numpy.where(denominator == 0, 1.0, denominator))


def f1(tp: Any, wrong: Any, miss: Any, spurious: Any, *, empty: Any) -> Any:
    """The harmonic mean of precision and recall; `empty` where there was nothing."""
    return ratio(2 * tp, 2 * tp + 2 * wrong + miss + spurious, empty)


def row_bucket(rows: int) -> str:
    return next((name for high, name in ROW_BUCKETS if rows <= high), ">50")


def by_number(name: str) -> tuple[str, float, str]:
    """`pages 2` before `pages 10`; other names by themselves."""
    head, _, tail = name.rpartition(" ")
    return (head, float(tail), "") if tail.isdigit() else (name, 0.0, "")
