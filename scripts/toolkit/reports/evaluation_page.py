"""The HTML report of an evaluation: one file with scores, fields by cost, and every document beside its pages."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from toolkit.answers.predictions import PredictionFile
from toolkit.evaluation.comparison import outcome
from toolkit.evaluation.scoring import DocumentScore
from toolkit.pages.evidence import DocumentWords, TextLayers, evidence_boxes
from toolkit.pages.opening import open_page
from toolkit.records.record import images_of, inside_root
from toolkit.reports.html_page import write_page
from toolkit.schema.answer_values import values_of
from toolkit.schema.target import Leaf, RowList, TargetSchema, put_at, value_at
from toolkit.schema.values import is_absent

INLINE_BYTES = 12 * 2**20  # of pictures, worst documents first; the others are linked, so that the file can be mailed
THUMBNAIL_WIDTH = 560


def write_report(
    path: Path,
    schema: TargetSchema,
    scored: list[tuple[tuple[str, dict[str, Any], dict[str, Any]], DocumentScore]],
    predictions: PredictionFile,
    results: dict[str, dict[str, Any]],
    root: Path,
    note: str,
    layers: TextLayers | None = None,
) -> None:
    """Write the report of `scored`: pairs of `(id, gold, record)` and score.

    The first of `results` is the run that is shown. With `layers` the places of gold and predicted values are framed on
    the pages.
    """
    first = next(iter(results))
    documents: list[dict[str, Any]] = []
    room = INLINE_BYTES
    for (identity, answer, record), score in sorted(scored, key=lambda item: (-len(item[1].errors), item[1].identity)):
        line = predictions.get(identity) or {}
        pages = page_pictures(record, root, path.parent, inline=room > 0) if "messages" in record else []
        room -= sum(len(page) for page in pages if page.startswith("data:"))
        documents.append(
            {
                "id": identity,
                "status": score.status,
                "errors": len(score.errors),
                "wrong": [[name, kind, g, p, row] for name, kind, g, p, row in score.errors],
                "gold": answer,
                # Of its rows the errors say all that differs from gold.
                "prediction": without_lists(schema, line.get("prediction")),
                "raw": None if line.get("prediction") is not None else line.get("raw"),
                # Of its header values and its lists; which predicted row a cell was paired with is not told here.
                "confidence": {n: p for n, p in line["confidence"].items() if "[" not in n}
                if line.get("confidence")
                else None,
                "pages": pages,
                "boxes": boxes_of(schema, answer, line.get("prediction"), layers.readable(record)) if layers else [],
            }
        )
    data = {
        "title": f"{schema.title}: {first}",
        "note": note,
        "runs": results,
        "first": first,
        "header": [{"name": leaf.name, "path": list(leaf.path)} for leaf in schema.header],
        "lists": [of_list(rows) for rows in schema.lists],
        "documents": documents,
    }
    write_page(path, "evaluation_page.html", data)


def of_list(rows: RowList) -> dict[str, Any]:
    """A list for the page; paths lead from the document or from the row of the list around it."""
    return {
        "name": rows.name,
        "path": list(rows.path),
        "leaves": [{"name": leaf.name, "path": list(leaf.path)} for leaf in rows.leaves],
        "key": list(rows.key.path) if rows.key else None,
        "lists": [of_list(inner) for inner in rows.lists],
    }


def without_lists(schema: TargetSchema, answer: Any) -> Any:
    """The answer's header values alone, in the schema's shape."""
    if not isinstance(answer, dict):
        return None
    header: dict[str, Any] = {}
    for leaf in schema.header:
        put_at(header, leaf.path, value_at(answer, leaf.path))
    return header


def boxes_of(schema: TargetSchema, gold: Any, predicted: Any, words: DocumentWords | None) -> list[list[Any]]:
    """`[field, page, box, right]` of header values and row keys: gold's places, and a wrong prediction's own place."""
    if words is None:
        return []

    def values(answer: Any) -> list[tuple[Leaf, Any]]:
        return [(one.leaf, one.value) for one in values_of(schema, answer) if not one.row or one.leaf.is_key]

    wanted, given = (
        [(leaf, value) for leaf, value in values(answer) if leaf.compare != "skip" and not is_absent(value)]
        for answer in (gold, predicted)
    )
    right = [pair for pair in wanted if any(leaf is pair[0] and outcome(leaf, pair[1], v) == "tp" for leaf, v in given)]
    stray = [
        pair for pair in given if not any(leaf is pair[0] and outcome(leaf, v, pair[1]) == "tp" for leaf, v in wanted)
    ]
    missed = [pair for pair in wanted if pair not in right]
    return [
        [name, page, box, kind]
        for kind, pairs in (("right", right), ("gold", missed), ("prediction", stray))
        for name, page, box in evidence_boxes(words, pairs)
    ]


def page_pictures(record: dict[str, Any], root: Path, folder: Path, *, inline: bool) -> list[str]:
    """The record's pages as small JPEG data URIs, or as links from `folder`; empty for a page that cannot be read, or
    that lies outside `root`."""
    pictures = []
    for image in (inside_root(root, image) for image in images_of(record)):
        if image is None:
            pictures.append("")
            continue
        if not inline:
            pictures.append(link_to(image, folder))
            continue
        try:
            page = open_page(image)
        except Exception:  # Pillow raises of every kind on a damaged picture
            pictures.append("")
            continue
        if page.width > THUMBNAIL_WIDTH:
            page = page.resize((THUMBNAIL_WIDTH, max(1, page.height * THUMBNAIL_WIDTH // page.width)))
        buffer = io.BytesIO()
        page.convert("L").save(buffer, "JPEG", quality=55, optimize=True)
        pictures.append("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())
    return pictures


def link_to(image: Path, folder: Path) -> str:
    """A relative link, so that report and images can move together; absolute where they lie on different drives."""
    try:
        # As bytes: a file name need not be valid UTF-8.
        return quote(os.fsencode(Path(os.path.relpath(image.resolve(), folder.resolve())).as_posix()))
    except ValueError:
        return image.resolve().as_uri()
