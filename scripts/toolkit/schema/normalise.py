"""Any ordinary JSON Schema as an explicit target schema: closed objects, one type list a value, bounds everywhere.

`normalise` is pure and idempotent. What it had to assume comes back as short sentences; what cannot be followed comes
back as problems, all at once, each with its place and a way out. The schema as its owner wrote it is kept under the
root's `x-extract` as `original`: public answers are mapped back to it (see `public`).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from toolkit.console import StageError, one_line
from toolkit.schema.annotations import annotation_problem
from toolkit.schema.defaults import LIST_BOUND, bounded, compare_by_name, text_bound
from toolkit.schema.patterns import is_for_grammar
from toolkit.schema.public import KEY, OR_LIST, VALUE
from toolkit.schema.references import CannotMerge, Inliner, merged, unwrapped, without_all_of
from toolkit.schema.unions import (
    NoUnion,
    branches_of,
    is_empty_object,
    is_map,
    type_of_value,
    types_of,
    united,
    values_of_map,
)
from toolkit.schema.validation import matcher

PAGE = "docs/DOCUMENT_TYPES.md"
REFUSED = {
    "not": "say what a value may be, not what it may not",
    "if": "write the fields of both cases out; a check under x-extract holds them against each other",
    "dependentSchemas": "write the fields out; a check under x-extract holds them against each other",
    "$dynamicRef": "use $ref, or write the field out",
    "$recursiveRef": "write out as many levels as the documents have",
}
# The grammar forces these formats as they are written; others (times without a zone, addresses with a space) are what
# a page often does not keep, so they are only noted.
FORMATS_OF_GRAMMAR = {"date"}


@dataclass(frozen=True)
class Normalised:
    """A target schema, what was `assumed` (short sentences), and the `problems` (with place and way out)."""

    schema: dict[str, Any]
    assumed: list[str]
    problems: list[str]


def normalise(raw: Any) -> Normalised:
    """The explicit target schema of any ordinary JSON Schema (draft 7 or 2020-12, with or without a wrapper)."""
    original = unwrapped(raw)
    walk = Walk()
    if not isinstance(original, dict):
        walk.problem("$", "a JSON Schema of an object is needed")
        return Normalised({}, [], walk.problems)
    inliner = Inliner(original, walk.problem)
    tree = inliner.whole()
    if inliner.count:
        walk.assume("references written out", str(inliner.count))
    made = walk.root(tree)
    if made != original and not walk.problems:
        notes = made.get("x-extract") or {}
        if "original" not in notes:
            made["x-extract"] = {**notes, "original": copy.deepcopy(original)}
    return Normalised(made, walk.sentences(), walk.problems)


def explicit_schema(raw: Any, source: str) -> tuple[dict[str, Any], list[str]]:
    """The target schema of `raw`, and what was assumed. Raises StageError with every problem, where there is one."""
    try:
        schema = unwrapped(raw)
        made = Normalised({}, [], invalid(schema) if isinstance(schema, dict) else [])
        if not made.problems and (sentence := annotation_problem(schema)):
            made = Normalised({}, [], [sentence])
        if not made.problems:
            made = normalise(raw)
    except RecursionError:
        raise StageError(f"{source}: the schema is nested too deep; make it flatter (see {PAGE})") from None
    problems = made.problems
    if len(problems) == 1:
        raise StageError(f"{source}: {problems[0]} (see {PAGE})")
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise StageError(f"{source}: {len(problems)} problems in this schema (see {PAGE}):{lines}")
    return made.schema, made.assumed


def invalid(schema: dict[str, Any]) -> list[str]:
    """What is no valid JSON Schema: by the draft that it names, else by 2020-12, 7 or 4, whichever fits best."""
    import jsonschema

    drafts = [jsonschema.Draft202012Validator, jsonschema.Draft7Validator, jsonschema.Draft4Validator]
    if isinstance(schema.get("$schema"), str):
        drafts = [jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)]
    found = []
    for draft in drafts:
        errors = list(draft(draft.META_SCHEMA).iter_errors(schema))
        found.append([f"{error.json_path}: not a valid JSON Schema: {one_line(error.message)}" for error in errors])
    return min(found, key=len)


class Walk:
    """One pass over a schema without references; gathers assumptions and problems."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.assumed: defaultdict[str, list[str]] = defaultdict(list)

    def problem(self, path: str, sentence: str) -> None:
        line = f"{path}: {sentence}"
        if line not in self.problems:
            self.problems.append(line)

    def assume(self, what: str, where: str) -> None:
        self.assumed[what].append(where.removeprefix("$."))

    def sentences(self) -> list[str]:
        """One short sentence an assumption, with its first fields."""
        found = []
        for what, places in self.assumed.items():
            names = ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
            found.append(f"{what} ({names})")
        return found

    def root(self, schema: Any) -> dict[str, Any]:
        made = self.node(schema, "$", is_item=True)
        fields = made.get("properties") if made is not None and made.get("type") == "object" else None
        if not self.problems and not fields:
            out = (
                'give "properties"; a list of rows goes under a name: {"properties": {"rows": {"type": "array", ...}}}'
            )
            self.problem("$", f"a document type is an object with fields; {out}")
        return made or {}

    def node(self, schema: Any, path: str, *, is_item: bool = False) -> dict[str, Any] | None:
        """One field, explicit; None where it can hold nothing. `is_item`: it stands in a list, and is never null."""
        if schema is True or schema == {}:
            schema = {"type": "string"}
            self.assume("a value that may be anything is read as text", path)
        if not isinstance(schema, dict):
            if schema is not False:
                self.problem(path, "a field must be a JSON Schema, with a type")
            else:
                self.assume("left out, because it may hold nothing", path)
            return None
        schema = whole_bounds(self.without_all_of(schema, path))
        for word, way_out in REFUSED.items():
            if word in schema:
                self.problem(path, f"the keyword {word!r} is not followed; {way_out}")
                return {"type": "string", "maxLength": 1}
        one, nullable = self.without_union(schema, path)
        if one is None:
            return None
        if any(isinstance(choice, dict | list) for choice in [*one.get("enum", []), one.get("const")]):
            self.problem(path, "a choice is an object or a list; give each choice a name, and choose among the names")
            return None
        types = [kind for kind in types_of(one) if kind != "null"]
        if "object" in types:
            return self.row_map(one, path) if is_map(one) else self.object_node(one, path)
        if "array" in types:
            return self.list_node(one, path)
        return self.leaf(one, path, nullable=nullable, is_item=is_item)

    def without_all_of(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        """The schema with the parts of its `allOf` merged into it."""
        try:
            return without_all_of(schema)
        except CannotMerge as error:
            self.problem(path, f"the parts of its allOf do not make one schema ({error}); write the field out")
            return {key: value for key, value in schema.items() if key != "allOf"}

    def without_union(self, schema: dict[str, Any], path: str) -> tuple[dict[str, Any] | None, bool]:
        """The schema without anyOf, oneOf and mixed containers, and whether it may be null."""
        types = types_of(schema)
        mixed = {"object", "array"} & set(types) and len(set(types) - {"null"}) > 1
        if not (mixed or "anyOf" in schema or "oneOf" in schema):
            return (None if types == ["null"] else schema), "null" in types or schema.get("nullable") is True
        branches, nullable = branches_of(schema)
        branches = [self.without_all_of(branch, path) if isinstance(branch, dict) else branch for branch in branches]
        if any(isinstance(branch, dict) and {"anyOf", "oneOf"} & set(branch) for branch in branches):
            again, null = branches_of({"anyOf": branches})
            branches, nullable = again, nullable or null
        if not branches:
            self.assume("left out, because it may hold nothing", path)
            return None, nullable
        try:
            one, assumed = united(branches)
        except NoUnion as error:
            self.problem(path, str(error))
            return {"type": "string", "maxLength": 1}, nullable
        if assumed:
            self.assume(assumed, path)
        return one, nullable

    def object_node(self, schema: dict[str, Any], path: str) -> dict[str, Any] | None:
        fields = schema.get("properties", {})
        if not isinstance(fields, dict):
            self.problem(path, '"properties" must be an object of fields')
            return None
        made = {**schema, "type": "object"}
        if schema.get("additionalProperties") is not False:
            self.assume("objects are closed", path)
        children = {name: self.node(child, f"{path}.{name}") for name, child in fields.items()}
        made["properties"] = {name: child for name, child in children.items() if child is not None}
        made["additionalProperties"] = False
        for word in ("patternProperties", "unevaluatedProperties", "nullable", "discriminator"):
            made.pop(word, None)
        if isinstance(schema.get("required"), list):
            made["required"] = [name for name in schema["required"] if name in made["properties"]]
        if not made["properties"]:
            if is_empty_object(schema) or fields:
                self.assume("left out, because it may hold nothing", path)
            return None
        return in_order(made, schema)

    def row_map(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        """A map as a list of rows, each a key and its value."""
        kind = (schema.get("x-extract") or {}).get("map", True)
        value = self.node(values_of_map(schema), f"{path}[].{VALUE}")
        key = {"type": ["string", "null"] if kind == OR_LIST else "string", "x-extract": {"key": True}}
        names = schema.get("propertyNames")
        patterns = list(schema.get("patternProperties", {}))
        if isinstance(names, dict):
            key = merged(key, {word: names[word] for word in ("pattern", "maxLength", "enum") if word in names})
        elif len(patterns) == 1 and schema.get("additionalProperties") is False:
            key["pattern"] = patterns[0]
        self.assume("a map is a list of key and value to the model", path)
        row = {
            "type": "object",
            "additionalProperties": False,
            "required": [KEY, VALUE],
            "properties": {
                KEY: self.leaf(key, f"{path}[].{KEY}", nullable=kind == OR_LIST, is_item=True),
                VALUE: value or {"type": ["string", "null"], "maxLength": text_bound("text")},
            },
        }
        drop = {"additionalProperties", "patternProperties", "propertyNames", "minProperties", "maxProperties"}
        drop |= {"nullable", "properties", "required", "unevaluatedProperties"}
        made = {word: copy.copy(value) for word, value in schema.items() if word not in drop}
        made |= {"type": "array", "items": row}
        made["x-extract"] = {**(schema.get("x-extract") or {}), "map": kind}
        if isinstance(schema.get("maxProperties"), int):
            made["maxItems"] = schema["maxProperties"]
        return self.with_list_bound(made, path)

    def list_node(self, schema: dict[str, Any], path: str) -> dict[str, Any] | None:
        made = dict(schema)
        places = schema["items"] if isinstance(schema.get("items"), list) else schema.get("prefixItems")
        if isinstance(places, list):
            made = self.tuple_as_list(made, places, path)
        item = self.node(made.get("items", True), f"{path}[]", is_item=True)
        if item is None:
            return None
        if isinstance(schema.get("type"), list):
            made["type"] = "array"
        for word in ("minItems", "nullable", "unevaluatedItems", "additionalItems", "prefixItems"):
            made.pop(word, None)
        made |= {"type": "array", "items": item}
        return in_order(self.with_list_bound(made, path), schema)

    def tuple_as_list(self, schema: dict[str, Any], places: list[Any], path: str) -> dict[str, Any]:
        """A tuple of equal places as a list; a mixed one is a problem."""
        made = {k: v for k, v in schema.items() if k not in ("prefixItems", "items", "additionalItems")}
        first = places[0] if places else True
        if any(place != first for place in places):
            self.problem(path, "a tuple of different values is not followed; make it an object with a name a place")
        rest = schema.get("additionalItems" if isinstance(schema.get("items"), list) else "items", True)
        if rest is False or schema.get("maxItems") == len(places):
            made["maxItems"] = len(places)
        elif rest not in (True, {}, first):
            self.problem(path, "a tuple of different values is not followed; make it an object with a name a place")
        self.assume("a tuple of equal places is a list", path)
        return made | {"items": first}

    def with_list_bound(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        if isinstance(schema.get("maxItems"), int):
            return schema
        self.assume(f"lists without maxItems get {LIST_BOUND}", path)
        return bounded(schema, "maxItems", LIST_BOUND)

    def leaf(self, schema: dict[str, Any], path: str, *, nullable: bool, is_item: bool) -> dict[str, Any] | None:
        made = {word: value for word, value in schema.items() if word != "nullable"}
        if "[]." in path and is_row_key(made) and "null" not in types_of(made):
            nullable, is_item = False, True  # a row is there because its key is
        if "const" in made:
            made["enum"] = [made.pop("const")]
        if isinstance(made.get("enum"), list):
            return self.choice(made, path, nullable=nullable, is_item=is_item)
        types = [kind for kind in types_of(made) if kind != "null"]
        if not types:
            self.assume("a value that may be anything is read as text", path)
            types = ["string"]
        if "number" in types and "integer" in types:
            types.remove("integer")
        if nullable or not is_item:
            types = types_in_order(types, made.get("type"))
        made["type"] = types[0] if len(types) == 1 else types
        number_bounds(made)
        numbers = {"integer", "number"}
        several = len(set(types) - {"null"}) > 1 and not set(types) - {"null"} <= numbers
        if several and "compare" not in (made.get("x-extract") or {}):
            is_amount = set(types) - {"null"} <= {*numbers, "string"} and compare_by_name(path, {}) == "number"
            kind = "number" if is_amount else "text"
            self.assume(f"a value of several types compares as {kind}", path)
            made["x-extract"] = {**(made.get("x-extract") or {}), "compare": kind}
        if "string" in types:
            self.text(made, path)
        return in_order(made, schema)

    def text(self, made: dict[str, Any], path: str) -> None:
        """Bounds, format, pattern and comparison of a value that may be a text."""
        kind = compare_by_name(path, made)
        notes = dict(made.get("x-extract") or {})
        if kind and made["type"] in ("string", ["string", "null"], ["null", "string"]) and "compare" not in notes:
            notes["compare"] = kind
            self.assume(f"compared as {kind}", path)
        if made.get("format") == "date":
            notes.setdefault("normalise", "iso_date")
        afterwards = [word for word in ("format", "pattern") if word in made and not self.in_grammar(made, word, path)]
        if afterwards and "afterwards" not in notes:
            notes["afterwards"] = afterwards
        if notes:
            made["x-extract"] = notes
        if not isinstance(made.get("maxLength"), int):
            if made.get("format") == "date":
                made["maxLength"] = 10
                return
            bound = text_bound(notes.get("compare", "text"))
            self.assume(f"texts without maxLength get {bound}", path)
            made |= bounded(made, "maxLength", max(bound, made.get("minLength", 0)))

    def in_grammar(self, schema: dict[str, Any], word: str, path: str) -> bool:
        """Whether the grammar can force a text's format or pattern. A pattern that nothing can read is a problem."""
        if word == "format":
            return schema["format"] in FORMATS_OF_GRAMMAR
        pattern = schema["pattern"]
        try:
            matcher(pattern)
        except ValueError:
            self.problem(path, f"the pattern {pattern[:80]!r} is no regular expression, or one that is too large")
            return True
        return is_for_grammar(pattern)

    def choice(self, made: dict[str, Any], path: str, *, nullable: bool, is_item: bool) -> dict[str, Any] | None:
        choices = made["enum"]
        stated = types_of(made) if "type" in made else []
        if stated:
            allowed = [choice for choice in choices if fits(choice, [*stated, *["null"] * nullable])]
            choices = allowed if len(allowed) < len([c for c in choices if c is not None]) else choices
        if not [choice for choice in choices if choice is not None]:
            self.assume("left out, because it may hold nothing", path)
            return None
        made["enum"] = choices
        if not is_item or nullable:
            if None not in choices:
                made["enum"] = [*choices, None]
            if stated and "null" not in stated:
                made["type"] = [*stated, "null"]
        return made


def whole_bounds(schema: dict[str, Any]) -> dict[str, Any]:
    """Bounds of lengths as whole numbers: a JSON Schema may say 100.0 or 1e2."""
    words = ("maxLength", "minLength", "maxItems", "minItems", "maxProperties")
    return {
        word: int(value) if word in words and isinstance(value, float) and value.is_integer() else value
        for word, value in schema.items()
    }


def is_row_key(schema: dict[str, Any]) -> bool:
    """Whether a field is marked as the key of its row."""
    return bool((schema.get("x-extract") or {}).get("key"))


def types_in_order(types: list[str], stated: Any) -> list[str]:
    """The types and null, in the order of the schema where it has null."""
    if isinstance(stated, list) and "null" in stated and set(stated) == {*types, "null"}:
        return list(stated)
    return [*types, "null"]


def number_bounds(made: dict[str, Any]) -> None:
    """Draft 4's `exclusiveMinimum: true` beside a minimum, as later drafts write it."""
    for exclusive, plain in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(made.get(exclusive), bool) and made.pop(exclusive) and plain in made:
            made[exclusive] = made.pop(plain)


def fits(value: Any, types: list[str]) -> bool:
    """Whether a value is of one of the JSON Schema types."""
    kind = type_of_value(value)
    return kind in types or (kind == "integer" and "number" in types)


def in_order(made: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The keywords in the order of `schema`; new ones at the end."""
    return {word: made[word] for word in [*schema, *made] if word in made}
