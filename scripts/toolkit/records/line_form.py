"""The form of a line of JSONL: each file contract has one schema, and one check wherever its lines are read."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from toolkit.files import REPOSITORY, decode_text, read_json
from toolkit.json_text import DEEPEST, parsers, strict_json
from toolkit.schema.target import compact_json
from toolkit.schema.validation import explaining_validator, fast_validator

RECORD_SCHEMA = REPOSITORY / "schemas" / "qwen_vl_pdf_extract.schema.json"
PREDICTION_SCHEMA = REPOSITORY / "schemas" / "prediction_line.schema.json"


class LineForm:
    """A schema of lines, compiled once: a compiled validator decides, a plain one explains what is wrong."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.is_valid = fast_validator(schema)
        self.explaining = explaining_validator(schema)

    @classmethod
    @functools.cache
    def of(cls, file: Path) -> LineForm:
        return cls(read_json(file))

    def problem(self, value: Any) -> tuple[str, str] | None:
        """`(JSON path, sentence)` of what is most wrong with a line; None where nothing is."""
        if self.is_valid(value):
            return None
        from jsonschema.exceptions import best_match

        broken = best_match(self.explaining.iter_errors(value))
        return broken.json_path, broken.message[:300]


def parsed_line(data: bytes, where: str) -> tuple[Any, bool]:
    """A line's value, and whether it is compact JSON. Raises ValueError or StageError where it is not strict JSON.

    A line that orjson writes back byte for byte holds no key twice, no NaN and no number that changed: only other
    lines (spaces, escapes, faults) go through the strict parser.
    """
    loads, dumps = parsers()
    if data.count(b"[") + data.count(b"{") <= DEEPEST:
        try:
            value = loads(data)
            if dumps(value) == data:
                return value, True
        except (ValueError, TypeError, RecursionError):
            pass
    text = decode_text(data, where)
    value = strict_json(text)
    return value, compact_json(value) == text
