"""Rows of a labels table joined to the target schema: one gold answer per document, and an account of every value.

A row is flat (a column per field; one row per list item), a whole answer shaped like the schema, or a mixture of both.
Every value that is not blank is used in an answer, is part of a problem, or is counted as belonging to no field.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from toolkit.console import StageError
from toolkit.files import escaped
from toolkit.json_text import lone_surrogate
from toolkit.pages.images import document_key
from toolkit.records.label_account import NESTED, Account, LabelledDocument, count_values, kind_of
from toolkit.records.label_fields import Field, FieldKeys, ListField, ObjectField, ValueField, values_below
from toolkit.records.label_shape import Cell, Items, RowShaper, Shaped
from toolkit.records.label_table import Located, coerce, is_blank_cell
from toolkit.schema.number_columns import NumberColumns
from toolkit.schema.number_text import Convention
from toolkit.schema.target import Leaf, TargetSchema, put_at, value_at


class LabelJoin:
    """Joins rows to one schema.

    `keys` holds what all rows so far have named, `account` what became of their values, and `numbers` how the numbers
    of each field are written. `decimal` is the decimal sign from the command line.
    """

    def __init__(self, schema: TargetSchema, decimal: Convention | None = None) -> None:
        self.keys = FieldKeys(schema)
        self.account = Account()
        self.numbers = NumberColumns(decimal)

    def documents(self, rows: Iterable[Located]) -> Iterator[LabelledDocument]:
        """One document per file name, in order of first appearance; problems are attached, never resolved silently."""
        groups: dict[str, list[Located]] = {}
        for where, row in rows:
            groups.setdefault(self.document_name(where, row), []).append((where, row))
        shaped: list[tuple[LabelledDocument, Shaped]] = []
        for name, group in groups.items():
            document = LabelledDocument(escaped(name), document_key(name), {}, text_problems(name, group))
            shaped.append((document, RowShaper(self.keys, self.account, document).shaped(group)))
        # How a field writes its numbers is known only when all its texts are.
        for _, values in shaped:
            self.learn_numbers(self.keys.root, values)
        for document, values in shaped:
            document.answer = CellReader(self.account, document, self.numbers).object_value(self.keys.root, values)
            yield document

    def learn_numbers(self, of: Field, shaped: Any) -> None:
        """Show every text of the number fields below `of` to `numbers`."""
        if isinstance(of, ObjectField):
            for key, child in of.fields.items():
                if key in (shaped or {}):
                    self.learn_numbers(child, shaped[key])
        elif isinstance(of, ListField):
            for item in [*(item for _, whole in shaped.whole for item in whole), *shaped.rows.values()]:
                self.learn_numbers(of.item, item)
        elif of.leaf.is_number:
            for cell in [cell for first in shaped or [] for cell in (first, *first.instead)]:
                if isinstance(cell.value, str) and not is_blank_cell(cell.value):
                    self.numbers.of(of.leaf).learn(cell.value)

    def document_name(self, where: str, row: dict[str, Any]) -> str:
        column = self.keys.document_column(row)
        if column is None:
            wanted = " or ".join(self.keys.document_columns)
            raise StageError(f"{where}: no file name; the schema looks for it in the column {wanted}")
        if isinstance(row[column], NESTED):
            raise StageError(f"{where}: {column}: a file name is needed, this is {kind_of(row[column])}")
        return str(row[column]).strip()

    def add_beside(self, beside: dict[str, Any], where: str) -> None:
        """Count what stands beside the rows of a file."""
        for key, value in beside.items():
            self.account.given += count_values(value)
            self.account.pass_over(key, value, where, is_column=True)


class CellReader:
    """Makes the answer of one document: the cells of each field become its value."""

    def __init__(self, account: Account, document: LabelledDocument, numbers: NumberColumns) -> None:
        self.account = account
        self.document = document
        self.numbers = numbers

    def value(self, of: Field, shaped: Any) -> Any:
        if isinstance(of, ObjectField):
            return self.object_value(of, shaped or {})
        if isinstance(of, ListField):
            return self.list_value(of, shaped or Items())
        return self.single_value(of.leaf, shaped or [])

    def object_value(self, of: ObjectField, shaped: Shaped) -> dict[str, Any]:
        return {key: self.value(child, shaped.get(key)) for key, child in of.fields.items()}

    def list_value(self, of: ListField, items: Items) -> list[Any]:
        """The list that a document's rows agree on. A key given twice is a problem, even with equal cells."""
        found = [(where, self.item_values(of, whole, [where] * len(whole))) for where, whole in items.whole]
        if items.rows:
            wheres = [first_place(item) for item in items.rows.values()]
            # Flat rows repeat what does not change from row to row: plain values stand in the list once.
            values = self.item_values(of, list(items.rows.values()), wheres, once=isinstance(of.item, ValueField))
            values = together(of.item, values)
            self.check_inner_keys(of.item, values)
            found.append((wheres[0], values))
        # An empty list beside another row's full one says nothing against it.
        found = [version for version in found if version[1]]
        if not found:
            return []
        first_where, first = found[0]
        for where, other in found[1:]:
            if [value for value, _ in other] != [value for value, _ in first]:
                shown = f"{len(first)} items ({first_where}) and {len(other)} items ({where})"
                self.document.problems.append(f"{of.name}: the rows disagree: {shown}; give the list once")
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

    def check_inner_keys(self, of: Field, rows: list[tuple[Any, str]]) -> None:
        """The keys of lists that were put together from flat rows."""
        for path, inner in lists_below(of) if isinstance(of, ObjectField) else ():
            for value, where in rows:
                items = [(item, where) for item in value_at(value, path)]
                self.check_keys(inner, items)
                self.check_inner_keys(inner.item, items)

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
                self.document.problems.append(
                    f"{key.name}: {text!r} stands {len(places)} times ({places[0]} and {places[1]})"
                )

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
                self.document.problems.append(
                    f"{leaf.name}: the {who} disagree: {first!r} ({places[1]}) and {value!r} ({places[0]})"
                )
        return first

    def size(self, cell: Cell) -> int:
        """How many values a cell holds that are not blank; the blank ones are counted here."""
        if not isinstance(cell.value, NESTED) or not cell.counts:
            return cell.counts
        before = self.document.values
        self.account.count(cell.value, self.document)
        found, self.document.values = self.document.values - before, before
        return found

    def coerced(self, leaf: Leaf, cell: Cell) -> Any:
        """The cell as the field's JSON type; where it cannot be that, a problem and None."""
        try:
            if isinstance(cell.value, NESTED):
                raise ValueError(f"a single value is needed, this is {kind_of(cell.value)}")
            return self.as_type(cell.value, leaf)
        except ValueError as error:
            self.document.problems.append(f"{cell.where}: {leaf.name}: {error}")
            return None

    def passed_over(self, leaf: Leaf, cell: Cell, value: Any) -> None:
        """Further columns of the field: used where they say the same, counted as not used where they do not."""
        for other in cell.instead:
            if not other.counts:
                continue
            if self.says_the_same(leaf, other, value):
                self.document.values += 1
            else:
                note = f"differs from {cell.key}; {cell.key} was used"
                self.account.pass_over(other.key, other.value, other.where, is_column="." not in other.key, note=note)

    def says_the_same(self, leaf: Leaf, cell: Cell, value: Any) -> bool:
        try:
            return not isinstance(cell.value, NESTED) and alike(self.as_type(cell.value, leaf), value)
        except ValueError:
            return False

    def as_type(self, value: Any, leaf: Leaf) -> Any:
        """A single value as the field's JSON type. Raises ValueError with a sentence where it cannot be that."""
        return coerce(value, leaf, self.numbers)


def text_problems(name: str, group: list[Located]) -> list[str]:
    """What no file can hold in a document's name and cells: half a surrogate pair."""
    problems = [f"{where}: {sentence}" for where, row in group if (sentence := lone_surrogate(row))]
    return problems or ([f"its name {lone_surrogate(name)[2:]}"] if lone_surrogate(name) else [])


def is_empty(value: Any) -> bool:
    """True for null, and for an object or a list that holds nothing else."""
    if isinstance(value, dict):
        return all(map(is_empty, value.values()))
    return value is None or (isinstance(value, list) and all(map(is_empty, value)))


def together(of: Field, rows: list[tuple[Any, str]]) -> list[tuple[Any, str]]:
    """Flat rows that agree in all cells but those of the lists inside them, as one row that holds their lists.

    Flat rows repeat the group that they belong to: two rows of one group are two rows of the list inside it.
    """
    if not isinstance(of, ObjectField) or not (inner := list(lists_below(of))):
        return rows
    found: dict[str, tuple[Any, str]] = {}
    for value, where in rows:
        cells = copy.deepcopy(value)
        for path, _ in inner:
            put_at(cells, path, None)
        name = json.dumps(cells, sort_keys=True)
        if name not in found:
            found[name] = value, where
            continue
        for path, of_list in inner:
            both = [(item, where) for row in (found[name][0], value) for item in value_at(row, path)]
            put_at(found[name][0], path, [item for item, _ in together(of_list.item, both)])
    return list(found.values())


def lists_below(of: ObjectField) -> Iterator[tuple[tuple[str, ...], ListField]]:
    """`(path, list)` of the lists in an object, not those in the rows of others."""
    for key, child in of.fields.items():
        if isinstance(child, ListField):
            yield (key,), child
        elif isinstance(child, ObjectField):
            yield from (((key, *path), found) for path, found in lists_below(child))


def alike(value: Any, other: Any) -> bool:
    """Whether two values are the same but for case and white space."""
    return value == other or str(value).casefold().split() == str(other).casefold().split()


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
