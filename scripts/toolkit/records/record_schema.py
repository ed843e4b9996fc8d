"""The target schema that a record names in its `meta.schema`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from toolkit.console import StageError
from toolkit.schema.target import TargetSchema


def schema_name(record: Mapping[str, Any]) -> str | None:
    """The path in `meta.schema`; None where the record names none."""
    name = (record.get("meta") or {}).get("schema")
    return None if name is None else str(name)


def schema_of_records(named: Path | None, records: Iterable[Mapping[str, Any]], where: str) -> TargetSchema:
    """The schema `named` on the command line, else that of the first of the `records` which names one.

    `where` names the records in the StageError that is raised where there is neither.
    """
    path = named or next((name for name in map(schema_name, records) if name), None)
    if path is None:
        raise StageError(f"{where} names no schema in meta.schema; give --schema FILE")
    return TargetSchema.load(Path(path))
