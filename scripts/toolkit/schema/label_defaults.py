"""What the labels of a dataset settle where its schema leaves it open: default bounds, and the keys of lists."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from toolkit.schema.target import Leaf, TargetSchema
from toolkit.schema.values import as_id, is_absent

KEY_KINDS = ("id", "text")  # a key identifies; amounts, dates and choices that happen to differ do not
FEWEST_LISTS = 3  # documents whose list has several rows; fewer prove nothing


def fitted_to_labels(schema: TargetSchema, answers: Iterable[dict[str, Any]]) -> tuple[TargetSchema, list[str]]:
    """The schema with default bounds raised to the longest label and keys where labels show them, and what was done.

    A bound that the schema states itself stays, and so does every list with a key. Each sentence names one decision.
    """
    raw, answers = copy.deepcopy(schema.raw), list(answers)
    said = raise_bounds(raw, answers) + find_keys(raw, answers, annotated=schema.public_form is None)
    return (TargetSchema(raw, schema.source), said) if said else (schema, [])


def raise_bounds(raw: dict[str, Any], answers: list[dict[str, Any]]) -> list[str]:
    """Raise the default bounds in `raw` to what the answers need; which were raised."""
    said: list[str] = []

    def raised(node: dict[str, Any], values: list[Any], name: str) -> None:
        is_default = bool((node.get("x-extract") or {}).get("default_bound"))
        if "properties" in node:
            for field, child in node["properties"].items():
                inner = [value[field] for value in values if isinstance(value, dict) and field in value]
                raised(child, inner, f"{name}.{field}" if name else field)
            return
        word, kind = ("maxItems", list) if "items" in node else ("maxLength", str)
        longest = max((len(value) for value in values if isinstance(value, kind)), default=0)
        if is_default and longest > node.get(word, longest):
            said.append(f"{name}: its default {word} of {node[word]} was raised to {longest}, the longest label")
            node[word] = longest
        if "items" in node:
            items = [item for value in values if isinstance(value, list) for item in value]
            raised(node["items"], items, f"{name}[]")

    raised(raw, answers, "")
    return said


def find_keys(raw: dict[str, Any], answers: list[dict[str, Any]], *, annotated: bool) -> list[str]:
    """Mark as key the field of each list without one whose values never stand twice in a list; which were marked.

    `annotated`: annotations in `raw` are its author's, who would have named a key where one is wanted.
    """
    said: list[str] = []

    def looked_at(node: dict[str, Any], values: list[Any], name: str) -> None:
        for field, child in node.get("properties", {}).items():
            inner = [value.get(field) for value in values if isinstance(value, dict)]
            looked_at(child, inner, f"{name}.{field}" if name else field)
        row = node.get("items")
        if not isinstance(row, dict):
            return
        lists = [value for value in values if isinstance(value, list)]
        fields = row.get("properties", {})
        settled = any(is_key(child) or (annotated and "x-extract" in child) for child in fields.values())
        if fields and not settled:
            key = unique_field(fields, lists)
            if key is not None:
                fields[key]["x-extract"] = {**(fields[key].get("x-extract") or {}), "key": True}
                said.append(f"{name}[].{key} is the key of a row: no document has one of its values twice")
        looked_at(row, [item for value in lists for item in value], f"{name}[]")

    looked_at(raw, answers, "")
    return said


def is_key(node: dict[str, Any]) -> bool:
    """Whether a field, or one below it, is marked as a key, or says itself that it is none."""
    if "key" in (node.get("x-extract") or {}):
        return True
    return any(is_key(child) for child in node.get("properties", {}).values())


def unique_field(fields: dict[str, Any], lists: list[list[Any]]) -> str | None:
    """The first field, ids before texts, that is there in every row and never twice in one list; None without one."""
    several = [rows for rows in lists if len(rows) > 1]
    if len(several) < FEWEST_LISTS:
        return None
    for kind in KEY_KINDS:
        for name, child in fields.items():
            if not {"items", "properties", "enum"} & set(child) and compare_of(child) == kind:
                columns = [[row.get(name) if isinstance(row, dict) else None for row in rows] for rows in several]
                if all(not any(map(is_absent, c)) and len(set(map(as_id, c))) == len(c) for c in columns):
                    return name
    return None


def compare_of(node: dict[str, Any]) -> str:
    """How a field is compared."""
    return Leaf((), node).compare
