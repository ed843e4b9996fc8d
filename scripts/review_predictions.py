"""Write an HTML page in which a person corrects predictions beside their pages, and saves them as labels.

The page is one file. It needs no server and no network. Documents that need a person come first: failed answers, then
those that fail the schema's checks, then values that the page's own text does not hold (--text-layer-dir) or that the
model was not sure of (--review-below), then the rest.

"Save" downloads reviewed.json, a results table for build_jsonl_from_results.py: one object per document, its file name
in the schema's document_column, its answer in the schema's shape. The build's --update merges the reviewed documents
into the records that are there. The browser keeps unfinished work for exactly these
predictions; the edits of an earlier run never show over new predictions, but can be loaded, downloaded or discarded.

    python scripts/review_predictions.py --pred new.jsonl --records data/test.jsonl --out data/reports/review.html
    python scripts/review_predictions.py --pred new.jsonl --images-dir data/images \\
        --schema schemas/invoice.schema.json --out data/reports/review.html
"""

from __future__ import annotations

import sys
from typing import Any

from toolkit import console, options
from toolkit.answers.predictions import PredictionFile, unsure_values
from toolkit.console import StageError, first_few, say
from toolkit.files import argument_path, expand_inputs, shown
from toolkit.outputs import check_outputs
from toolkit.pages.evidence import DocumentWords, TextLayers
from toolkit.pages.images import IMAGE_SUFFIXES, document_key, match_images
from toolkit.records.record import images_of, inside_root, read_records
from toolkit.records.record_schema import schema_of_records
from toolkit.reports.base import PAGE_MARK
from toolkit.reports.review_page import ReviewDocument, write_review
from toolkit.schema.answer_shape import in_shape
from toolkit.schema.answer_values import values_of
from toolkit.schema.checks import business_problems
from toolkit.schema.target import TargetSchema


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--pred", type=argument_path, required=True, help="prediction JSONL")
    parser.add_argument("--out", type=argument_path, required=True, help="HTML page to write")
    parser.add_argument("--records", type=argument_path, help="JSONL that names the documents' pages")
    options.add_images_dir(parser, "matched by the documents' names; repeat for more")
    options.add_schema(parser)
    options.add_text_layer_dir(parser, "text layers: values that no page holds come first")
    parser.add_argument("--review-below", type=float, metavar="P", help="values of less confidence come first")
    options.add_root(parser)
    parser.add_argument("--limit", type=int, help="only the N documents that need a person most")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if not args.records and not args.images_dir:
        raise StageError("give the pages with --records FILE or --images-dir FOLDER")
    check_outputs([(args.out, PAGE_MARK)], [args.pred, args.records, args.schema])
    predictions = PredictionFile(args.pred)
    records = {record["id"]: record for record in read_records(args.records)} if args.records else {}
    where = shown(args.records) if args.records else "a prediction file"
    schema = schema_of_records(args.schema, records.values(), where)
    predictions.schema = schema
    pages = pages_of(args, records, predictions)
    layers = TextLayers(args.text_layer_dir) if args.text_layer_dir else None
    documents = []
    for identity in sorted(predictions.ids()):
        line = predictions.get(identity) or {}
        words = layers.readable(records.get(identity, {"id": identity})) if layers else None
        reasons = reasons_of(schema, line, words, args.review_below)
        answer = line.get("prediction")
        source = records.get(identity, {}).get("meta", {}).get("source") or identity
        answer = answer if isinstance(answer, dict) else {}
        documents.append(ReviewDocument(identity, source, answer, reasons, pages.get(identity, [])))
    without = [document.identity for document in documents if not document.pages]
    documents.sort(key=lambda document: (-sum(weight for weight, _ in document.reasons), document.identity))
    documents = documents[: args.limit]
    write_review(args.out, schema, documents, args.root)
    flagged = sum(bool(document.reasons) for document in documents)
    say(f"{len(documents)} documents, {flagged} of them with something to look at -> {shown(args.out)}")
    if layers and layers.broken:
        say(f"{len(layers.broken)} text layers cannot be read: {first_few(layers.broken)}")
    if without:
        say(f"{len(without)} documents have no page images: {first_few(without)}")
    result = {"documents": len(documents), "flagged": flagged, "without_pages": len(without), "out": shown(args.out)}
    return console.finish(args, result, console.ExitCode.PROBLEMS if without else console.ExitCode.OK)


def pages_of(args: Any, records: dict[str, dict[str, Any]], predictions: PredictionFile) -> dict[str, list[str]]:
    """The page images of each document, from its record or by its name among --images-dir."""
    pages, outside = {}, []
    for identity, record in records.items():
        pages[identity] = [image for image in images_of(record) if inside_root(args.root, image)]
        outside += [image for image in images_of(record) if not inside_root(args.root, image)]
    if outside:
        where = f"{len(outside)} page images lie outside {shown(args.root)} and are not shown: {first_few(outside)}"
        say(f"{where}; name the folder that holds them with --root")
    if args.images_dir:
        images = [path.as_posix() for path in expand_inputs(args.images_dir, IMAGE_SUFFIXES)]
        keys = {document_key(identity): identity for identity in predictions.ids() if identity not in pages}
        for key, found in match_images(images, keys)[0].items():
            numbers = found.kinds[found.choose(None)]
            pages[keys[key]] = [numbers[number][0] for number in sorted(numbers)]
    return pages


def reasons_of(
    schema: TargetSchema, line: dict[str, Any], words: DocumentWords | None, below: float | None
) -> list[tuple[int, str]]:
    """`(weight, sentence)` of what a person should look at."""
    answer, status = line.get("prediction"), str(line.get("status", "ok"))
    if isinstance(answer, dict):
        answer = in_shape(schema.raw, answer)
    if status != "ok" or not isinstance(answer, dict):
        return [(1000, f"no usable answer: {line.get('error') or status}")]
    reasons = [(10, f"{where}: {sentence}") for where, sentence, _ in business_problems(schema, answer)]
    reasons += [(5, str(warning)) for warning in line.get("warnings", [])]
    if below is not None and line.get("confidence"):
        for entry in unsure_values(line, below):
            reasons.append((2, f"{entry['name']}: {entry['value']!r}, confidence {entry['confidence']:.2f}"))
    if words is not None:
        for one in values_of(schema, answer):
            if one.row and not one.leaf.is_key:
                continue
            name = one.row or one.name
            if one.value not in (None, "") and one.leaf.compare != "skip" and not words.find(one.leaf, one.value):
                reasons.append((1, f"{name}: {one.value!r} is not in the page's own text"))
    return reasons


if __name__ == "__main__":
    sys.exit(main())
