"""The training record: one document, all its pages, the instruction, and the gold answer as the assistant's text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.console import StageError
from toolkit.files import REPOSITORY, read_jsonl, shown, strict_json
from toolkit.records.prompt import Prompt

RECORD_SCHEMA = REPOSITORY / "schemas" / "qwen_vl_pdf_extract.schema.json"


def make_record(identity: str, images: list[str], prompt: Prompt, answer: str, meta: dict[str, Any]) -> dict[str, Any]:
    """The record of DESIGN: `id`, `messages` (system, user, assistant), `meta`."""
    assistant = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    return {"id": identity, "messages": [*prompt.messages(images), assistant], "meta": meta}


def read_records(path: Path | str, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file. Raises StageError for one without messages, and for an empty file."""
    count = 0
    for number, record in read_jsonl(path):
        if limit is not None and count >= limit:
            break
        if (
            not isinstance(record, dict)
            or not isinstance(record.get("id"), str)
            or not isinstance(record.get("messages"), list)
        ):
            need = "it needs 'id' and 'messages' (check with validate_jsonl.py)"
            raise StageError(f"{shown(path)}:{number}: no training record; {need}")
        count += 1
        yield record
    if count == 0:
        raise StageError(f"{shown(path)}: no records")


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
    """The answer; None where there is none. Raises StageError where it is not strict JSON."""
    text = answer_text(record)
    try:
        return strict_json(text) if text else None
    except ValueError as error:
        raise StageError(
            f"record {record['id']}: the answer is not JSON: {error} (check with validate_jsonl.py)"
        ) from None


def prompt_of(record: dict[str, Any]) -> Prompt:
    """The prompt of a record: its system and user texts."""
    return Prompt("\n".join(contents(record, "system", "text")), "\n".join(contents(record, "user", "text")))
