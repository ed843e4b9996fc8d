"""The prediction line: the answer for one document, and whether it can be used.

A prediction file is JSONL with one `PredictionLine` a document; schemas/prediction_line.schema.json is its form, and
every reader holds each line against it. Readers need only `id` and `prediction` or `status`, treat any other key as
optional and ignore unknown ones. A line without a version is version 1, so files of older versions stay readable; a
newer version is refused.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Required, TypedDict, cast

from toolkit.answers.answer import Usage
from toolkit.answers.wire_format import WireFormat
from toolkit.console import StageError, first_few
from toolkit.files import escaped_values, iter_data_lines, opened, read_bytes, read_jsonl, shown
from toolkit.json_text import strict_json
from toolkit.records.line_form import PREDICTION_SCHEMA, LineForm, parsed_line
from toolkit.records.record import answer_text, record_problem
from toolkit.schema.answer_values import value_named
from toolkit.schema.target import TargetSchema

VERSION = 1
STATUSES = ("ok", "schema_error", "not_json", "truncated", "http_error", "refused", "unreadable")


class PredictionLine(TypedDict, total=False):
    """One line of a prediction file. The first nine keys are always written; a reader may rely on `id` alone."""

    version: int  # of the file contract; missing in files of before it was written
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
        "version": VERSION,
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
        value = value_named(line["prediction"], name)
        entries.append({"name": name, "value": len(value) if isinstance(value, list) else value, "confidence": share})
    return entries


def line_problem(value: Any) -> str:
    """Why a value is no prediction line, as a sentence with the place; empty if it is one."""
    if not isinstance(value, dict) or "id" not in value or not ("prediction" in value or "status" in value):
        return "it needs 'id', 'status' and 'prediction'"
    version = value.get("version")
    if isinstance(version, int) and version > VERSION:
        return f"it has version {version}, this program reads up to {VERSION}; update the program"
    return ": ".join(LineForm.of(PREDICTION_SCHEMA).problem(value) or ())


def finished_ids(path: Path) -> set[str]:
    """Ids in an earlier run's file that need no second try. A last line that was not written to its end is removed.

    Raises StageError, and changes nothing, where the file holds anything else than predictions.
    """
    if not path.exists():
        return set()
    data = read_bytes(path)
    complete = data[: data.rfind(b"\n") + 1]
    rest = data[len(complete) :]
    if rest.strip() and not rest.startswith(b'{"'[: len(rest)]):
        raise StageError(f"{shown(path)}: its last line is no prediction; choose another --out, or --overwrite")
    try:
        if rest.strip() and not line_problem(parsed_line(rest, shown(path))[0]):
            complete, rest = data + b"\n", b"\n"  # all of the line but its end
    except (ValueError, StageError):
        pass
    ids = set()
    for number, raw in enumerate(complete.splitlines(), 1):
        if raw.strip():
            try:
                line = parsed_line(raw, shown(path))[0]
            except ValueError as error:
                raise StageError(f"{shown(path)}:{number}: not JSON: {error}; choose another --out") from None
            if sentence := line_problem(line):
                raise StageError(f"{shown(path)}:{number}: no prediction; {sentence}; choose another --out")
            if line.get("status") != "http_error":
                ids.add(line["id"])
    if rest:
        with path.open("r+b") as file:
            file.seek(min(len(data), len(complete)))
            file.write(complete[len(data) :])
            file.truncate()
    return ids


class PredictionFile:
    """A prediction JSONL with access by id; the last line of each id counts. Holds file positions, not the lines.

    With a `schema`, predictions come as this project works with them, not as the original schema has them.

    Raises StageError if a line is not strict JSON (a key twice, NaN) or not a prediction; it names the first few.
    """

    def __init__(self, path: Path, schema: TargetSchema | None = None) -> None:
        self.path, self.schema = path, schema
        self.places: dict[str, tuple[int, int]] = {}
        self.lines: dict[str, dict[str, Any]] | None = None
        self.broken: list[str] = []
        offset = start_of_utf8(path)
        if offset is None:
            # UTF-16, as PowerShell writes it: such files are small and are held in memory.
            self.lines = {}
            for number, data in iter_data_lines(path):
                if line := self.line_of(number, data):
                    self.lines[line["id"]] = line
        else:
            self.file = path.open("rb")
            self.file.seek(offset)
            for number, raw in enumerate(self.file, 1):
                if raw.strip() and (line := self.line_of(number, raw.strip())):
                    self.places[line["id"]] = (offset, number)
                offset += len(raw)
        if self.broken:
            count = f"{len(self.broken)} lines are no predictions: " if len(self.broken) > 1 else ""
            raise StageError(f"{count}{first_few(self.broken)}; correct or remove what is named")
        if not self.ids():
            raise StageError(f"{shown(path)}: no predictions")

    def line_of(self, number: int, data: bytes) -> dict[str, Any] | None:
        """The prediction of line `number` (from 1) of the file; None, and a sentence in `broken`, if it is none."""
        where = f"{shown(self.path)}:{number}"
        try:
            line = parsed_line(data, where)[0]
        except StageError as error:
            self.broken.append(str(error))
            return None
        except ValueError as error:
            self.broken.append(f"{where}: not JSON: {error}")
            return None
        if sentence := line_problem(line):
            self.broken.append(f"{where}: no prediction; {sentence}")
            return None
        return {"status": "ok", **line}

    def ids(self) -> set[str]:
        """The ids of all documents in the file."""
        return set(self.places if self.lines is None else self.lines)

    def get(self, identity: str) -> dict[str, Any] | None:
        """The document's line, or None."""
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
        return self.line_of(number, self.file.readline().strip())


def start_of_utf8(path: Path) -> int | None:
    """The byte at which the text of a UTF-8 file starts (after a byte-order mark); None for UTF-16."""
    with opened(path, "a JSONL file") as file:
        start = file.read(4)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or (len(start) == 4 and 0 in start):
        return None
    return 3 if start.startswith(codecs.BOM_UTF8) else 0


def read_gold(path: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """`(id, gold answer, record)` of a training JSONL, or of lines with `id` and `gold`."""
    count = 0
    for number, line in read_jsonl(path):
        if sentence := gold_problem(line):
            raise StageError(f"{shown(path)}:{number}: no gold; {sentence}")
        try:
            gold = line["gold"] if "gold" in line else strict_json(answer_text(line))
        except ValueError as error:
            raise StageError(f"{shown(path)}:{number}: the gold answer is not JSON: {error}") from None
        if not isinstance(gold, dict):
            raise StageError(f"{shown(path)}:{number}: the gold answer is not a JSON object")
        count += 1
        yield line["id"], gold, line
    if count == 0:
        raise StageError(f"{shown(path)}: no gold records")


def gold_problem(line: Any) -> str:
    """Why a line holds no gold, as a sentence; empty if it does."""
    if not isinstance(line, dict) or "id" not in line or not ("messages" in line or "gold" in line):
        return "it needs 'id' and 'messages' (a training record) or 'gold'"
    if "messages" in line:
        return record_problem(line)
    if not isinstance(line["id"], str) or not line["id"]:
        return "its 'id' must be a text"
    return "" if isinstance(line.get("meta", {}), dict) else "its 'meta' must be an object"
