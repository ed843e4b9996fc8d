"""An answer that nobody has held against its schema, in a shape that every reader of answers can walk."""

from __future__ import annotations

import json
from typing import Any


def in_shape(schema: dict[str, Any], value: Any) -> Any:
    """The answer with an object, a list or a single value where the (raw) schema has one.

    What is no list where one belongs becomes an empty list, what is no object an empty one. An object or a list in the
    place of a single value becomes a text that says so; it equals no value, though its only item may.
    """
    if "properties" in schema:
        found = value if isinstance(value, dict) else {}
        return {
            name: in_shape(schema["properties"][name], item) if name in schema["properties"] else item
            for name, item in found.items()
        }
    if "items" in schema:
        if value is None or not isinstance(schema["items"], dict):
            return value
        return [in_shape(schema["items"], item) for item in value] if isinstance(value, list) else []
    if isinstance(value, dict | list):
        kind = "an object" if isinstance(value, dict) else "a list"
        return f"{kind} where a single value belongs: {json.dumps(value, ensure_ascii=False)[:200]}"
    return value
