"""Make a target schema from what you already have: a JSON Schema, a Pydantic model, a labels table, example answers.

Writes an explicit schema, ready to edit, and says what it decided, why, and what you should check. A Pydantic model is
named as FILE.py:Class; its file is executed, in a process of its own, so say --trust-code. A table (CSV, Excel, JSON,
JSONL) gives types, choices, date and number conventions, and a list of the columns that repeat within a document. A
folder holds one example answer (.json) for each document. See docs/DOCUMENT_TYPES.md.

    python scripts/make_schema.py --from response_format.json --out schemas/order.schema.json
    python scripts/make_schema.py --from models.py:Order --trust-code --out schemas/order.schema.json
    python scripts/make_schema.py --from labels.xlsx --out schemas/order.schema.json
    python scripts/make_schema.py --from data/example_answers --out schemas/order.schema.json
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from toolkit import console, options
from toolkit.console import StageError, say
from toolkit.files import argument_path, read_json, shown, write_json
from toolkit.records.label_table import HeaderRows
from toolkit.records.model_schema import MODEL, schema_of_model
from toolkit.records.schema_guess import SchemaGuess, guess_from_folder, guess_from_table
from toolkit.schema.normalise import explicit_schema
from toolkit.schema.references import SCHEMA_WORDS, unwrapped
from toolkit.schema.target import TargetSchema


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument(
        "--from", dest="source", required=True, metavar="SOURCE", help="a file, FILE.py:Class, a folder"
    )
    parser.add_argument("--out", type=argument_path, required=True, help="schema to write: schemas/NAME.schema.json")
    parser.add_argument("--trust-code", action="store_true", help="execute the Python file that SOURCE names")
    parser.add_argument("--sheet", help="sheet of an Excel file (default: the only one)")
    options.add_header_row(parser)
    parser.add_argument("--document-column", help="column of a table with the documents' file names")
    parser.add_argument("--title", help="the document type in words, for the prompt (default: from --out)")
    parser.add_argument("--overwrite", action="store_true", help="replace --out where it exists")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    out: Path = args.out
    if out.exists() and not args.overwrite:
        raise StageError(f"{shown(out)} exists; choose another --out, or replace it with --overwrite")
    title = args.title or re.sub(r"[\s_-]+", " ", out.name.removesuffix(".json").removesuffix(".schema")).strip()
    guess = schema_from(args, title)
    # What this script writes, the other scripts must load: the same checks, before anything is written.
    schema = TargetSchema(guess.schema, shown(out))
    write_json(out, guess.schema)
    for sentence in guess.decided:
        say(f"  {sentence}")
    if guess.check:
        say("please check:")
    for sentence in guess.check:
        say(f"  {sentence}")
    say(f"{len(schema.leaves)} fields, {len(schema.lists)} lists -> {shown(out)}")
    build = "python scripts/build_jsonl_from_results.py --results LABELS --images-dir data/images"
    say(f"next: {build} --schema {shown(out)}")
    result = {"out": shown(out), "fields": len(schema.leaves), "lists": len(schema.lists)}
    return console.finish(args, result | {"decided": guess.decided, "check": guess.check})


def schema_from(args: Any, title: str) -> SchemaGuess:
    """The schema of --from, by its kind. Raises StageError for a source that is none of them."""
    if MODEL.fullmatch(args.source):
        if not args.trust_code:
            raise StageError(f"{args.source}: reading a model executes its file; say --trust-code if you trust it")
        return explicit(schema_of_model(args.source), args.source, title)
    path = argument_path(args.source)
    if path.suffix == ".py":
        raise StageError(f"{shown(path)}: name the class too, as {shown(path)}:Class")
    if path.is_dir():
        return guess_from_folder(path, title)
    if not path.is_file():
        raise StageError(f"file not found: {shown(path)}")
    if path.suffix.lower() == ".json":
        raw = read_json(path)
        inner = unwrapped(raw)
        if isinstance(inner, dict) and (SCHEMA_WORDS & set(inner) or inner.get("type") == "object"):
            return explicit(raw, shown(path), title)
    rows = HeaderRows.parse(args.header_row)
    return guess_from_table(path, args.sheet, args.document_column, title, rows)


def explicit(raw: dict[str, Any], source: str, title: str) -> SchemaGuess:
    """A JSON Schema as an explicit target schema; its own title stays."""
    schema, assumed = explicit_schema(raw, source)
    if not schema.get("title"):
        schema = {"title": title, **schema}
    check = []
    if "original" in (schema.get("x-extract") or {}):
        kept = "answers are given in its form. Fields that you add here are added to them"
        check.append(f"the schema as it was is kept under x-extract.original: {kept}")
    return SchemaGuess(schema, assumed, check)


if __name__ == "__main__":
    sys.exit(main())
