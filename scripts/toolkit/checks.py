"""Business checks that a JSON Schema cannot say: ISO 6346 container numbers, and lists against printed totals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from toolkit.target_schema import TargetSchema, value_at

# ISO 6346:2022, annex A: letters count 10 to 38 without the multiples of 11, position i weighs 2**i, the sum modulo 11 modulo 10.
_LETTER_VALUES = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", [n for n in range(10, 39) if n % 11], strict=True))
_CONTAINER = re.compile(r"[A-Z]{4}\d{7}")
_SUMMARY_PART = re.compile(r"(\d+)\s*[xX*]\s*(\d{2})")


def iso6346_check_digit(first_ten: str) -> int:
    """Check digit of the first ten characters of a container number ("CSQU305438" gives 3)."""
    total = sum((_LETTER_VALUES[c] if c.isalpha() else int(c)) * 2**i for i, c in enumerate(first_ten))
    return total % 11 % 10


def is_container_number(text: str) -> bool:
    """True for four letters, six digits and the right check digit."""
    return bool(_CONTAINER.fullmatch(text)) and iso6346_check_digit(text[:10]) == int(text[10])


def summary_count(text: str) -> int | None:
    """Containers in a printed summary: "2 X 20GP + 3 X 40HC" is 5; None where no count is recognised."""
    parts = _SUMMARY_PART.findall(text)
    return sum(int(count) for count, _ in parts) if parts else None


def business_problems(schema: TargetSchema, answer: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """`(JSON path, sentence, severity)` of every declared check that `answer` fails; severity is "error" or "warning"."""
    for rows in schema.lists:
        for leaf in rows.leaves:
            if leaf.extract.get("check") != "iso6346":
                continue
            for index, row in enumerate(value_at(answer, rows.path) or []):
                number = value_at(row, leaf.path)
                if isinstance(number, str) and not is_container_number(number):
                    where = f"$.{rows.name}[{index}].{'.'.join(leaf.path)}"
                    yield (
                        where,
                        f"{number!r} is no ISO 6346 container number (form or check digit)",
                        str(leaf.extract.get("severity", "warning")),
                    )
    for check in schema.checks:
        if check.get("check") == "count_equals_summary":
            printed = value_at(answer, tuple(check["field"].split(".")))
            listed = len(value_at(answer, tuple(check["list"].split("."))) or [])
            wanted = summary_count(printed) if isinstance(printed, str) else None
            if wanted is not None and wanted != listed:
                yield (
                    f"$.{check['list']}",
                    f"{listed} rows, but {check['field']} says {printed!r}",
                    str(check.get("severity", "warning")),
                )
