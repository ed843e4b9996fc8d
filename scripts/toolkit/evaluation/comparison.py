"""How two values of a field are compared: normal forms, agreement, and the outcome of a pair.

"", null and a missing key are ABSENT. A pair of values is TP, WRONG (both present, differ), MISS, SPURIOUS or TN.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from toolkit.schema.number_text import NumberText, number_of, same_number
from toolkit.schema.target import Leaf
from toolkit.schema.values import as_id, as_text, is_absent, iso_date

OUTCOMES = ("tp", "wrong", "miss", "spurious", "tn")


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
    if gold == predicted and type(gold) is type(predicted):
        return "tn" if is_absent(gold) else "tp"  # by far the most pairs: nothing to normalise
    if is_absent(gold):
        return "tn" if is_absent(predicted) else "spurious"
    if is_absent(predicted):
        return "miss"
    return "tp" if agree(leaf, gold, predicted) else "wrong"
