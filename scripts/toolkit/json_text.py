"""JSON texts, read strictly: no key twice, no NaN, no number beyond a float, no endless nesting, no half character."""

from __future__ import annotations

import functools
import json
import math
import re
from typing import Any

DEEPEST = 128  # lists and objects inside each other; deeper JSON is a fault or an attack, and recursion has its limits
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class LoneSurrogate(ValueError):
    """A text holds half of a surrogate pair, which is no character; the message says where."""


def lone_surrogate(value: Any) -> str:
    """Where a JSON value holds half of a surrogate pair, as a sentence that starts with the place; else empty."""
    stack: list[tuple[str, Any]] = [("$", value)]
    while stack:
        where, item = stack.pop()
        if isinstance(item, str):
            if not item.isascii() and (found := _SURROGATE.search(item)):
                half = shown(found[0])
                return f"{where} holds {half}, half of a surrogate pair, which is no character; correct the text"
        elif isinstance(item, dict):
            for key, child in item.items():
                name = shown(str(key))
                if name != str(key):
                    return f"{where} has the key {name!r} with half of a surrogate pair; correct the text"
                stack.append((f"{where}.{name}", child))
        elif isinstance(item, list | tuple):
            stack += [(f"{where}[{index}]", child) for index, child in enumerate(item)]
    return ""


def shown(text: str) -> str:
    """The text with every lone surrogate as `\\udXXX`."""
    return text.encode("utf-8", "backslashreplace").decode()


class DuplicateKey(ValueError):
    """A JSON object holds one key twice; both parsers of the standard library would keep the last silently."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKey(f"the key {key!r} stands twice in one object")
            seen.add(key)
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (math.inf, -math.inf):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def strict_json(text: str, *, lone_surrogates: bool = False) -> Any:
    """`json.loads` that refuses (ValueError) a key twice, NaN and Infinity, a number too large for a float (1e400),
    more than DEEPEST levels, and half a surrogate pair.

    With `lone_surrogates` these, and numbers that are too large, pass: the caller looks for them itself.
    """
    number = float if lone_surrogates else _finite
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=number)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST} levels") from None
    if text.count("[") + text.count("{") > DEEPEST and is_too_deep(value):
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    if not lone_surrogates and _may_hold_surrogates(text) and (sentence := lone_surrogate(value)):
        raise LoneSurrogate(sentence)
    return value


def is_too_deep(value: Any) -> bool:
    """Whether a JSON value has more than DEEPEST levels of lists and objects."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        children = (item.values() if isinstance(item, dict) else item for item in level)
        level = [child for below in children for child in below if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _may_hold_surrogates(text: str) -> bool:
    if not text.isascii():
        try:
            text.encode()  # faster than a search of the text
        except UnicodeEncodeError:
            return True
    return "\\u" in text and _SURROGATE_ESCAPE.search(text) is not None


@functools.cache
def parsers() -> tuple[Any, Any]:
    """`(loads, dumps)` of orjson, or of json with the same bytes where orjson is not installed.

    Both refuse half a surrogate pair (ValueError); neither is strict otherwise.
    """
    try:
        import orjson
    except ModuleNotFoundError:

        def loads(data: bytes) -> Any:
            text = data.decode()
            value = json.loads(text)
            if _may_hold_surrogates(text) and (sentence := lone_surrogate(value)):
                raise LoneSurrogate(sentence)
            return value

        return loads, lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return orjson.loads, orjson.dumps
