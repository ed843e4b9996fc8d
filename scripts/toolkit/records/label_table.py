"""A labels table: its rows as they are in the file, and a cell converted to the value that a field needs."""

from __future__ import annotations

import csv
import functools
import io
import math
import os
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.console import StageError
from toolkit.files import MIB, opened, read_json, read_jsonl, read_text, shown
from toolkit.records.excel_table import UnsavedFormula, sheet_lines
from toolkit.schema.number_columns import NumberColumns, read_alone
from toolkit.schema.target import Leaf
from toolkit.schema.values import is_ambiguous_date, is_number, iso_date

EXCEL_SUFFIXES = (".xlsx", ".xlsm")
MOST_TABLE_BYTES = 512 * MIB
# What a spreadsheet shows where it could not calculate; it stands in exported texts too.
SHEET_ERRORS = {"#REF!", "#N/A", "#NAME?", "#VALUE!", "#DIV/0!", "#NUM!", "#NULL!", "#SPILL!", "#CALC!", "#FIELD!"}
ABSENT_TEXTS = {"", "null", "none", "nan", "n/a"}


Located = tuple[str, dict[str, Any]]  # where a row stands, and its values by column
BEYOND_HEADER = "(beyond the header)"  # the column of a row's cells that have no column


@dataclass(frozen=True)
class Table:
    """The rows, and what a JSON object holds `beside` its one list of rows."""

    rows: list[Located]
    beside: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HeaderRows:
    """The rows of a sheet or CSV that name its columns, counted from 1; what stands above them is no part of it."""

    first: int = 1
    last: int = 1

    @classmethod
    def parse(cls, text: str) -> HeaderRows:
        """`2`, or `2-3` for two rows whose names belong together. Raises StageError for anything else."""
        match = re.fullmatch(r"([1-9]\d{0,5})(?:-([1-9]\d{0,5}))?", text.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise StageError(f"--header-row {text!r}: give the number of a row, or two as 2-3; the first row is 1")
        return cls(int(match[1]), int(match[2] or match[1]))


FIRST_ROW = HeaderRows()


def read_rows(path: Path, sheet: str | None = None, header: HeaderRows = FIRST_ROW) -> list[Located]:
    """The rows of a labels file, each with its place."""
    return read_table(path, sheet, header=header).rows


def read_table(
    path: Path,
    sheet: str | None = None,
    document_columns: list[str] | None = None,
    header: HeaderRows = FIRST_ROW,
) -> Table:
    """The rows of a JSON list, a JSONL, a CSV or an Excel file, or a folder with one JSON answer for each document.
    Raises StageError where it is none.

    A JSON object is one row where it names a document (`document_columns`), else the one list in it holds the rows.
    A cell may hold half a surrogate pair: that is its document's problem (see LabelJoin), not the table's.
    """
    suffix, name = path.suffix.lower(), shown(path)
    if header != FIRST_ROW and suffix not in (".csv", ".tsv", *EXCEL_SUFFIXES):
        raise StageError(f"{name}: --header-row is for Excel and CSV files; JSON names its values itself")
    if path.is_dir():
        return Table(folder_rows(path, document_columns or []))
    with opened(path, "a table") as file:
        if os.fstat(file.fileno()).st_size > MOST_TABLE_BYTES:
            raise StageError(f"{name}: a table of over {MOST_TABLE_BYTES // MIB} MiB; build from its parts, --update")
    if suffix in (".jsonl", ".ndjson"):
        table = Table([(f"{name}:{number}", value) for number, value in read_jsonl(path, lone_surrogates=True)])
    elif suffix in (".csv", ".tsv"):
        table = Table(csv_rows(path, header))
    elif suffix in EXCEL_SUFFIXES:
        table = Table(sheet_rows(path, sheet, header))
    elif suffix in (".xls", ".ods", ".numbers"):
        raise StageError(f"{name}: save the table as .xlsx or .csv; {suffix} files are not read")
    else:
        table = json_table(path, document_columns or [])
    for where, row in table.rows:
        if not isinstance(row, dict):
            raise StageError(f"{where}: a row must be an object with column names, this is {type(row).__name__}")
    if not table.rows:
        raise StageError(f"{name}: the table has no rows")
    return table


def json_table(path: Path, document_columns: list[str]) -> Table:
    """A labels file in JSON as a table: a list of rows, or an object with one list."""
    value, name = read_json(path, lone_surrogates=True), shown(path)
    beside: dict[str, Any] = {}
    if isinstance(value, dict):
        if {fold(key) for key in value} & {fold(column) for column in document_columns}:
            return Table([(name, value)])
        lists = [key for key, item in value.items() if isinstance(item, list)]
        if len(lists) != 1:
            raise StageError(
                f"{name}: a list of rows is needed (or an object with one list), this object has {len(lists)} lists"
            )
        beside = {key: item for key, item in value.items() if key != lists[0]}
        value = value[lists[0]]
    if not isinstance(value, list):
        raise StageError(f"{name}: a list of rows is needed, this is a JSON {type(value).__name__}")
    return Table([(f"{name}[{index}]", row) for index, row in enumerate(value)], beside)


def folder_rows(path: Path, document_columns: list[str]) -> list[Located]:
    """The answers of a folder, `<document>.json` each, as rows that name their document."""
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".json" and file.is_file())
    if not files:
        raise StageError(f"{shown(path)}: no .json file there; a folder of labels holds one answer for each document")
    rows: list[Located] = []
    seen: dict[str, Path] = {}
    for file in files:
        answer = read_json(file, lone_surrogates=True)
        if not isinstance(answer, dict):
            raise StageError(f"{shown(file)}: an object is needed, the answer of the document {file.stem!r}")
        if file.stem in seen:
            raise StageError(f"{shown(seen[file.stem])} and {shown(file)} name one document; keep one")
        seen[file.stem] = file
        named = {fold(key) for key in answer} & {fold(column) for column in document_columns}
        rows.append(
            (shown(file), answer if named or not document_columns else {document_columns[0]: file.stem} | answer)
        )
    return rows


def csv_rows(path: Path, header_rows: HeaderRows = FIRST_ROW) -> list[Located]:
    """Rows of a CSV by the names in its header; rows without any value are left out, as in a sheet."""
    text, name = read_text(path), shown(path)
    first = next(iter(text.split("\n")[header_rows.first - 1 :]), "")
    reader = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count), strict=True)
    rows: list[Located] = []
    try:
        lines = [next(reader, []) for _ in range(header_rows.last)]
        header = column_names(joined_names(lines[header_rows.first - 1 :]), path)
        for cells in reader:
            values: dict[str, Any] = dict(zip(header, cells))
            if beyond := cells[len(header) :]:
                values[BEYOND_HEADER] = beyond
            if any(cell.strip() for cell in cells):
                rows.append((f"{name}:{reader.line_num}", values))
    except csv.Error as error:
        raise StageError(f"{name}:{reader.line_num}: not CSV: {error}") from None
    return rows


def column_names(header: list[Any], path: Path) -> list[str]:
    """The header's names; a column without one is called by its place. Raises StageError where one stands twice."""
    names = [str(name).strip() if name is not None else "" for name in header]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise StageError(f"{shown(path)}: the column {twice[0]!r} stands twice; rename one")
    return [name or unnamed(place) for place, name in enumerate(names)]


def unnamed(place: int) -> str:
    """What a column without a name is called; `place` from 0."""
    return f"column {place + 1} (no name)"


def joined_names(lines: list[list[Any]]) -> list[Any]:
    """One header of several rows: `Container` above `Number` names the column `Container Number`."""
    if len(lines) == 1:
        return lines[0]
    names: list[list[str]] = [[] for _ in range(max(map(len, lines), default=0))]
    for line in lines:
        for place, value in enumerate(line):
            text = "" if value is None else str(value).strip()
            if text and text not in names[place]:
                names[place].append(text)
    return [" ".join(parts) or None for parts in names]


def sheet_rows(path: Path, sheet: str | None, header_rows: HeaderRows = FIRST_ROW) -> list[Located]:
    """Rows of one sheet (the only one, or the named one): values, not formulas. `header_rows` name the columns.

    A value in cells that are merged downwards holds for each of their rows.
    """
    lines = sheet_lines(path, sheet, range(header_rows.first, header_rows.last + 1))
    above = [next(lines, (0, []))[1] for _ in range(header_rows.last)]
    header = joined_names(above[header_rows.first - 1 :])
    names = column_names(header, path)
    rows = []
    for number, line in lines:
        # A sheet may be much wider than its table: empty cells without a name are no part of it.
        values: dict[str, Any] = {}
        for place, value in enumerate(line):
            named = place < len(header) and header[place] is not None
            if named or value is not None:
                values[names[place] if place < len(names) else unnamed(place)] = value
        rows.append((f"{shown(path)}:{number}", values))
    return rows


@functools.lru_cache(maxsize=4096)
def fold(column: str) -> str:
    """A column name without case, spaces, underscores and hyphens."""
    return re.sub(r"[\s_\-]+", "", column.casefold())


def is_blank_cell(value: Any) -> bool:
    """ "", null, NaN and a missing key are one value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and value.strip().casefold() in ABSENT_TEXTS


def coerce(value: Any, leaf: Leaf, numbers: NumberColumns | None = None) -> Any:
    """A cell as the leaf's JSON type. Raises ValueError with a sentence where it cannot be that.

    `numbers` knows how the table writes the numbers of each field (while it learns that, it raises). Without it a text
    is judged by itself.
    """
    if is_blank_cell(value):
        return None
    if sentence := no_value(value, leaf):
        raise ValueError(sentence)
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
            if not math.isfinite(number):
                raise ValueError(f"{value[:40]!r} is too large a number")
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


def no_value(value: Any, leaf: Leaf) -> str:
    """Why a cell that is not blank holds no value all the same; else empty."""
    if isinstance(value, UnsavedFormula):
        return f"{str(value)[:40]!r} is a formula without a saved value; open the workbook, save it, and build again"
    if isinstance(value, str) and value.strip() in SHEET_ERRORS and value not in leaf.schema.get("enum", ()):
        return f"{value.strip()!r} is an error of the spreadsheet, no value; correct the cell"
    if isinstance(value, float) and not math.isfinite(value):
        return "the number is too large; write it as it stands on the page"
    return ""


def date_value(text: str, leaf: Leaf) -> str:
    """An ISO date.

    Raises ValueError where `text` is no date, and for 03/04/2024 where the schema does not say what comes first.
    """
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
    """A text by which two spellings of an enum value are the same."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()
