"""Business checks beyond JSON Schema: ISO 6346 container numbers, sums against printed totals, order of dates."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import mul
from typing import Any

from toolkit.schema.answer_values import dotted, row_of, rows_together, value_named, values_of
from toolkit.schema.target import Leaf, RowList, TargetSchema, value_at
from toolkit.schema.values import iso_date

# ISO 6346:2022, annex A. Letters are 10 to 38 without multiples of 11; position i has the weight 2**i. The check digit
# is the weighted sum modulo 11, modulo 10.
_VALUES = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", [n for n in range(10, 39) if n % 11], strict=True))
_DIGITS = {digit: int(digit) for digit in "0123456789"}
_VALUES |= _DIGITS
_WEIGHTS = [2**position for position in range(10)]
# The six digits weigh 2**4 to 2**9; three at a time looked up, because millions of numbers are checked.
_MIDDLE = {f"{n:03d}": sum(int(digit) * 2 ** (4 + i) for i, digit in enumerate(f"{n:03d}")) for n in range(1000)}
_END = {digits: 8 * weight for digits, weight in _MIDDLE.items()}
_SUMMARY_PART = re.compile(r"(\d+)\s*[xX*]\s*(\d{2})")


def iso6346_check_digit(first_ten: str) -> int:
    """Check digit of a container number's first ten characters ("CSQU305438" gives 3)."""
    # What stands behind the ten weights' characters is not looked at: map ends with the shorter.
    return sum(map(mul, _WEIGHTS, map(_VALUES.__getitem__, first_ten))) % 11 % 10


@functools.lru_cache(maxsize=65536)
def _owner_sum(letters: str) -> int:
    """The weighted sum of four letters. Raises KeyError where they are none."""
    if not (letters.isascii() and letters.isalpha()):
        raise KeyError(letters)
    return sum(_VALUES[letter] * 2**place for place, letter in enumerate(letters))


def is_container_number(text: str) -> bool:
    """True for four capital letters, six digits and the right check digit."""
    if len(text) != 11:
        return False
    try:
        total = _owner_sum(text[:4]) + _MIDDLE[text[4:7]] + _END[text[7:10]]
        return total % 11 % 10 == _DIGITS[text[10]]
    except KeyError:
        return False


def summary_count(text: str) -> int | None:
    """Containers in a printed summary: "2 X 20GP + 3 X 40HC" is 5; None where no count is recognised."""
    parts = _SUMMARY_PART.findall(text)
    return sum(int(count) for count, _ in parts) if parts else None


Problem = tuple[str, str, str]  # JSON path, sentence, severity


@dataclass(frozen=True)
class NumberChecks:
    """The container numbers of one list: `(path in the row, severity)`, and the lists in its rows that have some."""

    path: tuple[str, ...]
    leaves: tuple[tuple[tuple[str, ...], str], ...]
    inner: tuple[NumberChecks, ...]

    @classmethod
    def below(cls, lists: Iterable[RowList]) -> tuple[NumberChecks, ...]:
        made = [cls(rows.path, checked_leaves(rows.leaves), cls.below(rows.lists)) for rows in lists]
        return tuple(one for one in made if one.leaves or one.inner)

    def problems(self, of: Any, before: str) -> Iterator[Problem]:
        name = dotted(before, self.path)
        for index, row in enumerate(value_at(of, self.path) or ()):
            for leaf, severity in self.leaves:
                number = row.get(leaf[0]) if len(leaf) == 1 else value_at(row, leaf)
                if isinstance(number, str) and not is_container_number(number):
                    yield number_problem(dotted(f"{name}[{index}]", leaf), number, severity)
            for inner in self.inner:
                yield from inner.problems(row, f"{name}[{index}]")


def checked_leaves(leaves: Iterable[Leaf]) -> tuple[tuple[tuple[str, ...], str], ...]:
    """The leaves with the check iso6346, as `(path, severity)`."""
    checked = [leaf for leaf in leaves if leaf.extract.get("check") == "iso6346"]
    return tuple((leaf.path, str(leaf.extract.get("severity", "warning"))) for leaf in checked)


def number_problem(name: str, number: str, severity: str) -> Problem:
    """What is wrong with a container number."""
    return f"$.{name}", f"{number!r} is no ISO 6346 container number (form or check digit)", severity


class BusinessChecks:
    """The checks that one target schema declares; looked up once, because millions of records are held against them."""

    def __init__(self, schema: TargetSchema) -> None:
        self.header = checked_leaves(schema.header)
        self.numbers = NumberChecks.below(schema.lists)
        self.others = [(check, str(check.get("severity", "warning"))) for check in schema.checks]

    def __call__(self, answer: dict[str, Any]) -> list[Problem]:
        found: list[Problem] = []
        for path, severity in self.header:
            number = value_at(answer, path)
            if isinstance(number, str) and not is_container_number(number):
                found.append(number_problem(".".join(path), number, severity))
        for numbers in self.numbers:
            found.extend(numbers.problems(answer, ""))
        for check, severity in self.others:
            for where, sentence in KINDS[check["check"]](check, answer) if check.get("check") in KINDS else ():
                found.append((where, sentence, severity))
        return found


def count_equals_summary(check: dict[str, Any], answer: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A printed count such as `3 CONTAINERS` that differs from the number of rows."""
    for rows, field in rows_together(answer, [check["list"], check["field"]]):
        printed = value_named(answer, field)
        wanted = summary_count(printed) if isinstance(printed, str) else None
        listed = len(value_named(answer, rows) or ())
        if wanted is not None and wanted != listed:
            yield f"$.{rows}", f"{listed} rows, but {field} says {printed!r}"


def date_order(check: dict[str, Any], answer: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The dates of `fields` must not run backwards, in each row; absent ones are passed over."""
    for names in rows_together(answer, check["fields"]):
        values = [(name, value_named(answer, name)) for name in names]
        dates = [(name, date) for name, value in values if value and (date := iso_date(str(value)))]
        for (first, earlier), (second, later) in itertools.pairwise(dates):
            if earlier > later:
                yield f"$.{second}", f"{later} lies before {first} {earlier}"


def count_looks_at(check: dict[str, Any], answer: dict[str, Any]) -> list[str]:
    """The fields that the check compares; none where no count is printed."""
    names = []
    for rows, field in rows_together(answer, [check["list"], check["field"]]):
        printed = value_named(answer, field)
        if isinstance(printed, str) and summary_count(printed) is not None:
            names += [rows, field]
    return names


def dates_looked_at(check: dict[str, Any], answer: dict[str, Any]) -> list[str]:
    """The dates that the check compares; none where there are fewer than two."""
    found = []
    for names in rows_together(answer, check["fields"]):
        there = [name for name in names if (value := value_named(answer, name)) and iso_date(str(value))]
        found += there if len(there) > 1 else []
    return found


KINDS = {"count_equals_summary": count_equals_summary, "date_order": date_order}
LOOKED_AT = {"count_equals_summary": count_looks_at, "date_order": dates_looked_at}


@functools.lru_cache(maxsize=64)
def checks_of(schema: TargetSchema) -> BusinessChecks:
    """The business checks of a schema."""
    return BusinessChecks(schema)


def business_problems(schema: TargetSchema, answer: dict[str, Any]) -> list[Problem]:
    """`(JSON path, sentence, severity)` of every declared check that `answer` fails; severity "error" or "warning"."""
    return checks_of(schema)(answer)


def check_states(schema: TargetSchema, answer: dict[str, Any]) -> dict[str, int]:
    """`{name: 1 or -1}` of the values that a declared check looks at: 1 where it holds, -1 where it fails.

    Names as in a prediction's confidence: `containers[0].container_number`, `containers`, `vessel_name`.
    """
    states: dict[str, int] = {}
    for one in values_of(schema, answer):
        if one.leaf.extract.get("check") == "iso6346" and isinstance(one.value, str) and one.value:
            states[one.name] = 1 if is_container_number(one.value) else -1
    for check in schema.checks:
        if check.get("check") in KINDS:
            rows_failed = {row_of(place[2:]) for place, _ in KINDS[check["check"]](check, answer)}
            for name in LOOKED_AT[check["check"]](check, answer):
                row = row_of(name)
                failed = row in rows_failed or (not row and bool(rows_failed))
                states[name] = -1 if failed else min(1, states.get(name, 1))
    return states
