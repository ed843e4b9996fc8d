"""The form of what stands under `x-extract`: each annotation of a target schema has a type of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

Test = Callable[[Any], bool]


def is_text(value: Any) -> bool:
    """Whether it is a text with something in it."""
    return isinstance(value, str) and bool(value)


def is_names(value: Any) -> bool:
    """Whether it is a name or a list of names."""
    return is_text(value) or (isinstance(value, list) and bool(value) and all(map(is_text, value)))


def is_switch(value: Any) -> bool:
    """Whether it is true or false."""
    return isinstance(value, bool)


def is_spellings(value: Any) -> bool:
    """Whether it is an object of lists of texts."""
    return isinstance(value, dict) and all(isinstance(v, list) and all(map(is_text, v)) for v in value.values())


def is_checks(value: Any) -> bool:
    """Whether it is a list of business checks."""
    if not isinstance(value, list) or not all(
        isinstance(check, dict) and is_text(check.get("check")) for check in value
    ):
        return False
    needed = {"count_equals_summary": {"list": is_text, "field": is_text}, "date_order": {"fields": is_list_of_names}}
    return all(test(check.get(key)) for check in value for key, test in needed.get(check["check"], {}).items())


def is_list_of_names(value: Any) -> bool:
    """Whether it is a list of names."""
    return isinstance(value, list) and is_names(value)


def is_list_of_texts(value: Any) -> bool:
    """Whether it is a list of texts, or an empty one."""
    return isinstance(value, list) and all(map(is_text, value))


def is_map_kind(value: Any) -> bool:
    """Whether it says that a list's rows are a map's entries."""
    return value is True or value == "or list"


ANNOTATION_FORMS: dict[str, tuple[Test, str]] = {
    "column": (is_names, "a column name or a list of them"),
    "document_column": (is_names, "a column name or a list of them"),
    "compare": (is_text, "a text"),
    "key": (is_switch, "true or false"),
    "day_first": (is_switch, "true or false"),
    "synonyms": (is_spellings, 'an object of lists of texts, such as {"40HC": ["40 HC"]}'),
    "check": (is_text, "the name of a check"),
    "severity": (is_text, '"error" or "warning"'),
    "normalise": (is_text, "a text"),
    "map": (is_map_kind, 'true or "or list"'),
    "default_bound": (is_switch, "true or false"),
    "afterwards": (is_list_of_texts, "a list of keywords"),
    "original": (lambda value: isinstance(value, dict), "a JSON Schema"),
    "checks": (is_checks, 'a list of objects, each with "check" and the fields that it looks at'),
}


def annotation_problem(raw: Any) -> str:
    """Where an annotation anywhere in a schema has the wrong type, as `place: sentence`; empty if all are right."""
    for where, found in annotations_of(raw):
        if not isinstance(found, dict):
            return f"{where}: an object is needed, this is {shortened(found)}"
        for name, value in found.items():
            if name in ANNOTATION_FORMS and not ANNOTATION_FORMS[name][0](value):
                return f"{where}.{name}: {ANNOTATION_FORMS[name][1]} is needed, this is {shortened(value)}"
    return ""


def annotations_of(raw: Any) -> Iterator[tuple[str, Any]]:
    """`(place, value)` of every `x-extract` in a schema; a property of that name is none."""
    stack: list[tuple[str, Any, bool]] = [("$", raw, False)]
    while stack:
        where, schema, is_names_of_fields = stack.pop()
        if isinstance(schema, list):
            stack += [(f"{where}[{index}]", item, False) for index, item in enumerate(schema)]
        if not isinstance(schema, dict):
            continue
        for key, value in schema.items():
            if key == "x-extract" and not is_names_of_fields:
                yield f"{where}.x-extract", value
            elif is_names_of_fields or key not in ("enum", "const", "default", "examples"):
                named = key in ("properties", "$defs", "definitions") and not is_names_of_fields
                stack.append((f"{where}.{key}", value, named))


def shortened(value: Any) -> str:
    """A value as JSON of at most 60 characters, for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
