"""The prediction line: what was answered for one document, and whether it can be used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.console import StageError
from toolkit.files import iter_lines, read_jsonl, shown, strict_json
from toolkit.target_schema import TargetSchema

STATUSES = ("ok", "schema_error", "not_json", "truncated", "http_error", "refused", "unreadable")


def judged(schema: TargetSchema, validator: Any, raw: str, finish_reason: str) -> tuple[str, Any]:
    """`(status, prediction)` of a raw answer: truncated, not_json, schema_error, or ok with the public JSON object."""
    if finish_reason == "length":
        return "truncated", None
    try:
        value = strict_json(raw)
    except ValueError:
        return "not_json", None
    if not isinstance(value, dict) or not validator.is_valid(value):
        return "schema_error", value if isinstance(value, dict) else None
    return "ok", schema.ordered(value)


def prediction_line(identity: str, status: str, prediction: Any, raw: str | None, **more: Any) -> dict[str, Any]:
    """`id`, `status` (one of STATUSES), `prediction`, `raw`, `finish_reason`, `usage`, `seconds`, `confidence`, and `error` where
    there is one."""
    if status not in STATUSES:
        raise ValueError(f"unknown status {status!r}")
    line = {
        "id": identity,
        "status": status,
        "prediction": prediction,
        "raw": raw,
        "finish_reason": None,
        "usage": None,
        "seconds": None,
        "confidence": None,
    }
    return line | more


def finished_ids(path: Path) -> set[str]:
    """Documents of an earlier run's file that need no second try; an unfinished last line is dropped from the file."""
    if not path.is_file():
        return set()
    data = path.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    if len(complete) != len(data):
        with path.open("r+b") as file:
            file.truncate(len(complete))
    return {line["id"] for _, line in read_jsonl(path) if line.get("status") != "http_error"}


def read_predictions(path: Path) -> dict[str, dict[str, Any]]:
    """The last line of every document. Raises StageError where a line is no prediction."""
    found: dict[str, dict[str, Any]] = {}
    for number, text in iter_lines(path):
        try:
            line = strict_json(text)
        except ValueError as error:
            raise StageError(f"{shown(path)}:{number}: not JSON: {error}") from None
        if not isinstance(line, dict) or "id" not in line or not ("prediction" in line or "status" in line):
            raise StageError(f"{shown(path)}:{number}: no prediction; it needs 'id', 'status' and 'prediction'")
        found[str(line["id"])] = line
    if not found:
        raise StageError(f"{shown(path)}: no predictions")
    return found


def read_gold(path: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """`(id, gold answer, record)` of a training JSONL, or of lines with `id` and `gold`."""
    from toolkit.records import answer_text

    count = 0
    for number, line in read_jsonl(path):
        if not isinstance(line, dict) or "id" not in line or not ("messages" in line or "gold" in line):
            raise StageError(
                f"{shown(path)}:{number}: no gold; it needs 'id' and 'messages' (a training record) or 'gold'"
            )
        try:
            gold = line["gold"] if "gold" in line else strict_json(answer_text(line))
        except ValueError as error:
            raise StageError(f"{shown(path)}:{number}: the gold answer is not JSON: {error}") from None
        if not isinstance(gold, dict):
            raise StageError(f"{shown(path)}:{number}: the gold answer is not a JSON object")
        count += 1
        yield str(line["id"]), gold, line
    if count == 0:
        raise StageError(f"{shown(path)}: no gold records")
