"""The page of a label audit: the suspicious values, most suspicious first, each beside the crop of its page."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

from toolkit.files import write_text
from toolkit.pages.opening import UnreadablePage, open_page
from toolkit.records.label_audit import Finding
from toolkit.reports.base import PAGE_MARK

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882 }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem }
h1 { font-size: 1.35rem; margin-bottom: .2rem } p { margin: .2rem 0 1rem }
article { border-top: 1px solid var(--line); padding: .8rem 0; display: grid; \
grid-template-columns: 3.2rem 1fr minmax(0, 420px); gap: 1rem }
article b { font-weight: 600 } \
code { background: var(--soft); padding: .1rem .35rem; border-radius: 4px; overflow-wrap: anywhere }
img { max-width: 100%; border: 1px solid var(--line); border-radius: 4px; background: #fff } \
.score { font-variant-numeric: tabular-nums; opacity: .75 }
small { opacity: .75 }
"""
HEAD = (
    f'<!doctype html><html lang="en"><meta charset="utf-8">{PAGE_MARK}'
    f'<meta name="viewport" content="width=device-width"><title>Label audit</title><style>{STYLE}</style>'
)


def write_audit(
    path: Path, findings: list[Finding], total: int, images: dict[str, list[Path | None]], summary: dict[str, Any]
) -> None:
    """Write the self-contained page: one block per finding.

    `total` counts all suspicious values, of which `findings` are shown. `images` holds each document's page
    images, None for one that may not be shown (see inside_root).
    """
    more = f" The first {len(findings)} are shown; all are in findings.jsonl." if total > len(findings) else ""
    counts = f"{summary['documents']} documents with a text layer, {summary['without_text_layer']} without."
    blocks = "".join(block(finding, images.get(finding.document, [])) for finding in findings)
    title = f"<h1>Label audit: {total} suspicious of {summary['values']} values</h1>"
    write_text(path, f"{HEAD}{title}<p>{counts}{more}</p>{blocks}</html>\n")


def block(finding: Finding, pages: list[Path | None]) -> str:
    """One finding as HTML: its suspicion, what is wrong where, and the crop of its page."""
    crop = crop_of(finding, pages)
    picture = f'<img alt="page {finding.page}" src="{crop}">' if crop else "<small>no place on the page</small>"
    where_in = finding.name if finding.field.count("[]") > 1 else ""
    row = f" (row {finding.row + 1})" if finding.row is not None else ""
    field = html.escape(where_in or finding.field + row)
    label = "nothing" if finding.value is None else f"<code>{html.escape(str(finding.value))}</code>"
    where = html.escape(finding.document) + (f", page {finding.page}" if finding.page else "")
    text = f"<b>{field}</b><br>label: {label}<br>{html.escape(finding.reason)}<br><small>{where}</small>"
    score = f'<div class="score">{finding.suspicion:.2f}</div>'
    return f"<article>{score}<div>{text}</div><div>{picture}</div></article>"


def crop_of(finding: Finding, pages: list[Path | None]) -> str:
    """The finding's words, framed, with what lies around them, as a JPEG data URL.

    Empty where the finding has no place on a page, or the page no image.
    """
    image = pages[finding.page - 1] if finding.page and 0 < finding.page <= len(pages) else None
    if not finding.box or image is None:
        return ""
    from PIL import ImageDraw

    try:
        page = open_page(image)
    except UnreadablePage:
        return ""
    x0, y0, x1, y1 = finding.box
    ImageDraw.Draw(page).rectangle((x0 - 3, y0 - 3, x1 + 3, y1 + 3), outline=(214, 40, 40), width=2)
    height = max(40.0, 3 * (y1 - y0))
    box = (max(0, x0 - 220), max(0, y0 - height), min(page.width, x1 + 220), min(page.height, y1 + height))
    buffer = io.BytesIO()
    page.crop(box).save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
