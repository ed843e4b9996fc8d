"""Rows of a labels table brought into the shape of the target schema: which field each value of a row belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from toolkit.records.label_account import NESTED, Account, LabelledDocument, count_values, inner_of, kind_of
from toolkit.records.label_fields import Field, FieldKeys, ListField, Meaning, ObjectField, Route, ValueField
from toolkit.records.label_table import BEYOND_HEADER, Located, fold, is_blank_cell


@dataclass
class Cell:
    """One value for a field: where it is, its key, and the values of further columns of the field, which rank lower."""

    where: str
    key: str
    value: Any
    counts: int = 1
    instead: list[Cell] = field(default_factory=list)


@dataclass
class Items:
    """A list as it was found: `whole` lists by where each stands, and an item for each row whose columns make one."""

    whole: list[tuple[str, list[Any]]] = field(default_factory=list)
    rows: dict[int, Any] = field(default_factory=dict)


# The rows of a document in the schema's shape: a list of Cells for a value, Items for a list, a dict for an object.
Shaped = dict[str, Any]


class RowShaper:
    """Shapes the rows of one document."""

    def __init__(self, keys: FieldKeys, account: Account, document: LabelledDocument) -> None:
        self.keys = keys
        self.account = account
        self.document = document
        self.given_whole: set[Field] = set()  # objects and lists that the rows hold as such, not as columns
        self.serial = 0

    def shaped(self, group: list[Located]) -> Shaped:
        into: Shaped = {}
        for _, row in group:
            self.mark(self.keys.root, row)
        for where, row in group:
            self.account.given += count_values(row)
            self.shape_row(where, row, into)
        return into

    def problem(self, sentence: str, value: Any = None) -> None:
        """Note a problem; the values inside `value` are part of it."""
        self.document.problems.append(sentence)
        if value is not None:
            self.count(value)

    def count(self, value: Any) -> None:
        self.account.count(value, self.document)

    def mark(self, of: ObjectField, values: dict[str, Any]) -> None:
        """Note which objects and lists are given whole.

        Those that a short name reaches are noted only where nothing on the way is.
        """
        inside = [
            (self.keys.names(of).meaning(key), inner)
            for key, value in values.items()
            if (inner := inner_of(value)) is not None
        ]
        for short in (False, True):
            for meaning, inner in inside:
                for route in self.usable(meaning) if meaning.is_short == short else ():
                    self.mark_whole(route[-1], inner)

    def mark_whole(self, of: Field, inner: Any) -> None:
        if isinstance(of, ObjectField) and isinstance(inner, dict):
            self.given_whole.add(of)
            self.mark(of, inner)
        elif isinstance(of, ListField):
            self.given_whole.add(of)
            for item in inner if isinstance(inner, list) else [inner]:
                if isinstance(item, NESTED):
                    self.mark_whole(of.item, item)

    def usable(self, meaning: Meaning) -> tuple[Route, ...]:
        """The fields that a key feeds here: a short name feeds no part of an object or list that is given whole."""
        if not meaning.is_short:
            return meaning.routes
        return tuple(route for route in meaning.routes if not self.given_whole & set(route[:-1]))

    def shape_row(self, where: str, row: dict[str, Any], into: Shaped) -> None:
        if beyond := row.get(BEYOND_HEADER):
            row = {key: value for key, value in row.items() if key != BEYOND_HEADER}
            cells = [cell for cell in beyond if not is_blank_cell(cell)] if isinstance(beyond, list) else [beyond]
            if cells:
                named = f"{len(cells)} cell{'s' if len(cells) > 1 else ''} more than the header"
                self.problem(f"{where}: {named} ({cells[0]!r}); quote cells that hold the delimiter", beyond)
            else:
                self.count(beyond)
        self.shape(self.keys.root, row, into, where, "")

    def shape(self, of: ObjectField, values: dict[str, Any], into: Shaped, where: str, prefix: str) -> None:
        """Put each value of an object where it belongs in `into`; `prefix` leads the names of its keys."""
        self.serial += 1
        serial, names = self.serial, self.keys.names(of)
        found: dict[Route, list[tuple[int, Cell]]] = {}
        document_column = self.keys.document_column(values) if not prefix else None
        for key, value in values.items():
            meaning = names.meaning(key)
            routes = self.usable(meaning)
            if not routes:
                self.no_field(prefix, key, value, where, meaning, document_column, values)
                continue
            for number, route in enumerate(routes):
                self.keys.named.add(route[-1])
                self.keys.filled.update(route[:-1])
                # A value that feeds several fields counts once.
                cell = Cell(where, prefix + key, value, counts=int(number == 0))
                if not isinstance(route[-1], ValueField):
                    self.shape_nested(route, cell, into, serial)
                elif is_blank_cell(value):
                    self.account.blank += cell.counts
                else:
                    found.setdefault(route, []).append((meaning.rank, cell))
        for route, cells in found.items():
            self.reach(route, into, serial).extend(chosen(cells))

    def no_field(
        self,
        prefix: str,
        key: str,
        value: Any,
        where: str,
        meaning: Meaning,
        name_column: str | None,
        row: dict[str, Any],
    ) -> None:
        if name_column is not None and not isinstance(value, NESTED):
            named = fold(key) in {fold(column) for column in self.keys.document_columns}
            if key == name_column or (named and value == row[name_column]):
                self.count(value)
                return
        note = meaning.note
        if meaning.is_short and meaning.routes:
            above = next(step for step in meaning.routes[0] if step in self.given_whole)
            note = f"{above.name} is given itself"
        self.account.pass_over(prefix + key, value, where, is_column=not prefix, note=note)

    def reach(self, route: Route, into: Shaped, serial: int) -> Any:
        """What `into` holds for a field; on the way, columns of one row make one item of a list."""
        here: Any = into
        for step in route[:-1]:
            if isinstance(step, ListField):
                here = here.setdefault(step.key, Items()).rows.setdefault(serial, {})
            else:
                here = here.setdefault(step.key, {})
        last = route[-1]
        empty: Any = {} if isinstance(last, ObjectField) else Items() if isinstance(last, ListField) else []
        return here.setdefault(last.key, empty)

    def shape_nested(self, route: Route, cell: Cell, into: Shaped, serial: int) -> None:
        """An object or a list, as such or as JSON in a cell."""
        target, value = route[-1], cell.value
        if is_blank_cell(value):
            self.account.blank += cell.counts
            self.reach(route, into, serial)
            return
        if not cell.counts:
            # Only values declare columns, so what shares one is a value or a list of plain values.
            self.shape_shared(route, cell, into, serial)
            return
        inner = inner_of(value)
        if isinstance(value, str) and inner is not None:
            self.account.given += count_values(inner) - 1
        if isinstance(target, ObjectField):
            if isinstance(inner, dict):
                if inner:
                    self.keys.filled.add(target)
                self.shape(target, inner, self.reach(route, into, serial), cell.where, f"{cell.key}.")
            else:
                self.problem(
                    f"{cell.where}: {cell.key}: an object is needed, this is {kind_of(inner)}", inner_or(value, inner)
                )
        elif isinstance(target, ListField):
            self.shape_list(route, cell, inner, into, serial)

    def shape_list(self, route: Route, cell: Cell, inner: Any, into: Shaped, serial: int) -> None:
        target = route[-1]
        assert isinstance(target, ListField)
        where, value = f"{cell.where}: {cell.key}", cell.value
        if isinstance(inner, list):
            place = place_of(cell)
            items = [self.shape_item(target, item, cell, f"{place}[{n}]") for n, item in enumerate(inner)]
            self.reach(route, into, serial).whole.append((cell.where, [item for item in items if item is not None]))
        elif isinstance(target.item, ObjectField):
            if isinstance(inner, dict):  # as converters from XML write a list of one
                item = self.shape_item(target, inner, cell, cell.where)
                self.reach(route, into, serial).whole.append((cell.where, [item]))
            else:
                self.problem(f"{where}: a list of objects is needed, this is a single value", value)
        elif isinstance(inner, dict):
            self.problem(f"{where}: a list is needed, this is an object", inner)
        elif isinstance(value, str) and value.lstrip()[:1] == "[":
            self.problem(f"{where}: this starts like a JSON list and is none: {value[:40]!r}", value)
        else:
            self.reach(route, into, serial).rows.setdefault(serial, []).append(cell)

    def shape_shared(self, route: Route, cell: Cell, into: Shaped, serial: int) -> None:
        """A further field that a column feeds: its values are counted with the first."""
        inner = inner_of(cell.value)
        target = route[-1]
        if isinstance(inner, dict):
            self.problem(f"{cell.where}: {cell.key}: {target.name}: a list is needed, this is an object")
        elif isinstance(inner, list):
            cells = [[Cell(cell.where, cell.key, item, counts=0)] for item in inner if not is_blank_cell(item)]
            self.reach(route, into, serial).whole.append((cell.where, cells))
        else:
            self.reach(route, into, serial).rows.setdefault(serial, []).append(cell)

    def shape_item(self, above: ListField, value: Any, cell: Cell, where: str) -> Any:
        """One item of the list `above`; None for a blank one."""
        of = above.item
        if not isinstance(value, NESTED) and is_blank_cell(value):
            self.account.blank += 1
            return None
        if isinstance(of, ObjectField):
            made: Shaped = {}
            if isinstance(value, dict):
                self.keys.filled.add(above)
                self.shape(of, value, made, where, f"{cell.key}[].")
            else:
                self.problem(f"{where}: an object is needed, this is {kind_of(value)}", value)
            return made
        if isinstance(of, ListField):
            self.keys.filled.add(above)
            inner = Items()
            self.shape_list((of,), Cell(where, f"{cell.key}[]", value), inner_of(value), {of.key: inner}, self.serial)
            return inner
        return [Cell(where, f"{cell.key}[]", value)]


def chosen(cells: list[tuple[int, Cell]]) -> list[Cell]:
    """The cells of the best rank; the others stay with the first of them."""
    best = min(rank for rank, _ in cells)
    first = [cell for rank, cell in cells if rank == best]
    first[0].instead = [cell for rank, cell in cells if rank != best]
    return first


def place_of(cell: Cell) -> str:
    """Where a list stands: `t.json[0].groups[2].results`. `where` leads to its row, so the key's rows are left out."""
    key = cell.key.rpartition("[].")[2]
    return cell.where if key.endswith("[]") else f"{cell.where}.{key}"


def inner_or(value: Any, inner: Any) -> Any:
    """`inner`, or `value` where it is None."""
    return value if inner is None else inner
