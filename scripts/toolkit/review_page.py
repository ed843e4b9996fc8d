"""The page in which a person corrects predictions: one HTML file, its data inside, the page images linked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.files import write_text
from toolkit.report import link_to
from toolkit.target_schema import Leaf, TargetSchema, value_at


@dataclass
class ReviewDocument:
    """`source` is the file name that labels carry; `reasons` are weights and sentences; `pages` are image paths."""

    identity: str
    source: str
    answer: dict[str, Any]
    reasons: list[tuple[int, str]]
    pages: list[str]


def write_review(path: Path, schema: TargetSchema, documents: list[ReviewDocument], root: Path) -> None:
    """Write the page. What it saves is a list with an object per reviewed document, keyed by the schema's columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "title": schema.title,
        "column": schema.document_columns[0],
        "header": [described(leaf) for leaf in schema.header],
        "lists": [
            {"name": rows.name, "column": rows.path[-1], "path": list(rows.path), "leaves": [described(leaf) for leaf in rows.leaves]}
            for rows in schema.lists
        ],
        "documents": [
            {
                "id": document.identity,
                "source": document.source,
                "reasons": [sentence for _, sentence in document.reasons],
                "values": {leaf.name: value_at(document.answer, leaf.path) for leaf in schema.header},
                "rows": {rows.name: rows_of(document.answer, rows.path, rows.leaves) for rows in schema.lists},
                "pages": pictures(document, root, path.parent),
            }
            for document in documents
        ],
    }  # fmt: skip
    payload = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("</", "<\\/").replace("<!--", "<\\!--")
    template = (Path(__file__).parent / "review.html").read_text(encoding="utf-8")
    write_text(path, template.replace("/*DATA*/null", payload))


def described(leaf: Leaf) -> dict[str, Any]:
    """What the form needs to know of a field; `column` is the name that the build stage reads it by."""
    kinds = leaf.types
    return {
        "name": leaf.name if leaf.list_path is None else ".".join(leaf.path) or "value",
        "title": str(leaf.schema.get("title", "")),
        "column": leaf.columns[0],
        "number": bool(kinds & {"integer", "number"}) and "string" not in kinds,
        "choices": [choice for choice in leaf.schema.get("enum", []) if choice is not None],
    }


def rows_of(answer: dict[str, Any], path: tuple[str, ...], leaves: tuple[Leaf, ...]) -> list[dict[str, Any]]:
    rows = value_at(answer, path)
    return [
        {".".join(leaf.path) or "value": value_at(row, leaf.path) if leaf.path else row for leaf in leaves}
        for row in (rows if isinstance(rows, list) else [])
    ]


def pictures(document: ReviewDocument, root: Path, folder: Path) -> list[str]:
    """Links to the page images themselves: a reviewer must read small print, so they are not shrunk."""
    return [link_to(root / page, folder) for page in document.pages]
