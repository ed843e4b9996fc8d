"""A labels table as documents of a dataset: the gold answers, and the schema that the table can fill."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.console import StageError, did_you_mean, first_few
from toolkit.files import MOST_SETTINGS_BYTES, read_json, shown
from toolkit.records.label_account import LabelledDocument
from toolkit.records.label_join import LabelJoin, is_empty, narrowed
from toolkit.records.label_table import FIRST_ROW, HeaderRows, Table, fold, read_table
from toolkit.records.record_merge import Dataset
from toolkit.schema.number_text import Convention
from toolkit.schema.target import DEFAULT_SCHEMA, TargetSchema


@dataclass(frozen=True)
class LabelFile:
    """Where the labels are and how to read them.

    `sheet`: of an Excel file, None for the only one. `mapping`: a JSON file that names the table's columns. `decimal`:
    the decimal sign of numbers whose field states none; None takes what fits all values of a field. `header`: the rows
    of a sheet or CSV that name its columns.
    """

    path: Path
    sheet: str | None = None
    mapping: Path | None = None
    decimal: Convention | None = None
    header: HeaderRows = FIRST_ROW


@dataclass(frozen=True)
class Labels:
    """The labels as documents. `schema` is the dataset's own, without the fields that the table lacks: `left_out`.

    `join` holds what became of every value of the table, and how each field writes its numbers.
    """

    documents: list[LabelledDocument]
    schema: TargetSchema
    left_out: set[str]
    join: LabelJoin


def read_labels(file: LabelFile, schema_file: Path | None, old: Dataset | None) -> Labels:
    """Read the table, and settle the dataset's schema.

    It is the one of `schema_file`, else that of the `old` records, else the default; without the fields that the table
    has no column for. Raises StageError where table, mapping and schema do not fit together.
    """
    wanted = old.schema if old and not schema_file else TargetSchema.load(schema_file or DEFAULT_SCHEMA)
    mapping = read_json(file.mapping, most=MOST_SETTINGS_BYTES) if file.mapping else None
    if file.mapping:
        if not isinstance(mapping, dict):
            raise StageError(f"{shown(file.mapping)}: a JSON object is needed")
        wanted = wanted.with_columns(mapping, shown(file.mapping))
    table = read_table(file.path, file.sheet, wanted.document_columns, file.header)
    if file.mapping and mapping is not None:
        check_mapping(mapping, file.mapping, table, file.path)
    join = LabelJoin(wanted, file.decimal)
    join.add_beside(table.beside, shown(file.path))
    documents = list(join.documents((where, wanted.label_row(row)) for where, row in table.rows))
    left_out = join.keys.without_column()
    if left_out >= {leaf.name for leaf in wanted.header} | {rows.name for rows in wanted.lists}:
        columns = first_few(sorted({str(column) for _, row in table.rows for column in row}), 6)
        raise StageError(
            f"the table has none of the schema's columns ({columns}); is {wanted.source} the right --schema?"
        )
    schema = wanted.without(left_out) if left_out else wanted
    if old and (extra := fields_not_in(old, schema, documents, file.path)):
        schema = schema.without(extra)
    for document in documents:
        document.answer = narrowed(document.answer, schema.raw)
    return Labels(documents, schema, left_out, join)


def fields_not_in(old: Dataset, schema: TargetSchema, documents: list[LabelledDocument], results: Path) -> set[str]:
    """Fields that the labels have and the old records lack. Raises StageError where values of either would be lost."""
    new_fields, old_fields = ({leaf.name for leaf in of.leaves} for of in (schema, old.schema))
    if lacking := sorted(old_fields - new_fields):
        raise StageError(
            f"{shown(results)} has no column for {first_few(lacking, 6)}, which the records of {shown(old.path)} have; "
            "add it, or build into another --out"
        )
    extra = new_fields - old_fields
    if not extra:
        return set()
    only_extra = schema.without(old_fields)
    if filled := [d.file_name for d in documents if not is_empty(narrowed(d.answer, only_extra.raw))]:
        raise StageError(
            f"{shown(old.path)} has no field {first_few(sorted(extra), 6)}, for which {shown(results)} has values "
            f"({first_few(filled, 2)}); leave --schema out to do without, or build all documents anew with --overwrite"
        )
    return extra


def check_mapping(mapping: dict[str, Any], path: Path, table: Table, results: Path) -> None:
    """A column that --mapping names and the table lacks is a mistake, not a gap. Raises StageError for it."""
    columns = {fold(key) for _, row in table.rows for key in keys_of(row)}
    named = [mapping.get("document"), *mapping.get("columns", {}).values()]
    for names in ([name] if isinstance(name, str) else name or [] for name in named):
        if names and not any(fold(name) in columns for name in names):
            known = sorted({str(column) for _, row in table.rows for column in row})
            hint, there = did_you_mean(names[0], known), first_few(known, 8)
            raise StageError(f"{shown(path)}: {shown(results)} has no column {names[0]!r}; {hint}it has {there}")


def keys_of(value: Any) -> Iterator[str]:
    """Every key of a row, and of the objects inside it."""
    if isinstance(value, dict):
        yield from value
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from keys_of(item)
