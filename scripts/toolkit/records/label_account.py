"""What becomes of every value of a labels table: used in an answer, part of a problem, of no field, or blank."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from toolkit.json_text import strict_json
from toolkit.records.label_table import is_blank_cell

NESTED = (dict, list)


@dataclass
class LabelledDocument:
    """`file_name` as the table has it, its `key` for matching images, the gold `answer`, the `problems` found.

    `values`: how many values of the table the answer, or the problems, are made of.
    """

    file_name: str
    key: str
    answer: dict[str, Any]
    problems: list[str] = field(default_factory=list)
    values: int = 0


@dataclass
class NotUsed:
    """Values that no field takes. `is_column`: from a plain column of the table; else from inside an answer."""

    path: str
    is_column: bool
    first: str
    values: int = 0
    note: str = ""


@dataclass
class Account:
    """The values of a table so far: all that were `given`, the `blank` ones, and those of no field by their path."""

    given: int = 0
    blank: int = 0
    not_used: dict[str, NotUsed] = field(default_factory=dict)

    def pass_over(self, path: str, value: Any, where: str, *, is_column: bool, note: str = "") -> None:
        """Count a value that feeds no field, or all values inside it."""
        if isinstance(value, dict):
            for key, item in value.items():
                self.pass_over(f"{path}.{key}", item, where, is_column=False, note=note)
        elif isinstance(value, list):
            for item in value:
                self.pass_over(f"{path}[]", item, where, is_column=False, note=note)
        elif is_blank_cell(value):
            self.blank += 1
        else:
            entry = self.not_used.setdefault(path, NotUsed(path, is_column, where, note=note))
            entry.values += 1
            entry.is_column = entry.is_column and is_column

    def count(self, value: Any, document: LabelledDocument) -> None:
        """Count the values inside `value` for a document, or as blank."""
        if isinstance(value, NESTED):
            for item in value.values() if isinstance(value, dict) else value:
                self.count(item, document)
        elif is_blank_cell(value):
            self.blank += 1
        else:
            document.values += 1


def inner_of(value: Any) -> dict[str, Any] | list[Any] | None:
    """An object or list, also one that a cell holds as JSON; None for a single value."""
    if isinstance(value, NESTED):
        return value
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            found = strict_json(value)
        except ValueError:
            return None
        return found if isinstance(found, NESTED) else None
    return None


def count_values(value: Any) -> int:
    """How many single values there are in it, blank ones included."""
    if isinstance(value, dict):
        return sum(map(count_values, value.values()))
    return sum(map(count_values, value)) if isinstance(value, list) else 1


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "a single value"
