"""What a split knows of each record of a JSONL: the keys that make a group, its stratum, and what it looks like."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import StageError, say
from toolkit.files import shown
from toolkit.pages.pictures import DEFAULT_MAX_DECODED_MB
from toolkit.records.fingerprints import (
    IDENTIFYING_VALUES,
    PageFingerprint,
    free_values,
    key_of,
    page_fingerprint,
    text_sketch,
    words_of,
)
from toolkit.records.record import answer_text, gold_of, images_of, read_records
from toolkit.records.record_schema import schema_name
from toolkit.records.splits import NAMES, Documents, stratum_of
from toolkit.schema.answer_shape import in_shape
from toolkit.schema.field_names import AskedFields
from toolkit.schema.target import TargetSchema, value_at

BATCH = 500
ABSENT: tuple[Any, ...] = (None, "", [], {})  # no value to group by


@dataclass(frozen=True)
class Reading:
    """How records are read for a split.

    `root`: the folder that image paths are relative to. `compare`: what makes two pages equal, pixels, bytes or names.
    `group_by`: fields of the answer or of meta; documents with an equal value stay together. `workers`: threads, 0 for
    one per core. `max_decoded_mb`: a larger picture is refused.
    """

    root: Path = Path()
    compare: str = "pixels"
    group_by: tuple[str, ...] = ()
    workers: int = 0
    max_decoded_mb: float = DEFAULT_MAX_DECODED_MB


def read_documents(path: Path, reading: Reading) -> Documents:
    """One pass over the records of `path`; threads read the pages, a batch of records at a time.

    Raises StageError where an answer is not JSON, an image cannot be read, or no record has a field of `group_by`.
    """
    documents = Documents()
    asked = AskedFields("--group-by", reading.group_by)
    stream = console.progress(read_records(path), total=None, what="records")
    with ThreadPoolExecutor(reading.workers or os.cpu_count() or 1) as pool:
        for batch in batches(stream):
            images = [(record["id"], image) for record in batch for image in images_of(record)]
            prints = pool.map(lambda image: fingerprint(image[0], image[1], reading), images)
            for record in batch:
                pages = list(itertools.islice(prints, len(images_of(record))))
                add_record(documents, record, pages, reading.group_by, asked)
    asked.require(shown(path))
    return documents


def batches(stream: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The records in lists of BATCH."""
    while batch := list(itertools.islice(stream, BATCH)):
        yield batch


def fingerprint(identity: str, image: str, reading: Reading) -> PageFingerprint:
    """The fingerprint of one page image of the record `identity`. Raises StageError where it cannot be read."""
    if reading.compare == "names":
        return page_fingerprint(Path(image), reading.compare)  # without root: another machine's folder changes no name
    path = reading.root / image
    try:
        return page_fingerprint(path, reading.compare, reading.max_decoded_mb)
    except FileNotFoundError:
        raise StageError(f"record {identity!r}: image not found: {shown(path)}; run verify_image_paths.py") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        sentence = f"record {identity!r}: {shown(path)} cannot be read ({reason}); run verify_image_paths.py"
        raise StageError(sentence) from None


def add_record(
    documents: Documents,
    record: dict[str, Any],
    pages: list[PageFingerprint],
    group_by: Sequence[str],
    asked: AskedFields,
) -> None:
    """Add a record with its keys, its stratum, and what its first page looks like."""
    try:
        gold = gold_of(record) or {}
    except ValueError as error:
        raise StageError(f"record {record['id']!r}: the answer is not JSON: {error}; run validate_jsonl.py") from None
    schema = schema_of(schema_name(record))
    if schema is not None:
        gold = in_shape(schema.raw, gold)
    asked.look(schema, gold, record.get("meta", {}))
    keys = [("image", page.key) for page in pages if page.key is not None]
    answer = answer_text(record)
    answer_key = key_of("answer", answer) if answer else 0
    if answer and len(free_values(gold, choices_of(schema))) >= IDENTIFYING_VALUES:
        keys.append(("answer", answer_key))
    if label := label_key(schema, gold):
        keys.append(("label", key_of("label", label)))
    for field in group_by:
        value = value_at(gold, tuple(field.split(".")))
        value = record.get("meta", {}).get(field) if value is None else value
        if value not in ABSENT and str(value).strip():
            keys.append(("group-by", key_of("group-by", f"{field}\0{' '.join(str(value).casefold().split())}")))
    lists = schema.lists if schema else []
    rows = max((len(value_at(gold, of.path) or []) for of in lists), default=0)
    look = next((page.look for page in pages if page.look), None)
    documents.add(record["id"], stratum_of(len(pages), rows), keys, text_sketch(words_of(gold)), look, answer_key)


@cache
def schema_of(name: str | None) -> TargetSchema | None:
    """The record's own target schema; without one there are no label keys and no rows to count."""
    if name is None or not Path(name).is_file():
        reason = f"the schema {name} is not there" if name else "records name no schema in meta.schema"
        say(f"note: {reason}; label keys and rows are not looked at")
        return None
    return TargetSchema.load(Path(name))


def choices_of(schema: TargetSchema | None) -> frozenset[tuple[str, ...]]:
    """Paths of the fields whose value is one of a few that the schema lists."""
    leaves = schema.leaves if schema else []
    chosen = [leaf for leaf in leaves if {"enum", "const"} & set(leaf.schema)]
    return frozenset((*(step.rstrip("[]") for step in leaf.list_path or ()), *leaf.path) for leaf in chosen)


def label_key(schema: TargetSchema | None, gold: dict[str, Any]) -> str:
    """The values of the header fields that identify a document, in capitals and digits.

    Empty where the schema marks no field, or a marked one has no value.
    """
    leaves = [leaf for leaf in schema.header if leaf.is_key] if schema else []
    values = [value_at(gold, leaf.path) for leaf in leaves]
    parts = ["" if value is None else "".join(ch for ch in str(value).upper() if ch.isalnum()) for value in values]
    return "\0".join(parts) if all(parts) else ""


def strata_of(documents: Documents, places: bytearray) -> dict[str, dict[str, int]]:
    """How many documents of each stratum lie in each split."""
    strata: dict[str, list[int]] = {}
    for stratum, place in zip(documents.strata, places, strict=True):
        strata.setdefault(stratum, [0, 0, 0])[place] += 1
    return {name: dict(zip(NAMES, strata[name], strict=True)) for name in sorted(strata)}
