"""A target schema guessed from what a team already has: a labels table, or a folder of example answers."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.console import StageError, did_you_mean, first_few
from toolkit.files import read_json, shown
from toolkit.records.label_table import FIRST_ROW, HeaderRows, Located, fold, is_blank_cell, read_table
from toolkit.records.value_kinds import FieldGuess, field_of_values, rounded_up
from toolkit.schema.defaults import words_of

DOCUMENT_COLUMNS = ("Filename", "file_name", "file", "document", "document_name", "pdf", "image")
FILE_NAME = re.compile(r".+\.(pdf|png|jpe?g|tiff?|webp|heic)", re.I)
DRAFT = "https://json-schema.org/draft/2020-12/schema"


@dataclass
class SchemaGuess:
    """The `schema`, and sentences: what was `decided` for each field and why, and what a person should `check`."""

    schema: dict[str, Any]
    decided: list[str] = field(default_factory=list)
    check: list[str] = field(default_factory=list)

    def note(self, name: str, guess: FieldGuess) -> None:
        self.decided.append(f"{name}: {guess.why}")
        self.check += guess.check


def empty_schema(title: str, document_column: str | None) -> dict[str, Any]:
    """The start of a schema: its title, and the column of the documents' file names where there is one."""
    notes = {"x-extract": {"document_column": document_column}} if document_column else {}
    return {"$schema": DRAFT, "title": title, **notes, **closed_object()}


def closed_object() -> dict[str, Any]:
    """An object without fields yet."""
    return {"type": "object", "additionalProperties": False, "required": [], "properties": {}}


def put(schema: dict[str, Any], name: str, child: dict[str, Any]) -> None:
    """Add a field to an object of the schema, at its end."""
    schema["properties"][name] = child
    schema["required"].append(name)


def guess_from_table(
    path: Path, sheet: str | None, column: str | None, title: str, header: HeaderRows = FIRST_ROW
) -> SchemaGuess:
    """The schema that a labels table can fill. `column` names the documents' file names.

    Raises StageError where no column of file names is found, or nothing stands beside it.
    """
    rows = read_table(path, sheet, list(DOCUMENT_COLUMNS), header).rows
    document = document_column(rows, column, shown(path))
    if any(isinstance(value, dict | list) for _, row in rows for value in row.values()):
        answers = [{name: value for name, value in row.items() if name != document} for _, row in rows]
        guess = guess_from_answers(answers, title)
        guess.schema["x-extract"] = {"document_column": document}
        return guess
    documents: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _, row in rows:
        documents[str(row.get(document))].append(row)
    names = list(dict.fromkeys(name for _, row in rows for name in row if name != document))
    if not names:
        raise StageError(f"{shown(path)}: it has no column beside {document!r}; a field for each value is needed")
    inside = [name for name in names if repeats(name, documents)]
    guess = SchemaGuess(empty_schema(title, document))
    guess.decided.append(f"documents are named by the column {document!r}: {len(documents)} in {len(rows)} rows")
    used: set[str] = set()
    for name in [name for name in names if name not in inside]:
        one_each = [first_value(name, group) for group in documents.values()]
        add_column(guess, guess.schema, name, one_each, used)
    if inside:
        add_rows(guess, inside, documents, used)
    mark_key_of_documents(guess, documents)
    return guess


def document_column(rows: list[Located], column: str | None, where: str) -> str:
    """The column of the documents' file names: the named `column`, else by its name, else by its values.

    Raises StageError where there is none.
    """
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    if column is not None:
        for name in names:
            if fold(name) == fold(column):
                return name
        raise StageError(f"{where}: no column {column!r}; {did_you_mean(column, names)}it has {first_few(names, 8)}")
    folded = {fold(name) for name in DOCUMENT_COLUMNS}
    known = [name for name in names if fold(name) in folded]
    for name in known or names:
        values = [str(row[name]) for _, row in rows if not is_blank_cell(row.get(name))]
        if known or (values and all(FILE_NAME.fullmatch(value) for value in values)):
            return name
    raise StageError(
        f"{where}: which column holds the documents' file names? Name it with --document-column; "
        f"it has {first_few(names, 8)}"
    )


def repeats(name: str, documents: dict[str, list[dict[str, Any]]]) -> bool:
    """Whether a column has several values in one document."""
    return any(
        len({str(row.get(name)) for row in group if not is_blank_cell(row.get(name))}) > 1
        for group in documents.values()
    )


def first_value(name: str, group: list[dict[str, Any]]) -> Any:
    """The first value of a column in a document's rows that is not blank."""
    return next((row[name] for row in group if not is_blank_cell(row.get(name))), None)


def add_column(
    guess: SchemaGuess, schema: dict[str, Any], column: str, values: list[Any], used: set[str], prefix: str = ""
) -> str:
    """Add a column's field to an object of the schema; returns the field's name."""
    name = words_of(column) or column
    while prefix + name in used:
        name += "_2"
    used.add(prefix + name)
    found = field_of_values(name, values)
    found.schema["x-extract"] = {"column": column, **found.schema.get("x-extract", {})}
    put(schema, name, found.schema)
    guess.note(prefix + name, found)
    return name


def add_rows(
    guess: SchemaGuess, columns: list[str], documents: dict[str, list[dict[str, Any]]], used: set[str]
) -> None:
    """Add the list whose rows are the table's rows."""
    name = list_name(columns)
    row = closed_object()
    fields = {}
    for column in columns:
        values = [line.get(column) for group in documents.values() for line in group]
        fields[column] = add_column(guess, row, column, values, used, f"{name}[].")
    most = max(map(len, documents.values()))
    put(guess.schema, name, {"type": "array", "maxItems": rounded_up(most), "items": row})
    repeated = f"because {first_few(columns)} {'has' if len(columns) == 1 else 'have'} several values in one document"
    guess.decided.append(f"{name}: a list of at most {rounded_up(most)} rows (the longest has {most}), {repeated}")
    guess.check.append(f"{name}: does every field of a row stand in it, and none of the document?")
    key = likely_key(
        {fields[c]: [[line.get(c) for line in group] for group in documents.values()] for c in columns}, row
    )
    if key:
        row["properties"][key].setdefault("x-extract", {})["key"] = True
        guess.decided.append(f"{name}[].{key}: the row's key, because no document has one of its values twice")


def list_name(columns: list[str]) -> str:
    """The name of a list by the first word that its columns share (Container_Number, Container_Size), else rows."""
    first = {words_of(column).split("_")[0] for column in columns}
    word = first.pop() if len(first) == 1 and len(columns) > 1 else ""
    return word if word.endswith("s") else f"{word}s" if word else "rows"


def likely_key(fields: dict[str, list[list[Any]]], row: dict[str, Any]) -> str | None:
    """The field whose values, by document, are all there and never stand twice: an id before other texts."""
    fitting = []
    for name, groups in fields.items():
        several = any(len(group) > 1 for group in groups)
        if several and all(
            len({str(value) for value in group}) == len(group) and not any(map(is_blank_cell, group))
            for group in groups
        ):
            fitting.append(name)
    kinds = {name: row["properties"][name].get("x-extract", {}).get("compare", "other") for name in fitting}
    order = {"id": 0, "text": 1}
    fitting = [name for name in fitting if kinds[name] in order]
    return min(fitting, key=lambda name: order[kinds[name]], default=None)


def mark_key_of_documents(guess: SchemaGuess, documents: dict[str, list[dict[str, Any]]]) -> None:
    """Mark the first id of the header that no two documents share: it groups documents when they are split."""
    for name, child in guess.schema["properties"].items():
        notes = child.get("x-extract", {})
        if notes.get("compare") != "id":
            continue
        values = [str(first_value(notes["column"], group)) for group in documents.values()]
        if len(set(values)) == len(values) > 1:
            notes["key"] = True
            guess.decided.append(f"{name}: the document's key, because no two documents share a value")
            return


def guess_from_folder(folder: Path, title: str) -> SchemaGuess:
    """The schema of a folder of example answers, one JSON object a file. Raises StageError where there is none."""
    paths = sorted(path for path in folder.rglob("*.json") if path.is_file())
    if not paths:
        raise StageError(f"{shown(folder)}: no .json file here; an example answer a file is needed")
    answers = []
    for path in paths:
        value = read_json(path)
        if not isinstance(value, dict):
            raise StageError(f"{shown(path)}: an example answer is a JSON object, this is {type(value).__name__}")
        answers.append(value)
    guess = guess_from_answers(answers, title)
    guess.decided.insert(0, f"{len(paths)} example answers read")
    return guess


def guess_from_answers(answers: list[dict[str, Any]], title: str) -> SchemaGuess:
    """The schema of example answers, to any depth."""
    guess = SchemaGuess(empty_schema(title, None))
    guess.schema |= object_of(guess, answers, "", {})
    if not guess.schema["properties"]:
        raise StageError("the example answers have no fields")
    return guess


def object_of(guess: SchemaGuess, values: list[dict[str, Any]], prefix: str, made: dict[str, Any]) -> dict[str, Any]:
    """`made` as the object whose examples are `values`; `prefix` leads the names of its fields."""
    made |= closed_object()
    for name in dict.fromkeys(name for value in values for name in value):
        found = [value.get(name) for value in values]
        put(made, name, any_value(guess, found, f"{prefix}{name}"))
    return made


def any_value(guess: SchemaGuess, values: list[Any], name: str) -> dict[str, Any]:
    """The schema of the values of one name: an object, a list, or a plain value. Raises StageError for a mixture."""
    there = [value for value in values if value is not None]
    kinds = {"object" if isinstance(v, dict) else "list" if isinstance(v, list) else "value" for v in there}
    if len(kinds) > 1:
        raise StageError(f"{name}: it is {' and '.join(sorted(kinds))} in different answers; write it in one way")
    if kinds == {"object"}:
        return object_of(guess, there, f"{name}.", {})
    if kinds == {"list"}:
        most = max(map(len, there))
        items = any_value(guess, [item for value in there for item in value], f"{name}[]")
        if "enum" in items:
            items = {**items, "enum": [choice for choice in items["enum"] if choice is not None]}
        elif isinstance(items.get("type"), list):
            items = {**items, "type": items["type"][0]}
        guess.decided.append(f"{name}: a list of at most {rounded_up(most)} (the longest has {most})")
        row = items.get("properties", {})
        groups = {f: [[item.get(f) for item in value] for value in there] for f in row if "items" not in row[f]}
        groups = {f: g for f, g in groups.items() if "properties" not in row[f]}
        key = likely_key(groups, items) if row else None
        if key:
            row[key].setdefault("x-extract", {})["key"] = True
            guess.decided.append(f"{name}[].{key}: the row's key, because no list has one of its values twice")
        return {"type": "array", "maxItems": rounded_up(most), "items": items}
    found = field_of_values(name.rsplit(".", 1)[-1].removesuffix("[]"), there)
    guess.note(name, found)
    return found.schema
