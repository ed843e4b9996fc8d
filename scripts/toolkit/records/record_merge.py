"""New training records merged into existing ones by document. New labels win, and each change is listed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.console import StageError
from toolkit.files import shown
from toolkit.pages.images import document_key
from toolkit.records.prompt import Prompt, generated_prompt
from toolkit.records.record import gold_of, images_of, prompt_of, read_records
from toolkit.schema.target import TargetSchema, compact_json

PAGES = "pages"  # how a change of the page images is called among the fields


@dataclass(frozen=True)
class Dataset:
    """A built JSONL: its records by id, and the one schema and the one prompt that they share."""

    path: Path
    records: dict[str, dict[str, Any]]
    schema: TargetSchema
    prompt: Prompt
    by_key: dict[str, list[str]]

    @classmethod
    def read(cls, path: Path) -> Dataset:
        records: dict[str, dict[str, Any]] = {}
        by_key: dict[str, list[str]] = {}
        for record in read_records(path):
            identity = record["id"]
            if identity in records:
                raise StageError(f"{shown(path)}: the id {identity!r} stands twice; remove one before an update")
            records[identity] = record
            by_key.setdefault(key_of(record), []).append(identity)
        prompts = {prompt_of(record) for record in records.values()}
        if len(prompts) > 1:
            raise StageError(f"{shown(path)}: its records have {len(prompts)} different prompts; build them anew")
        return cls(path, records, TargetSchema.load(schema_file(path, records)), prompts.pop(), by_key)

    def same_document(self, record: dict[str, Any]) -> str | None:
        """The id of the record of the same document: an equal id, or a file name that claims the same images."""
        if record["id"] in self.records:
            return str(record["id"])
        same = self.by_key.get(key_of(record), [])
        if len(same) > 1:
            raise StageError(
                f"{shown(self.path)}: {record['id']!r} could be {same[0]!r} or {same[1]!r}; give the labels that name"
            )
        return same[0] if same else None


def schema_file(path: Path, records: dict[str, dict[str, Any]]) -> Path:
    """The schema beside the records, or the one that they name."""
    beside = path.with_suffix(".schema.json")
    named = next(
        (record["meta"]["schema"] for record in records.values() if record.get("meta", {}).get("schema")), None
    )
    if beside.is_file() or named is None:
        return beside
    return Path(str(named))


def key_of(record: dict[str, Any]) -> str:
    """What joins a record with its document's labels."""
    return document_key(str(record.get("meta", {}).get("source") or record["id"]))


@dataclass
class Merge:
    """`records` in old order, then new ones. `changes`: `{"document", "change", "fields": {name: [old, new]}}`."""

    records: dict[str, dict[str, Any]]
    changes: list[dict[str, Any]] = field(default_factory=list)
    unchanged: int = 0

    def count(self, change: str) -> int:
        return sum(line["change"] == change for line in self.changes)


def merged(old: Dataset | None, new: list[dict[str, Any]]) -> Merge:
    """The new records over the old ones. A record whose answer and pages are as they were stays as it is."""
    merge = Merge(dict(old.records) if old else {})
    for record in new:
        identity = old.same_document(record) if old else None
        if identity is None:
            merge.records[record["id"]] = record
            merge.changes.append({"document": record["id"], "change": "added", "fields": {}})
            continue
        before = merge.records[identity]
        fields = differences(gold_of(before), gold_of(record), "")
        if images_of(before) != images_of(record):
            fields[PAGES] = [images_of(before), images_of(record)]
        if fields:
            # The old id stays: splits and predictions know the document by it.
            merge.records[identity] = record | {"id": identity}
            merge.changes.append({"document": identity, "change": "replaced", "fields": fields})
        else:
            merge.unchanged += 1
    return merge


def differences(old: Any, new: Any, name: str) -> dict[str, list[Any]]:
    """`{field: [old, new]}` of every value that differs; an item that only one list has is one difference."""
    if old == new:
        return {}
    found: dict[str, list[Any]] = {}
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            found |= differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            pair = [items[index] if index < len(items) else None for items in (old, new)]
            if index < min(len(old), len(new)):
                found |= differences(pair[0], pair[1], f"{name}[{index}]")
            else:
                found[f"{name}[{index}]"] = pair
    else:
        found[name or "answer"] = [old, new]
    return found


def check_schema(old: Dataset, schema: TargetSchema, replaced: set[str]) -> None:
    """Raise StageError where a record that stays does not follow the schema that the file would have."""
    if schema.raw == old.schema.raw:
        return
    validator = schema.validator()
    for identity, record in old.records.items():
        if identity in replaced:
            continue
        gold = gold_of(record) or {}
        try:
            fits = compact_json(schema.ordered(gold)) == compact_json(gold) and validator.is_valid(gold)
        except ValueError:
            fits = False
        if not fits:
            raise StageError(
                f"{shown(old.path)}: the record {identity!r} does not follow {schema.source}; "
                "leave --schema out to keep the dataset's own, or build all documents anew with --overwrite"
            )


def updated_prompt(old: Dataset, schema: TargetSchema, given: Prompt | None) -> Prompt:
    """The instruction of the new records, which must be the old ones'. Raises StageError where it would not be."""
    prompt = given
    if prompt is None:
        generated = old.prompt == generated_prompt(old.schema)
        prompt = generated_prompt(schema) if generated else old.prompt
    if prompt != old.prompt:
        raise StageError(
            f"{shown(old.path)}: its records have another instruction than the new ones would, and training takes one; "
            f"leave {'--prompt' if given else '--schema'} out, or build all documents anew with --overwrite"
        )
    return prompt
