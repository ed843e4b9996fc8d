"""Join a results table with the page images: one training record per document, all its pages, the gold JSON as the answer.

Reads results.json (also JSONL, CSV or Excel), image folders and a target schema; the schema's x-extract says which column feeds
which field. Writes data/train.jsonl, the dataset's schema beside it (fields whose column the table lacks are left out),
and what was left over: labels without images, images without labels, documents with problems. Any of these makes the
exit code 1; --allow-problems makes it 0 (they are still counted and listed).

    python scripts/build_jsonl_from_results.py --images-dir data/raw/combined --images-dir data/raw/bls_another
    python scripts/build_jsonl_from_results.py --results labels.csv --schema schemas/receipt.schema.json --images-dir data/images
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.files import argument_path, read_json, read_text, sha256_of, shown, write_json, write_jsonl, write_text
from toolkit.label_table import LabelledDocument, absent_columns, fold, labelled_documents, read_rows
from toolkit.number_columns import NumberColumns
from toolkit.number_text import CONVENTIONS
from toolkit.page_images import IMAGE_SUFFIXES, KINDS, DocumentImages, match_images, page_gaps
from toolkit.prompt import Prompt, generated_prompt
from toolkit.records import make_record
from toolkit.target_schema import DEFAULT_SCHEMA, TargetSchema, compact_json

RESULTS_PLACES = ("data/results.json", "results.json", "docs/results.json")


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument(
        "--results",
        type=argument_path,
        default=None,
        help=f"the table (default: the first of {', '.join(RESULTS_PLACES)})",
    )
    parser.add_argument("--sheet", default=None, help="sheet of an Excel file (default: the only one)")
    parser.add_argument(
        "--mapping",
        type=argument_path,
        default=None,
        help='JSON that names your columns: {"document": "File", "columns": {"bl_number": "B/L No", "containers[].container_number": "Cntr"}}',
    )
    parser.add_argument(
        "--images-dir",
        type=argument_path,
        action="append",
        default=[],
        help="folder of page images, searched below; repeat for more (default: data/images)",
    )
    parser.add_argument(
        "--schema", type=argument_path, default=Path(DEFAULT_SCHEMA), help=f"target schema (default: {DEFAULT_SCHEMA})"
    )
    parser.add_argument(
        "--out",
        type=argument_path,
        default=Path("data/train.jsonl"),
        help="records to write (default: data/train.jsonl)",
    )
    parser.add_argument(
        "--pages",
        default="all",
        help="all, first, or the number of pages at most; a cut document is reported (default: all)",
    )
    parser.add_argument(
        "--prefer",
        choices=KINDS,
        default=None,
        help="which images to use where a document has several kinds (default: pages, then single_page)",
    )
    parser.add_argument(
        "--prompt", type=argument_path, default=None, help="file whose text replaces the generated instruction"
    )
    parser.add_argument(
        "--decimal",
        choices=CONVENTIONS,
        default=None,
        help="decimal sign of the table's numbers, if a field states none (default: what fits all values of a field)",
    )
    parser.add_argument("--limit", type=int, default=None, help="only the first N documents that have images")
    parser.add_argument("--allow-problems", action="store_true", help="exit 0 although documents were left out")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    page_limit = parse_pages(args.pages)
    results = args.results or next((Path(place) for place in RESULTS_PLACES if Path(place).is_file()), None)
    if results is None:
        raise StageError(f"no results table: none of {', '.join(RESULTS_PLACES)} exists; name it with --results FILE")
    table = read_rows(results, args.sheet)
    wanted = TargetSchema.load(args.schema)
    if args.mapping:
        wanted = mapped_schema(wanted, args.mapping, table, results)
    schema, left_out = dataset_schema(wanted, table)
    # Line ends of Windows would be tokens of the prompt.
    text = read_text(args.prompt).replace("\r\n", "\n").strip() if args.prompt else ""
    prompt = Prompt(text) if args.prompt else generated_prompt(schema)
    images = list_images(args.images_dir or [Path("data/images")])
    numbers = NumberColumns(args.decimal)
    documents, problems = unambiguous(list(labelled_documents(schema, table, numbers)))
    found, images_left = match_images(images, (document.key for document in documents))

    schema_path = args.out.with_suffix(".schema.json")
    schema_name = shown(schema_path)
    records: list[dict[str, Any]] = []
    without_images: list[str] = []
    cut: list[str] = []
    not_used = 0
    for document in documents:
        if document.key not in found:
            without_images.append(document.file_name)
            continue
        kind, pages, trouble = choose_pages(found[document.key], args.prefer)
        pictures = (paths for numbers in found[document.key].kinds.values() for paths in numbers.values())
        not_used += sum(len(paths) for paths in pictures) - len(pages)
        trouble = document.problems + trouble
        if trouble:
            problems.append({"document": document.file_name, "problems": trouble})
            continue
        if page_limit is not None and len(pages) > page_limit:
            cut.append(document.file_name)
            pages = pages[:page_limit]
        if args.limit is not None and len(records) >= args.limit:
            continue
        meta = {"schema": schema_name, "source": document.file_name, "pages": len(pages), "images": kind}
        records.append(make_record(document.file_name, pages, prompt, compact_json(document.answer), meta))
    for sentence in numbers.notes():
        say(sentence)
    report(args, records, left_out, without_images, images_left, problems, cut, results)
    if not records:
        raise StageError(
            "no document has both a label and an image; nothing was written. Compare the file names in the two lists named above",
            ExitCode.PROBLEMS,
        )
    write_json(schema_path, numbers.stored_in(schema).raw)
    write_jsonl(args.out, records)
    if not_used:
        say(f"{not_used} images not used: another kind of picture of the same document (--prefer chooses), or a copy")
    pages = sum(record["meta"]["pages"] for record in records)
    say(f"{len(records)} records, {pages} page images -> {shown(args.out)}")
    left = bool(without_images or images_left or problems or cut)
    result = {"records": len(records), "pages": pages, "labels_without_images": len(without_images), "images_without_labels": len(images_left),
              "documents_with_problems": len(problems), "documents_cut": len(cut), "images_not_used": not_used, "fields_left_out": sorted(left_out), "out": shown(args.out), "schema": shown(schema_path)}  # fmt: skip
    return console.finish(args, result, ExitCode.PROBLEMS if left and not args.allow_problems else ExitCode.OK)


def parse_pages(text: str) -> int | None:
    if text == "all":
        return None
    if text == "first":
        return 1
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise StageError(f"--pages {text!r}: give all, first, or a number")


def mapped_schema(
    schema: TargetSchema, mapping: Path, table: list[tuple[str, dict[str, Any]]], results: Path
) -> TargetSchema:
    """The schema reading the columns that --mapping names; a named column that the table lacks is a mistake, not a gap."""
    value = read_json(mapping)
    if not isinstance(value, dict):
        raise StageError(f"{shown(mapping)}: a JSON object is needed")
    mapped = schema.with_columns(value, shown(mapping))
    columns = {fold(str(column)) for _, row in table for column in row}
    named = [value.get("document"), *value.get("columns", {}).values()]
    for names in ([name] if isinstance(name, str) else name or [] for name in named):
        if names and not any(fold(name) in columns for name in names):
            there = first_few(sorted({str(column) for _, row in table for column in row}), 8)
            raise StageError(f"{shown(mapping)}: {shown(results)} has no column {names[0]!r}; it has {there}")
    return mapped


def dataset_schema(schema: TargetSchema, table: list[tuple[str, dict[str, Any]]]) -> tuple[TargetSchema, set[str]]:
    """The schema less the fields whose column the table does not have, and their names."""
    columns = {str(column) for _, row in table for column in row}
    left_out = absent_columns(schema, columns)
    if len(left_out) >= len(schema.header) + len(schema.lists) and left_out >= {leaf.name for leaf in schema.header}:
        raise StageError(
            f"the table has none of the schema's columns ({first_few(sorted(columns), 6)}); is {schema.source} the right --schema?"
        )
    return (schema.without(left_out) if left_out else schema), left_out


def list_images(folders: list[Path]) -> list[str]:
    """POSIX paths of every image below the folders, sorted."""
    images: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise StageError(f"image folder not found: {shown(folder)}")
        below = [
            os.path.join(root, name)
            for root, _, names in os.walk(folder)
            for name in names
            if name.lower().endswith(IMAGE_SUFFIXES)
        ]
        images += [
            Path(os.path.relpath(path)).as_posix() if not Path(path).is_absolute() else shown(path) for path in below
        ]
    return sorted(set(images))


def unambiguous(documents: list[LabelledDocument]) -> tuple[list[LabelledDocument], list[dict[str, Any]]]:
    """Documents whose names differ for matching; two labels that want the same images are a problem that names both."""
    owners: dict[str, list[LabelledDocument]] = {}
    for document in documents:
        owners.setdefault(document.key, []).append(document)
    problems = [
        {
            "document": same[0].file_name,
            "problems": [f"its images cannot be told from those of {other.file_name!r}" for other in same[1:]],
        }
        for same in owners.values()
        if len(same) > 1
    ]
    return [same[0] for same in owners.values() if len(same) == 1], problems


def choose_pages(images: DocumentImages, prefer: str | None) -> tuple[str, list[str], list[str]]:
    """`(kind, page images in order, problems)` of one document."""
    kind = images.choose(prefer)
    numbers = images.kinds[kind]
    problems = []
    pages = []
    for number in sorted(numbers):
        paths = numbers[number]
        if len(paths) > 1 and len({sha256_of(path) for path in paths}) > 1:
            problems.append(f"page {number}: {paths[0]} and {paths[1]} differ and both claim to be it")
        pages.append(paths[0])
    if kind == "pages" and (gaps := page_gaps(numbers)):
        problems.append(f"page {first_few(map(str, gaps))} missing before {Path(pages[-1]).name}")
    return kind, pages, problems


def report(
    args: Any,
    records: list[Any],
    left_out: set[str],
    without_images: list[str],
    images_left: list[str],
    problems: list[dict[str, Any]],
    cut: list[str],
    results: Path,
) -> None:
    """Say and file what was left out; an empty list removes the file of an earlier run."""
    stem = args.out.with_suffix("")
    if left_out:
        say(f"{shown(results)} has no column for {first_few(sorted(left_out), 6)}: left out of this dataset's schema")
    for what, names in (
        ("labels_without_images", without_images),
        ("images_without_labels", images_left),
        ("documents_cut", cut),
    ):
        path = Path(f"{stem}.{what}.txt")
        if names:
            write_text(path, "\n".join(names) + "\n")
            say(f"{len(names)} {what.replace('_', ' ')}: {first_few(names)}; all in {shown(path)}")
        else:
            path.unlink(missing_ok=True)
    path = Path(f"{stem}.problems.jsonl")
    if problems:
        write_jsonl(path, problems)
        say(
            f"{len(problems)} documents with problems left out: "
            + first_few(f"{p['document']}: {p['problems'][0]}" for p in problems)
            + f"; all in {shown(path)}"
        )
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
