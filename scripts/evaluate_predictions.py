"""Score predictions against gold under a target schema, field by field and row by row; failed answers count as all missed.

Reads a prediction JSONL (--pred), gold (a training JSONL) and optionally other prediction files to stand beside it
(--against NAME=FILE). Writes metrics (JSON) and a self-contained HTML report. The last line of --json holds micro_f1,
macro_f1, header_macro_f1, row_precision, row_recall, row_f1, cell_f1, document_exact, documents, valid and more.

    python scripts/evaluate_predictions.py --pred data/predictions/test.jsonl --gold data/splits/test.jsonl --report data/reports/test.html
    python scripts/evaluate_predictions.py --pred adapter.jsonl --against base=base.jsonl --gold test.jsonl --schema schemas/invoice.schema.json --json
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import StageError, first_few, say
from toolkit.files import argument_path, shown, write_json
from toolkit.predictions import read_gold, read_predictions
from toolkit.scoring import DocumentScore, buckets, field_table, intervals, score_document, summary
from toolkit.target_schema import TargetSchema

HEADLINE = ("micro_f1", "macro_f1", "header_macro_f1", "row_f1", "cell_f1", "document_exact")


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--pred", type=argument_path, required=True, help="prediction JSONL")
    parser.add_argument(
        "--gold", type=argument_path, required=True, help="gold: a training JSONL, or lines with id and gold"
    )
    parser.add_argument(
        "--schema", type=argument_path, default=None, help="target schema (default: the gold records' meta.schema)"
    )
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="other predictions to stand beside these; repeat for more",
    )
    parser.add_argument(
        "--name", default="predictions", help="what --pred is called in the report (default: predictions)"
    )
    parser.add_argument("--report", type=argument_path, default=None, help="HTML report to write")
    parser.add_argument(
        "--metrics", type=argument_path, default=None, help="metrics JSON to write (default: beside the report)"
    )
    parser.add_argument("--note", default="", help="a sentence to stand at the head of the report")
    parser.add_argument("--root", type=argument_path, default=Path(), help="folder that image paths are relative to")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    gold = list(read_gold(args.gold))
    name = args.schema or gold[0][2].get("meta", {}).get("schema")
    if name is None:
        raise StageError(f"{shown(args.gold)} names no schema in meta.schema; give --schema FILE")
    schema = TargetSchema.load(Path(name))
    runs = {args.name: read_predictions(args.pred)}
    for item in args.against:
        label, separator, path = item.partition("=")
        if not separator or not label or label in runs:
            raise StageError(f"--against {item!r}: give NAME=FILE with a name of its own")
        runs[label] = read_predictions(argument_path(path))
    say(f"{len(gold)} documents, schema {shown(name)}")
    results: dict[str, dict[str, Any]] = {}
    scores: dict[str, list[DocumentScore]] = {}
    for label, predictions in runs.items():
        scores[label] = scored(schema, gold, predictions, label)
        results[label] = {
            **summary(schema, scores[label]),
            "intervals": intervals(scores[label], seed=args.seed),
            "funnel": dict(Counter(score.status for score in scores[label]).most_common()),
            "fields": field_table(schema, scores[label]),
            "buckets": buckets(schema, scores[label]),
        }
    print_table(results)
    metrics = args.metrics or (args.report.with_suffix(".json") if args.report else None)
    if metrics:
        write_json(metrics, results)
        say(f"metrics -> {shown(metrics)}")
    if args.report:
        from toolkit.report import write_report

        write_report(args.report, schema, gold, runs, scores, results, args.root, args.note)
        say(f"report -> {shown(args.report)}")
    final = {key: value for key, value in results[args.name].items() if key not in ("fields", "buckets")}
    final |= {
        "against": {
            label: {k: v for k, v in r.items() if k not in ("fields", "buckets")}
            for label, r in results.items()
            if label != args.name
        }
    }
    return console.finish(args, final)


def scored(
    schema: TargetSchema,
    gold: list[tuple[str, dict[str, Any], dict[str, Any]]],
    predictions: dict[str, dict[str, Any]],
    label: str,
) -> list[DocumentScore]:
    """One score per gold document; a document without a prediction counts as all missed, and is named."""
    from toolkit.records import images_of

    result = []
    for identity, answer, record in gold:
        line = predictions.get(identity)
        status = "missing" if line is None else str(line.get("status", "ok"))
        pages = len(images_of(record)) if "messages" in record else 0
        result.append(score_document(schema, identity, answer, line.get("prediction") if line else None, status, pages))
    missing = [score.identity for score in result if score.status == "missing"]
    if missing:
        say(f"{label}: {len(missing)} gold documents have no prediction and count as all missed: {first_few(missing)}")
    unknown = sorted(set(predictions) - {identity for identity, *_ in gold})
    if unknown:
        say(f"{label}: {len(unknown)} predictions have no gold and are not scored: {first_few(unknown)}")
    return result


def print_table(results: dict[str, dict[str, Any]]) -> None:
    width = max(len(label) for label in results) + 2
    print(" " * width + "".join(f"{key:>17s}" for key in HEADLINE) + f"{'valid':>12s}")
    for label, result in results.items():
        print(
            f"{label:{width}s}"
            + "".join("-".rjust(17) if result[key] is None else f"{result[key]:17.4f}" for key in HEADLINE)
            + f"{result['valid']:>6d}/{result['documents']}"
        )


if __name__ == "__main__":
    sys.exit(main())
