"""The HTML page of a latency benchmark: one self-contained file with tables and plots (SVG), no network."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import Any

from toolkit.reports.base import Markup, table, write_frame

COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#65a30d", "#be185d")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 300, 52, 36, 24
STYLE = """
.plots { display:flex; flex-wrap:wrap; gap:24px; } figure { flex:1 1 520px; min-width:0; }
p,figcaption { color:var(--dim); } table { width:100%; }
svg text { font:11px system-ui,sans-serif; fill:currentColor; } .grid { stroke:var(--line); }
.met { color:#059669; } .missed { color:#dc2626; font-weight:600; }
.key { display:inline-block; width:.8em; height:.8em; border-radius:2px; margin:0 .3em 0 1em; vertical-align:baseline; }
"""


def write_latency_page(path: Path, result: dict[str, Any], earlier: dict[str, Any] | None = None) -> None:
    """Write the page of a benchmark's result, and of an earlier one beside it."""
    named = [(run["load"], run) for run in result["runs"]]
    if earlier:
        named += [(f"{earlier['name']}, {run['load']}", run) for run in earlier["runs"]]
    shards = f" in shards of {result['rows_per_shard']} rows" if result["rows_per_shard"] else ", whole"
    pages = f"pages of at most {result['image_max_tokens']} vision tokens"
    title = f"Latency of {result['name']}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(result['server'])}; {result['wire']} answers{shards}; {pages}. "
        "A document counts from its page images to its judged answer; "
        "brackets are 95 % intervals of a bootstrap over documents.</p>",
        objectives(result["slo"]),
        "<h2>Seconds a document</h2>",
        figures_table(named),
        f"<h2>Distribution</h2><div class=plots>{distribution(named)}{by_rows_plot(named)}</div>",
        "<h2>By rows</h2>",
        rows_table(named),
        "<h2>What the time is made of (means, seconds)</h2>",
        made_of(named, result),
    ]
    write_frame(path, title, STYLE, "\n".join(parts))


def seconds(value: float | None, digits: int = 3) -> str:
    """A figure as text; empty for None."""
    return "" if value is None else f"{value:.{digits}f}"


def with_interval(figures: dict[str, Any], name: str) -> str:
    """A quantile with its interval; empty where there are no figures."""
    if not figures:
        return ""
    low, high = figures[f"{name}_interval"]
    return Markup(f"{figures[name]:.3f} <span class=dim>[{low:.3f}, {high:.3f}]</span>")


def objectives(slo: list[dict[str, Any]]) -> str:
    """The table of objectives, met and missed; empty where none was set."""
    if not slo:
        return ""
    lines = []
    for objective in slo:
        verdict = "met" if objective["met"] else "missed"
        count, value = str(objective["documents"]), seconds(objective["seconds"]) or "no answer"
        mark = Markup(f"<span class={verdict}>{verdict}</span>")
        lines.append([objective["slo"], objective["load"], count, value, mark])
    return "<h2>Objectives</h2>" + table(["objective", "load", "documents", "seconds", ""], lines)


def figures_table(named: list[tuple[str, dict[str, Any]]]) -> str:
    """The percentiles of each load in seconds, with intervals, as an HTML table."""
    lines = [
        [
            name,
            *(with_interval(run["seconds"], q) for q in ("p50", "p90", "p95", "p99")),
            seconds(run["cold"][0] if run["cold"] else None),
            seconds(run["documents_per_second"], 2),
            ", ".join(f"{count} {status}" for status, count in run["errors"].items()) or "0",
        ]
        for name, run in named
    ]
    return table(["load", "p50", "p90", "p95", "p99", "first of all", "documents/s", "no answer"], lines)


def rows_table(named: list[tuple[str, dict[str, Any]]]) -> str:
    """Percentiles by the number of rows of a document, as an HTML table."""
    lines = [
        [name, rows, str(f["n"]), with_interval(f, "p50"), with_interval(f, "p95")]
        for name, run in named
        for rows, f in run["rows"].items()
    ]
    return table(["load", "rows", "documents", "p50", "p95"], lines)


def made_of(named: list[tuple[str, dict[str, Any]]], result: dict[str, Any]) -> str:
    """What a document's seconds are made of, by load, as an HTML table."""

    def mean(figures: dict[str, Any], digits: int = 3) -> str:
        return f"{figures['mean']:.{digits}f}" if figures else ""

    def own(run: dict[str, Any], name: str) -> str:
        return f"{run['server'][name]:.3f}" if run["server"] else ""

    lines = [
        [
            name,
            mean(run["prepare"]),
            mean(run["first_token"]),
            mean(run["per_token"], 4),
            mean(run["requests"], 1),
            mean(run["completion_tokens"], 0),
            f"{run['cached_share']:.0%}",
            own(run, "queue"),
            own(run, "prefill"),
            own(run, "decode"),
            mean(run["late"]),
        ]
        for name, run in named
    ]
    head = ["load", "encode pages", "to first token", "a token", "requests", "tokens", "prompt cached"]
    head += ["server: queue", "prefill", "decode", "client late"]
    made = table(head, lines)
    if result["render"]:
        p50, p95 = result["render"]["p50"], result["render"]["p95"]
        made += f"<p>Rendering a document beforehand: p50 {p50:.3f}, p95 {p95:.3f} s.</p>"
    return made


def answered(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The documents of a run that have an answer, the cold one apart."""
    return [line for line in run["documents"] if line["status"] == "ok" and not line.get("cold")]


def legend(named: list[tuple[str, dict[str, Any]]]) -> str:
    """The loads' names with their colours, as HTML."""
    return "".join(
        f"<span class=key style='background:{COLOURS[i % len(COLOURS)]}'></span>{html.escape(name)}"
        for i, (name, _) in enumerate(named)
    )


def axes(most_x: float, most_y: float, x_name: str, y_name: str, percent: bool = False) -> tuple[str, Any, Any]:
    """SVG of a grid from 0 on, and the functions that place a value on it."""

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - 10) * value / most_x

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / most_y

    parts = []
    for value in ticks(most_x):
        at = f"{x(value):.1f}"
        parts.append(f"<line class=grid x1={at} x2={at} y1={TOP} y2={HEIGHT - BOTTOM} />")
        parts.append(f"<text x={at} y={HEIGHT - BOTTOM + 15} text-anchor=middle>{value:g}</text>")
    for value in ticks(most_y):
        label = f"{value:.0%}" if percent else f"{value:g}"
        at = f"{y(value):.1f}"
        parts.append(f"<line class=grid x1={LEFT} x2={WIDTH - 10} y1={at} y2={at} />")
        parts.append(f"<text x={LEFT - 6} y={y(value) + 4:.1f} text-anchor=end>{label}</text>")
    parts.append(f"<text x={WIDTH - 10} y={HEIGHT - 4} text-anchor=end>{x_name}</text><text x=4 y=12>{y_name}</text>")
    return "".join(parts), x, y


def ticks(most: float) -> list[float]:
    """At most seven round numbers from 0 up to `most`."""
    step = 10 ** math.floor(math.log10(most / 4)) if most > 0 else 1.0
    step = next((step * factor for factor in (1, 2, 5, 10) if most / (step * factor) <= 6), step * 10)
    return [round(index * step, 10) for index in range(int(most / step) + 1)]


def distribution(named: list[tuple[str, dict[str, Any]]]) -> str:
    """The share of documents that took at most so long, a line a run."""
    times = [sorted(line["seconds"] for line in answered(run)) for _, run in named]
    most = max((own[-1] for own in times if own), default=1.0)
    grid, x, y = axes(most, 1.0, "seconds", "documents", percent=True)
    lines = []
    for index, own in enumerate(times):
        points, before = [f"{x(0):.1f},{y(0):.1f}"], 0.0
        for number, value in enumerate(own, 1):
            points += [f"{x(value):.1f},{y(before):.1f}", f"{x(value):.1f},{y(number / len(own)):.1f}"]
            before = number / len(own)
        stroke = COLOURS[index % len(COLOURS)]
        lines.append(f"<polyline fill=none stroke={stroke!r} stroke-width=2 points='{' '.join(points)}' />")
    return plot("Documents answered within so many seconds", named, grid + "".join(lines))


def by_rows_plot(named: list[tuple[str, dict[str, Any]]]) -> str:
    """Each document's seconds by its rows."""
    points = [(index, line["rows"], line["seconds"]) for index, (_, run) in enumerate(named) for line in answered(run)]
    grid, x, y = axes(
        max((p[1] for p in points), default=1) or 1, max((p[2] for p in points), default=1.0), "rows", "seconds"
    )
    marks = "".join(
        f"<circle cx={x(rows):.1f} cy={y(value):.1f} r=3 fill={COLOURS[index % len(COLOURS)]!r} fill-opacity=.6 />"
        for index, rows, value in points
    )
    return plot("Seconds by rows", named, grid + marks)


def plot(caption: str, named: list[tuple[str, dict[str, Any]]], drawing: str) -> str:
    """A figure with its legend around the SVG elements of `drawing`."""
    picture = f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img>{drawing}</svg>"
    return f"<figure><figcaption>{caption} {legend(named)}</figcaption>{picture}</figure>"
