"""Answers of other services: their JSON, found in whatever came back, brought into the target schema's shape."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from toolkit.json_text import DEEPEST, lone_surrogate, strict_json
from toolkit.records.label_table import coerce, fold, is_blank_cell
from toolkit.schema.number_columns import NumberColumns
from toolkit.schema.number_text import Convention
from toolkit.schema.target import Leaf, RowList, TargetSchema, put_at

CUT = {"length", "max_tokens", "MAX_TOKENS", "max_output_tokens", "incomplete"}
WRAPPERS = ("answer", "prediction", "response", "output", "result", "data", "body", "fields", "extraction")


@dataclass
class Foreign:
    """`value`: the answer as a JSON object, None where there is none (`complaint` says why); `text` as it came."""

    value: dict[str, Any] | None
    text: str = ""
    truncated: bool = False
    usage: dict[str, Any] | None = None
    complaint: str = ""
    warnings: tuple[str, ...] = ()


def foreign_answer(found: Any) -> Foreign:
    """The answer in a text or a decoded response. Never raises: what is no answer has a complaint."""
    if isinstance(found, str):
        try:
            value = json_in(found)
        except ValueError as error:
            return Foreign(None, found, complaint=str(error))
        inner = foreign_answer(value)
        inner.text = inner.text or found
        return inner
    if sentence := lone_surrogate(found):
        return Foreign(None, json.dumps(found, ensure_ascii=False), complaint=sentence)
    if isinstance(found, list):
        found = next((item for item in found if isinstance(item, dict)), None) if len(found) == 1 else None
    if not isinstance(found, dict):
        return Foreign(None, "" if found is None else str(found), complaint="no JSON object in the answer")
    text, cut = response_text(found)
    usage = found.get("usage") if isinstance(found.get("usage"), dict) else None
    if text is not None:
        inner = foreign_answer(text)
        inner.truncated, inner.usage = inner.truncated or cut, usage or inner.usage
        return inner
    keys = set(found) - {"id", "usage", "status", "model", "created", "error", "document", "file", "filename"}
    if len(keys) == 1 and (key := next(iter(keys))) in WRAPPERS and isinstance(found[key], dict | str):
        inner = foreign_answer(found[key])
        inner.usage = usage or inner.usage
        return inner
    return Foreign(found, json.dumps(found, ensure_ascii=False), usage=usage)


def response_text(value: dict[str, Any]) -> tuple[str | None, bool]:
    """`(text of the answer, was it cut)` of a chat response of a known service; a text of None where it is unknown."""
    if isinstance(value.get("choices"), list) and value["choices"]:  # OpenAI, Azure OpenAI, vLLM
        choice = members(value["choices"][0])
        return joined(members(choice.get("message")).get("content")), is_cut(choice.get("finish_reason"))
    if isinstance(value.get("candidates"), list) and value["candidates"]:  # Gemini
        candidate = members(value["candidates"][0])
        return joined(members(candidate.get("content")).get("parts")), is_cut(candidate.get("finishReason"))
    if value.get("type") == "message" and isinstance(value.get("content"), list):  # Anthropic
        return joined(value["content"]), is_cut(value.get("stop_reason"))
    if value.get("object") == "response" and isinstance(value.get("output"), list):  # OpenAI responses
        contents = [members(item).get("content") for item in value["output"]]
        parts = [part for content in contents if isinstance(content, list) for part in content]
        return joined(parts), is_cut(value.get("status"))
    return None, False


def members(value: Any) -> dict[str, Any]:
    """The members of an object; none where a malformed response has something else."""
    return value if isinstance(value, dict) else {}


def is_cut(reason: Any) -> bool:
    """Whether an API's finish reason says that the answer was cut off."""
    return isinstance(reason, str) and reason in CUT


def joined(content: Any) -> str:
    """The text of a content that is a text or a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def json_in(text: str) -> Any:
    """The JSON in `text`: all of it, its code fence, or its first object. Raises ValueError with a sentence."""
    candidates = [text.strip(), *fenced(text)]
    reason = "no JSON object in the answer"
    for candidate in candidates:
        if candidate[:1] in "{[" and candidate:
            try:
                return strict_json(candidate)
            except ValueError as error:
                reason = f"not JSON: {error}"
    decoder = json.JSONDecoder()
    for start in (match.start() for match in re.finditer(r"\{", text)):
        try:
            _, end = decoder.raw_decode(text, start)
            return strict_json(text[start:end])
        except RecursionError:
            reason = f"not JSON: nested deeper than {DEEPEST} levels"
            break
        except ValueError:
            # An object inside the broken one is no answer, and whether a later one is inside cannot be told.
            break
    raise ValueError(reason)


def fenced(text: str) -> list[str]:
    """What stands in the code fences that may hold JSON."""
    parts = text.split("```")
    inside = [part.partition("\n") for part in parts[1 : len(parts) - 1 : 2]]
    return [body.strip() for first, _, body in inside if first.strip() in ("", "json")]


def in_schema(
    schema: TargetSchema, value: dict[str, Any], numbers: NumberColumns | None = None
) -> tuple[dict[str, Any], list[str], list[str]]:
    """`(answer in the schema's shape, keys that feed no field, sentences)`.

    Fields are found by their own name or their columns' names, at any depth. Case, spaces, underscores and hyphens do
    not count. A value that does not fit the field's type stays as it is and is named. `numbers` knows how the answers
    write the numbers of each field.
    """
    warnings: list[str] = []

    def cell(row: dict[str, Any], names: dict[str, str], leaf: Leaf, used: set[str]) -> Any:
        for name in (".".join(leaf.path), *leaf.columns, leaf.path[-1] if leaf.path else ""):
            key = names.get(fold(name))
            if key is None:
                continue
            used.add(key)
            if not is_blank_cell(row[key]):
                try:
                    return coerce(row[key], leaf, numbers)
                except ValueError as error:
                    warnings.append(f"{leaf.name}: {error}")
                    return row[key]
        return None

    def filled(leaves: Iterable[Leaf], lists: Iterable[RowList], value: dict[str, Any], before: str) -> dict[str, Any]:
        """The document, or a row, with these leaves and lists; `before` leads the names of keys that feed no field."""
        flat, used, made = flattened(value), set[str](), dict[str, Any]()
        names = by_name(flat)
        for leaf in leaves:
            put_at(made, leaf.path, cell(flat, names, leaf, used))
        for rows in lists:
            key = names.get(fold(".".join(rows.path))) or names.get(fold(rows.path[-1]))
            found = None if key is None else flat[key]
            if key is not None:
                used.add(key)
                if not isinstance(found, list) and not is_blank_cell(found):
                    warnings.append(f"{rows.name}: no list: {str(found)[:60]!r}")
            put_at(made, rows.path, listed(rows, found))
        left.update(dict.fromkeys(before + key for key in flat if key not in used))
        return made

    def listed(rows: RowList, found: Any) -> list[Any]:
        items: list[Any] = []
        for item in found if isinstance(found, list) else []:
            if rows.leaves and rows.leaves[0].path == ():
                items.append(item)
            elif rows.lists and rows.lists[0].path == ():
                items.append(listed(rows.lists[0], item))
            elif isinstance(item, dict):
                items.append(filled(rows.leaves, rows.lists, item, f"{rows.name}[]."))
            else:
                warnings.append(f"{rows.name}: a row is no object: {str(item)[:60]!r}")
        return items

    left: dict[str, None] = {}
    answer = filled(schema.header, schema.lists, value, "")
    # Keys of the document first, then those of its rows.
    keys = sorted(left, key=lambda key: "[]." in key)
    return schema.ordered(answer), keys, warnings


def number_columns(schema: TargetSchema, values: Iterable[dict[str, Any]], default: Convention | None) -> NumberColumns:
    """How these answers, all of one service, write the numbers of each field; `default`: the command line's."""
    numbers = NumberColumns(default)
    if (of_numbers := schema.only_numbers()) is not None:
        numbers.learning = True
        for value in values:
            in_schema(of_numbers, value, numbers)
    numbers.learning = False
    return numbers


def by_name(flat: dict[str, Any]) -> dict[str, str]:
    """Folded names to keys: each whole dotted key, and its last part where no other key has that name."""
    names = {fold(key): key for key in flat}
    for key in flat:
        names.setdefault(fold(key.rpartition(".")[2]), key)
    return names


def flattened(value: dict[str, Any]) -> dict[str, Any]:
    """Nested objects as dotted keys; lists stay as they are."""
    flat: dict[str, Any] = {}

    def walk(item: dict[str, Any], prefix: str) -> None:
        for key, child in item.items():
            if (
                isinstance(child, dict)
                and set(child) & {"value", "content"}
                and not set(child) - {"value", "content", "confidence", "boundingRegions", "type", "spans"}
            ):
                flat[f"{prefix}{key}"] = child.get(
                    "value", child.get("content")
                )  # a field with its confidence beside it
            elif isinstance(child, dict):
                walk(child, f"{prefix}{key}.")
            else:
                flat[f"{prefix}{key}"] = child

    walk(value, "")
    return flat


def rows_as_answers(
    schema: TargetSchema, rows: list[tuple[str, dict[str, Any]]], name_column: str
) -> Iterator[tuple[str, Foreign]]:
    """Flat table rows, one per list item, as one answer per document: `(name, answer)`.

    The first value of a header field counts; others that differ are named in the answer's warnings.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for _, values in rows:
        name = next((values[c] for c in values if fold(str(c)) == name_column), None)
        groups.setdefault(str(name).strip(), []).append(
            {k: v for k, v in values.items() if fold(str(k)) != name_column}
        )
    inner = {fold(c) for rows_ in schema.lists for leaf in rows_.leaves for c in (*leaf.columns, *leaf.path[-1:])}
    for name, group in groups.items():
        answer: dict[str, Any] = {}
        differing: dict[str, None] = {}
        for values in group:
            for key, value in values.items():
                if fold(str(key)) in inner:
                    continue
                if is_blank_cell(answer.get(key)):
                    answer[key] = value
                elif not is_blank_cell(value) and value != answer[key]:
                    differing[f"{key}: the rows disagree: {answer[key]!r} and {value!r}; the first counts"] = None
        for rows_ in schema.lists:
            wanted = {fold(c) for leaf in rows_.leaves for c in (*leaf.columns, *leaf.path[-1:])}
            items = [{k: v for k, v in values.items() if fold(str(k)) in wanted} for values in group]
            items = [item for item in items if not all(is_blank_cell(v) for v in item.values())]
            if items and not isinstance(answer.get(rows_.path[-1]), list):
                answer[rows_.path[-1]] = items
        if sentence := lone_surrogate(group):
            yield name, Foreign(None, json.dumps(group, ensure_ascii=False, default=str), complaint=sentence)
        else:
            yield name, Foreign(answer, warnings=tuple(differing))
