"""A JSON Schema as one tree: its wrapper taken off, its local references replaced by what they name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

MOST_NODES = 50_000  # references of references can grow without end in a small file
DEEPEST = 60
# What hosted APIs and benchmarks put around a schema, outermost first.
WRAPPERS = ("response_format", "function", "json_schema", "schema_definition", "schema", "parameters", "input_schema")
SCHEMA_WORDS = {"properties", "$ref", "allOf", "anyOf", "oneOf", "items", "additionalProperties"}
DEFINITIONS = ("$defs", "definitions")
ANCHORS = ("$anchor", "$dynamicAnchor")
MAPS_OF_SCHEMAS = {"properties", "patternProperties", "dependentSchemas"}
LISTS_OF_SCHEMAS = {"allOf", "anyOf", "oneOf", "prefixItems"}
SCHEMAS = {"items", "additionalProperties", "additionalItems", "contains", "not", "if", "then", "else"}


class CannotMerge(ValueError):
    """Two schemas that no value can keep together, or that this project cannot write as one."""


def unwrapped(raw: Any) -> Any:
    """The schema inside `{"name": ..., "schema": {...}}`, `{"type": "json_schema", "json_schema": {...}}` and the like.

    The wrapper's name becomes the title of a schema that has none, its definitions the schema's own.
    """
    while isinstance(raw, dict) and not SCHEMA_WORDS & set(raw):
        inner = next((raw[word] for word in WRAPPERS if isinstance(raw.get(word), dict)), None)
        if inner is None:
            return raw
        if isinstance(raw.get("name"), str) and not {"title", "name"} & set(inner):
            inner = {"title" if SCHEMA_WORDS & set(inner) else "name": raw["name"]} | inner
        for word in DEFINITIONS:
            if word in raw and word not in inner:
                inner = inner | {word: raw[word]}
        raw = inner
    return raw


class Inliner:
    """Replaces the references of one schema. `problem` is called with a field's path and a sentence."""

    def __init__(self, root: dict[str, Any], problem: Callable[[str, str], None]) -> None:
        self.root, self.problem = root, problem
        self.count = self.nodes = 0
        self.full = False
        self.anchors: dict[str, Any] | None = None

    def whole(self) -> Any:
        """The root with every reference replaced, and without definitions."""
        return self.tree(self.root, "$", ())

    def tree(self, schema: Any, path: str, names: tuple[str, ...]) -> Any:
        """`schema` with every reference replaced. `names`: the references that led here."""
        if not isinstance(schema, dict):
            return schema
        self.nodes += 1
        if self.nodes > MOST_NODES or path.count(".") + path.count("[") + len(names) > DEEPEST:
            if not self.full:
                self.problem(path, f"it grows beyond {MOST_NODES} fields or {DEEPEST} levels; write fewer out")
            self.full = True
            return {"type": "string"}
        if isinstance(schema.get("$ref"), str):
            return self.replaced(schema, path, names)
        made: dict[str, Any] = {}
        for key, value in schema.items():
            if key in DEFINITIONS or key in ANCHORS or (key == "$id" and names):
                continue  # what is written out several times must not be named twice
            if key in MAPS_OF_SCHEMAS and isinstance(value, dict):
                made[key] = {name: self.tree(child, f"{path}.{name}", names) for name, child in value.items()}
            elif isinstance(value, list) and (key in LISTS_OF_SCHEMAS or key == "items"):
                made[key] = [self.tree(child, path, names) for child in value]
            elif key in SCHEMAS:
                made[key] = self.tree(value, f"{path}[]" if key == "items" else path, names)
            else:
                made[key] = value
        return made

    def replaced(self, schema: dict[str, Any], path: str, names: tuple[str, ...]) -> Any:
        reference = schema["$ref"]
        siblings = {key: value for key, value in schema.items() if key != "$ref"}
        if reference in names:
            cycle = " -> ".join(name.rsplit("/", 1)[-1] for name in (*names[names.index(reference) :], reference))
            out = "write out as many levels as the documents have"
            self.problem(path, f"{reference!r} contains itself ({cycle}); {out}")
            return {"type": "string"}
        target = self.target(reference)
        if target is None:
            out = "copy what it names under $defs" if not reference.startswith("#") else "correct it"
            self.problem(path, f"the $ref {reference!r} names nothing in this file; {out}")
            return {"type": "string"}
        self.count += 1
        inlined = self.tree(target, path, (*names, reference))
        own = self.tree(siblings, path, names)
        if not own or not isinstance(inlined, dict):
            return inlined
        try:
            return merged(own, inlined)
        except CannotMerge as error:
            self.problem(path, f"what stands beside its $ref contradicts it ({error}); correct one of them")
            return inlined

    def target(self, reference: str) -> Any:
        """What a reference inside this file names; None where it names nothing."""
        start, _, pointer = reference.partition("#")
        if start not in ("", str(self.root.get("$id", ""))):
            return None
        if pointer and not pointer.startswith("/"):
            return self.anchored(unquote(pointer))
        value: Any = self.root
        for step in pointer.split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and name in value:
                value = value[name]
            elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
                value = value[int(name)]
            else:
                return None
        return value if isinstance(value, dict | bool) else None

    def anchored(self, name: str) -> Any:
        if self.anchors is None:
            self.anchors = {}
            waiting: list[Any] = [self.root]
            while waiting:
                value = waiting.pop()
                if isinstance(value, dict):
                    for word, anchor in (("$anchor", ""), ("$id", "#")):
                        if isinstance(value.get(word), str) and value[word].startswith(anchor):
                            self.anchors[value[word].removeprefix("#")] = value
                    waiting += value.values()
                elif isinstance(value, list):
                    waiting += value
        return self.anchors.get(name)


SMALLER = ("maxLength", "maxItems", "maximum", "exclusiveMaximum", "maxProperties", "maxContains")
LARGER = ("minLength", "minItems", "minimum", "exclusiveMinimum", "minProperties", "minContains")


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """One schema that a value keeps where it keeps both. Texts for people are the first's.

    Raises CannotMerge where no value could, or where only `allOf` could say it.
    """
    made = dict(second)
    for key, value in first.items():
        if key not in made or made[key] == value:
            made[key] = value
        elif key == "type":
            made[key] = both_types(value, made[key])
        elif key == "properties":
            made[key] = {**made[key], **{n: merged_child(c, made[key].get(n, True)) for n, c in value.items()}}
        elif key == "required":
            made[key] = [*made[key], *(name for name in value if name not in made[key])]
        elif key == "enum":
            made[key] = [choice for choice in made[key] if choice in value]
            if not made[key]:
                raise CannotMerge("no choice is in both lists")
        elif key in ("items", "additionalProperties", "contains"):
            made[key] = merged_child(value, made[key])
        elif key in SMALLER:
            made[key] = min(value, made[key])
        elif key in LARGER:
            made[key] = max(value, made[key])
        elif key == "x-extract" and isinstance(value, dict) and isinstance(made[key], dict):
            made[key] = made[key] | value
        elif key == "allOf":
            made[key] = made[key] + value
        elif key in ("anyOf", "oneOf", "not", "if", "const", "patternProperties", "prefixItems"):
            raise CannotMerge(f"both have {key!r}")
        else:
            made[key] = value
    return made


def merged_child(first: Any, second: Any) -> Any:
    """Two schemas of one place as one; true says nothing, and false wins. Raises CannotMerge."""
    if first is True or first == {}:
        return second
    if second is True or second == {}:
        return first
    if first is False or second is False:
        return False
    return merged(first, second)


def without_all_of(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with the parts of its `allOf` merged into it. Raises CannotMerge where they do not make one schema."""
    while isinstance(schema.get("allOf"), list):
        parts = [part for part in schema["allOf"] if isinstance(part, dict)]
        schema = {key: value for key, value in schema.items() if key != "allOf"}
        for part in parts:
            schema = merged(schema, part)
    return schema


def both_types(first: Any, second: Any) -> Any:
    """The types that two `type` keywords both allow. Raises CannotMerge where there is none."""
    one = [first] if isinstance(first, str) else list(first)
    other = [second] if isinstance(second, str) else list(second)
    both = [kind for kind in one if kind in other or (kind == "integer" and "number" in other)]
    both += [kind for kind in other if kind == "integer" and "number" in one and kind not in both]
    if not both:
        raise CannotMerge(f"a value cannot be {' or '.join(one)} and {' or '.join(other)}")
    return both[0] if len(both) == 1 else both
