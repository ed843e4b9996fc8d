"""The prediction line: the answer for one document, and whether it can be used.

A prediction file is JSONL with one `PredictionLine` a document. The lines carry no version. Readers need only `id`
and `prediction` or `status`, treat any other key as optional and ignore unknown ones, so files of older versions
stay readable.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Required, TypedDict, cast

from toolkit.answers.answer import Usage
from toolkit.answers.wire_format import WireFormat
from toolkit.console import StageError
from toolkit.files import decode_text, escaped_values, parsers, read_jsonl, shown, strict_json
from toolkit.schema.target import TargetSchema

STATUSES = ("ok", "schema_error", "not_json", "truncated", "http_error", "refused", "unreadable")


class PredictionLine(TypedDict, total=False):
    """One line of a prediction file. The first eight keys are always written; a reader may rely on `id` alone."""

    id: Required[str]
    status: Required[str]  # one of STATUSES
    prediction: Required[dict[str, Any] | None]  # the public answer
    raw: Required[str | None]  # the model's text, in wire format; several windows or shards are one a line
    finish_reason: str | None  # "stop" or "length"
    usage: Usage | None
    seconds: float | None
    confidence: dict[str, float] | None  # by value name, 0 to 1
    attempts: int  # answers asked for, invalid ones included
    windows: int  # page windows, if more than one
    shards: int
    error: str  # one sentence, if there is no valid answer
    warnings: list[str]
    checks: list[list[Any]]  # failed business checks
    evidence: dict[str, Any]  # place on the page, by value name
    features: dict[str, list[float | None]]  # of the confidence model, by value name


class JudgedAnswer(NamedTuple):
    """Whether a raw answer is usable: `status` is one of STATUSES; `prediction` the public answer, if there is one.

    `sentence` says what is wrong with it; empty if there is nothing to say.
    """

    status: str
    prediction: dict[str, Any] | None
    sentence: str = ""


def judged(wire: WireFormat, validator: Any, raw: str, finish_reason: str) -> JudgedAnswer:
    """A raw answer in wire format as truncated, not_json, schema_error, or ok with the public JSON object."""
    if finish_reason == "length":
        return JudgedAnswer("truncated", None)
    try:
        value = strict_json(raw)
    except ValueError:
        return JudgedAnswer("not_json", None)
    try:
        value = wire.expanded(value)
    except ValueError:
        return JudgedAnswer("schema_error", None)
    if not isinstance(value, dict) or not validator.is_valid(value):
        return JudgedAnswer("schema_error", value if isinstance(value, dict) else None)
    return JudgedAnswer("ok", wire.schema.ordered(value))


def prediction_line(identity: str, status: str, prediction: Any, raw: str | None, **more: Any) -> PredictionLine:
    """A prediction line; `more` holds its other keys. Raises ValueError for an unknown status.

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
    return cast("PredictionLine", escaped_values(line | more))


def failed_line(identity: str, status: str, error: object) -> PredictionLine:
    """The prediction line of a document without an answer; `error` is the reason."""
    return prediction_line(identity, status, None, None, error=str(error))


def unsure_values(line: Mapping[str, Any], below: float) -> list[dict[str, Any]]:
    """What a person should review in a prediction line: `name`, `value` and `confidence` of each value below `below`.

    The value of a list is its number of rows. The lowest confidence comes first. A document without an answer, or
    without confidences, gives one entry with `error` alone.
    """
    if line["status"] != "ok":
        return [{"error": line.get("error") or line["status"]}]
    confidence = line.get("confidence")
    if not confidence:
        return [{"error": "the confidence of its values is not known"}]
    entries = []
    for share, name in sorted((share, name) for name, share in confidence.items() if share < below):
        value = value_of(line["prediction"], name)
        entries.append({"name": name, "value": len(value) if isinstance(value, list) else value, "confidence": share})
    return entries


def value_of(answer: Any, name: str) -> Any:
    """The value with the name `name`, for example `containers[0].container_size`; None if the answer lacks it."""
    for step in re.findall(r"[^.\[\]]+|\[\d+\]", name):
        if step.startswith("["):
            index = int(step[1:-1])
            answer = answer[index] if isinstance(answer, list) and index < len(answer) else None
        else:
            answer = answer.get(step) if isinstance(answer, dict) else None
    return answer


def finished_ids(path: Path) -> set[str]:
    """Ids in an earlier run's file that need no second try. An incomplete last line is removed from the file."""
    if not path.is_file():
        return set()
    data = path.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    if len(complete) != len(data):
        with path.open("r+b") as file:
            file.truncate(len(complete))
    return {line["id"] for _, line in read_jsonl(path) if line.get("status") != "http_error"}


class PredictionFile:
    """A prediction JSONL with access by id; the last line of each id counts. Holds file positions, not the lines.

    With a `schema`, predictions come as this project works with them, not as the original schema has them.

    Raises StageError if a line is not a prediction.
    """

    def __init__(self, path: Path, schema: TargetSchema | None = None) -> None:
        self.path, self.schema = path, schema
        self.places: dict[str, tuple[int, int]] = {}
        self.lines: dict[str, dict[str, Any]] | None = None
        loads = parsers()[0]
        offset = start_of_utf8(path)
        if offset is None:
            # UTF-16, as PowerShell writes it: such files are small and are held in memory.
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
        """Line `number` (from 1) of the file. Raises StageError if it is not a prediction."""
        if not isinstance(line, dict) or "id" not in line or not ("prediction" in line or "status" in line):
            raise StageError(f"{shown(self.path)}:{number}: no prediction; it needs 'id', 'status' and 'prediction'")
        return line

    def ids(self) -> set[str]:
        """The ids of all documents in the file."""
        return set(self.places if self.lines is None else self.lines)

    def get(self, identity: str) -> dict[str, Any] | None:
        """The document's line, or None. Raises StageError if it is not strict JSON (a key twice, NaN)."""
        line = self._line(identity)
        if line is not None and self.schema is not None and isinstance(line.get("prediction"), dict):
            line["prediction"] = self.schema.normal(line["prediction"])
        return line

    def _line(self, identity: str) -> dict[str, Any] | None:
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
    """The byte at which the text of a UTF-8 file starts (after a byte-order mark); None for UTF-16."""
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
            needed = "it needs 'id' and 'messages' (a training record) or 'gold'"
            raise StageError(f"{shown(path)}:{number}: no gold; {needed}")
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
