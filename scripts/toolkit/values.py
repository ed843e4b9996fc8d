"""Values as they are compared and as labels are normalised to: texts, ids, numbers, dates."""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any


def as_text(value: Any) -> str:
    """NFKC, casefold, white space folded, edge punctuation stripped."""
    text = " ".join(unicodedata.normalize("NFKC", str(value)).casefold().split())
    return text.strip(".,;:!?'\"()[]{}-_ ") or text


def as_id(value: Any) -> str:
    """Upper case, A-Z and 0-9 only."""
    folded = unicodedata.normalize("NFKC", str(value)).upper()
    return re.sub(r"[^A-Z0-9]", "", folded) or folded


def as_number(value: Any) -> Any:
    """A Decimal; separators, currency and spaces removed ("1.234,50 EUR" and "1,234.50" are equal). Text where it is none."""
    if isinstance(value, bool):
        return str(value)
    text = re.sub(r"[^\d.,+\-()]", "", unicodedata.normalize("NFKC", str(value)))
    negative = text.startswith("(") and text.endswith(")")
    text = text.strip("()")
    last = max(text.rfind("."), text.rfind(","))
    if last >= 0:
        digits_after = len(text) - last - 1
        separators = {c for c in text if c in ".,"}
        # One kind of separator, once or more, three digits behind the last: thousands; else the last one is decimal.
        if len(separators) == 1 and digits_after == 3 and (text.count(text[last]) > 1 or text[last] == ","):
            text = text.replace(text[last], "")
        else:
            text = text[:last].replace(".", "").replace(",", "") + "." + text[last + 1 :]
    try:
        number = Decimal(text)
    except InvalidOperation:
        return as_text(value)
    return -number if negative else number


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
    """True for a numeric date that is another day when read month first: 03/04/2024, but not 13/04/2024 or 04/04/2024."""
    first, second = iso_date(text, day_first=True), iso_date(text, day_first=False)
    return first is not None and second is not None and first != second
