"""The prediction line: what was answered for one document, and whether it can be used."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.answers.wire_format import WireFormat
from toolkit.console import StageError
from toolkit.files import decode_text, escaped_values, parsers, read_jsonl, shown, strict_json

STATUSES = ("ok", "schema_error", "not_json", "truncated", "http_error", "refused", "unreadable")


def judged(wire: WireFormat, validator: Any, raw: str, finish_reason: str) -> tuple[str, Any]:
    """`(status, prediction)` of a raw answer in its wire form: truncated, not_json, schema_error, or ok with the public JSON object."""
    if finish_reason == "length":
        return "truncated", None
    try:
        value = strict_json(raw)
    except ValueError:
        return "not_json", None
    try:
        value = wire.expanded(value)
    except ValueError:
        return "schema_error", None
    if not isinstance(value, dict) or not validator.is_valid(value):
        return "schema_error", value if isinstance(value, dict) else None
    return "ok", wire.schema.ordered(value)


def prediction_line(identity: str, status: str, prediction: Any, raw: str | None, **more: Any) -> dict[str, Any]:
    """`id`, `status` (one of STATUSES), `prediction`, `raw`, `finish_reason`, `usage`, `seconds`, `confidence`; where there are any `error`,
    `warnings`, `checks`, `evidence` and the confidence's `features`.

    Every text can be read back: half a surrogate pair in a raw answer, an error or an id is written as `\\udXXX`.
    """
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
    return dict(escaped_values(line | more))


def unsure_values(line: dict[str, Any], below: float) -> list[dict[str, Any]]:
    """What a person should look at in a prediction line: `name`, `value` and `confidence` of every value that is less sure than
    `below` (of a list: its number of rows), least sure first; `error` alone where the document has no answer or no confidences."""
    if line["status"] != "ok":
        return [{"error": line.get("error") or line["status"]}]
    if not line.get("confidence"):
        return [{"error": "the confidence of its values is not known"}]
    unsure = sorted((share, name) for name, share in line["confidence"].items() if share < below)
    found = []
    for share, name in unsure:
        value = value_of(line["prediction"], name)
        found.append({"name": name, "value": len(value) if isinstance(value, list) else value, "confidence": share})
    return found


def value_of(answer: Any, name: str) -> Any:
    """The value of `containers[0].container_size` in an answer; None where it is not there."""
    for step in re.findall(r"[^.\[\]]+|\[\d+\]", name):
        if step.startswith("["):
            index = int(step[1:-1])
            answer = answer[index] if isinstance(answer, list) and index < len(answer) else None
        else:
            answer = answer.get(step) if isinstance(answer, dict) else None
    return answer


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


class PredictionFile:
    """A prediction JSONL by document: the last line of each id counts. Holds a position a document, not the lines.

    Raises StageError where a line is no prediction.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[str, tuple[int, int]] = {}
        self.lines: dict[str, dict[str, Any]] | None = None
        loads = parsers()[0]
        offset = start_of_utf8(path)
        if offset is None:
            # Saved by PowerShell as UTF-16, say: no positions in there; such files are small.
            self.lines = {str(line["id"]): self.checked(number, line) for number, line in read_jsonl(path)}
            return
        self.file = path.open("rb")
        self.file.seek(offset)
        for number, raw in enumerate(self.file, 1):
            if raw.strip():
                try:
                    line = loads(raw)
                except ValueError as error:
                    raise StageError(f"{shown(path)}:{number}: not JSON: {error}") from None
                self.places[str(self.checked(number, line)["id"])] = (offset, number)
            offset += len(raw)
        if not self.places:
            raise StageError(f"{shown(path)}: no predictions")

    def checked(self, number: int, line: Any) -> dict[str, Any]:
        if not isinstance(line, dict) or "id" not in line or not ("prediction" in line or "status" in line):
            raise StageError(f"{shown(self.path)}:{number}: no prediction; it needs 'id', 'status' and 'prediction'")
        return line

    def ids(self) -> set[str]:
        return set(self.places if self.lines is None else self.lines)

    def get(self, identity: str) -> dict[str, Any] | None:
        """The document's line, or None. Raises StageError where it is no strict JSON (a key twice, NaN)."""
        if self.lines is not None:
            return self.lines.get(identity)
        if identity not in self.places:
            return None
        offset, number = self.places[identity]
        self.file.seek(offset)
        try:
            return dict(strict_json(decode_text(self.file.readline().strip(), f"{shown(self.path)}:{number}")))
        except ValueError as error:
            raise StageError(f"{shown(self.path)}:{number}: not JSON: {error}") from None


def start_of_utf8(path: Path) -> int | None:
    """Where the text of a UTF-8 file starts (behind a byte-order mark), or None for UTF-16."""
    if path.is_dir():
        raise StageError(f"{shown(path)} is a folder, a JSONL file is needed here")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise StageError(f"file not found: {shown(path)}") from None
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or (len(start) == 4 and 0 in start):
        return None
    return 3 if start.startswith(codecs.BOM_UTF8) else 0


def read_gold(path: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """`(id, gold answer, record)` of a training JSONL, or of lines with `id` and `gold`."""
    from toolkit.records.record import answer_text

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
