"""What the pages that are written without JavaScript share: the frame, the style, and the table."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from toolkit.files import write_text

STYLE = """
:root { color-scheme:light dark; --bg:#fff; --fg:#1b1f24; --line:#d6dbe1; --dim:#5b6672; --bar:#2f6fb2; }
@media (prefers-color-scheme: dark) {
  :root { --bg:#14171b; --fg:#e6e9ed; --line:#343b44; --dim:#98a2ae; --bar:#7db1ea; }
}
body {
  margin:0 auto; max-width:1200px; padding:20px 24px 60px;
  background:var(--bg); color:var(--fg); font:15px/1.45 system-ui, "Segoe UI", sans-serif;
}
h1 { font-size:22px; } h2 { font-size:16px; margin:28px 0 8px; } .dim { color:var(--dim); }
figure { margin:0; } figcaption { margin-bottom:4px; } svg { width:100%; height:auto; }
table { border-collapse:collapse; font-variant-numeric:tabular-nums; }
th,td { padding:4px 16px 4px 0; text-align:left; border-bottom:1px solid var(--line); }
td { vertical-align:top; overflow-wrap:anywhere; }
th { color:var(--dim); font-size:13px; font-weight:600; } .n { text-align:right; white-space:nowrap; }
.scroll { overflow-x:auto; }
"""


# In the head of every page of ours, so that a page is replaced only where it is one (see files.check_outputs).
PAGE_MARK = '<meta name="generator" content="document extraction toolkit">'


class Markup(str):
    """Text that is HTML already; every other text is escaped where it enters a page."""

    __slots__ = ()


def write_frame(path: Path, title: str, style: str, body: str) -> None:
    """Write a page of one HTML file: `body` (HTML), the shared style, and what `style` adds to it."""
    head = (
        f'<meta charset="utf-8">{PAGE_MARK}<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style>"
    )
    write_text(path, f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n')


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] | None = None) -> str:
    """A table as HTML. `numeric` are the columns that are aligned on the right; None: all but the first."""
    right = set(range(1, len(head)) if numeric is None else numeric)

    def row(kind: str, cells: Sequence[str]) -> str:
        texts = (cell if isinstance(cell, Markup) else html.escape(cell) for cell in cells)
        marked = (f"<{kind}{' class=n' if i in right else ''}>{text}</{kind}>" for i, text in enumerate(texts))
        return f"<tr>{''.join(marked)}</tr>"

    lines = "".join(row("td", cells) for cells in rows)
    return f'<div class="scroll"><table>{row("th", head)}{lines}</table></div>'
