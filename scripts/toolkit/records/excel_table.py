"""One sheet of an Excel workbook as rows: the values that people see, streamed, whatever the file says of itself."""

from __future__ import annotations

import datetime
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from toolkit.console import StageError, one_line
from toolkit.files import MIB, opened, shown

MOST_ROWS = 200_000
MOST_CELLS = 4_000_000
MOST_XML_BYTES = 256 * MIB  # of all XML in the workbook, unpacked
FORMULA_MARKS = (b"<f>", b"<f ", b"<f/", b":f>", b":f ")
AS_CSV = "save the table as .csv"

MOST_COLUMNS = 16_384  # of Excel itself
_MERGED = re.compile(rb'mergeCell\s+ref="\$?([A-Z]{1,3})\$?(\d{1,7}):\$?([A-Z]{1,3})\$?(\d{1,7})"')

Row = tuple[int, list[Any]]  # its number in the sheet, from 1, and its values


class Range(NamedTuple):
    """Merged cells: rows from 1, columns from 0, both ends included."""

    top: int
    bottom: int
    left: int
    right: int


class UnsavedFormula(str):
    """The formula of a cell for which the workbook holds no value: no program has calculated it yet."""

    __slots__ = ()


FIRST_ROW = range(1, 2)


def sheet_lines(path: Path, sheet: str | None, header: range = FIRST_ROW) -> Iterator[Row]:
    """Every row of one sheet (the only one, or the named one) that holds a cell, and always those down to the `header`.

    The value of merged cells stands in each of their rows, in the first column; in header rows above others in all.
    Dates come as YYYY-MM-DD texts. Whole numbers that a cell formats with leading zeros (00123) keep them. A formula
    without a saved value comes as UnsavedFormula. Raises StageError where the file is no workbook, is damaged, or has
    more than MOST_ROWS rows, MOST_CELLS cells or MOST_XML_BYTES.
    """
    with opened(path, "an Excel file") as file:
        try:
            yield from lines_of(file, path, sheet, header)
        except StageError:
            raise
        except Exception as error:  # openpyxl and the XML parser raise of every kind on a damaged file
            reason = one_line(error, 100) or type(error).__name__
            raise StageError(f"{shown(path)}: not an Excel file, or a damaged one ({reason}); {AS_CSV}") from None


def lines_of(file: IO[bytes], path: Path, sheet: str | None, header: range) -> Iterator[Row]:
    """The rows of a sheet with their numbers. Raises StageError for a formula without a stored value."""
    with_formulas = checked_parts(file, path)
    page = page_of(file, path, sheet, data_only=True)
    merged = MergedCells(merged_ranges(file, page._worksheet_path), header)
    values = page.iter_rows()
    formulas = page_of(file, path, sheet, data_only=False).iter_rows() if with_formulas else None
    count = cells = 0
    for number, line in enumerate(values, 1):
        written = next(formulas, ()) if formulas is not None else ()
        found = [cell_value(cell) for cell in line]
        for place, cell in enumerate(written):
            if found[place] is None and getattr(cell, "data_type", "") == "f":
                found[place] = UnsavedFormula(getattr(cell.value, "text", None) or cell.value or "a formula")
        merged.fill(number, found)
        cells += len(found)
        if number >= header.stop and all(value is None for value in found):
            continue
        count += 1
        if count > MOST_ROWS or cells > MOST_CELLS:
            limit = f"{MOST_ROWS} rows" if count > MOST_ROWS else f"{MOST_CELLS} cells"
            raise StageError(f"{shown(path)}: the sheet has more than {limit}; {AS_CSV}")
        yield number, found


def checked_parts(file: IO[bytes], path: Path) -> bool:
    """Whether a sheet holds a formula. Raises StageError where the XML is larger than MOST_XML_BYTES."""
    with zipfile.ZipFile(file) as archive:
        parts = [part for part in archive.infolist() if part.filename.lower().endswith((".xml", ".rels"))]
        # Reading a member ends at the size that is declared for it, so the declared sizes hold.
        if sum(part.file_size for part in parts) > MOST_XML_BYTES:
            raise StageError(f"{shown(path)}: the workbook unpacks to more than {MOST_XML_BYTES // MIB} MiB; {AS_CSV}")
        return any(holds_formula(archive, part) for part in parts if "/worksheets/" in part.filename.lower())


def holds_formula(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> bool:
    """Whether a part of the file holds a formula; it is read in pieces."""
    with archive.open(part) as xml:
        end = b""
        while block := xml.read(MIB):
            if any(mark in end + block for mark in FORMULA_MARKS):
                return True
            end = block[-4:]
    return False


def merged_ranges(file: IO[bytes], part: str) -> list[Range]:
    """The ranges of merged cells that a sheet's part of the file lists; it is read in pieces."""
    found: list[Range] = []
    with zipfile.ZipFile(file) as archive, archive.open(part.removeprefix("/")) as xml:
        end = b""
        while block := xml.read(MIB):
            text = end + block
            for match in _MERGED.finditer(text):
                left, top, right, bottom = (part.decode() for part in match.groups())
                found.append(Range(int(top), int(bottom), column_of(left), column_of(right)))
            last = text.rfind(b">")
            end = text[last + 1 :][-200:]
    return found


def column_of(letters: str) -> int:
    """The number of a column, from 0: A is 0, AA is 26."""
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - 64
    return number - 1


class MergedCells:
    """Fills the rows of a sheet, one after the other, with the values of merged cells."""

    def __init__(self, ranges: list[Range], header: range) -> None:
        self.above = header[:-1]  # `Container` above `Number` and `Size` holds for both
        self.starting: dict[int, list[Range]] = defaultdict(list)
        for one in ranges:
            self.starting[one.top].append(one)
        self.open: list[tuple[Range, Any]] = []

    def fill(self, number: int, row: list[Any]) -> None:
        """Put the values where they belong in the row `number`. A row that holds nothing itself gets none."""
        for one in self.starting.pop(number, ()):
            if one.left < len(row) and row[one.left] is not None:
                self.open.append((one, row[one.left]))
        self.open = [(one, value) for one, value in self.open if one.bottom >= number]
        if not self.open or all(value is None for value in row):
            return
        for one, value in self.open:
            right = min(one.right, MOST_COLUMNS - 1) if number in self.above else one.left
            row.extend([None] * (right + 1 - len(row)))
            for place in range(one.left, right + 1):
                if row[place] is None:
                    row[place] = value


def page_of(file: IO[bytes], path: Path, sheet: str | None, *, data_only: bool) -> Any:
    """The sheet, to be read row by row. Raises StageError where it is not there, or not named and needed."""
    import openpyxl

    file.seek(0)
    book = openpyxl.load_workbook(file, read_only=True, data_only=data_only, keep_links=False)
    names = book.sheetnames
    if sheet is None and len(names) > 1:
        raise StageError(f"{shown(path)}: {len(names)} sheets; name one with --sheet: {', '.join(names[:6])}")
    if sheet is not None and sheet not in names:
        raise StageError(f"{shown(path)}: no sheet {sheet!r}; it has {', '.join(names[:6])}")
    page = book[sheet or names[0]]
    page.reset_dimensions()  # what a file says of its size would cut cells off
    return page


def cell_value(cell: Any) -> Any:
    """An Excel cell's value: dates as YYYY-MM-DD, numbers with the leading zeros of their format."""
    value = cell.value
    if isinstance(value, datetime.datetime | datetime.date):
        return value.strftime("%Y-%m-%d")
    if isinstance(value, int) and not isinstance(value, bool):
        zeros = str(cell.number_format)
        return str(value).zfill(len(zeros)) if re.fullmatch(r"00+", zeros) else value
    return value
