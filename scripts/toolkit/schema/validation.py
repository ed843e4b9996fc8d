"""JSON Schema checks that end: every checker uses one engine for patterns, whose time a hostile pattern cannot blow up.

Python's `re` tries every way to match, so `^(a|a)*$` takes hours on forty letters. The engine of jsonschema-rs takes
linear time. Lookaround and back references, which it cannot match so, get a number of steps; a value that needs more
does not match. The compiled checker and the one that explains therefore come to the same verdicts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

PATTERN_STEPS = 100_000


def fast_validator(schema: dict[str, Any]) -> Callable[[Any], bool]:
    """`is_valid` of jsonschema-rs where it is installed, else of jsonschema."""
    try:
        return compiled(schema).is_valid
    except ModuleNotFoundError:
        return explaining_validator(schema).is_valid


def compiled(schema: Any) -> Any:
    """The schema as a validator of jsonschema-rs, which reads no other file and no network.

    Raises ValueError where a pattern, or something else in the schema, cannot be compiled.
    """
    import jsonschema_rs

    options = jsonschema_rs.FancyRegexOptions(backtrack_limit=PATTERN_STEPS)
    return jsonschema_rs.Draft202012Validator(schema, pattern_options=options, offline=True)


def explaining_validator(schema: Any, *, draft: Any = None, formats: Any = None) -> Any:
    """A validator of jsonschema, whose `iter_errors` says what is wrong and where.

    `draft`: the validator class of the schema's draft (default: 2020-12). `formats`: a format checker.
    """
    return _explaining_class(draft)(schema, format_checker=formats)


@functools.cache
def _explaining_class(draft: Any) -> Any:
    import jsonschema

    return jsonschema.validators.extend(draft or jsonschema.Draft202012Validator, {"pattern": _pattern_errors})


def _pattern_errors(_: Any, pattern: str, value: Any, __: Any) -> Iterator[Any]:
    import jsonschema

    if isinstance(value, str) and not matcher(pattern)(value):
        yield jsonschema.ValidationError(f"{value[:200]!r} does not match {pattern!r}")


@functools.lru_cache(maxsize=1024)
def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a text holds a match of the pattern, in linear time. Raises ValueError where it is no pattern."""
    return compiled({"pattern": pattern}).is_valid


def pattern_problem(schema: Any) -> str:
    """The first pattern of a schema that is no regular expression, as a sentence; empty if all are."""
    stack = [schema]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack += item
        elif isinstance(item, dict):
            pattern = item.get("pattern")
            if isinstance(pattern, str):
                try:
                    matcher(pattern)
                except ValueError:
                    return f"the pattern {pattern[:80]!r} is no regular expression, or one that is too large"
            stack += item.values()
    return ""
