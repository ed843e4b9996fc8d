"""Rows of a labels table joined to the target schema: one gold answer per document, and an account of every value.

A row is a flat one (a column per field; one row per list item), a whole answer shaped like the schema, or a mixture of both.
Every value that is not blank is used in an answer, or is part of a problem, or stands in `not_used`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from toolkit.console import StageError
from toolkit.files import strict_json
from toolkit.label_fields import (
    Field,
    ListField,
    Meaning,
    Names,
    ObjectField,
    Route,
    ValueField,
    field_tree,
    values_below,
)
from toolkit.label_table import BEYOND_HEADER, Located, coerce, fold, is_absent
from toolkit.page_images import document_key
from toolkit.target_schema import Leaf, TargetSchema, value_at

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
    """Values that feed no field. `is_column`: of a plain column, as exports have them; else they are part of an answer."""

    path: str
    is_column: bool
    first: str
    values: int = 0
    note: str = ""


@dataclass
class Cell:
    """One value for a field: where it stands, under which key, and values of further columns of the field, less wanted."""

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


# What the rows of a document hold, in the schema's shape: a list of Cells for a value, Items for a list, a dict for an object.
Shaped = dict[str, Any]


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
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "a single value"


class LabelJoin:
    """Joins rows to one schema. `given`, `blank` and `not_used` count values of all documents so far.

    `named` are the fields that some key names, `filled` the objects and lists that hold something or that a column reaches into.
    """

    def __init__(self, schema: TargetSchema) -> None:
        self.schema = schema
        self.root = field_tree(schema)
        self.given = 0
        self.blank = 0
        self.not_used: dict[str, NotUsed] = {}
        self.named: set[Field] = set()
        self.filled: set[Field] = set()
        self._names: dict[ObjectField, Names] = {}

    def names(self, of: ObjectField) -> Names:
        if of not in self._names:
            self._names[of] = Names(of)
        return self._names[of]

    def documents(self, rows: Iterable[Located]) -> Iterator[LabelledDocument]:
        """One document per file name, in order of first appearance; problems are attached, never resolved silently."""
        groups: dict[str, list[Located]] = {}
        for where, row in rows:
            groups.setdefault(self.document_name(where, row), []).append((where, row))
        for name, group in groups.items():
            yield _Gathering(self, name).joined(group)

    def document_name(self, where: str, row: dict[str, Any]) -> str:
        column = self.document_column(row)
        if column is None:
            wanted = " or ".join(self.schema.document_columns)
            raise StageError(f"{where}: no file name; the schema looks for it in the column {wanted}")
        if isinstance(row[column], NESTED):
            raise StageError(f"{where}: {column}: a file name is needed, this is {kind_of(row[column])}")
        return str(row[column]).strip()

    def document_column(self, row: dict[str, Any]) -> str | None:
        """The column that names the row's document: the first of the schema's that holds a value."""
        for name in self.schema.document_columns:
            if not is_absent(row.get(name)):
                return name
            wanted = fold(name)
            for column, value in row.items():
                if fold(column) == wanted and not is_absent(value):
                    return column
        return None

    def fields_without_column(self) -> set[str]:
        """Dotted names of the fields that no row so far names; a list's name, where none of its fields is named.

        An object or a list that is named but never holds anything does not tell: its fields count as named.
        """
        return set(self._without_column(self.root))

    def _without_column(self, of: Field) -> Iterator[str]:
        if isinstance(of, ValueField):
            if of not in self.named:
                yield of.name
        elif of in self.named and of not in self.filled:
            return
        elif isinstance(of, ObjectField):
            for child in of.fields.values():
                yield from self._without_column(child)
        else:
            gone = list(self._without_column(of.item))
            yield from [of.name] if len(gone) == len(list(values_below(of.item))) else gone

    def add_beside(self, beside: dict[str, Any], where: str) -> None:
        """Count what stands beside the rows of a file."""
        for key, value in beside.items():
            self.given += count_values(value)
            self.pass_over(key, value, where, is_column=True)

    def pass_over(self, path: str, value: Any, where: str, *, is_column: bool, note: str = "") -> None:
        """Count a value that feeds no field, or all values inside it."""
        if isinstance(value, dict):
            for key, item in value.items():
                self.pass_over(f"{path}.{key}", item, where, is_column=False, note=note)
        elif isinstance(value, list):
            for item in value:
                self.pass_over(f"{path}[]", item, where, is_column=False, note=note)
        elif is_absent(value):
            self.blank += 1
        else:
            entry = self.not_used.setdefault(path, NotUsed(path, is_column, where, note=note))
            entry.values += 1
            entry.is_column = entry.is_column and is_column


class _Gathering:
    """One document: its rows are brought into the schema's shape, then the cells of each field become its value."""

    def __init__(self, join: LabelJoin, name: str) -> None:
        self.join = join
        self.document = LabelledDocument(name, document_key(name), {})
        self.given_whole: set[Field] = set()  # objects and lists that the rows hold as such, not as columns
        self.serial = 0

    def joined(self, group: list[Located]) -> LabelledDocument:
        shaped: Shaped = {}
        root = self.join.root
        for _, row in group:
            self.mark(root, row)
        for where, row in group:
            self.join.given += count_values(row)
            self.shape_row(where, row, shaped)
        self.document.answer = self.object_value(root, shaped)
        return self.document

    def problem(self, sentence: str, value: Any = None) -> None:
        """Note a problem; the values inside `value` are part of it."""
        self.document.problems.append(sentence)
        if value is not None:
            self.count(value)

    def count(self, value: Any) -> None:
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            self.count(item)
        if not isinstance(value, NESTED):
            if is_absent(value):
                self.join.blank += 1
            else:
                self.document.values += 1

    # --- rows to the schema's shape

    def mark(self, of: ObjectField, values: dict[str, Any]) -> None:
        """Note which objects and lists are given whole; those that a short name reaches, only where nothing on the way is."""
        inside = [(self.join.names(of).meaning(key), inner) for key, value in values.items() if (inner := inner_of(value)) is not None]  # fmt: skip
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
            cells = [cell for cell in beyond if not is_absent(cell)] if isinstance(beyond, list) else [beyond]
            if cells:
                named = f"{len(cells)} cell{'s' if len(cells) > 1 else ''} more than the header"
                self.problem(f"{where}: {named} ({cells[0]!r}); quote cells that hold the delimiter", beyond)
            else:
                self.count(beyond)
        self.shape(self.join.root, row, into, where, "")

    def shape(self, of: ObjectField, values: dict[str, Any], into: Shaped, where: str, prefix: str) -> None:
        """Put each value of an object where it belongs in `into`; `prefix` leads the names of its keys."""
        self.serial += 1
        serial, names = self.serial, self.join.names(of)
        found: dict[Route, list[tuple[int, Cell]]] = {}
        document_column = self.join.document_column(values) if not prefix else None
        for key, value in values.items():
            meaning = names.meaning(key)
            routes = self.usable(meaning)
            if not routes:
                self.no_field(prefix, key, value, where, meaning, document_column, values)
                continue
            for number, route in enumerate(routes):
                self.join.named.add(route[-1])
                self.join.filled.update(route[:-1])
                # A value that feeds several fields counts once.
                cell = Cell(where, prefix + key, value, counts=int(number == 0))
                if not isinstance(route[-1], ValueField):
                    self.shape_nested(route, cell, into, serial)
                elif is_absent(value):
                    self.join.blank += cell.counts
                else:
                    found.setdefault(route, []).append((meaning.rank, cell))
        for route, cells in found.items():
            self.reach(route, into, serial).extend(chosen(cells))

    def no_field(
        self, prefix: str, key: str, value: Any, where: str, meaning: Meaning, name_column: str | None, row: dict[str, Any]
    ) -> None:  # fmt: skip
        if name_column is not None and not isinstance(value, NESTED):
            named = fold(key) in {fold(column) for column in self.join.schema.document_columns}
            if key == name_column or (named and value == row[name_column]):
                self.count(value)
                return
        note = meaning.note
        if meaning.is_short and meaning.routes:
            above = next(step for step in meaning.routes[0] if step in self.given_whole)
            note = f"{above.name} is given itself"
        self.join.pass_over(prefix + key, value, where, is_column=not prefix, note=note)

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
        if is_absent(value):
            self.join.blank += cell.counts
            self.reach(route, into, serial)
            return
        if not cell.counts:
            # Only values declare columns, so what shares one is a value or a list of plain values.
            self.shape_shared(route, cell, into, serial)
            return
        inner = inner_of(value)
        if isinstance(value, str) and inner is not None:
            self.join.given += count_values(inner) - 1
        if isinstance(target, ObjectField):
            if isinstance(inner, dict):
                if inner:
                    self.join.filled.add(target)
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
            items = [self.shape_item(target, item, cell, f"{cell.where}.{cell.key}[{n}]") for n, item in enumerate(inner)]  # fmt: skip
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
            cells = [[Cell(cell.where, cell.key, item, counts=0)] for item in inner if not is_absent(item)]
            self.reach(route, into, serial).whole.append((cell.where, cells))
        else:
            self.reach(route, into, serial).rows.setdefault(serial, []).append(cell)

    def shape_item(self, above: ListField, value: Any, cell: Cell, where: str) -> Any:
        """One item of the list `above`; None for a blank one."""
        of = above.item
        if not isinstance(value, NESTED) and is_absent(value):
            self.join.blank += 1
            return None
        if isinstance(of, ObjectField):
            made: Shaped = {}
            if isinstance(value, dict):
                self.join.filled.add(above)
                self.shape(of, value, made, where, f"{cell.key}[].")
            else:
                self.problem(f"{where}: an object is needed, this is {kind_of(value)}", value)
            return made
        if isinstance(of, ListField):
            self.join.filled.add(above)
            inner = Items()
            self.shape_list((of,), Cell(where, f"{cell.key}[]", value), inner_of(value), {of.key: inner}, self.serial)
            return inner
        return [Cell(where, f"{cell.key}[]", value)]

    # --- cells to values

    def value(self, of: Field, shaped: Any) -> Any:
        if isinstance(of, ObjectField):
            return self.object_value(of, shaped or {})
        if isinstance(of, ListField):
            return self.list_value(of, shaped or Items())
        return self.single_value(of.leaf, shaped or [])

    def object_value(self, of: ObjectField, shaped: Shaped) -> dict[str, Any]:
        return {key: self.value(child, shaped.get(key)) for key, child in of.fields.items()}

    def list_value(self, of: ListField, items: Items) -> list[Any]:
        """The list that a document's rows agree on; a key that stands twice is a problem, whether its cells agree or not."""
        found = [(where, self.item_values(of, whole, [where] * len(whole))) for where, whole in items.whole]
        if items.rows:
            wheres = [first_place(item) for item in items.rows.values()]
            # Flat rows repeat what does not change from row to row: plain values stand in the list once.
            values = self.item_values(of, list(items.rows.values()), wheres, once=isinstance(of.item, ValueField))
            found.append((wheres[0], values))
        # An empty list beside another row's full one says nothing against it.
        found = [version for version in found if version[1]]
        if not found:
            return []
        first_where, first = found[0]
        for where, other in found[1:]:
            if [value for value, _ in other] != [value for value, _ in first]:
                shown = f"{len(first)} items ({first_where}) and {len(other)} items ({where})"
                self.problem(f"{of.name}: the rows disagree: {shown}; give the list once")
                break
        self.check_keys(of, first)
        return [value for value, _ in first]

    def item_values(
        self, of: ListField, shaped: list[Any], wheres: list[str], *, once: bool = False
    ) -> list[tuple[Any, str]]:
        values: list[tuple[Any, str]] = []
        for item, where in zip(shaped, wheres, strict=True):
            value = self.value(of.item, item)
            if not is_empty(value) and not (once and any(value == other for other, _ in values)):
                values.append((value, first_place(item) or where))
        return values

    def check_keys(self, of: ListField, items: list[tuple[Any, str]]) -> None:
        prefix = f"{of.name}[]."
        keys = [v for v in values_below(of.item) if v.leaf.is_key and v.name.startswith(prefix)]
        key = next((v for v in keys if "[]" not in v.name[len(prefix) :]), None)
        if key is None or key.leaf.compare != "id":
            return
        seen: dict[str, list[str]] = defaultdict(list)
        for value, where in items:
            if text := str(value_at(value, key.leaf.path) or ""):
                seen[text].append(where)
        for text, places in seen.items():
            if len(places) > 1:
                self.problem(f"{key.name}: {text!r} stands {len(places)} times ({places[0]} and {places[1]})")

    def single_value(self, leaf: Leaf, cells: list[Cell]) -> Any:
        """The one value that the cells agree on; a disagreement is a problem that shows both."""
        first: Any = None
        first_cell: Cell | None = None
        agreed = True
        for cell in cells:
            self.document.values += self.size(cell)
            value = self.coerced(leaf, cell)
            self.passed_over(leaf, cell, value)
            if value is None or not agreed:
                continue
            if first_cell is None:
                first, first_cell = value, cell
            elif not alike(value, first):
                agreed = False
                places = (
                    (cell.where, first_cell.where) if cell.where != first_cell.where else (cell.key, first_cell.key)
                )
                who = "rows" if cell.where != first_cell.where else "columns"
                self.problem(f"{leaf.name}: the {who} disagree: {first!r} ({places[1]}) and {value!r} ({places[0]})")
        return first

    def size(self, cell: Cell) -> int:
        """How many values a cell holds that are not blank; the blank ones are counted here."""
        if not isinstance(cell.value, NESTED) or not cell.counts:
            return cell.counts
        before = self.document.values
        self.count(cell.value)
        found, self.document.values = self.document.values - before, before
        return found

    def coerced(self, leaf: Leaf, cell: Cell) -> Any:
        """The cell as the field's JSON type; where it cannot be that, a problem and None."""
        try:
            if isinstance(cell.value, NESTED):
                raise ValueError(f"a single value is needed, this is {kind_of(cell.value)}")
            return coerce(cell.value, leaf)
        except ValueError as error:
            self.problem(f"{cell.where}: {leaf.name}: {error}")
            return None

    def passed_over(self, leaf: Leaf, cell: Cell, value: Any) -> None:
        """Further columns of the field: used where they say the same, counted as not used where they do not."""
        for other in cell.instead:
            if not other.counts:
                continue
            if same_value(leaf, other, value):
                self.document.values += 1
            else:
                note = f"differs from {cell.key}; {cell.key} was used"
                self.join.pass_over(other.key, other.value, other.where, is_column="." not in other.key, note=note)


def chosen(cells: list[tuple[int, Cell]]) -> list[Cell]:
    """The cells of the best rank; the others stay with the first of them."""
    best = min(rank for rank, _ in cells)
    first = [cell for rank, cell in cells if rank == best]
    first[0].instead = [cell for rank, cell in cells if rank != best]
    return first


def inner_or(value: Any, inner: Any) -> Any:
    return value if inner is None else inner


def is_empty(value: Any) -> bool:
    """True for null, and for an object or a list that holds nothing else."""
    if isinstance(value, dict):
        return all(map(is_empty, value.values()))
    return value is None or (isinstance(value, list) and all(map(is_empty, value)))


def alike(value: Any, other: Any) -> bool:
    return value == other or str(value).casefold().split() == str(other).casefold().split()


def same_value(leaf: Leaf, cell: Cell, value: Any) -> bool:
    if isinstance(cell.value, NESTED):
        return False
    try:
        return alike(coerce(cell.value, leaf), value)
    except ValueError:
        return False


def first_place(shaped: Any) -> str:
    """Where the first cell of an item stands; empty where it has none."""
    if isinstance(shaped, Items):
        return next((where for where, _ in shaped.whole), "") or first_place(shaped.rows)
    for item in shaped.values() if isinstance(shaped, dict) else shaped:
        if place := item.where if isinstance(item, Cell) else first_place(item):
            return place
    return ""


def narrowed(answer: Any, schema: dict[str, Any]) -> Any:
    """An answer with the fields of a (raw) schema that has fewer."""
    if isinstance(answer, dict) and "properties" in schema:
        return {name: narrowed(answer[name], child) for name, child in schema["properties"].items()}
    if isinstance(answer, list) and "items" in schema:
        return [narrowed(item, schema["items"]) for item in answer]
    return answer
