"""The page in which a person corrects predictions: one HTML file, its data inside, the page images linked.

It saves a results table whose labels have the shape of the schema: nested objects, lists of objects or of plain values.
Values that the form does not show are saved unchanged. The logic of the page is in review_answers.js.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from toolkit.console import StageError
from toolkit.records.label_table import fold
from toolkit.reports.evaluation_page import link_to
from toolkit.reports.html_page import write_page
from toolkit.schema.target import Leaf, RowList, TargetSchema


@dataclass
class ReviewDocument:
    """`source` is the file name that labels carry; `reasons` are weights and sentences; `pages` are image paths."""

    identity: str
    source: str
    answer: dict[str, Any]
    reasons: list[tuple[int, str]]
    pages: list[str]


class Field(TypedDict):
    """One box of the form; `path` leads from the answer, or from a list's row, to its value, `choices` are encoded."""

    name: str
    path: list[str]
    title: str
    types: list[str]
    choices: list[Any]


class ListField(TypedDict):
    """A table of the form; the only field of a list of plain values has an empty path.

    `lists` are the tables inside its rows; their paths lead from the row. The key is left out where there are none.
    """

    name: str
    path: list[str]
    fields: list[Field]
    lists: NotRequired[list[ListField]]


class Form(TypedDict):
    """The fields of the review page's form."""

    header: list[Field]
    lists: list[ListField]


def write_review(path: Path, schema: TargetSchema, documents: list[ReviewDocument], root: Path) -> None:
    """Write the page.

    Raises StageError where a field has the document column's name, or an answer holds a number that JSON lacks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    column = document_column(schema)
    form = form_of(schema)
    shown_documents = [
        {
            "id": document.identity,
            "source": document.source,
            "answer": encoded_answer(document, column),
            "reasons": [sentence for _, sentence in document.reasons] + left_out(document, column),
            "pages": pictures(document, root, path.parent),
        }
        for document in documents
    ]
    predicted = sorted((one["id"], one["source"], digest(one["answer"])) for one in shown_documents)
    data = {
        "title": schema.title,
        "column": column,
        "form": form,
        # Edits that the browser kept fit another run's answers only where the fields are the same.
        "form_hash": digest(form),
        "run": digest([schema.raw, column, predicted]),
        "documents": shown_documents,
    }
    write_page(path, "review_page.html", data, answers="review_answers.js")


def document_column(schema: TargetSchema) -> str:
    """The column in which the build looks for a document's file name. Raises StageError where a field has its name."""
    column = schema.document_columns[0]
    field = next((name for name in schema.raw["properties"] if takes_the_column(name, column)), None)
    if field is None:
        return column
    raise StageError(
        f"{schema.source}: the field {field!r} has the name of the column that holds a document's file name; "
        'name another column as "document_column" under x-extract of the schema'
    )


def form_of(schema: TargetSchema) -> Form:
    """The schema as the review page's form."""
    return {
        "header": [field_of(leaf) for leaf in schema.header],
        "lists": [list_of(rows, rows.name) for rows in schema.lists],
    }


def list_of(rows: RowList, name: str) -> ListField:
    """The table of a list, with the tables inside its rows."""
    made = ListField(name=name, path=list(rows.path), fields=[field_of(leaf) for leaf in rows.leaves])
    if rows.lists:
        made["lists"] = [list_of(inner, ".".join(inner.path) or "values") for inner in rows.lists]
    return made


def field_of(leaf: Leaf) -> Field:
    """A value of the schema as a field of the form."""
    choices = leaf.schema.get("enum", [leaf.schema["const"]] if "const" in leaf.schema else [])
    if not choices and leaf.types - {"null"} == {"boolean"}:
        choices = [True, False]
    return {
        "name": ".".join(leaf.path) or "value",
        "path": list(leaf.path),
        "title": str(leaf.schema.get("title", "")),
        "types": sorted(leaf.types),
        "choices": [encoded(choice) for choice in choices if choice is not None],
    }


def takes_the_column(name: str, column: str) -> bool:
    """Whether a field has the name of the document column."""
    return fold(name) == fold(column)


def left_out(document: ReviewDocument, column: str) -> list[str]:
    """A sentence for each value that labels cannot hold: the schema does not know it, and it has the column's name."""
    return [
        f"{name}: {value!r} is not saved, because the labels hold the document's file name there"
        for name, value in document.answer.items()
        if takes_the_column(name, column)
    ]


def encoded_answer(document: ReviewDocument, column: str) -> Any:
    """An answer as the page holds it. Raises StageError for a number that JSON cannot write."""
    answer = {name: value for name, value in document.answer.items() if not takes_the_column(name, column)}
    try:
        return encoded(answer)
    except ValueError:
        raise StageError(
            f"{document.identity}: the prediction holds a number that JSON cannot write; extract the document again"
        ) from None


def encoded(value: Any) -> Any:
    """A JSON value for the page: numbers as `{"number": digits}`, objects as `{"object": [[name, value], ...]}`.

    JavaScript would round 12345678901234567890 and lose a field called `__proto__`. Raises ValueError for infinity.
    """
    if isinstance(value, dict):
        return {"object": [[name, encoded(item)] for name, item in value.items()]}
    if isinstance(value, list):
        return [encoded(item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{value} is not JSON")
        return {"number": json.dumps(value)}
    return value


def digest(value: Any) -> str:
    """A short fingerprint of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def pictures(document: ReviewDocument, root: Path, folder: Path) -> list[str]:
    """Links to the page images themselves: a reviewer must read small print, so they are not shrunk."""
    return [link_to(root / page, folder) for page in document.pages]
