"""The page of a dataset's statistics: one HTML file with its plots inside, no network."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from toolkit.reports.base import Markup, table, write_frame

BINS = 30
STYLE = """
.plots { display:grid; grid-template-columns:repeat(auto-fill, minmax(340px, 1fr)); gap:22px; }
figcaption { font-weight:600; }
svg rect { fill:var(--bar); } svg text { fill:var(--dim); font-size:11px; } svg line { stroke:var(--line); }
.meter { display:inline-block; height:8px; background:var(--bar); border-radius:2px; }
"""


def write_dataset_page(path: Path, title: str, result: dict[str, Any], series: dict[str, list[int]]) -> None:
    """Write the page of `dataset_stats.py`; `series` are the numbers per document that are drawn as histograms."""
    longest = [[item["id"], str(item["tokens"])] for item in result["longest"]]
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{result['documents']} documents, {result['pages']} pages; text tokens are {result['tokens_are']}.</p>",
        '<div class="plots">' + "".join(histogram(name, values) for name, values in series.items()) + "</div>",
        "<h2>What fits</h2>" + fits_table(result),
        "<h2>Predicted</h2>" + predicted_table(result["predicted"]),
        "<h2>Fields</h2>" + field_table(result),
        "<h2>Longest records</h2>" + table(["record", "tokens"], longest),
    ]
    write_frame(path, title, STYLE, "".join(parts))


def histogram(name: str, values: list[int]) -> str:
    """Documents by value, in at most 30 bins of one width; small whole numbers get a bin each."""
    low, high = min(values), max(values)
    width = max(1, -(-(high - low + 1) // BINS))
    counts = [0] * ((high - low) // width + 1)
    for value in values:
        counts[(value - low) // width] += 1
    most = max(counts)
    step = 320 / len(counts)
    bars = []
    for i, count in enumerate(counts):
        height = 96 * count / most
        place = f'x="{30 + i * step:.1f}" y="{110 - height:.1f}"'
        size = f'width="{max(1.0, min(step - 1, 40)):.1f}" height="{height:.1f}"'
        values_here = f"{low + i * width}" + (f" to {low + (i + 1) * width - 1}" if width > 1 else "")
        bars.append(f"<rect {place} {size}><title>{values_here}: {count}</title></rect>")
    axis = (
        f'<line x1="30" y1="110.5" x2="350" y2="110.5"/><text x="30" y="124">{low}</text>'
        f'<text x="350" y="124" text-anchor="end">{high}</text><text x="0" y="20">{most}</text>'
    )
    label = html.escape(f"{name} per document")
    plot = f'<svg viewBox="0 0 354 130" role="img" aria-label="{label}">{axis}{"".join(bars)}</svg>'
    return f"<figure><figcaption>{label}</figcaption>{plot}</figure>"


def fits_table(result: dict[str, Any]) -> str:
    """How many records fit each --max-length."""
    counted = result["documents"] - result["records_with_unreadable_images"]
    rows = [
        [f"--max-length {length}", str(count), f"{count / max(1, counted):.1%}"]
        for length, count in result["fits_max_length"].items()
    ]
    return table(["", "records", "share"], rows)


def predicted_table(predicted: dict[str, Any]) -> str:
    """Memory and time of training, and latency of serving, by the form of the weights."""
    if not predicted:
        return '<p class="dim">No record could be counted.</p>'
    where = f"{html.escape(predicted['size'])} on one {html.escape(predicted['gpu'])}"
    steps = f"{predicted['epochs']:g} epochs are {predicted['optimizer_steps']} optimizer steps of 8 records"
    note = f'<p class="dim">{where}; predicted from the model\'s shape, not measured. {steps}.</p>'
    fits = {True: "yes", False: "no"}
    training = [
        [name, f"{line['memory_gib']} GiB", fits[line["fits"]], f"{line['hours']:g} h"]
        for name, line in predicted["training"].items()
    ]
    serving = [
        [name, f"{line['weights_gib']} GiB", fits[line["fits"]], f"{line['p50_ms']} ms", f"{line['p95_ms']} ms"]
        for name, line in predicted["serving"].items()
    ]
    return (
        note
        + table(["training", "memory", "fits", "time"], training)
        + "<p></p>"
        + table(["serving, one request alone", "weights", "fits", "p50", "p95"], serving)
    )


def field_table(result: dict[str, Any]) -> str:
    """How often each field has a value, and its most frequent values."""
    lines = []
    for name, rate in result["fill_rate"].items():
        values = result["values"][name]
        meter = Markup(f'<span class="meter" style="width:{round(rate * 80)}px"></span>')
        distinct = f"{'more than ' if values['more'] else ''}{values['distinct']}"
        top = ", ".join(f"{value[:40]} ({count})" for value, count in values["top"][:5])
        lines.append([name, f"{rate:.0%}", meter, distinct, top])
    return table(["field", "filled", "", "distinct", "most frequent"], lines, numeric=(1, 3))
