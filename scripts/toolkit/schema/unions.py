"""Unions (`anyOf`, `oneOf`) as one schema that takes the values of every branch."""

from __future__ import annotations

import json
from typing import Any

from toolkit.schema.references import CannotMerge, merged
from toolkit.schema.validation import matcher

TEXT_WORDS = {"pattern", "format", "minLength", "maxLength", "contentEncoding", "contentMediaType"}
NUMBER_WORDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
OBJECT_WORDS = {"properties", "additionalProperties", "patternProperties", "propertyNames", "required"}
LIST_WORDS = {"items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"}
FOR_PEOPLE = ("title", "description")
NUMBERS = {"integer", "number"}


class NoUnion(ValueError):
    """Branches that no one schema describes; the message ends with a way out."""


def types_of(schema: dict[str, Any]) -> list[str]:
    """The types that a schema allows, by its `type`, else by its other words; empty where it allows anything."""
    stated = schema.get("type")
    if isinstance(stated, str):
        return [stated]
    if isinstance(stated, list):
        return list(dict.fromkeys(stated))
    choices = schema["enum"] if isinstance(schema.get("enum"), list) else [schema[k] for k in ("const",) if k in schema]
    if choices:
        return list(dict.fromkeys(type_of_value(choice) for choice in choices))
    for words, kind in ((OBJECT_WORDS, "object"), (LIST_WORDS, "array"), (TEXT_WORDS, "string")):
        if words & set(schema):
            return [kind]
    return ["number"] if NUMBER_WORDS & set(schema) else []


def type_of_value(value: Any) -> str:
    """The JSON Schema type of a JSON value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    kinds = {int: "integer", float: "number", str: "string", list: "array"}
    return kinds.get(type(value), "object")


def is_map(schema: dict[str, Any]) -> bool:
    """Whether an object's names are the document's own, not the schema's: it has no `properties`."""
    return "object" in types_of(schema) and not schema.get("properties") and not is_empty_object(schema)


def is_empty_object(schema: dict[str, Any]) -> bool:
    """Whether an object may hold no field but those it names."""
    return schema.get("additionalProperties") is False and not schema.get("patternProperties")


def branches_of(schema: dict[str, Any]) -> tuple[list[Any], bool]:
    """The branches of a union, unions inside it opened, types of several containers apart; whether null is one.

    What stands beside the union is part of each branch. Branches that contradict it are left out.
    """
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
    several: list[Any] = [rest]
    for word in ("anyOf", "oneOf"):
        if word in schema:
            several = [merged_or_none(one, branch) for one in several for branch in schema[word]]
            several = [branch for branch in several if branch is not None]
    found: list[Any] = []
    nullable = False
    for branch in several:
        if branch is True or branch is False:
            found += [branch] * branch
            continue
        if "anyOf" in branch or "oneOf" in branch:
            inner, null = branches_of(branch)
            found, nullable = found + inner, nullable or null
            continue
        types = types_of(branch)
        nullable |= "null" in types or branch.get("nullable") is True
        for part in parts_by_type(branch, [kind for kind in types if kind != "null"]):
            found.append(part)
        if not types:
            found.append(branch)
    return found, nullable


def merged_or_none(rest: dict[str, Any], branch: Any) -> Any:
    """A branch with what stands beside its union; None where they contradict each other."""
    if not isinstance(branch, dict):
        return rest if branch is True and rest else branch
    try:
        return merged(rest, branch) if rest else branch
    except CannotMerge:
        return None


def parts_by_type(schema: dict[str, Any], types: list[str]) -> list[dict[str, Any]]:
    """A schema of plain types and containers as one schema a container, and one of the plain types."""
    containers = [kind for kind in types if kind in ("object", "array")]
    plain = [kind for kind in types if kind not in ("object", "array")]
    if not containers:
        return [schema] if plain else []
    if len(types) == 1:
        return [schema]
    other = {"object": LIST_WORDS, "array": OBJECT_WORDS}
    parts = [{k: v for k, v in schema.items() if k not in other[kind]} | {"type": kind} for kind in containers]
    if plain:
        kept = {k: v for k, v in schema.items() if k not in LIST_WORDS | OBJECT_WORDS}
        parts.append(kept | {"type": plain if len(plain) > 1 else plain[0]})
    return parts


def united(branches: list[Any]) -> tuple[dict[str, Any], str]:
    """One schema for the branches of a union (see branches_of), and what was assumed about it, if anything.

    Raises NoUnion where there is none.
    """
    if any(branch is True or not types_of(branch) for branch in branches):
        return {"type": "string"}, "anything is read as text"
    if len(branches) == 1:
        return branches[0], ""
    objects = [b for b in branches if "object" in types_of(b) and not is_map(b)]
    maps = [b for b in branches if is_map(b)]
    lists = [b for b in branches if "array" in types_of(b)]
    plain = [b for b in branches if not {"object", "array"} & set(types_of(b))]
    if plain and not (objects or maps or lists):
        return united_plain(plain)
    if objects and not (maps or lists or plain):
        return united_objects(objects), "one of several objects is one object with the fields of all"
    if lists and not (maps and (objects or plain)):
        if maps:
            return list_or_map(lists, maps)
        one = united_lists(lists)
        if plain or objects:
            one["items"] = union_or_one([one.get("items", True), *objects, *plain])
            return one, "one value or a list of them is a list"
        return one, ""
    if maps and not (objects or plain):
        values = union_or_one([values_of_map(one) for one in maps])
        return with_texts({"type": "object", "additionalProperties": values}, maps), ""
    kinds = [kind for kind, there in (("an object", objects), ("a map", maps), ("a plain value", plain)) if there]
    raise NoUnion(f"it is {' or '.join(kinds)}; keep one of them, or give each a field of its own")


def with_texts(made: dict[str, Any], branches: list[dict[str, Any]]) -> dict[str, Any]:
    """`made` with the first title and description of the branches, and all other annotations of the first branch."""
    for word in FOR_PEOPLE:
        text = next((branch[word] for branch in branches if branch.get(word)), None)
        if text is not None:
            made.setdefault(word, text)
    notes = [branch["x-extract"] for branch in branches if isinstance(branch.get("x-extract"), dict)]
    if notes:
        made.setdefault("x-extract", notes[0])
    return made


def union_or_one(schemas: list[Any]) -> Any:
    """The one schema where all are equal, else their union."""
    different: list[Any] = []
    for schema in schemas:
        if schema not in different:
            different.append(schema)
    return different[0] if len(different) == 1 else {"anyOf": different}


def united_objects(branches: list[dict[str, Any]]) -> dict[str, Any]:
    """One object with the fields of all branches; required is what all require."""
    fields: dict[str, list[Any]] = {}
    for branch in branches:
        for name, child in branch.get("properties", {}).items():
            fields.setdefault(name, []).append(child)
    made = {**branches[0], "type": "object"}
    made["properties"] = {name: union_or_one(schemas) for name, schemas in fields.items()}
    required = [n for n in branches[0].get("required", []) if all(n in b.get("required", []) for b in branches)]
    made["required"] = required
    return with_texts(made, branches)


def united_lists(branches: list[dict[str, Any]]) -> dict[str, Any]:
    """One list whose items are those of all branches."""
    made = {**branches[0], "type": "array", "items": union_or_one([b.get("items", True) for b in branches])}
    if all("maxItems" in branch for branch in branches):
        made["maxItems"] = max(branch["maxItems"] for branch in branches)
    elif len(branches) > 1:
        made.pop("maxItems", None)
    if not all(branch.get("uniqueItems") for branch in branches):
        made.pop("uniqueItems", None)
    return with_texts(made, branches)


def values_of_map(schema: dict[str, Any]) -> Any:
    """The schema of a map's values; True where they may be anything."""
    stated = schema.get("additionalProperties", True)
    patterns = list(schema.get("patternProperties", {}).values())
    return union_or_one(
        [*patterns, *([stated] if stated is not False and (stated is not True or not patterns) else [])]
    )


def list_or_map(lists: list[dict[str, Any]], maps: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """A list, or a map of such lists: a map, in which the plain list stands without a name.

    Raises NoUnion where the map's values are no lists of the same kind.
    """
    values = union_or_one([values_of_map(one) for one in maps])
    one = united_lists(lists)
    if not (isinstance(values, dict) and types_of(values) == ["array"]):
        raise NoUnion("it is a list or a map of other values; keep one of them, or give each a field of its own")
    inner = {**values, "items": union_or_one([values.get("items", True), one.get("items", True)])}
    made: dict[str, Any] = {"type": "object", "additionalProperties": inner, "x-extract": {"map": "or list"}}
    return with_texts(made, [*maps, *lists]), "a list or a map of lists is a map with one nameless list"


def united_plain(branches: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """A union of plain values: the types of all; what only one type knows (bounds, pattern) stays with it."""
    fixed = [b for b in branches if "enum" in b or "const" in b]
    free = [b for b in branches if b not in fixed]
    made: dict[str, Any] = {}
    for branch in branches:
        made |= {k: v for k, v in branch.items() if k not in TEXT_WORDS | NUMBER_WORDS and k not in made}
    for word in ("enum", "const", "type", "x-extract"):
        made.pop(word, None)
    with_texts(made, branches)
    if not free:
        made["enum"] = different_values([choice for branch in fixed for choice in choices_of(branch)])
        return made, ""
    types = list(dict.fromkeys(kind for branch in branches for kind in types_of(branch)))
    texts = [b for b in branches if "string" in types_of(b)]
    numbers = [b for b in branches if NUMBERS & set(types_of(b))]
    if numbers and set(types) <= {*NUMBERS, "string"} and all(is_number_pattern(b.get("pattern")) for b in texts):
        texts, types = [], [kind for kind in types if kind != "string"]
    if "number" in types:
        types = [kind for kind in types if kind != "integer"]
    made["type"] = types[0] if len(types) == 1 else types
    for words, group in ((TEXT_WORDS, texts), (NUMBER_WORDS, numbers)):
        if len(group) == 1 and group[0] not in fixed:
            made |= {word: group[0][word] for word in words if word in group[0]}
    for word, group, widest in (("maxLength", texts, max), ("maximum", numbers, max), ("minimum", numbers, min)):
        if len(group) > 1 and all(word in branch for branch in group):
            made[word] = widest(branch[word] for branch in group)
    return made, "fixed choices beside free values are not enforced" if fixed else ""


def choices_of(schema: dict[str, Any]) -> list[Any]:
    """The choices of a `const` or an `enum`."""
    return [schema["const"]] if "const" in schema else list(schema["enum"])


def different_values(values: list[Any]) -> list[Any]:
    """The values without repetition; 1 and true are two."""
    return list({json.dumps(value, sort_keys=True): value for value in values}.values())


def is_number_pattern(pattern: Any) -> bool:
    """Whether a text's pattern takes numbers only, as a decimal number that may be written as a text has it."""
    if not isinstance(pattern, str):
        return False
    try:
        takes = matcher(pattern)
    except ValueError:
        return False
    return all(map(takes, ("1", "12.5"))) and not any(map(takes, ("", "a", "1a", "1 a", "x-1", ".")))
