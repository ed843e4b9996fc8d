"""Gates: thresholds that a score must keep. They know which direction of a metric is a decline, and compare decimals
exactly.

A threshold is the decimal that was typed. A score is a ratio in floating point, whose last bits are chance (0.95 -
0.94 is 0.010000000000000009), so scores and falls are rounded to 12 places before they are compared. A score that is
missing, null or not a number breaks its gate: what was not measured does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from toolkit.console import StageError, did_you_mean
from toolkit.evaluation.score_table import LOWER, METRICS

PLACES = Decimal("1e-12")


def threshold(text: str) -> Decimal:
    """A decimal from a command line. Raises ValueError where it is none: nothing could break a gate of `nan`."""
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a decimal number") from None
    if not value.is_finite():
        raise ValueError(f"{text!r} is not a decimal number")
    return value


def share(text: str) -> Decimal:
    """A decimal from 0 to 1. Raises ValueError where it is none."""
    value = threshold(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is not a share from 0 to 1")
    return value


def share_reached(count: int, whole: int, least: Decimal) -> bool:
    """Whether `count` of `whole` are the share `least`, in whole numbers."""
    return Fraction(count, whole) >= Fraction(least)


def measured(scores: Mapping[str, Any], metric: str) -> Decimal | None:
    """The score without its last bits; None where it is missing, null or not a finite number."""
    value = scores.get(metric)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return Decimal(value).quantize(PLACES)


def decline(metric: str, before: float, after: float) -> Decimal:
    """How much worse `after` is than `before`; negative where it is better."""
    fall = (Decimal(before) - Decimal(after)).quantize(PLACES)
    return -fall if METRICS[metric] == LOWER else fall


@dataclass(frozen=True)
class Floor:
    """The worst score of `metric` that is accepted: the least, or of an error the largest."""

    metric: str
    worst: Decimal
    flag: str = "--fail-under"

    def broken(self, name: str, scores: Mapping[str, Any]) -> str:
        """A sentence where the run `name` does not hold it; empty where it does."""
        score = measured(scores, self.metric)
        if score is None:
            return f"{self.metric} of {name} is not measured, which does not hold {self.flag} {self.worst}"
        lower = METRICS[self.metric] == LOWER
        if score > self.worst if lower else score < self.worst:
            side = "more" if lower else "less"
            return f"{self.metric} of {name} is {told(score, self.worst)}, {side} than {self.flag} {self.worst}"
        return ""


@dataclass(frozen=True)
class Allowance:
    """How much worse than another run's `metric` may be."""

    metric: str
    most: Decimal
    flag: str = "--max-drop"

    def broken(self, name: str, scores: Mapping[str, Any], other_name: str, other: Mapping[str, Any]) -> str:
        """A sentence where the run `name` is worse than `other_name` by more; empty where it is not."""
        if measured(scores, self.metric) is None:
            return f"{self.metric} of {name} is not measured, which does not hold {self.flag} {self.most}"
        if measured(other, self.metric) is None:
            return f"{self.metric} is not measured: {other_name} has none to compare with, for {self.flag} {self.most}"
        fall = decline(self.metric, other[self.metric], scores[self.metric])
        if fall > self.most:
            side = "above" if METRICS[self.metric] == LOWER else "below"
            by = f"{told(fall, self.most)} {side} {other_name}"
            return f"{self.metric} of {name} is {by}, more than {self.flag} {self.most}"
        return ""


def told(value: Decimal, limit: Decimal) -> str:
    """`value` with four places, or with as many as it takes to look different from `limit`."""
    for places in range(4, 12):
        text = f"{value:.{places}f}"
        if Decimal(text) != limit:
            return text
    return f"{value:.12f}"


def floor_of(text: str, flag: str = "--fail-under") -> Floor:
    """`METRIC=VALUE` from a command line. Raises StageError for an unknown metric or a VALUE that is no decimal."""
    return Floor(*parsed(text, flag, METRICS), flag)


def allowance_of(text: str, flag: str = "--max-drop") -> Allowance:
    """`METRIC=VALUE` from a command line. Raises StageError for an unknown metric or a VALUE that is no decimal."""
    return Allowance(*parsed(text, flag, METRICS), flag)


def parsed(text: str, flag: str, known: Iterable[str]) -> tuple[str, Decimal]:
    """`METRIC=VALUE` as its two parts. Raises StageError, which names `flag`, if it is not of that form."""
    metric, _, value = text.partition("=")
    known = list(known)
    if metric not in known:
        hint = did_you_mean(metric, known)
        raise StageError(f"{flag} {text!r}: {hint}give METRIC=VALUE with a metric of {', '.join(known)}")
    try:
        return metric, threshold(value)
    except ValueError:
        advice = f"give METRIC=VALUE with a decimal number, for example {metric}=0.95"
        raise StageError(f"{flag} {text!r}: {advice}") from None
