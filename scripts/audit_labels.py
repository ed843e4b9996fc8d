"""Hold every gold value against the text of its own pages, before training: which labels are probably wrong, and where to look.

Reads a JSONL and the text layers that pdf_to_images.py --text-layer wrote (or OCR files of the same form). Writes to --out-dir:
report.html (probable errors first, each with its page crop), findings.jsonl (every value with status, page, box and printed
text: the evidence), and summary.json. Documents without a text layer are counted and listed, never guessed at. Exit code 1
where values are suspicious.

    python scripts/pdf_to_images.py --in data/pdfs --text-layer
    python scripts/audit_labels.py --in data/train.jsonl
"""

from __future__ import annotations

import base64
import html
import io
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.files import argument_path, shown, write_json, write_jsonl, write_text
from toolkit.pages.evidence import TextLayers
from toolkit.records.label_audit import Document, Finding, audited
from toolkit.records.record import gold_of, images_of, read_records
from toolkit.schema.target import TargetSchema


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--in", dest="input", type=argument_path, required=True, help="the JSONL")
    parser.add_argument(
        "--text-layer-dir", type=argument_path, default=Path("data/ocr"), help="text layers (default: data/ocr)"
    )
    parser.add_argument(
        "--schema", type=argument_path, default=None, help="target schema (default: the records' meta.schema)"
    )
    parser.add_argument(
        "--out-dir", type=argument_path, default=Path("data/reports/audit"), help="(default: data/reports/audit)"
    )
    parser.add_argument("--suspicion", type=float, default=0.5, help="from here on a value is reported (default: 0.5)")
    parser.add_argument("--most", type=int, default=300, help="findings in the HTML page (default: 300)")
    parser.add_argument("--root", type=argument_path, default=Path(), help="folder that image paths are relative to")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    records = list(read_records(args.input))
    name = args.schema or records[0].get("meta", {}).get("schema")
    if name is None:
        raise StageError("the records name no schema in meta.schema; give --schema FILE")
    schema = TargetSchema.load(Path(name))
    documents, without = documents_of(records, args.text_layer_dir)
    if not documents:
        raise StageError(
            f"no document of {shown(args.input)} has a text layer in {shown(args.text_layer_dir)}; make them with pdf_to_images.py --text-layer"
        )
    findings = audited(schema, documents)
    suspicious = [finding for finding in findings if finding.suspicion >= args.suspicion]
    statuses = Counter(finding.status for finding in findings)
    result = {
        "documents": len(documents),
        "without_text_layer": len(without),
        "values": sum(f.status != "not_in_label" for f in findings),
        "suspicious": len(suspicious),
        "documents_suspicious": len({f.document for f in suspicious}),
        "status": dict(sorted(statuses.items())),
        "by_field": dict(Counter(f.field for f in suspicious).most_common()),
        "report": shown(args.out_dir / "report.html"),
    }
    write_jsonl(args.out_dir / "findings.jsonl", (asdict(finding) for finding in findings))
    write_json(args.out_dir / "summary.json", result | {"without": without})
    images = {record["id"]: [args.root / image for image in images_of(record)] for record in records}
    write_text(args.out_dir / "report.html", page_of(suspicious[: args.most], len(suspicious), images, result))
    say(
        f"{result['values']} values of {len(documents)} documents: "
        + ", ".join(f"{n} {s}" for s, n in statuses.most_common())
    )
    if without:
        say(f"{len(without)} documents without a text layer were not looked at: {first_few(without)}")
    if suspicious:
        named = first_few(f"{f.document}: {f.field} {f.value!r}: {f.reason}" for f in suspicious)
        say(f"{len(suspicious)} suspicious in {result['documents_suspicious']} documents: {named}")
    say(f"-> {result['report']}")
    return console.finish(args, result, ExitCode.PROBLEMS if suspicious else ExitCode.OK)


def documents_of(records: list[dict[str, Any]], folder: Path) -> tuple[list[Document], list[str]]:
    """Documents with words, and the names of those that have none (no file, or a scan without text)."""
    layers = TextLayers(folder)
    documents, without = [], []
    for record in console.progress(records, total=len(records), what="text layers"):
        words = layers.of(record)
        if words is None:
            without.append(record["id"])
        else:
            documents.append(Document(record["id"], gold_of(record) or {}, words))
    return documents, without


STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882 }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem }
h1 { font-size: 1.35rem; margin-bottom: .2rem } p { margin: .2rem 0 1rem }
article { border-top: 1px solid var(--line); padding: .8rem 0; display: grid; grid-template-columns: 3.2rem 1fr minmax(0, 420px); gap: 1rem }
article b { font-weight: 600 } code { background: var(--soft); padding: .1rem .35rem; border-radius: 4px; overflow-wrap: anywhere }
img { max-width: 100%; border: 1px solid var(--line); border-radius: 4px; background: #fff } .score { font-variant-numeric: tabular-nums; opacity: .75 }
small { opacity: .75 }
"""


def page_of(findings: list[Finding], total: int, images: dict[str, list[Path]], result: dict[str, Any]) -> str:
    """The HTML page: self-contained, one block a finding, the crop of its page beside it."""
    blocks = []
    for finding in findings:
        crop = crop_of(finding, images.get(finding.document, []))
        picture = f'<img alt="page {finding.page}" src="{crop}">' if crop else "<small>no place on the page</small>"
        where = finding.field + (f" (row {finding.row + 1})" if finding.row is not None else "")
        label = "nothing" if finding.value is None else f"<code>{html.escape(str(finding.value))}</code>"
        blocks.append(
            f'<article><div class="score">{finding.suspicion:.2f}</div><div><b>{html.escape(where)}</b><br>label: {label}<br>'
            f"{html.escape(finding.reason)}<br><small>{html.escape(finding.document)}{f', page {finding.page}' if finding.page else ''}</small></div>"
            f"<div>{picture}</div></article>"
        )
    more = f" The first {len(findings)} are shown; all are in findings.jsonl." if total > len(findings) else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Label audit</title><style>{STYLE}</style>'
        f"<h1>Label audit: {total} suspicious of {result['values']} values</h1>"
        f"<p>{result['documents']} documents with a text layer, {result['without_text_layer']} without.{more}</p>{''.join(blocks)}</html>\n"
    )


def crop_of(finding: Finding, pages: list[Path]) -> str:
    """The finding's words and what lies around them, framed, as a data URL; empty where there is no place or no image."""
    if not finding.box or not finding.page or finding.page > len(pages):
        return ""
    from PIL import Image, ImageDraw

    try:
        with Image.open(pages[finding.page - 1]) as opened:
            page = opened.convert("RGB")
    except OSError:
        return ""
    x0, y0, x1, y1 = finding.box
    ImageDraw.Draw(page).rectangle((x0 - 3, y0 - 3, x1 + 3, y1 + 3), outline=(214, 40, 40), width=2)
    height = max(40.0, 3 * (y1 - y0))
    box = (max(0, x0 - 220), max(0, y0 - height), min(page.width, x1 + 220), min(page.height, y1 + height))
    buffer = io.BytesIO()
    page.crop(box).save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    sys.exit(main())
