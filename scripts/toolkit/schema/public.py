"""Answers as the owner of the original schema expects them, and back.

To the model every value may be absent (null), and a map is a list of keys and values. In the public answer an absent
optional field is left out, a nullable one is null, and a map is an object again. A required field that may not be null
stays null, with the warning `absent but required`; without that warning the public answer keeps the original schema.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any

from toolkit.schema.references import Inliner, without_all_of
from toolkit.schema.unions import branches_of, is_map, types_of, values_of_map
from toolkit.schema.validation import explaining_validator

ABSENT_BUT_REQUIRED = "absent but required"
LEFT_OUT: Any = object()
KEY, VALUE = "key", "value"  # the two fields of a map's row
OR_LIST = "or list"  # a map that may also be one list without a name


@dataclass
class Node:
    """One place of the original schema. `branches`: of a union, each with its validator."""

    kind: str  # any, plain, object, map, list, union
    nullable: bool = False
    fields: dict[str, tuple[Node, bool]] = field(default_factory=dict)  # name: its node, and whether it is required
    item: Node | None = None  # of a list, or the values of a map
    fewest: int = 0  # items of a list
    branches: list[tuple[Node, Any]] = field(default_factory=list)


class Entries(dict[str, Any]):
    """A map's entries: something was read where there is a key, whatever its value."""


class PublicForm:
    """The original schema of one target schema, compiled."""

    def __init__(self, original: dict[str, Any]) -> None:
        import jsonschema

        draft = jsonschema.validators.validator_for(original, default=jsonschema.Draft202012Validator)
        self.draft, self.checker = draft, date_checker()
        tree = Inliner(original, lambda *_: None).whole()
        self.strict = self.checked_by(tree)
        self.has_one_of, loose = any_of(tree)
        self.validator = self.checked_by(loose)
        self.node = self.compiled(tree)

    def checked_by(self, schema: Any) -> Any:
        """The validator of a part of the schema."""
        return explaining_validator(schema, draft=self.draft, formats=self.checker)

    def compiled(self, schema: Any) -> Node:
        if not isinstance(schema, dict) or not schema:
            return Node("any", nullable=schema is not False)
        schema = without_all_of(schema)
        types = types_of(schema)
        nullable = "null" in types or not types
        if "anyOf" in schema or "oneOf" in schema or len({"object", "array"} & set(types)) + (len(types) > 2) > 1:
            branches, null = branches_of({key: value for key, value in schema.items() if key != "nullable"})
            of_object = [b if isinstance(b, dict) else {} for b in branches]
            compiled = [(self.compiled(b), self.checked_by(b)) for b in of_object]
            return Node("union", nullable=null or any(node.nullable for node, _ in compiled), branches=compiled)
        if is_map(schema):
            return Node("map", nullable, item=self.compiled(values_of_map(schema)))
        if "object" in types:
            required = set(schema.get("required", []))
            fields = {n: (self.compiled(c), n in required) for n, c in schema.get("properties", {}).items()}
            return Node("object", nullable, fields)
        if "array" in types:
            places = schema.get("prefixItems") or schema.get("items", True)
            item = self.compiled(places[0] if isinstance(places, list) and places else places)
            return Node("list", nullable, item=item, fewest=int(schema.get("minItems", 0)))
        return Node("plain" if types else "any", nullable)

    def fitted(self, answer: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """A whole answer (maps as objects), and its warnings."""
        warnings: list[str] = []
        made = self.value(answer, self.node, "$", warnings)
        if self.has_one_of and not warnings and self.validator.is_valid(made) and not self.strict.is_valid(made):
            warnings.append("$: a value fits more than one branch of a oneOf; write anyOf")
        return made, warnings

    def complaint(self, public: dict[str, Any]) -> str:
        """Where and how a public answer breaks the original schema, in one sentence; empty where it keeps it."""
        from jsonschema.exceptions import best_match

        error = best_match(self.validator.iter_errors(public))
        return f"{error.json_path}: {error.message}"[:300] if error else ""

    def value(self, value: Any, node: Node, path: str, warnings: list[str]) -> Any:
        """A value that is there, or the inside of one that must be."""
        if node.kind == "union":
            return self.of_union(value, node, path, warnings)
        if node.kind == "object" and (isinstance(value, dict) or value is None):
            return self.of_object(value or {}, node, path, warnings)
        if node.kind == "map" and isinstance(value, dict) and node.item is not None:
            return {k: self.entry(v, node.item, True, f"{path}.{k}", warnings) for k, v in value.items()}
        if node.kind == "list" and isinstance(value, list) and node.item is not None:
            return [self.row(item, node.item, f"{path}[{index}]", warnings) for index, item in enumerate(value)]
        return value

    def row(self, value: Any, node: Node, path: str, warnings: list[str]) -> Any:
        return None if value is None and node.nullable else self.value(value, node, path, warnings)

    def of_object(self, value: dict[str, Any], node: Node, path: str, warnings: list[str]) -> dict[str, Any]:
        made = {}
        for name, (child, required) in node.fields.items():
            entry = self.entry(value.get(name), child, required, f"{path}.{name}", warnings)
            if entry is not LEFT_OUT:
                made[name] = entry
        return made | {name: v for name, v in value.items() if name not in node.fields and not is_nothing(v)}

    def entry(self, value: Any, node: Node, required: bool, path: str, warnings: list[str]) -> Any:
        """The value of a field, which may be absent."""
        if value == [] and not node.nullable and (list_node := first_list(node)) is not None and list_node.fewest == 0:
            return []
        if not is_nothing(value):
            return self.value(value, node, path, warnings)
        if node.nullable:
            return None
        if not required:
            return LEFT_OUT
        if node.kind in ("object", "map"):
            return self.value(value or {}, node, path, warnings)
        if (list_node := first_list(node)) is not None and list_node.fewest == 0:
            return []
        warnings.append(f"{path}: {ABSENT_BUT_REQUIRED}")
        return None

    def of_union(self, value: Any, node: Node, path: str, warnings: list[str]) -> Any:
        """A value as the first branch that it keeps; where it keeps none, as the one with the fewest warnings."""
        tried = []
        for branch, validator in node.branches:
            said: list[str] = []
            made = self.value(value, branch, path, said)
            if not said and validator.is_valid(made):
                return made
            tried.append((made, said, fits_kind(value, branch)))
        fitting = [one for one in tried if one[2]] or tried
        made, said, _ = min(fitting, key=lambda one: len(one[1]))
        warnings += said
        return made


def any_of(schema: Any) -> tuple[bool, Any]:
    """Whether a schema has a `oneOf`, and the schema with `anyOf` in its place: branches of loose schemas overlap."""
    if isinstance(schema, list):
        parts = [any_of(item) for item in schema]
        return any(has for has, _ in parts), [part for _, part in parts]
    if not isinstance(schema, dict):
        return False, schema
    children = {key: any_of(value) for key, value in schema.items()}
    has = any(found for found, _ in children.values())
    made = {key: part for key, (_, part) in children.items()}
    if isinstance(schema.get("oneOf"), list) and "anyOf" not in schema:
        made["anyOf"], has = made.pop("oneOf"), True
    return has, made


def first_list(node: Node) -> Node | None:
    """The node of a list, or of the first list among a union's branches."""
    if node.kind == "union":
        return next((found for branch, _ in node.branches if (found := first_list(branch))), None)
    return node if node.kind == "list" else None


def fits_kind(value: Any, node: Node) -> bool:
    """Whether a value has the shape of a node."""
    kinds = {"object": dict, "map": dict, "list": list}
    return isinstance(value, kinds[node.kind]) if node.kind in kinds else not isinstance(value, dict | list)


def is_nothing(value: Any) -> bool:
    """Whether nothing was read: null, an empty list, an object of nothing else."""
    if isinstance(value, dict):
        return not (isinstance(value, Entries) and value) and all(map(is_nothing, value.values()))
    return value is None or value == []


def date_checker() -> Any:
    """A format checker for dates and times alone: what a page prints as an address need not be one."""
    import jsonschema

    checker = jsonschema.FormatChecker(formats=())
    checker.checks("date", raises=ValueError)(lambda v: not isinstance(v, str) or datetime.date.fromisoformat(v))
    checker.checks("date-time", raises=ValueError)(
        lambda v: not isinstance(v, str) or datetime.datetime.fromisoformat(v)
    )
    checker.checks("time", raises=ValueError)(lambda v: not isinstance(v, str) or datetime.time.fromisoformat(v))
    return checker


def with_maps(value: Any, schema: dict[str, Any], path: str, warnings: list[str]) -> Any:
    """An answer whose maps are lists of rows, with objects in their place. A key that stands twice is a warning."""
    if "properties" in schema and isinstance(value, dict):
        children = schema["properties"]
        return {n: with_maps(v, children.get(n, {}), f"{path}.{n}", warnings) for n, v in value.items()}
    if "items" not in schema or not isinstance(value, list):
        return value
    rows = [with_maps(item, schema["items"], f"{path}[{index}]", warnings) for index, item in enumerate(value)]
    kind = map_kind(schema)
    if not kind or not all(isinstance(row, dict) for row in rows):
        return rows
    if kind == OR_LIST and all(row.get(KEY) is None for row in rows):
        return [item for row in rows for item in row.get(VALUE) or []]
    made = Entries()
    for row in rows:
        key = "" if row.get(KEY) is None else str(row[KEY])
        if key in made:
            warnings.append(f"{path}: the key {key!r} stands twice; its first value was kept")
        made.setdefault(key, row.get(VALUE))
    return made


def without_maps(value: Any, schema: dict[str, Any], *, single: bool = True) -> Any:
    """A public answer with maps as lists of rows; `single`: and a single value where a list is wanted as a list."""
    if "properties" in schema and isinstance(value, dict):
        return {n: without_maps(v, schema["properties"].get(n, {}), single=single) for n, v in value.items()}
    if "items" not in schema or value is None or schema.get("type") != "array":
        return value
    kind = map_kind(schema)
    if kind and isinstance(value, dict):
        value = [{KEY: key, VALUE: entry} for key, entry in value.items()]
    elif kind == OR_LIST and isinstance(value, list) and not all(is_row(item) for item in value):
        value = [{KEY: None, VALUE: value}]
    if not isinstance(value, list):
        if not single:
            return value
        value = [value]
    return [without_maps(item, schema["items"], single=single) for item in value]


def map_kind(schema: dict[str, Any]) -> Any:
    """The `map` annotation of a list; None where it is no map."""
    return (schema.get("x-extract") or {}).get("map")


def is_row(value: Any) -> bool:
    """Whether a value is a row of a map: a key and a value."""
    return isinstance(value, dict) and set(value) == {KEY, VALUE}
