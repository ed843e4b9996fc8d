"""Turn the answers of another service into a prediction file, so that it is scored in the same table as your own model.

--in is what a hosted API returned, one of:
- a folder of .json, .txt or .md files named like the documents;
- a JSONL or JSON list with a name and an answer each;
- a table of flat rows (CSV, Excel, JSON).

An answer may be bare JSON, JSON inside text or a code fence, or the API's whole response (OpenAI, Azure OpenAI,
Anthropic, Gemini shapes). Fields are named as in the schema or its columns; --mapping gives other names. Nothing is
dropped silently: keys that feed no field are reported, and values of another form are kept and reported.

    python scripts/import_predictions.py --in data/hosted --gold data/splits/test.jsonl \\
        --out data/predictions/hosted.jsonl
    python scripts/import_predictions.py --in hosted.csv --gold data/splits/test.jsonl \\
        --mapping hosted_columns.json --out data/predictions/hosted.jsonl
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from toolkit import console, options
from toolkit.answers.predictions import PredictionLine, prediction_line, read_gold
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.files import MOST_SETTINGS_BYTES, argument_path, read_json, read_text, shown, write_jsonl
from toolkit.outputs import check_outputs
from toolkit.pages.images import document_key
from toolkit.records.foreign_answers import Foreign, foreign_answer, in_schema, number_columns, rows_as_answers
from toolkit.records.label_table import HeaderRows, fold, read_rows
from toolkit.records.origins import Source, noted, origin_of
from toolkit.records.record_schema import schema_of_records
from toolkit.schema.number_columns import NumberColumns
from toolkit.schema.number_text import CONVENTIONS
from toolkit.schema.target import TargetSchema

ANSWER_FILES = (".json", ".txt", ".md")
NAME_KEYS = ("id", "document", "file", "filename", "file_name", "name", "custom_id")
ANSWER_KEYS = ("answer", "prediction", "response", "output", "content", "text", "body")


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--in", dest="input", type=argument_path, required=True, help="folder of answers, or one file")
    parser.add_argument("--gold", type=argument_path, required=True, help="gold JSONL: its ids are the documents")
    parser.add_argument("--out", type=argument_path, required=True, help="prediction JSONL to write")
    options.add_schema(parser, "the gold's own")
    parser.add_argument(
        "--mapping",
        type=argument_path,
        help='JSON that names their fields: {"document": "File", "columns": {"bl_number": "B/L No"}}',
    )
    parser.add_argument("--sheet", help="sheet of an Excel file (default: the only one)")
    options.add_header_row(parser)
    options.add_decimal(
        parser, CONVENTIONS, "their number texts, where a field states none", "what fits all values of a field"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="an answer that breaks the schema counts as failed, as your own model's does",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an --out that was not imported, such as a model's predictions"
    )
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    check_outputs([(args.out, "")], [args.input, args.gold, args.schema, args.mapping])
    origin = origin_of(args.out)
    if origin is not None and not args.overwrite and (origin.changed or not origin.sources):
        raise StageError(
            f"{shown(args.out)} exists and is not as an import left it; choose another --out, "
            "or replace it with --overwrite"
        )
    gold = [(identity, record) for identity, _, record in read_gold(args.gold)]
    schema = schema_of_records(args.schema, [gold[0][1]], shown(args.gold))
    if args.mapping:
        mapping = read_json(args.mapping, most=MOST_SETTINGS_BYTES)
        if not isinstance(mapping, dict):
            raise StageError(f"{shown(args.mapping)}: a JSON object is needed")
        schema = schema.with_columns(mapping, shown(args.mapping))
    documents = {document_key(record.get("meta", {}).get("source") or identity): identity for identity, record in gold}
    documents |= {document_key(identity): identity for identity, _ in gold}
    validator = schema.validator()

    lines: dict[str, PredictionLine] = {}
    unknown: Counter[str] = Counter()
    strangers, warned, twice = [], 0, []
    answers = list(answers_of(args, schema))
    values = (answer.value for _, answer in answers if answer.value is not None)
    numbers = number_columns(schema, values, args.decimal)
    for their_name, answer in answers:
        identity = documents.get(document_key(their_name))
        if identity is None:
            strangers.append(their_name)
            continue
        if identity in lines:
            twice.append(their_name)
            continue
        line = line_of(schema, validator, identity, answer, unknown, numbers, strict=args.strict)
        warned += bool(line.get("warnings"))
        lines[identity] = line
    if not lines:
        raise StageError(
            f"no answer of {shown(args.input)} is named like a document of {shown(args.gold)}; "
            f"they are called {first_few(strangers) or 'nothing'}"
        )
    if twice:
        raise StageError(f"{shown(args.input)}: {len(twice)} documents have two answers: {first_few(twice)}; keep one")
    missing = [identity for identity, _ in gold if identity not in lines]
    with noted(args.out, [Source.of(args.input, args.sheet)]):
        write_jsonl(args.out, (lines[identity] for identity, _ in gold if identity in lines))
    states = Counter(line["status"] for line in lines.values())
    say(f"{len(lines)} answers ({', '.join(f'{n} {s}' for s, n in states.most_common())}) -> {shown(args.out)}")
    if unknown:
        named = first_few(f"{key} ({count})" for key, count in unknown.most_common())
        say(f"{len(unknown)} of their keys feed no field: {named}; name them with --mapping if they should")
    if warned:
        trouble = "values of another form than the schema's, or rows that disagree"
        say(f"{warned} answers hold {trouble}; named under 'warnings'")
    if missing:
        say(f"{len(missing)} documents have no answer and will count as all missed: {first_few(missing)}")
    if strangers:
        say(f"{len(strangers)} answers belong to no document of the gold: {first_few(strangers)}")
    result = {
        "answers": len(lines),
        "states": dict(states),
        "missing": len(missing),
        "not_in_gold": len(strangers),
        "unknown_keys": dict(unknown),
        "with_warnings": warned,
        "out": shown(args.out),
    }
    problems = missing or strangers or unknown or set(states) - {"ok"}
    return console.finish(args, result, ExitCode.PROBLEMS if problems else ExitCode.OK)


def answers_of(args: Any, schema: TargetSchema) -> Iterator[tuple[str, Foreign]]:
    """`(the service's name of the document, its answer)` for each answer in --in."""
    if args.input.is_dir():
        files = sorted(path for path in args.input.rglob("*") if path.suffix.lower() in ANSWER_FILES)
        if not files:
            raise StageError(f"{shown(args.input)}: no {', '.join(ANSWER_FILES)} files there")
        for path in files:
            try:
                answer = foreign_answer(read_text(path))
            except StageError as error:
                answer = Foreign(None, complaint=str(error))
            yield path.stem, answer
        return
    rows = read_rows(args.input, args.sheet, HeaderRows.parse(args.header_row))
    named = {fold(column): column for _, row in rows for column in row}
    own = [fold(column) for column in (*schema.document_columns, *NAME_KEYS) if fold(column) in named]
    if not own:
        raise StageError(
            f"{shown(args.input)}: no column names the document; it has {first_few(named.values(), 8)}, "
            "give it with --mapping"
        )
    wrappers = [named[key] for key in ANSWER_KEYS if key in named]
    if wrappers:
        for where, row in rows:
            name = next((row[c] for c in row if fold(c) == own[0]), None)
            if name is None:
                raise StageError(f"{where}: no name of the document")
            yield str(name), foreign_answer(next((row[w] for w in wrappers if row.get(w) is not None), None))
    else:
        yield from rows_as_answers(schema, rows, own[0])


def line_of(
    schema: TargetSchema,
    validator: Any,
    identity: str,
    answer: Foreign,
    unknown: Counter[str],
    numbers: NumberColumns,
    *,
    strict: bool,
) -> PredictionLine:
    """The prediction line of one answer; keys that no field takes are counted in `unknown`."""
    more: dict[str, Any] = {"finish_reason": "length" if answer.truncated else "stop", "usage": answer.usage}
    if answer.value is None:
        status = "truncated" if answer.truncated else "not_json"
        return prediction_line(identity, status, None, answer.text[:20_000], **more, error=answer.complaint)
    prediction, keys, warnings = in_schema(schema, schema.normal(answer.value), numbers)
    unknown.update(keys)
    status = "truncated" if answer.truncated else "ok"
    if status == "ok" and strict and not validator.is_valid(prediction):
        status = "schema_error"
    prediction, absent = schema.public(prediction)
    warnings += absent
    if warnings := [*answer.warnings, *warnings]:
        more["warnings"] = warnings
    return prediction_line(identity, status, prediction, answer.text[:20_000], **more)


if __name__ == "__main__":
    sys.exit(main())
