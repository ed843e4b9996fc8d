"""The page of a dataset's statistics: one HTML file with its plots inside, no network."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from toolkit.files import write_text

BINS = 30
STYLE = """
:root { color-scheme: light dark; --bg:#fff; --fg:#1b1f24; --line:#d6dbe1; --dim:#5b6672; --bar:#2f6fb2; }
@media (prefers-color-scheme: dark) { :root { --bg:#14171b; --fg:#e6e9ed; --line:#343b44; --dim:#98a2ae; --bar:#7db1ea; } }
body { margin:0 auto; max-width:1200px; padding:20px 24px 60px; background:var(--bg); color:var(--fg); font:15px/1.45 system-ui, "Segoe UI", sans-serif; }
h1 { font-size:22px; } h2 { font-size:16px; margin:28px 0 8px; }
.plots { display:grid; grid-template-columns:repeat(auto-fill, minmax(340px, 1fr)); gap:22px; }
figure { margin:0; } figcaption { font-weight:600; margin-bottom:4px; } svg { width:100%; height:auto; }
svg rect { fill:var(--bar); } svg text { fill:var(--dim); font-size:11px; } svg line { stroke:var(--line); }
table { border-collapse:collapse; font-variant-numeric:tabular-nums; }
th,td { padding:4px 16px 4px 0; text-align:left; border-bottom:1px solid var(--line); vertical-align:top; overflow-wrap:anywhere; }
th { color:var(--dim); font-size:13px; font-weight:600; } .n { text-align:right; white-space:nowrap; } .dim { color:var(--dim); }
.meter { display:inline-block; height:8px; background:var(--bar); border-radius:2px; }
.scroll { overflow-x:auto; }
"""


def write_page(path: Path, title: str, result: dict[str, Any], series: dict[str, list[int]]) -> None:
    """Write the page of `dataset_stats.py`; `series` are the numbers per document that are drawn as histograms."""
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{result['documents']} documents, {result['pages']} pages; text tokens are {result['tokens_are']}.</p>",
        '<div class="plots">' + "".join(histogram(name, values) for name, values in series.items()) + "</div>",
        "<h2>What fits</h2>" + fits_table(result),
        "<h2>Predicted</h2>" + predicted_table(result["predicted"]),
        "<h2>Fields</h2>" + field_table(result),
        "<h2>Longest records</h2>"
        + table(["record", "tokens"], [[item["id"], str(item["tokens"])] for item in result["longest"]]),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    write_text(path, f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n')


def histogram(name: str, values: list[int]) -> str:
    """Documents by value, in at most 30 bins of one width; small whole numbers get a bin each."""
    low, high = min(values), max(values)
    width = max(1, -(-(high - low + 1) // BINS))
    counts = [0] * ((high - low) // width + 1)
    for value in values:
        counts[(value - low) // width] += 1
    most = max(counts)
    step = 320 / len(counts)
    bars = "".join(
        f'<rect x="{30 + i * step:.1f}" y="{110 - 96 * count / most:.1f}" width="{max(1.0, min(step - 1, 40)):.1f}" height="{96 * count / most:.1f}"><title>{low + i * width}'
        + (f" to {low + (i + 1) * width - 1}" if width > 1 else "")
        + f": {count}</title></rect>"
        for i, count in enumerate(counts)
    )
    axis = f'<line x1="30" y1="110.5" x2="350" y2="110.5"/><text x="30" y="124">{low}</text><text x="350" y="124" text-anchor="end">{high}</text><text x="0" y="20">{most}</text>'
    label = f"{name} per document"
    return f'<figure><figcaption>{html.escape(label)}</figcaption><svg viewBox="0 0 354 130" role="img" aria-label="{html.escape(label)}">{axis}{bars}</svg></figure>'


def table(head: list[str], rows: list[list[str]], numeric_from: int = 1) -> str:
    """A table of texts; cells are escaped."""
    cells = "".join(
        f"<th{' class=n' if i >= numeric_from else ''}>{html.escape(name)}</th>" for i, name in enumerate(head)
    )
    lines = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=n' if i >= numeric_from else ''}>{html.escape(cell)}</td>" for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{cells}</tr>{lines}</table></div>'


def fits_table(result: dict[str, Any]) -> str:
    counted = result["documents"] - result["records_with_unreadable_images"]
    rows = [
        [f"--max-length {length}", str(count), f"{count / max(1, counted):.1%}"]
        for length, count in result["fits_max_length"].items()
    ]
    return table(["", "records", "share"], rows)


def predicted_table(predicted: dict[str, Any]) -> str:
    if not predicted:
        return '<p class="dim">No record could be counted.</p>'
    note = f'<p class="dim">{html.escape(predicted["size"])} on one {html.escape(predicted["gpu"])}; predicted from the model\'s shape, not measured. {predicted["epochs"]:g} epochs are {predicted["optimizer_steps"]} optimizer steps of 8 records.</p>'
    training = [
        [name, f"{line['memory_gib']} GiB", "yes" if line["fits"] else "no", f"{line['hours']:g} h"]
        for name, line in predicted["training"].items()
    ]
    serving = [
        [
            name,
            f"{line['weights_gib']} GiB",
            "yes" if line["fits"] else "no",
            f"{line['p50_ms']} ms",
            f"{line['p95_ms']} ms",
        ]
        for name, line in predicted["serving"].items()
    ]
    return (
        note
        + table(["training", "memory", "fits", "time"], training)
        + "<p></p>"
        + table(["serving, one request alone", "weights", "fits", "p50", "p95"], serving)
    )


def field_table(result: dict[str, Any]) -> str:
    lines = []
    for name, rate in result["fill_rate"].items():
        values = result["values"][name]
        top = ", ".join(f"{html.escape(value[:40])} ({count})" for value, count in values["top"][:5])
        distinct = f"{'more than ' if values['more'] else ''}{values['distinct']}"
        lines.append(
            f'<tr><td>{html.escape(name)}</td><td class="n">{rate:.0%}</td><td><span class="meter" style="width:{round(rate * 80)}px"></span></td><td class="n">{distinct}</td><td>{top}</td></tr>'
        )
    head = '<tr><th>field</th><th class="n">filled</th><th></th><th class="n">distinct</th><th>most frequent</th></tr>'
    return f'<div class="scroll"><table>{head}{"".join(lines)}</table></div>'
