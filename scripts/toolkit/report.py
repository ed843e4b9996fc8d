"""The HTML report of an evaluation: one self-contained file with scores, fields by cost, and every document beside its pages."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

from toolkit.batches import open_page
from toolkit.console import StageError
from toolkit.files import write_text
from toolkit.records import images_of
from toolkit.scoring import DocumentScore
from toolkit.target_schema import TargetSchema

INLINE_DOCUMENTS = 300  # beyond this, page images are linked instead of inlined, so that the file stays small
THUMBNAIL_WIDTH = 560


def write_report(
    path: Path,
    schema: TargetSchema,
    gold: list[tuple[str, dict[str, Any], dict[str, Any]]],
    runs: dict[str, dict[str, dict[str, Any]]],
    scores: dict[str, list[DocumentScore]],
    results: dict[str, dict[str, Any]],
    root: Path,
    note: str,
) -> None:
    """Write the report; the first run is the one whose documents are shown, the others stand in the summary."""
    first = next(iter(runs))
    documents: list[dict[str, Any]] = []
    for (identity, answer, record), score in zip(gold, scores[first], strict=True):
        line = runs[first].get(identity, {})
        documents.append(
            {
                "id": identity,
                "status": score.status,
                "errors": len(score.errors),
                "wrong": [[name, kind, g, p, row] for name, kind, g, p, row in score.errors],
                "gold": answer,
                "prediction": line.get("prediction"),
                "raw": None if line.get("prediction") is not None else line.get("raw"),
                "pages": page_pictures(record, root, inline=len(gold) <= INLINE_DOCUMENTS)
                if "messages" in record
                else [],
            }
        )
    documents.sort(key=lambda document: (-document["errors"], document["id"]))
    data = {
        "title": f"{schema.title}: {first}",
        "note": note,
        "runs": results,
        "first": first,
        "header": [{"name": leaf.name, "path": list(leaf.path)} for leaf in schema.header],
        "lists": [{"name": rows.name, "path": list(rows.path), "leaves": [{"name": leaf.name, "path": list(leaf.path)} for leaf in rows.leaves], "key": list(rows.key.path) if rows.key else None} for rows in schema.lists],
        "documents": documents,
    }  # fmt: skip
    # "</" would end the script element wherever it stands in a document's text.
    payload = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("</", "<\\/").replace("<!--", "<\\!--")
    template = (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
    write_text(path, template.replace("/*DATA*/null", payload))


def page_pictures(record: dict[str, Any], root: Path, *, inline: bool) -> list[str]:
    """The record's pages as small JPEG data URIs, or as links where there are too many; a page that cannot be read is named."""
    pictures = []
    for image in images_of(record):
        if not inline:
            pictures.append((root / image).resolve().as_uri())
            continue
        try:
            page = open_page(root / image)
        except StageError:
            pictures.append("")
            continue
        if page.width > THUMBNAIL_WIDTH:
            page = page.resize((THUMBNAIL_WIDTH, max(1, page.height * THUMBNAIL_WIDTH // page.width)))
        buffer = io.BytesIO()
        page.convert("L").save(buffer, "JPEG", quality=55, optimize=True)
        pictures.append("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())
    return pictures
