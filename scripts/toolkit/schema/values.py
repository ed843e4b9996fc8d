"""Values as they are compared and as labels are normalised to: texts, ids, dates (numbers: `number_text`)."""

from __future__ import annotations

import datetime
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


def iso_date(text: str, *, day_first: bool = False) -> str | None:
    """`text` as YYYY-MM-DD, or None where it is no date; ambiguous numeric dates are read as `day_first` says."""
    text = " ".join(text.strip().split())
    head = text[:10]
    numeric = (
        DATE_FORMATS_DAY_FIRST + DATE_FORMATS_MONTH_FIRST
        if day_first
        else DATE_FORMATS_MONTH_FIRST + DATE_FORMATS_DAY_FIRST
    )
    candidates: Iterator[tuple[str, str]] = iter(
        [
            (head, "%Y-%m-%d"),
            (head, "%Y/%m/%d"),
            (head, "%Y.%m.%d"),
            (text, "%Y%m%d"),
            *((text, f) for f in numeric + DATE_FORMATS_NAMED),
        ]
    )
    for candidate, form in candidates:
        try:
            return datetime.datetime.strptime(candidate, form).date().isoformat()
        except ValueError:
            continue
    return None


def is_ambiguous_date(text: str) -> bool:
    """True for a numeric date whose day depends on whether the month comes first: 03/04/2024, not 13/04/2024."""
    first, second = iso_date(text, day_first=True), iso_date(text, day_first=False)
    return first is not None and second is not None and first != second
