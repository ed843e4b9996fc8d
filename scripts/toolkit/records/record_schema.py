"""The target schema that a record names in its `meta.schema`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from toolkit.console import StageError, first_few
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


def schema_of_all_records(named: Path | None, records: Iterable[Mapping[str, Any]], where: str) -> TargetSchema:
    """The schema `named` on the command line, else the one that all `records` name.

    Raises StageError where they name none or different ones; `where` names the records in it.
    """
    names = {schema_name(record) for record in records} if named is None else {str(named)}
    paths = sorted(name for name in names if name)
    if not paths or len(paths) < len(names):
        raise StageError(f"{where} names no schema in meta.schema; give --schema FILE")
    schemas = [TargetSchema.load(Path(path)) for path in paths]
    if any(schema.raw != schemas[0].raw for schema in schemas):
        told = first_few(paths)
        raise StageError(f"the records follow different schemas ({told}); train one document type at a time")
    return schemas[0]
