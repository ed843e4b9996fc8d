"""Score predictions against gold under a target schema, field by field and row by row.

Reads a prediction JSONL (--pred) and gold (a training JSONL). A failed answer counts as if it had missed every value.
--against NAME=FILE adds other predictions (the adapter, the quantized model, a hosted API), each with a verdict:
better, worse, or no difference shown. Writes metrics (JSON) and, where asked, a table (CSV, Markdown) and a
self-contained HTML report.

--fail-under and --max-drop make the exit code 1 where a score does not hold. The last line of --json holds micro_f1,
macro_f1, header_macro_f1, row_precision, row_recall, row_f1, cell_f1, document_exact, documents, valid and more.

    python scripts/evaluate_predictions.py --pred data/predictions/test.jsonl --gold data/splits/test.jsonl \\
        --report data/reports/test.html
    python scripts/evaluate_predictions.py --pred awq.jsonl --against adapter=adapter.jsonl --gold test.jsonl \\
        --fail-under micro_f1=0.95 --max-drop micro_f1=0.01
"""

from __future__ import annotations

import csv
import itertools
import sys
from array import array
from pathlib import Path
from typing import Any

from toolkit import console, options
from toolkit.answers.predictions import PredictionFile, read_gold
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.evaluation.gates import Allowance, Floor, allowance_of, floor_of
from toolkit.evaluation.score_table import RATES, ScoreTable, compared
from toolkit.evaluation.scoring import DocumentScore, judged_values, score_document
from toolkit.files import argument_path, atomic, shown, write_json, write_text
from toolkit.outputs import check_outputs, finish_group, together
from toolkit.records.record import images_of, inside_root
from toolkit.records.record_schema import schema_of_records
from toolkit.reports.base import PAGE_MARK
from toolkit.schema.answer_shape import in_shape
from toolkit.schema.checks import business_problems
from toolkit.schema.field_names import AskedFields
from toolkit.schema.number_text import CONVENTIONS
from toolkit.schema.target import TargetSchema, value_at

CSV_HEAD = ("run", "field", "metric", "value", "low", "high")
HEADLINE = ("micro_f1", "macro_f1", "header_macro_f1", "row_f1", "cell_f1", "document_exact")
Gold = tuple[str, dict[str, Any], dict[str, Any]]


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--pred", type=argument_path, required=True, help="prediction JSONL")
    parser.add_argument(
        "--gold", type=argument_path, required=True, help="gold: a training JSONL, or lines with id and gold"
    )
    options.add_schema(parser, "the gold records' meta.schema")
    options.add_decimal(parser, CONVENTIONS, "number texts such as 1,000, where a field states none", "the schema's")
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
    parser.add_argument(
        "--bucket-by",
        action="append",
        default=[],
        metavar="FIELD",
        help="also score by this field of the records' meta, or of the gold answer; repeat for more",
    )
    parser.add_argument(
        "--companions", action="store_true", help="also ANLS* and nTED (means over documents; seconds a long document)"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--report", type=argument_path, help="HTML report to write")
    output.add_argument("--metrics", type=argument_path, help="metrics JSON to write (default: beside the report)")
    output.add_argument("--csv", type=argument_path, help="one line a run, metric and field")
    output.add_argument("--markdown", type=argument_path, help="the tables as Markdown")
    output.add_argument("--note", default="", help="a sentence to stand at the head of the report")
    options.add_text_layer_dir(output, "text layers: the report frames values on the pages")
    options.add_root(output)
    gates = parser.add_argument_group("gates")
    gates.add_argument(
        "--fail-under",
        action="append",
        default=[],
        metavar="METRIC=VALUE",
        help="exit 1 where --pred scores worse than this: less, or for row_count_error more; repeat for more",
    )
    gates.add_argument(
        "--max-drop",
        action="append",
        default=[],
        metavar="METRIC=VALUE",
        help="exit 1 where --pred scores worse than any --against by more than this; repeat for more",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    files = prediction_files(args)
    gold = read_gold(args.gold)
    first = next(gold)
    schema = schema_of_records(args.schema, [first[2]], shown(args.gold)).with_decimals({}, args.decimal)
    for path, _ in outputs_of(args):
        if path is not None and path.parent.is_dir():
            finish_group(path.parent)
    check_outputs(outputs_of(args), [args.pred, args.gold, args.schema, *(f.path for f in files.values())])
    floors = [floor_of(text) for text in args.fail_under]
    drops = [allowance_of(text) for text in args.max_drop]
    for file in files.values():
        file.schema = schema
    if drops and len(files) == 1:
        raise StageError("--max-drop compares with other predictions; give them with --against NAME=FILE")
    tables = {label: ScoreTable(schema) for label in files}
    companions: dict[str, list[tuple[float, float]]] = {label: [] for label in files}
    trust: dict[str, Trust] = {label: Trust() for label in files}
    shown_documents: list[tuple[Gold, DocumentScore]] = []
    asked = AskedFields("--bucket-by", args.bucket_by)
    ids: set[str] = set()
    normal = ((identity, schema.normal(answer), record) for identity, answer, record in itertools.chain([first], gold))
    for document in console.progress(normal, what="documents"):
        if document[0] in ids:
            raise StageError(
                f"{shown(args.gold)}: the id {document[0]!r} stands twice; which is its gold cannot be told"
            )
        ids.add(document[0])
        asked.look(schema, document[1], document[2].get("meta", {}))
        for label, file in files.items():
            score = scored(schema, document, file, tables[label], args.bucket_by)
            if args.companions:
                companions[label].append(companion_scores(document[1], file.get(document[0]), score.status))
            trust[label].add(schema, document[1], file.get(document[0]))
            if args.report and label == args.name:
                shown_documents.append((document, score))
    asked.require(shown(args.gold))
    for label, file in files.items():
        name_leftovers(label, file, tables[label], ids)
    say(f"{len(ids)} documents, schema {shown(schema.source)}")

    results = {label: run_result(table, args.seed) for label, table in tables.items()}
    for label, pairs in companions.items():
        if pairs:
            anls, nted = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
            results[label] |= {"anls_star": anls, "nted": nted}
    for label, known in trust.items():
        if known.confidence:
            results[label]["confidence"] = known.quality()
    for label in list(files)[1:]:
        results[label]["difference"] = compared(tables[args.name], tables[label], seed=args.seed)
    print_tables(results, args.name)
    with together():
        write_outputs(args, schema, results, files[args.name], shown_documents)
    broken = broken_gates(results, args.name, floors, drops)
    for sentence in broken:
        say(sentence)
    final = last_line(results[args.name])
    final |= {"against": {label: last_line(r) for label, r in results.items() if label != args.name}}
    if floors or drops:
        final["gates_broken"] = broken
    return console.finish(args, final, ExitCode.PROBLEMS if broken else ExitCode.OK)


def outputs_of(args: Any) -> list[tuple[Path | None, str]]:
    """The files to write, each with a mark of the files that this script writes there."""
    table_head = ",".join(CSV_HEAD)
    return [
        (args.report, PAGE_MARK),
        (metrics_file(args), '"micro_f1"'),
        (args.csv, table_head),
        (args.markdown, "## Scores"),
    ]


def metrics_file(args: Any) -> Path | None:
    """Where the metrics go: as named, or beside the report."""
    return args.metrics or (args.report.with_suffix(".json") if args.report else None)


def prediction_files(args: Any) -> dict[str, PredictionFile]:
    files = {args.name: PredictionFile(args.pred)}
    for item in args.against:
        label, separator, path = item.partition("=")
        if not separator or not label or label in files:
            raise StageError(f"--against {item!r}: give NAME=FILE with a name of its own")
        files[label] = PredictionFile(argument_path(path))
    return files


def scored(
    schema: TargetSchema, document: Gold, file: PredictionFile, table: ScoreTable, bucket_by: list[str]
) -> DocumentScore:
    """Score one gold document into the run's table; a document without a prediction counts as all missed."""
    identity, answer, record = document
    line = file.get(identity)
    status = "missing" if line is None else str(line.get("status", "ok"))
    prediction = line.get("prediction") if line else None
    answer, prediction = in_shape(schema.raw, answer), prediction and in_shape(schema.raw, prediction)
    pages = len(images_of(record)) if "messages" in record else 0
    score = score_document(schema, identity, answer, prediction, status, pages)
    checked = status == "ok" and isinstance(prediction, dict) and not business_problems(schema, prediction)
    groups = []
    for field in bucket_by:
        value = record.get("meta", {}).get(field)
        value = value_at(answer, tuple(field.split("."))) if value is None else value
        groups.append(f"{field} {'none' if value is None else value}")
    table.add(score, checked=checked, groups=groups)
    return score


class Trust:
    """Confidences of one run's values beside whether each is right; nine bytes a value."""

    def __init__(self) -> None:
        self.confidence, self.right = array("d"), array("b")

    def add(self, schema: TargetSchema, gold: dict[str, Any], line: dict[str, Any] | None) -> None:
        if line is None or not line.get("confidence") or line.get("status") != "ok":
            return
        if not isinstance(line.get("prediction"), dict):
            return
        gold, answer = in_shape(schema.raw, gold), in_shape(schema.raw, line["prediction"])
        for name, right in judged_values(schema, gold, answer):
            if name in line["confidence"]:
                self.confidence.append(line["confidence"][name])
                self.right.append(right)

    def quality(self) -> dict[str, Any]:
        from toolkit.answers.confidence import quality

        return quality(self.confidence, self.right)


def companion_scores(gold: dict[str, Any], line: dict[str, Any] | None, status: str) -> tuple[float, float]:
    """`(ANLS*, nTED)` of one document; a failed answer is 0, also where gold holds nothing: ANLS* would give it
    gold's empty fields."""
    from toolkit.evaluation.companions import anls_star, tree_similarity

    answer = line.get("prediction") if line and status == "ok" else None
    if not isinstance(answer, dict):
        return 0.0, 0.0
    return anls_star(gold, answer), tree_similarity(gold, answer)


def name_leftovers(label: str, file: PredictionFile, table: ScoreTable, ids: set[str]) -> None:
    missing = [identity for identity, state in zip(table.ids, table.states, strict=True) if state == "missing"]
    if missing:
        say(f"{label}: {len(missing)} gold documents have no prediction and count as all missed: {first_few(missing)}")
    unknown = sorted(file.ids() - ids)
    if unknown:
        say(f"{label}: {len(unknown)} predictions have no gold and are not scored: {first_few(unknown)}")


def run_result(table: ScoreTable, seed: int) -> dict[str, Any]:
    return {
        **table.summary(),
        "intervals": table.intervals(seed=seed),
        "funnel": table.states_counted(),
        "validity": table.funnel(),
        "fields": table.field_table(),
        "buckets": table.buckets(),
    }


def last_line(result: dict[str, Any]) -> dict[str, Any]:
    final = {key: value for key, value in result.items() if key not in ("fields", "buckets")}
    if "confidence" in final:
        curves = ("risk_coverage", "reliability")
        final["confidence"] = {key: value for key, value in final["confidence"].items() if key not in curves}
    return final


def broken_gates(
    results: dict[str, dict[str, Any]], name: str, floors: list[Floor], drops: list[Allowance]
) -> list[str]:
    """One sentence per gate that does not hold; a metric that the schema does not have breaks its gate."""
    others = [(label, scores) for label, scores in results.items() if label != name]
    sentences = [floor.broken(name, results[name]) for floor in floors]
    sentences += [drop.broken(name, results[name], label, scores) for drop in drops for label, scores in others]
    return [sentence for sentence in sentences if sentence]


def print_tables(results: dict[str, dict[str, Any]], name: str) -> None:
    width = max(len(label) for label in results) + 2
    print(" " * width + "".join(f"{key:>17s}" for key in HEADLINE) + f"{'valid':>12s}")
    for label, result in results.items():
        print(
            f"{label:{width}s}"
            + "".join("-".rjust(17) if result[key] is None else f"{result[key]:17.4f}" for key in HEADLINE)
            + f"{result['valid']:>6d}/{result['documents']}"
        )
    for label, result in results.items():
        if "anls_star" in result:
            print(f"{label}: ANLS* {result['anls_star']:.4f}, nTED {result['nted']:.4f}")
        if "confidence" in result:
            print(confidence_text(label, result["confidence"]))
        if "difference" in result:
            print(f"{name} against {label}:")
            for metric in HEADLINE:
                if metric in result["difference"]:
                    print(f"  {metric:18s} {difference_text(result['difference'][metric])}")


def confidence_text(label: str, quality: dict[str, Any]) -> str:
    auroc = "not defined (no value is wrong)" if quality["auroc"] is None else f"{quality['auroc']:.4f}"
    return (
        f"{label}: confidence of {quality['values']} values ({quality['accuracy']:.4f} right): AUROC {auroc}, "
        f"calibration error {quality['ece']:.4f}, accuracy at 80 % coverage {quality['accuracy_at_80']:.4f}"
    )


def difference_text(difference: dict[str, Any]) -> str:
    low, high = difference["interval"]
    return f"{difference['difference']:+.4f} ({low:+.4f} to {high:+.4f}): {difference['verdict']}"


def write_outputs(
    args: Any,
    schema: TargetSchema,
    results: dict[str, dict[str, Any]],
    predictions: PredictionFile,
    documents: list[tuple[Gold, DocumentScore]],
) -> None:
    if metrics := metrics_file(args):
        write_json(metrics, results)
        say(f"metrics -> {shown(metrics)}")
    if args.csv:
        with atomic(args.csv) as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(CSV_HEAD)
            table.writerows(csv_lines(results))
        say(f"table -> {shown(args.csv)}")
    if args.markdown:
        write_text(args.markdown, markdown(results, args.name))
        say(f"table -> {shown(args.markdown)}")
    if args.report:
        from toolkit.pages.evidence import TextLayers
        from toolkit.reports.evaluation_page import write_report

        layers = TextLayers(args.text_layer_dir) if args.text_layer_dir else None
        tell_outside(args.root, documents)
        write_report(args.report, schema, documents, predictions, results, args.root, args.note, layers)
        if layers and layers.broken:
            say(f"{len(layers.broken)} text layers cannot be read, so nothing is framed: {first_few(layers.broken)}")
        say(f"report -> {shown(args.report)}")


def tell_outside(root: Path, documents: list[tuple[Gold, DocumentScore]]) -> None:
    """Say how many page images lie outside --root, so that the report shows none of them."""
    records = [record for (_, _, record), _ in documents if "messages" in record]
    outside = [image for record in records for image in images_of(record) if inside_root(root, image) is None]
    if outside:
        where = f"{len(outside)} page images lie outside {shown(root)} and are not shown: {first_few(outside)}"
        say(f"{where}; name the folder that holds them with --root")


def csv_lines(results: dict[str, dict[str, Any]]) -> list[list[Any]]:
    lines: list[list[Any]] = []
    for label, result in results.items():
        for metric in RATES:
            if result[metric] is not None:
                lines.append([label, "", metric, result[metric], *result["intervals"][metric]])
        for field in result["fields"]:
            for metric in ("f1", "precision", "recall", "tp", "wrong", "miss", "spurious"):
                lines.append([label, field["field"], metric, field[metric], "", ""])
    return lines


def markdown(results: dict[str, dict[str, Any]], name: str) -> str:
    """The scores with their intervals, the differences, and the fields of the first run."""

    def table(rows: list[list[str]]) -> str:
        rule = ["---", *["---:"] * (len(rows[0]) - 1)]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in [rows[0], rule, *rows[1:]])

    scores = [["", *HEADLINE, "valid"]]
    for label, result in results.items():
        cells = []
        for metric in HEADLINE:
            if result[metric] is None:
                cells.append("-")
            else:
                low, high = result["intervals"][metric]
                cells.append(f"{result[metric]:.3f} ({low:.3f} to {high:.3f})")
        scores.append([label, *cells, f"{result['valid']} of {result['documents']}"])
    parts = ["## Scores\n", table(scores)]
    for label, result in results.items():
        if "difference" in result:
            rows = [["metric", "difference", "verdict"]]
            for metric in HEADLINE:
                if change := result["difference"].get(metric):
                    low, high = change["interval"]
                    text = f"{change['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
                    rows.append([metric, text, change["verdict"]])
            parts += [f"\n## {name} against {label}\n", table(rows)]
    fields = [["field", "F1", "right", "wrong", "missed", "spurious"]]
    for f in results[name]["fields"]:
        fields.append([f["field"], f"{f['f1']:.3f}", str(f["tp"]), str(f["wrong"]), str(f["miss"]), str(f["spurious"])])
    return "\n".join([*parts, f"\n## Fields of {name}, costliest first\n", table(fields), ""])


if __name__ == "__main__":
    sys.exit(main())
