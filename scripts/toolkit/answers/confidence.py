"""Calibrated confidence: features of each predicted value, a small monotone model over them, and its quality.

Features of a value; for each, a higher number means that the value is more likely right:
`logprob`  sum of the log-probabilities of its free tokens (see `token_confidence`), used as log-odds
`lowest`   log-probability of its least likely token, used as log-odds
`row`      log-probability of the least likely token of its row, used as log-odds; 0 outside rows (a misread row is
           usually wrong as a whole)
`check`    1: a business check on it passes, -1: one fails, 0: no check covers it
`text`     1: the page's text layer contains it, -1: the text layer does not contain it, 0: no text layer, or not known

The model is a logistic regression whose feature weights are at least 0. Each field has an offset that is shrunk
towards the common one. So a higher feature never lowers the confidence, and a field with little data behaves like
the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from toolkit.answers.token_confidence import ValueScore
from toolkit.pages.evidence import DocumentWords, Place
from toolkit.schema.answer_values import field_name, row_of, values_of
from toolkit.schema.checks import check_states
from toolkit.schema.target import TargetSchema
from toolkit.schema.values import is_absent

FEATURES = ("logprob", "lowest", "row", "check", "text")
LIMIT = 12.0  # log-odds are clipped here; beyond this, floating point carries no information
SHRINKAGE = 1.0  # L2 penalty of weights and field offsets, in values


def rounded(value: float | None) -> float | None:
    """`value` with four decimals; None stays None."""
    return None if value is None else round(value, 4)


def places_of(schema: TargetSchema, answer: dict[str, Any], words: DocumentWords) -> dict[str, Place | None]:
    """The place on the page of each present value; None if the text layer does not contain it.

    A row's cell is searched only on the line of the row's key. If it is not there it is left out, because a match
    elsewhere proves nothing (a size of 20 occurs anywhere).
    """
    located: dict[str, Place | None] = {}
    lines: dict[str, set[int]] = {}
    taken: set[tuple[int, int]] = set()
    values = [one for one in values_of(schema, answer) if not is_absent(one.value) and one.leaf.compare != "skip"]
    for name, leaf, value, row in values:
        if row and not leaf.is_key:
            continue
        places = words.find(leaf, value)
        # A key printed twice belongs to two rows, so each row takes a place of its own while there are free ones.
        place = next((p for p in places if (p.first, p.last) not in taken), places[0] if places else None)
        located[name] = place
        if place is not None and row:
            taken.add((place.first, place.last))
            lines[row] = {words.lines[place.first], words.lines[place.last]}
    for name, leaf, value, row in values:
        if not row or leaf.is_key:
            continue
        line = lines.get(row)
        if line is not None and (here := [p for p in words.find(leaf, value) if words.lines[p.first] in line]):
            located[name] = here[0]
    return located


def features_of(
    schema: TargetSchema, answer: dict[str, Any], scores: dict[str, ValueScore], places: dict[str, Place | None] | None
) -> dict[str, list[float | None]]:
    """`{name: [logprob, lowest, row, check, text]}` of every value that has a score; `places` is None without a text
    layer.
    """
    checks = check_states(schema, answer)
    rows: dict[str, float] = {}
    for name, score in scores.items():
        rows[row_of(name)] = min(rows.get(row_of(name), 0.0), score.lowest)
    features: dict[str, list[float | None]] = {}
    for name, score in scores.items():
        text = 0 if places is None or name not in places else (1 if places[name] else -1)
        row = rows[row_of(name)] if row_of(name) else None
        features[name] = [rounded(score.logprob), rounded(score.lowest), rounded(row), checks.get(name, 0), text]
    return features


def raw_confidence(features: Sequence[Any]) -> float:
    """The confidence without a fitted model: the probability of the value's free tokens."""
    return math.exp(min(0.0, features[0]))


def log_odds(logprob: float) -> float:
    """Log-odds of a probability that is given as its natural logarithm, clipped to +-LIMIT."""
    if logprob >= 0:
        return LIMIT
    return max(-LIMIT, min(LIMIT, logprob - math.log(-math.expm1(logprob))))


def inputs_of(features: Sequence[Any]) -> list[float]:
    """The model's inputs, in the order of FEATURES: log-probabilities as log-odds, a missing row as 0."""
    logprob, lowest, row, check, text = features
    return [log_odds(logprob), log_odds(lowest), 0.0 if row is None else log_odds(row), float(check), float(text)]


@dataclass(frozen=True)
class ConfidenceModel:
    """A fitted model: `weights` by FEATURES, all at least 0; `offsets` by field name, added to `offset`.

    `values` and `wrong`: how many values it was fitted on, and how many of them were wrong.
    """

    weights: dict[str, float]
    offset: float
    offsets: dict[str, float] = field(default_factory=dict)
    values: int = 0
    wrong: int = 0

    def probability(self, name: str, features: Sequence[Any]) -> float:
        """The probability that the value is right."""
        total = self.offset + self.offsets.get(field_name(name), 0.0)
        total += sum(self.weights[key] * x for key, x in zip(FEATURES, inputs_of(features), strict=True))
        return 1 / (1 + math.exp(-max(-40.0, min(40.0, total))))

    def as_dict(self) -> dict[str, Any]:
        """The model as extraction_config.json stores it."""
        return asdict(self)


def fitted(names: Sequence[str], features: Sequence[Sequence[Any]], right: Sequence[bool]) -> ConfidenceModel:
    """Fit a model by penalised maximum likelihood on values of any number of documents.

    Raises ValueError if all values are right or all are wrong.
    """
    import numpy
    from scipy.optimize import minimize

    if all(right) or not any(right):
        raise ValueError("all values are right" if all(right) else "no value is right")
    fields = sorted({field_name(name) for name in names})
    place = {name: index for index, name in enumerate(fields)}
    x = numpy.array([inputs_of(f) for f in features])
    own = numpy.array([place[field_name(name)] for name in names])
    y = numpy.array(right, float)
    width = len(FEATURES)
    start = numpy.zeros(width + 1 + len(fields))
    start[0], start[width] = 1.0, math.log(y.mean() / (1 - y.mean()))

    def loss(theta: Any) -> tuple[float, Any]:
        z = x @ theta[:width] + theta[width] + theta[width + 1 :][own]
        value = numpy.logaddexp(0, z).sum() - (y * z).sum()
        error = 1 / (1 + numpy.exp(-z)) - y
        slope = numpy.concatenate([x.T @ error, [error.sum()], numpy.bincount(own, error, len(fields))])
        penalised = numpy.concatenate([theta[:width], [0.0], theta[width + 1 :]])
        return value + SHRINKAGE / 2 * (penalised**2).sum(), slope + SHRINKAGE * penalised

    bounds = [(0, None)] * width + [(None, None)] * (1 + len(fields))
    theta = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return ConfidenceModel(
        weights={key: round(float(w), 6) for key, w in zip(FEATURES, theta[:width], strict=True)},
        offset=round(float(theta[width]), 6),
        offsets={name: round(float(v), 6) for name, v in zip(fields, theta[width + 1 :], strict=True)},
        values=len(right),
        wrong=int(len(right) - y.sum()),
    )


def quality(confidence: Any, right: Any) -> dict[str, Any]:
    """How well confidences separate right from wrong values; both arguments are arrays of the same length.

    `auroc`: the probability that a right value has a higher confidence than a wrong one, ties counted half (None
    if there are no right or no wrong values). `ece`: expected calibration error over 15 bins of equally many
    values. `risk_coverage`: error rate among the most confident share of the values, as `[coverage, risk]` in
    steps of 0.05. `accuracy_at_80`: 1 - risk at a coverage of 0.8. `reliability`: mean confidence, accuracy and
    size of each bin. Values of equal confidence are taken as evenly mixed.
    """
    import numpy
    from scipy.stats import rankdata

    confidence, right = numpy.asarray(confidence, float), numpy.asarray(right, bool)
    count, good = len(right), int(right.sum())
    bad = count - good
    auroc = None
    if good and bad:
        auroc = float((rankdata(confidence)[right].sum() - good * (good + 1) / 2) / (good * bad))
    order = numpy.argsort(confidence, kind="stable")
    bins = [part for part in numpy.array_split(order, 15) if len(part)]
    ece = sum(len(part) * abs(float(confidence[part].mean() - right[part].mean())) for part in bins) / count
    # Errors among the k most confident values, spread evenly within groups of equal confidence.
    _, group, sizes = numpy.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = numpy.bincount(group, ~right, len(sizes))
    reached = numpy.concatenate([[0], numpy.cumsum(sizes)])
    errors = numpy.concatenate([[0], numpy.cumsum(wrong)])
    shares = [step / 20 for step in range(1, 21)]
    risks = [float(numpy.interp(share * count, reached, errors)) / (share * count) for share in shares]
    return {
        "values": count,
        "accuracy": good / count,
        "auroc": auroc,
        "ece": float(ece),
        "accuracy_at_80": 1 - risks[15],
        "risk_coverage": [[share, round(risk, 6)] for share, risk in zip(shares, risks, strict=True)],
        "reliability": [
            [round(float(confidence[p].mean()), 4), round(float(right[p].mean()), 4), len(p)] for p in bins
        ],
    }
