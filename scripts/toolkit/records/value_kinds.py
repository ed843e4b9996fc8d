"""What kind of field a list of example values is: its type, bound, comparison and conventions, and why."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from toolkit.records.label_table import is_blank_cell
from toolkit.schema.defaults import ID_NAME, compare_by_name, words_of
from toolkit.schema.number_columns import NumberColumn
from toolkit.schema.values import is_ambiguous_date, is_number, iso_date

MOST_CHOICES, LONGEST_CHOICE, FEWEST_VALUES, REPEATS = 20, 40, 12, 4
SHORTEST_TEXT = 20
LONG_DIGITS = 9  # a number of so many digits without a sign of grouping is a name: a telephone, an account
_LEADING_ZERO = re.compile(r"[+-]?0\d")
_CODE = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9/._-]{5,}")


@dataclass
class FieldGuess:
    """A field's `schema`, `why` in words, and what a person should `check`."""

    schema: dict[str, Any]
    why: str
    check: list[str] = field(default_factory=list)


def rounded_up(number: int) -> int:
    """A bound with room: half as much again, to a multiple of ten."""
    return -(-max(1, number * 3 // 2) // 10) * 10


def field_of_values(name: str, values: list[Any]) -> FieldGuess:
    """The field that these values of one name are; blank ones say only that it may be absent."""
    there = [value for value in values if not is_blank_cell(value)]
    if not there:
        schema = {"type": ["string", "null"], "maxLength": 200}
        return FieldGuess(schema, "text, because no value was seen", [f"{name}: no value was seen; is it a field?"])
    is_id = bool(ID_NAME.search(words_of(name)))
    if all(isinstance(value, bool) for value in there):
        return FieldGuess({"type": ["boolean", "null"]}, "true or false")
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in there) and not is_id:
        whole = all(isinstance(value, int) or value.is_integer() for value in there)
        return FieldGuess({"type": ["integer" if whole else "number", "null"]}, "numbers")
    texts = [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v).strip() for v in there]
    guess = (None if is_id else dates(name, texts) or numbers(name, texts)) or choices(name, texts, is_id)
    return guess or text_field(name, texts, is_id)


def dates(name: str, texts: list[str]) -> FieldGuess | None:
    """Dates, and whether the day comes first; None where one value is no date or all are bare numbers."""
    if all(text.isdigit() for text in texts) and not all(len(text) == 8 for text in texts):
        return None
    read = [(text, iso_date(text, day_first=True), iso_date(text, day_first=False)) for text in texts]
    if not all(first or second for _, first, second in read):
        return None
    schema: dict[str, Any] = {"type": ["string", "null"], "maxLength": 10}
    notes: dict[str, Any] = {"compare": "date", "normalise": "iso_date"}
    guess = FieldGuess(schema | {"x-extract": notes}, "dates, written as YYYY-MM-DD")
    open_ones = [text for text in texts if is_ambiguous_date(text)]
    numeric = [text for text in texts if re.fullmatch(r"\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}", text)]
    first = [int(re.split(r"[/.-]", text)[0]) for text in numeric]
    second = [int(re.split(r"[/.-]", text)[1]) for text in numeric]
    if any(day > 12 for day in first) and not any(day > 12 for day in second):
        notes["day_first"] = True
        guess.why += "; the day comes first, as one over 12 shows"
    elif any(day > 12 for day in second) and not any(day > 12 for day in first):
        notes["day_first"] = False
        guess.why += "; the month comes first, as a day over 12 behind it shows"
    elif open_ones:
        sentence = 'say "day_first": true or false under x-extract'
        guess.check.append(f"{name}: {open_ones[0]!r} is two dates; {sentence}")
    return guess


def numbers(name: str, texts: list[str]) -> FieldGuess | None:
    """Numbers written as texts, and their decimal sign; None for names in digits, such as 00412 or a telephone."""
    digits = [re.sub(r"\D", "", text) for text in texts]
    if not all(map(is_number, texts)) or any(_LEADING_ZERO.match(text) for text in texts):
        return None
    if all(text.isdigit() and len(text) >= LONG_DIGITS for text in texts):
        return None
    column = NumberColumn()
    for text in texts:
        column.learn(text)
    if column.units:
        unit = column.units.most_common(1)[0][0]
        bound = rounded_up(max(map(len, texts)))
        schema = {"type": ["string", "null"], "maxLength": bound, "x-extract": {"compare": "number"}}
        return FieldGuess(schema, f"text compared as number, because a unit stands beside it ({unit})")
    whole = all(re.fullmatch(r"[+-]?\d+", text) for text in texts) and bool(digits)
    schema = {"type": ["integer" if whole else "number", "null"]}
    guess = FieldGuess(schema, "numbers")
    if column.decimal is not None:
        schema["x-extract"] = {"decimal": column.decimal}
        guess.why += f" with a decimal {column.decimal}, as {column.needing[column.decimal]!r} shows"
    elif column.needing:
        guess.check.append(f"{name}: {' and '.join(map(repr, column.needing.values()))} differ in their decimal sign")
    elif column.open is not None:
        guess.check.append(f'{name}: {column.open!r} is two numbers; say "decimal": "point" or "comma" under x-extract')
    return guess


def choices(name: str, texts: list[str], is_id: bool) -> FieldGuess | None:
    """A short list of choices that return; None where values are too many, too long or too seldom."""
    counted = Counter(texts)
    seldom = len(texts) < max(FEWEST_VALUES, REPEATS * len(counted))
    if is_id or seldom or len(counted) > MOST_CHOICES or max(map(len, counted)) > LONGEST_CHOICE:
        return None
    listed = [text for text, _ in sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))]
    why = f"one of {len(listed)} choices, because only these were seen in {len(texts)} values"
    check = f"{name}: are these all choices? {', '.join(listed[:6])}{' ...' if len(listed) > 6 else ''}"
    return FieldGuess({"enum": [*listed, None]}, why, [check])


def text_field(name: str, texts: list[str], is_id: bool) -> FieldGuess:
    """A text, its bound, and how it is compared."""
    bound = max(SHORTEST_TEXT, rounded_up(max(map(len, texts))))
    codes = all(_CODE.fullmatch(text) for text in texts) or all(
        text.isdigit() and (len(text) >= LONG_DIGITS or _LEADING_ZERO.match(text)) for text in texts
    )
    kind = "id" if is_id or codes else compare_by_name(name, {}) or "text"
    why = f"text of at most {max(map(len, texts))} characters"
    if kind != "text":
        why += f", compared as {kind} by its {'name' if is_id or not codes else 'values'}"
    return FieldGuess({"type": ["string", "null"], "maxLength": bound, "x-extract": {"compare": kind}}, why)
