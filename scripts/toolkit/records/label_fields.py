"""The fields of a target schema as labels name them: by a declared column, by their path, or by the last part of it.

The tree is walked as the schema is nested, so the join knows no depth.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from toolkit.records.label_table import fold, is_blank_cell
from toolkit.schema.target import Leaf, TargetSchema

# Least similarity of a key and a field's name for "did you mean": to a field that no column feeds, and to any field.
ALIKE_MISSING, ALIKE = 0.65, 0.8
BY_PATH, BY_LAST_NAME = 1000, 2000  # ranks behind the declared columns, which count from 0


@dataclass(frozen=True, eq=False)
class ValueField:
    """One value. `key` is its name in the object above (empty in a list), `name` its dotted name from the root."""

    key: str
    name: str
    leaf: Leaf


@dataclass(frozen=True, eq=False)
class ObjectField:
    """An object of the schema with its fields by folded name."""

    key: str
    name: str
    fields: dict[str, Field]


@dataclass(frozen=True, eq=False)
class ListField:
    """A list; `item` is what it holds: objects, or plain values."""

    key: str
    name: str
    item: Field


Field = ValueField | ObjectField | ListField
Route = tuple[Field, ...]  # from below an object down to a field; an object that is a list's row is not named on it


def field_tree(schema: TargetSchema) -> ObjectField:
    """The schema's fields, nested as it is."""
    leaves = {id(leaf.schema): leaf for leaf in schema.leaves}

    def built(raw: dict[str, Any], key: str, name: str) -> Field:
        if "properties" in raw:
            before = f"{name}." if name else ""
            fields = {child: built(value, child, f"{before}{child}") for child, value in raw["properties"].items()}
            return ObjectField(key, name, fields)
        if "items" in raw:
            return ListField(key, name, built(raw["items"], "", f"{name}[]"))
        return ValueField(key, name, leaves[id(raw)])

    root = built(schema.raw, "", "")
    assert isinstance(root, ObjectField)
    return root


def values_below(field: Field) -> Iterator[ValueField]:
    """Every value field in or below `field`."""
    if isinstance(field, ValueField):
        yield field
    elif isinstance(field, ListField):
        yield from values_below(field.item)
    else:
        for child in field.fields.values():
            yield from values_below(child)


def routes_below(field: ObjectField) -> Iterator[Route]:
    """Every field below an object with the way to it; a list of plain values stands for its values."""
    for child in field.fields.values():
        yield (child,)
        inner = child.item if isinstance(child, ListField) else child
        if isinstance(inner, ObjectField):
            for route in routes_below(inner):
                yield (child, *route)


@dataclass(frozen=True)
class Meaning:
    """The fields that a key feeds, best `rank` first; `is_short`: by the last part of their path only.

    A key that fits several fields in the same way feeds none of them; `note` names them.
    """

    routes: tuple[Route, ...] = ()
    rank: int = BY_PATH
    is_short: bool = False
    note: str = ""


class Names:
    """The keys that an object's labels may have, and what each means."""

    def __init__(self, field: ObjectField) -> None:
        self.declared: dict[str, list[tuple[int, Route]]] = {}
        self.paths: dict[str, list[tuple[int, Route]]] = {}
        self.last: dict[str, list[tuple[int, Route]]] = {}
        self.meanings: dict[str, Meaning] = {}
        for route in routes_below(field):
            path = ".".join(step.key for step in route)
            self._add(self.paths, path, BY_PATH, route)
            self._add(self.last, route[-1].key, BY_LAST_NAME, route)
            for rank, column in enumerate(declared_columns(route[-1])):
                self._add(self.declared, column, rank, route)

    def _add(self, names: dict[str, list[tuple[int, Route]]], name: str, rank: int, route: Route) -> None:
        for spelling in {name, fold(name)}:
            names.setdefault(spelling, []).append((rank, route))

    def meaning(self, key: str) -> Meaning:
        found = self.meanings.get(key)
        if found is None:
            found = self.meanings[key] = self._meaning(key)
        return found

    def _meaning(self, key: str) -> Meaning:
        plain = key.replace("[]", "")
        for exact, folded in ((key, plain), (fold(key), fold(plain))):
            # One column may feed several fields, where each of them declares it.
            if routes := self.declared.get(exact):
                return Meaning(tuple(route for _, route in routes), min(rank for rank, _ in routes))
            if len(routes := self.paths.get(folded, [])) == 1:
                return Meaning((routes[0][1],), BY_PATH)
            if routes:
                return Meaning(note=could_be(routes))
        routes = self.last.get(fold(plain), [])
        if len(routes) > 1:
            return Meaning(note=could_be(routes))
        return Meaning(tuple(route for _, route in routes), BY_LAST_NAME, is_short=True)


class FieldKeys:
    """The keys that labels may have, at every depth, and which fields some key has named so far.

    `filled` are the objects and lists that hold something, or that a column reaches into.
    """

    def __init__(self, schema: TargetSchema) -> None:
        self.root = field_tree(schema)
        self.document_columns = schema.document_columns
        self.named: set[Field] = set()
        self.filled: set[Field] = set()
        self._names: dict[ObjectField, Names] = {}

    def names(self, of: ObjectField) -> Names:
        if of not in self._names:
            self._names[of] = Names(of)
        return self._names[of]

    def document_column(self, row: dict[str, Any]) -> str | None:
        """The column that names the row's document: the first of the schema's that holds a value."""
        for name in self.document_columns:
            if not is_blank_cell(row.get(name)):
                return name
            wanted = fold(name)
            for column, value in row.items():
                if fold(column) == wanted and not is_blank_cell(value):
                    return column
        return None

    def without_column(self) -> set[str]:
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


def declared_columns(field: Field) -> list[str]:
    """The columns that the schema states for a field; none where it states none."""
    value = field.item if isinstance(field, ListField) else field
    if not isinstance(value, ValueField) or "column" not in value.leaf.extract:
        return []
    return value.leaf.columns


def could_be(routes: list[tuple[int, Route]]) -> str:
    """What an ambiguous name could mean, as part of a sentence."""
    names = list(dict.fromkeys(route[-1].name for _, route in routes))
    return f"could be {' or '.join(names[:2])}{' ...' if len(names) > 2 else ''}; name it by its path"


class Suggestions:
    """The field that a key was probably meant for, `missing` ones first (dotted names)."""

    def __init__(self, root: ObjectField, missing: set[str]) -> None:
        self.names: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        for route in routes_below(root):
            field = route[-1]
            for name in (field.name, *declared_columns(field), field.key):
                for names in (self.names, self.missing) if field.name in missing else (self.names,):
                    names.setdefault(fold(name.replace("[]", "")), field.name)

    def near(self, path: str) -> str:
        """The name of the field nearest to `path`, or an empty text where none is near."""
        whole = fold(path.replace("[]", ""))
        for names, alike in ((self.missing, ALIKE_MISSING), (self.names, ALIKE)):
            for wanted in (whole, whole.rpartition(".")[2]):
                if close := difflib.get_close_matches(wanted, names, n=1, cutoff=alike):
                    return names[close[0]]
        return ""
