"""Values as they are compared and as labels are normalised to: texts, ids, dates (numbers: `number_text`)."""

from __future__ import annotations

import datetime
import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from toolkit.schema.number_text import read_number

_EDGES = ".,;:!?'\"()[]{}-_ "
_DASHES = tuple("\u2010\u2011\u2012\u2013\u2212")
_NOT_IN_IDS = re.compile(r"[^A-Z0-9]")


def is_absent(value: Any) -> bool:
    """Whether an answer's value is none: null, or a text without a character."""
    return value is None or value == "" or (isinstance(value, str) and not value.strip())


def as_text(value: Any) -> str:
    """NFKC, casefold, white space folded, edge punctuation stripped where it says nothing: signs of numbers stay."""
    text = " ".join(unicodedata.normalize("NFKC", str(value)).casefold().split())
    if text.startswith(_DASHES):
        text = "-" + text[1:]
    core = text.strip(_EDGES)
    if not core or len(core) == len(text):
        return text
    if any(character.isdigit() for character in core) and is_number(text):
        return text
    before, after = text[: text.index(core)], text[text.index(core) + len(core) :]
    return meant_before(before, core) + core + meant_after(before, core, after)


def meant_before(before: str, core: str) -> str:
    """The part of the stripped punctuation that a number needs: the point of .5 mm, the sign of -5 to -2."""
    if not core[0].isdigit() and unicodedata.category(core[0]) != "Sc":
        return ""
    point = before[-1:] if before[-1:] in (".", ",") and before[-2:-1] in ("", " ", "-") else ""
    sign = "-" if before.removesuffix(point)[-1:] == "-" else ""
    return sign + point


def meant_after(before: str, core: str, after: str) -> str:
    """The part of the stripped punctuation that has a meaning: the grade A-, feet and inches behind a digit."""
    if after[:1] == "-":
        return "-"
    return after[0] if core[-1].isdigit() and after[:1] in ("'", '"') and after[0] not in before else ""


def is_number(text: str) -> bool:
    """Whether the whole text is one number."""
    try:
        read_number(text)
    except ValueError:
        return False
    return True


def as_id(value: Any) -> str:
    """NFKC, upper case; only letters, their marks, and digits, of every script."""
    folded = unicodedata.normalize("NFKC", str(value)).upper()
    if folded.isascii():
        return _NOT_IN_IDS.sub("", folded) or folded
    return "".join(c for c in folded if unicodedata.category(c)[0] in "LMN") or folded


DATE_FORMATS_DAY_FIRST = ("%d/%m/%Y", "%d-%m-%Y", "%d.%m.%Y", "%d/%m/%y", "%d-%m-%y", "%d.%m.%y")
DATE_FORMATS_MONTH_FIRST = ("%m/%d/%Y", "%m-%d-%Y", "%m/%d/%y", "%m-%d-%y")
DATE_FORMATS_NAMED = (
    "%d %b %Y",
    "%d %B %Y",
    "%d-%b-%Y",
    "%d-%b-%y",
    "%d %b %y",
    "%b %d, %Y",
    "%B %d, %Y",
    "%d%b%Y",
    "%b %d %Y",
    "%d/%b/%Y",
)
DATE_FORMATS_WRITTEN = ("%d %b %Y", "%d %B %Y", "%b %d %Y", "%B %d %Y", "%Y %b %d", "%Y %B %d")


_YEAR_FIRST = re.compile(r"(\d{4})\s*[年년]\s*(\d{1,2})\s*[月월]\s*(\d{1,2})\s*[日号號일]")
_EIGHT_DIGITS = re.compile(r"\d{8}")
_ORDINAL = re.compile(r"\b(\d{1,2})(?:st|nd|rd|th)\b")
# What may stand in a written date and says nothing: "Friday, the 16th day of August, 2019".
_FILLERS = re.compile(
    r"\b(?:this|the|day|of|on|dated?|(?:mon|tues?|wed(?:nes)?|thurs?|fri|sat(?:ur)?|sun)(?:day)?|thu)\b|[.,]",
    re.IGNORECASE,
)
YEARS = range(1800, 2200)  # of eight digits without a separator


@functools.lru_cache(maxsize=65536)
def iso_date(text: str, *, day_first: bool = False) -> str | None:
    """`text` as YYYY-MM-DD, or None where it is no date; ambiguous numeric dates are read as `day_first` says.

    Digits may be of any script. Eight digits are a date if their year is one of YEARS: 20180325, 25032018, 03252018.
    """
    text = ascii_digits(" ".join(text.strip().split()))
    if match := _YEAR_FIRST.match(text):
        return date_of(*map(int, match.groups()))
    if _EIGHT_DIGITS.fullmatch(text) and (found := eight_digits(text, day_first=day_first)) is not None:
        return found
    head = text[:10]
    numeric = (
        DATE_FORMATS_DAY_FIRST + DATE_FORMATS_MONTH_FIRST
        if day_first
        else DATE_FORMATS_MONTH_FIRST + DATE_FORMATS_DAY_FIRST
    )
    written = " ".join(_FILLERS.sub(" ", _ORDINAL.sub(r"\1", text)).split()).replace("Sept ", "Sep ")
    candidates: Iterator[tuple[str, str]] = iter(
        [
            (head, "%Y-%m-%d"),
            (head, "%Y/%m/%d"),
            (head, "%Y.%m.%d"),
            (text, "%Y%m%d"),
            *((text, f) for f in numeric + DATE_FORMATS_NAMED),
            *((written, f) for f in DATE_FORMATS_WRITTEN),
        ]
    )
    for candidate, form in candidates:
        try:
            return datetime.datetime.strptime(candidate, form).date().isoformat()
        except ValueError:
            continue
    return None


def ascii_digits(text: str) -> str:
    """`text` with the digits of every script as 0 to 9, and wide punctuation as ASCII."""
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKC", text)
    return "".join(str(unicodedata.decimal(c)) if unicodedata.category(c) == "Nd" else c for c in plain)


def date_of(year: int, month: int, day: int) -> str | None:
    """The date as YYYY-MM-DD; None where there is no such day."""
    try:
        return datetime.date(year, month, day).isoformat()
    except ValueError:
        return None


def eight_digits(text: str, *, day_first: bool) -> str | None:
    """Eight digits as a date: year first, else in the order that `day_first` says, else in the other one."""
    first, second, third = int(text[:4]), int(text[4:6]), int(text[6:])
    found = date_of(first, second, third) if first in YEARS else None
    one, two, year = int(text[:2]), int(text[2:4]), int(text[4:])
    if found is None and year in YEARS:
        orders = [(two, one), (one, two)] if day_first else [(one, two), (two, one)]
        found = next((date for month, day in orders if (date := date_of(year, month, day))), None)
    return found


def is_ambiguous_date(text: str) -> bool:
    """True for a numeric date whose day depends on whether the month comes first: 03/04/2024, not 13/04/2024."""
    first, second = iso_date(text, day_first=True), iso_date(text, day_first=False)
    return first is not None and second is not None and first != second
