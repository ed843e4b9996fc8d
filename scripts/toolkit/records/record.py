"""The training record: one document, all its pages, the instruction, and the gold answer as the assistant's text."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from toolkit.console import StageError
from toolkit.files import read_json, read_jsonl, shown
from toolkit.json_text import strict_json
from toolkit.records.line_form import RECORD_SCHEMA, LineForm
from toolkit.records.prompt import Prompt


def make_record(identity: str, images: list[str], prompt: Prompt, answer: str, meta: dict[str, Any]) -> dict[str, Any]:
    """The record of DESIGN: `id`, `messages` (system, user, assistant), `meta`."""
    assistant = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    return {"id": identity, "messages": [*prompt.messages(images), assistant], "meta": meta}


def read_records(path: Path | str, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file. Raises StageError for a line that is no record, and for an empty file."""
    count = 0
    for number, record in read_jsonl(path):
        if limit is not None and count >= limit:
            break
        if sentence := record_problem(record):
            raise StageError(f"{shown(path)}:{number}: no training record; {sentence} (check with validate_jsonl.py)")
        count += 1
        yield record
    if count == 0:
        raise StageError(f"{shown(path)}: no records")


@functools.cache
def record_form() -> LineForm:
    """The form of a record that is read: as its schema says, but an answer may still be missing."""
    schema = read_json(RECORD_SCHEMA)
    schema["properties"]["messages"]["minItems"] = 1
    return LineForm(schema)


def record_problem(value: Any) -> str:
    """Why a value is no record, as a sentence with the place; empty if it is one."""
    if not isinstance(value, dict) or "id" not in value or "messages" not in value:
        return "it needs 'id' and 'messages'"
    if broken := record_form().problem(value):
        return ": ".join(broken)
    return "an image path holds a NUL character" if any("\0" in image for image in images_of(value)) else ""


def inside_root(root: Path, image: str) -> Path | None:
    """The file of a record's image path; None where it lies outside `root`.

    A report that showed such a file would carry any picture of this machine to whoever gets the report. Links below
    `root` are followed: who made the folder made them.
    """
    path = root / image
    here, there = (Path(os.path.normpath(Path.cwd() / place)) for place in (root, path))
    real, real_root = (Path(os.path.realpath(place)) for place in (path, root))
    return path if there.is_relative_to(here) or real.is_relative_to(real_root) else None


def outside_root(image: str) -> str:
    """Why an image path of a record may lead out of the folder that paths are relative to; empty if it does not."""
    if ".." not in image and ":" not in image and not image.startswith(("/", "\\")):
        return ""  # nearly all of millions
    path = PurePosixPath(image.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(image).drive:
        return "an absolute image path; the records work on this machine only, and reports need --root for it"
    depth = 0
    for part in path.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return "the image path leads out of the folder; reports need --root for it"
    return ""


def contents(record: dict[str, Any], role: str, kind: str) -> list[str]:
    """Every image path or text of one role, in order."""
    return [
        item[kind]
        for message in record["messages"]
        if message["role"] == role
        for item in message["content"]
        if item.get("type") == kind
    ]


def images_of(record: dict[str, Any]) -> list[str]:
    """The paths of a record's page images, in page order."""
    return contents(record, "user", "image")


def answer_text(record: dict[str, Any]) -> str:
    """The assistant's text; empty where the record has none (a record to predict only)."""
    return "".join(contents(record, "assistant", "text"))


def with_answer(record: dict[str, Any], text: str) -> dict[str, Any]:
    """The record with another assistant's text."""
    turns = [message for message in record["messages"] if message["role"] != "assistant"]
    assistant = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    return record | {"messages": [*turns, assistant]}


def gold_of(record: dict[str, Any]) -> dict[str, Any] | None:
    """The answer; None where there is none. Raises StageError where it is not a strict JSON object."""
    text = answer_text(record)
    try:
        gold = strict_json(text) if text else None
    except ValueError as error:
        raise StageError(
            f"record {record['id']}: the answer is not JSON: {error} (check with validate_jsonl.py)"
        ) from None
    if gold is not None and not isinstance(gold, dict):
        raise StageError(f"record {record['id']}: the answer is no JSON object (check with validate_jsonl.py)")
    return gold


def prompt_of(record: dict[str, Any]) -> Prompt:
    """The prompt of a record: its system and user texts."""
    return Prompt("\n".join(contents(record, "system", "text")), "\n".join(contents(record, "user", "text")))
