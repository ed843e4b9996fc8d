"""A results table (flat rows, one per list item) becomes one gold answer per document, as the target schema says."""

from __future__ import annotations

import csv
import datetime
import functools
import io
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.console import StageError
from toolkit.files import read_json, read_jsonl, read_text, shown
from toolkit.number_columns import NumberColumns, read_alone
from toolkit.page_images import document_key
from toolkit.target_schema import Leaf, RowList, TargetSchema, put_at
from toolkit.values import is_ambiguous_date, is_number, iso_date

EXCEL_SUFFIXES = (".xlsx", ".xlsm")
ABSENT_TEXTS = {"", "null", "none", "nan", "n/a"}


@dataclass
class LabelledDocument:
    """`file_name` as the table has it, its `key` for matching images, the gold `answer`, and the `problems` found."""

    file_name: str
    key: str
    answer: dict[str, Any]
    problems: list[str] = field(default_factory=list)


def read_rows(path: Path, sheet: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """`(where, row)` of every row of a JSON list, a JSONL, a CSV or an Excel file. Raises StageError where it is none."""
    suffix, name = path.suffix.lower(), shown(path)
    if suffix in (".jsonl", ".ndjson"):
        rows = [(f"{name}:{number}", value) for number, value in read_jsonl(path)]
    elif suffix in (".csv", ".tsv"):
        text = read_text(path)
        first = text.splitlines()[0] if text.strip() else ""
        delimiter = max(",;\t", key=first.count)
        reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, restkey="", strict=True)
        try:
            rows = [(f"{name}:{reader.line_num}", dict(row)) for row in reader]
        except csv.Error as error:
            raise StageError(f"{shown(path)}:{reader.line_num}: not CSV: {error}") from None
    elif suffix in EXCEL_SUFFIXES:
        rows = sheet_rows(path, sheet)
    elif suffix in (".xls", ".ods", ".numbers"):
        raise StageError(f"{shown(path)}: save the table as .xlsx or .csv; {suffix} files are not read")
    else:
        value = read_json(path)
        if isinstance(value, dict):
            lists = [key for key, item in value.items() if isinstance(item, list)]
            if len(lists) != 1:
                raise StageError(
                    f"{shown(path)}: a list of rows is needed (or an object with one list), this object has {len(lists)} lists"
                )
            value = value[lists[0]]
        if not isinstance(value, list):
            raise StageError(f"{shown(path)}: a list of rows is needed, this is a JSON {type(value).__name__}")
        rows = [(f"{name}[{index}]", row) for index, row in enumerate(value)]
    for where, row in rows:
        if not isinstance(row, dict):
            raise StageError(f"{where}: a row must be an object with column names, this is {type(row).__name__}")
    if not rows:
        raise StageError(f"{shown(path)}: the table has no rows")
    return rows


def sheet_rows(path: Path, sheet: str | None) -> list[tuple[str, dict[str, Any]]]:
    """Rows of one sheet (the only one, or the named one) as their values, not their formulas; the first row names the columns.

    Dates come as YYYY-MM-DD texts; whole numbers that a cell formats with leading zeros (00123) keep them.
    """
    import zipfile

    import openpyxl

    if not path.is_file():
        raise StageError(f"file not found: {shown(path)}")
    try:
        book = openpyxl.load_workbook(path, data_only=True)
    except (zipfile.BadZipFile, openpyxl.utils.exceptions.InvalidFileException, KeyError, ValueError, OSError) as error:
        raise StageError(f"{shown(path)}: not an Excel file ({' '.join(str(error).split())[:100]})") from None
    if sheet is None and len(book.sheetnames) > 1:
        raise StageError(f"{shown(path)}: {len(book.sheetnames)} sheets; name one with --sheet: {', '.join(book.sheetnames[:6])}")  # fmt: skip
    if sheet is not None and sheet not in book.sheetnames:
        raise StageError(f"{shown(path)}: no sheet {sheet!r}; it has {', '.join(book.sheetnames[:6])}")
    lines = iter(book[sheet or book.sheetnames[0]].iter_rows())
    header = [str(cell.value).strip() if cell.value is not None else None for cell in next(lines, ())]
    names = [name for name in header if name]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StageError(f"{shown(path)}: the column {twice[0]!r} stands twice; rename one")
    rows = []
    for line in lines:
        values = {name: cell_value(cell) for name, cell in zip(header, line) if name}
        if any(value is not None for value in values.values()):
            rows.append((f"{shown(path)}:{line[0].row}", values))
    return rows


def cell_value(cell: Any) -> Any:
    value = cell.value
    if isinstance(value, datetime.datetime | datetime.date):
        return value.strftime("%Y-%m-%d")
    if isinstance(value, int) and re.fullmatch(r"0+", str(cell.number_format)) and len(cell.number_format) > 1:
        return str(value).zfill(len(cell.number_format))
    return value


def absent_columns(schema: TargetSchema, columns: set[str]) -> set[str]:
    """Dotted names of the leaves whose column the table does not have at all (a list is absent when all its leaves are)."""
    folded = {fold(column) for column in columns}
    missing: set[str] = set()
    for leaf in schema.header:
        if not any(fold(column) in folded for column in leaf.columns) and leaf.path[0] not in columns:
            missing.add(leaf.name)
    for rows in schema.lists:
        if rows.path[0] in columns:
            continue
        gone = {leaf.name for leaf in rows.leaves if not any(fold(column) in folded for column in leaf.columns)}
        missing |= {rows.name} if len(gone) == len(rows.leaves) else gone
    return missing


@functools.lru_cache(maxsize=4096)
def fold(column: str) -> str:
    """A column name without case, spaces, underscores and hyphens."""
    return re.sub(r"[\s_\-]+", "", column.casefold())


def is_absent(value: Any) -> bool:
    """ "", null, NaN and a missing key are one value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and value.strip().casefold() in ABSENT_TEXTS


def coerce(value: Any, leaf: Leaf, numbers: NumberColumns | None = None) -> Any:
    """A cell as the leaf's JSON type. Raises ValueError with a sentence where it cannot be that.

    `numbers` knows how the table writes the numbers of each field (while it learns that, it raises). Without it a text
    is judged by itself.
    """
    if is_absent(value):
        return None
    if numbers is not None and leaf.is_number and isinstance(value, str):
        numbers.take(leaf, value)
    if "enum" in leaf.schema:
        return enum_value(value, leaf)
    types = leaf.types
    if types & {"integer", "number"} and not isinstance(value, bool):
        number = value
        if isinstance(value, str):
            if "string" in types and not is_number(value):
                return value.strip()
            parsed = read_alone(leaf, value) if numbers is None else numbers.read(leaf, value)
            number = int(parsed) if parsed == parsed.to_integral_value() and abs(parsed) < 10**18 else float(parsed)
        if isinstance(number, float) and number.is_integer() and abs(number) < 2**53:
            number = int(number) if "integer" in types or isinstance(value, str) else number
        if isinstance(number, float) and "number" not in types:
            raise ValueError(f"{value!r} is no whole number")
        if isinstance(number, int | float):
            return number
    if "boolean" in types:
        if isinstance(value, bool):
            return value
        text = str(value).strip().casefold()
        if text in ("true", "yes", "1", "x"):
            return True
        if text in ("false", "no", "0"):
            return False
        raise ValueError(f"{value!r} is neither true nor false")
    if leaf.extract.get("normalise") == "iso_date":
        return date_value(str(value), leaf)
    if isinstance(value, dict | list):
        raise ValueError(f"a single value is needed, this is {type(value).__name__}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return unicodedata.normalize("NFC", str(value)).strip()


def date_value(text: str, leaf: Leaf) -> str:
    """An ISO date. Raises ValueError for what is none, and for 03/04/2024 where the schema does not say what comes first."""
    day_first = leaf.extract.get("day_first")
    if day_first is None and is_ambiguous_date(text):
        raise ValueError(f'{text!r} is two dates; say "day_first": true or false under x-extract in the schema')
    found = iso_date(text, day_first=bool(day_first))
    if found is None:
        raise ValueError(f"{text!r} is no date")
    return found


def enum_value(value: Any, leaf: Leaf) -> Any:
    """The enum's own spelling of `value`: exact, then without case, then by the declared synonyms."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    choices = [choice for choice in leaf.schema["enum"] if choice is not None]
    if value in choices:
        return value
    wanted = enum_fold(str(value))
    for choice in choices:
        spellings = [str(choice), *leaf.extract.get("synonyms", {}).get(str(choice), [])]
        if wanted in {enum_fold(spelling) for spelling in spellings}:
            return choice
    raise ValueError(
        f"{value!r} is none of {', '.join(map(str, choices))}; add it to the enum or to its synonyms in the schema"
    )


def enum_fold(text: str) -> str:
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


class Row:
    """One table row, its columns found without case, spaces, underscores and hyphens."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = {fold(str(column)): value for column, value in values.items() if column is not None}

    def get(self, names: list[str]) -> Any:
        for name in names:
            value = self.values.get(fold(name))
            if not is_absent(value):
                return value
        return None


def labelled_documents(
    schema: TargetSchema, rows: list[tuple[str, dict[str, Any]]], numbers: NumberColumns | None = None
) -> Iterator[LabelledDocument]:
    """One document per file name, in order of first appearance; problems are attached, never resolved silently.

    `numbers` is filled with how each field's numbers are written, before the first document comes.
    """
    groups: dict[str, list[tuple[str, Row]]] = {}
    for where, values in rows:
        row = Row(values)
        name = row.get(schema.document_columns)
        if name is None:
            raise StageError(
                f"{where}: no file name; the schema looks for it in the column {' or '.join(schema.document_columns)}"
            )
        groups.setdefault(str(name).strip(), []).append((where, row))
    numbers = NumberColumns() if numbers is None else numbers
    if (of_numbers := schema.only_numbers()) is not None:
        numbers.learning = True
        for name, group in groups.items():
            document_of(of_numbers, name, group, numbers)
    numbers.learning = False
    for name, group in groups.items():
        yield document_of(schema, name, group, numbers)


def document_of(
    schema: TargetSchema, name: str, group: list[tuple[str, Row]], numbers: NumberColumns
) -> LabelledDocument:
    document = LabelledDocument(name, document_key(name), {})
    for leaf in schema.header:
        value = header_value(leaf, group, document, numbers)
        put_at(document.answer, leaf.path, value)
    for rows in schema.lists:
        nested = next(
            (
                row.values[fold(rows.path[-1])]
                for _, row in group
                if isinstance(row.values.get(fold(rows.path[-1])), list)
            ),
            None,
        )
        items = [(group[0][0], Row(item)) for item in nested if isinstance(item, dict)] if nested is not None else group
        put_at(document.answer, rows.path, list_rows(rows, items, document, numbers))
    document.answer = schema.ordered(document.answer)
    return document


def header_value(leaf: Leaf, group: list[tuple[str, Row]], document: LabelledDocument, numbers: NumberColumns) -> Any:
    """The one value that the document's rows agree on; a disagreement is a problem that shows both."""
    first: Any = None
    first_where = ""
    for where, row in group:
        cell = row.get(leaf.columns)
        if cell is None and leaf.path[-1] != leaf.columns[0]:
            cell = row.get([leaf.path[-1]])
        try:
            value = coerce(cell, leaf, numbers)
        except ValueError as error:
            document.problems.append(f"{where}: {leaf.name}: {error}")
            continue
        if value is None:
            continue
        if first is None:
            first, first_where = value, where
        elif value != first and str(value).casefold().split() != str(first).casefold().split():
            document.problems.append(
                f"{leaf.name}: the rows disagree: {first!r} ({first_where}) and {value!r} ({where})"
            )
            break
    return first


def list_rows(
    rows: RowList, group: list[tuple[str, Row]], document: LabelledDocument, numbers: NumberColumns
) -> list[dict[str, Any]]:
    """The list's rows in table order; a key that stands twice is a problem, whether its cells agree or not."""
    result: list[dict[str, Any]] = []
    seen: dict[str, list[str]] = defaultdict(list)
    for where, row in group:
        item: dict[str, Any] = {}
        for leaf in rows.leaves:
            try:
                put_at(item, leaf.path, coerce(row.get([*leaf.columns, leaf.path[-1]]), leaf, numbers))
            except ValueError as error:
                document.problems.append(f"{where}: {leaf.name}: {error}")
                put_at(item, leaf.path, None)
        if all(value is None for value in item.values()):
            continue
        if rows.key is not None:
            key = str(item.get(rows.key.path[-1]) or "")
            if key:
                seen[key].append(where)
        result.append(item)
    for key, places in seen.items():
        if len(places) > 1 and rows.key is not None and rows.key.compare == "id":
            document.problems.append(
                f"{rows.key.name}: {key!r} stands {len(places)} times ({places[0]} and {places[1]})"
            )
    return result
