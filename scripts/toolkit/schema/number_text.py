"""A number as people write it: sign, digits of any script, grouping, decimal sign, and a currency or unit beside it.

A text is read whole or refused with a sentence; no character is skipped to make a number. `1,000` is a thousand where
the point is the decimal sign, and one where the comma is: a text has up to two readings, and only its field can choose.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from toolkit.schema.units import canonical_unit, same_unit

Convention = Literal["point", "comma"]
CONVENTIONS: tuple[Convention, ...] = ("point", "comma")
LONGEST = 100  # characters; what is longer is no number

# Ungrouped digits, groups of three behind one kind of separator, or India's groups of two before the last three (with
# commas). No grouped number begins with 0, so 0,125 has one reading. U+066B, U+066C: Arabic's decimal and group signs.
_POINT = re.compile(
    r"(?:(?:\d+|[1-9]\d{0,2}([, '\u066c])\d{3}(?:\1\d{3})*|[1-9]\d?(?:,\d{2})+,\d{3})(?:[.\u066b]\d+)?|[.\u066b]\d+)"
)
_COMMA = re.compile(r"(?:(?:\d+|[1-9]\d{0,2}([. '\u066c])\d{3}(?:\1\d{3})*)(?:[,\u066b]\d+)?|[,\u066b]\d+)")
_BODY = re.compile(r"[.,\u066b]?\d[\d., '\u066b\u066c]*")
_HYPHENS = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2212"), "-")  # hyphens, figure dash, minus
_APOSTROPHES = dict.fromkeys(map(ord, "\u2018\u2019\u02bc"), "'")
_NO_CENTS = re.compile(r"(?:--?|[\u2013\u2014])(?![\d-])")  # behind a decimal sign: 12,- and 12.--


@dataclass(frozen=True)
class NumberText:
    """What a text says as a number: its value if the decimal sign is the point, and if it is the comma (None: it cannot
    be read so), and its canonical currency or unit ("": none is printed)."""

    point: Decimal | None
    comma: Decimal | None
    unit: str = ""

    @property
    def ambiguous(self) -> bool:
        return self.point is not None and self.comma is not None and self.point != self.comma

    @property
    def needs(self) -> Convention | None:
        """The one convention that the text can be read in; None where it can be read in both."""
        if self.point is None:
            return "comma"
        return "point" if self.comma is None else None

    def under(self, decimal: Convention) -> Decimal | None:
        """The value in this convention; None where the text does not follow it."""
        return self.point if decimal == "point" else self.comma

    def value(self, decimal: Convention | None = None) -> Decimal | None:
        """The value, `decimal` choosing where the text leaves a choice; None where it does and nothing chooses."""
        if self.ambiguous:
            return None if decimal is None else self.under(decimal)
        return self.comma if self.point is None else self.point


def number_of(value: Any) -> NumberText:
    """A JSON number, never ambiguous, or a text. Raises ValueError with a sentence where it is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise ValueError(f"{value!r} is no number")
    if isinstance(value, str):
        return read_number(value)
    number = value if isinstance(value, Decimal) else Decimal(str(value))
    return NumberText(number, number)


@functools.lru_cache(maxsize=65536)
def read_number(text: str) -> NumberText:
    """The one number that `text` is. Raises ValueError with a sentence that says what stands in the way."""
    plain = plain_characters(text)
    if len(plain) > LONGEST:
        raise ValueError(f"{text[:40] + '...'!r} is no number: it is longer than {LONGEST} characters")
    body = number_body(plain)
    if body is None:
        raise ValueError(f"{text!r} is no number: it has no digit")
    start, end = body
    before, digits, after = plain[:start], plain[start:end], plain[end:]
    if digits[-1] in ".," and (dashes := _NO_CENTS.match(after)):
        digits, after = digits + "00", after[dashes.end() :]
    negative, before, after = sign_of(before, after, text)
    point = Decimal(bare(digits, ".")) if _POINT.fullmatch(digits) else None
    comma = Decimal(bare(digits, ",")) if _COMMA.fullmatch(digits) else None
    if point is None and comma is None:
        raise ValueError(f"{text!r} is no number: {digits!r} is grouped neither as 1,234.5 nor as 1.234,5")
    unit = unit_of(before, after, text)
    if negative:
        point, comma = (None if number is None else -number for number in (point, comma))
    return NumberText(point, comma, unit)


def plain_characters(text: str) -> str:
    """`text` with digits of every script, spaces, apostrophes and hyphens in their ASCII forms; no format characters.

    Raised digits stay as they are: NFKC of the whole would make 52 of 5².
    """
    found = []
    for character in text:
        kind = unicodedata.category(character)
        if kind == "Nd":
            found.append(str(unicodedata.decimal(character)))
        elif character.isspace():
            # A line break or a tab parts two values; it groups no digits.
            found.append(" " if kind == "Zs" else "\n")
        elif kind in ("No", "Nl") or character.isascii():
            found.append(character)
        elif kind != "Cf":
            found.append(unicodedata.normalize("NFKC", character))
    return "".join(found).translate(_HYPHENS).translate(_APOSTROPHES).strip()


def number_body(plain: str) -> tuple[int, int] | None:
    """Where the digits and their separators stand; None where there is no digit."""
    match = _BODY.search(plain)
    if match is None:
        return None
    start, end = match.span()
    # The point of "Rs.500" belongs to the currency.
    if plain[start] in ".," and start and plain[start - 1].isalpha():
        start += 1
    return start, start + len(plain[start:end].rstrip(" "))


def bare(digits: str, decimal_sign: str) -> str:
    """The digits with "." before the decimals and without grouping."""
    return "".join("." if c in (decimal_sign, "\u066b") else c if c.isdigit() else "" for c in digits)


def sign_of(before: str, after: str, text: str) -> tuple[bool, str, str]:
    """`(negative, before, after)` without the sign: in front, behind (5-), or brackets. Raises ValueError for two."""
    signs = ""
    if before.count("(") == after.count(")") == 1:
        signs, before, after = "-", before.replace("(", ""), after.replace(")", "")
    # An en dash is a sign only where nothing parts it from the amount; else it is a bullet, or what stands for nothing.
    attached = (before[:1] == "\u2013" and before[1:2] != " ") or before[-1:] == "\u2013"
    before = before.replace("\u2013", "-", 1).strip() if attached else before.strip()
    if before[:1] in ("-", "+"):
        signs, before = signs + before[0], before[1:].strip()
    elif before[-1:] in ("-", "+"):
        signs, before = signs + before[-1], before[:-1].strip()
    if after[:1] == "-":
        signs, after = signs + "-", after[1:]
    if len(signs) > 1:
        raise ValueError(f"{text!r} is no number: it has two signs")
    return signs == "-", before, after.strip()


def unit_of(before: str, after: str, text: str) -> str:
    """The canonical currency or unit in front of or behind the number. Raises ValueError for what is neither."""
    found = ""
    for printed in (before, "" if after in ("/-", "/=") else after):  # India and East Africa write 500/- for no cents
        unit = canonical_unit(printed) if printed else ""
        if unit is None:
            raise ValueError(f"{text!r} is no number: {printed!r} is neither a sign nor a known currency or unit")
        if not same_unit(found, unit):
            raise ValueError(f"{text!r} is no number: it has two units")
        # "$5 USD": the code says more than the sign.
        found = unit if unit and len(unit) >= len(found) else found
    return found


def same_number(one: NumberText, other: NumberText, decimal: Convention | None) -> bool:
    """Whether two numbers agree in value and unit.

    With a convention each text is read in it (a text that can only be read the other way, in that one). Without, two
    texts that leave no choice compare by value; else they agree only if one convention reads both, as the same number.
    """
    if not same_unit(one.unit, other.unit):
        return False
    if decimal is not None or not (one.ambiguous or other.ambiguous):
        return one.value(decimal) == other.value(decimal)
    return any(
        first is not None and first == second for first, second in ((one.point, other.point), (one.comma, other.comma))
    )
