"""Compare every gold value with the text of its own pages, before training: which labels are probably wrong, and where.

Reads a JSONL and the text layers that pdf_to_images.py --text-layer wrote (or OCR files of the same form). Writes to
--out-dir:
- report.html: probable errors first, each with the crop of its page;
- findings.jsonl: every value with its status, page, box and printed text;
- summary.json.

Documents without a text layer are counted and listed, never guessed at. The exit code is 1 where values are suspicious.

    python scripts/pdf_to_images.py --in data/pdfs --text-layer
    python scripts/audit_labels.py --in data/train.jsonl
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolkit import console, options
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.files import argument_path, shown, write_json, write_jsonl
from toolkit.outputs import check_outputs
from toolkit.pages.evidence import TextLayers
from toolkit.records.label_audit import Document, audited
from toolkit.records.record import gold_of, images_of, inside_root, read_records
from toolkit.records.record_schema import schema_of_records
from toolkit.reports.audit_page import write_audit
from toolkit.reports.base import PAGE_MARK
from toolkit.schema.answer_shape import in_shape
from toolkit.schema.target import TargetSchema


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    options.add_input(parser)
    options.add_text_layer_dir(parser, "text layers", Path("data/ocr"))
    options.add_schema(parser)
    parser.add_argument(
        "--out-dir", type=argument_path, default=Path("data/reports/audit"), help="(default: data/reports/audit)"
    )
    parser.add_argument("--suspicion", type=float, default=0.5, help="from here on a value is reported (default: 0.5)")
    parser.add_argument("--most", type=int, default=300, help="findings in the HTML page (default: 300)")
    options.add_root(parser)
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    report, found, totals = (args.out_dir / name for name in ("report.html", "findings.jsonl", "summary.json"))
    check_outputs([(report, PAGE_MARK), (found, '"suspicion":'), (totals, '"suspicious":')], [args.input, args.schema])
    records = list(read_records(args.input))
    schema = schema_of_records(args.schema, records[:1], shown(args.input))
    documents, without, broken = documents_of(records, args.text_layer_dir, schema)
    if not documents and broken:
        raise StageError(f"no text layer can be read: {first_few(broken)}")
    if not documents:
        raise StageError(
            f"no document of {shown(args.input)} has a text layer in {shown(args.text_layer_dir)}; "
            "make them with pdf_to_images.py --text-layer"
        )
    findings = audited(schema, documents)
    suspicious = [finding for finding in findings if finding.suspicion >= args.suspicion]
    statuses = Counter(finding.status for finding in findings)
    result = {
        "documents": len(documents),
        "without_text_layer": len(without),
        "unreadable_text_layers": len(broken),
        "values": sum(f.status != "not_in_label" for f in findings),
        "suspicious": len(suspicious),
        "documents_suspicious": len({f.document for f in suspicious}),
        "status": dict(sorted(statuses.items())),
        "by_field": dict(Counter(f.field for f in suspicious).most_common()),
        "report": shown(report),
    }
    write_jsonl(found, (asdict(finding) for finding in findings))
    write_json(totals, result | {"without": without, "unreadable": broken})
    images = {record["id"]: [inside_root(args.root, image) for image in images_of(record)] for record in records}
    write_audit(report, suspicious[: args.most], len(suspicious), images, result)
    say(
        f"{result['values']} values of {len(documents)} documents: "
        + ", ".join(f"{n} {s}" for s, n in statuses.most_common())
    )
    if without:
        say(f"{len(without)} documents without a text layer were not looked at: {first_few(without)}")
    if broken:
        say(f"{len(broken)} text layers cannot be read, so their documents were not looked at: {first_few(broken)}")
    if outside := sum(image is None for pages in images.values() for image in pages):
        say(f"{outside} page images lie outside {shown(args.root)} and are not shown; name their folder with --root")
    if suspicious:
        named = first_few(f"{f.document}: {f.field} {f.value!r}: {f.reason}" for f in suspicious)
        say(f"{len(suspicious)} suspicious in {result['documents_suspicious']} documents: {named}")
    say(f"-> {result['report']}")
    return console.finish(args, result, ExitCode.PROBLEMS if suspicious or broken else ExitCode.OK)


def documents_of(
    records: list[dict[str, Any]], folder: Path, schema: TargetSchema
) -> tuple[list[Document], list[str], list[str]]:
    """Documents with words; the names of those that have none (no file, or a scan without text); a sentence for each
    text layer that cannot be read."""
    layers = TextLayers(folder)
    documents: list[Document] = []
    without: list[str] = []
    for record in console.progress(records, total=len(records), what="text layers"):
        broken = len(layers.broken)
        words = layers.readable(record)
        if words is None:
            without += [record["id"]] if len(layers.broken) == broken else []
        else:
            documents.append(Document(record["id"], in_shape(schema.raw, gold_of(record) or {}), words))
    return documents, without, layers.broken


if __name__ == "__main__":
    sys.exit(main())
