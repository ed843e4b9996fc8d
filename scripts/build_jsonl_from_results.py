"""Join a table of labels with the page images: one training record per document, its answer the gold JSON.

Reads a table (results.json, JSONL, CSV or Excel), folders of page images, and a target schema. A row is one of:
flat (one row per list item; the schema's x-extract names the column of each field), a whole answer shaped like the
schema, or a mixture. Writes data/train.jsonl and, beside it, the dataset's schema without the fields that the table
has no column for.

Files beside --out list what was left over: labels without images, images without labels, documents with problems,
values that feed no field. Any of these makes the exit code 1; plain columns that feed no field do not.
With --allow-problems the exit code is 0, and the files are still written.

Records that came from another table are not replaced. --update merges by document (the new labels win).
--overwrite replaces all records.

    python scripts/build_jsonl_from_results.py --images-dir data/raw/combined --images-dir data/raw/bls_another
    python scripts/build_jsonl_from_results.py --results labels.csv --images-dir data/images \\
        --schema schemas/receipt.schema.json
    python scripts/build_jsonl_from_results.py --results reviewed.json --images-dir data/images --update
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from toolkit import console, options
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.files import MOST_SETTINGS_BYTES, argument_path, json_line, read_text, shown, write_jsonl, write_text
from toolkit.outputs import atomic_group, check_outputs, finish_group
from toolkit.pages.images import KINDS
from toolkit.records.dataset import ImageJoin, PageChoice, join_images, replaced_ids
from toolkit.records.label_account import NotUsed
from toolkit.records.label_fields import Suggestions
from toolkit.records.label_table import HeaderRows
from toolkit.records.labels import LabelFile, Labels, read_labels
from toolkit.records.origins import Source, merged_sources, noted, origin_of
from toolkit.records.prompt import Prompt, generated_prompt
from toolkit.records.record import gold_of
from toolkit.records.record_merge import Dataset, Merge, check_schema, merged, updated_prompt
from toolkit.schema.label_defaults import fitted_to_labels
from toolkit.schema.number_text import CONVENTIONS
from toolkit.schema.target import DEFAULT_SCHEMA, TargetSchema

RESULTS_PLACES = ("data/results.json", "results.json", "docs/results.json")


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument(
        "--results",
        type=argument_path,
        help="the table, a JSON list or JSONL of answers that name their document, or a folder of <document>.json "
        f"answers (default: the first of {', '.join(RESULTS_PLACES)})",
    )
    parser.add_argument("--sheet", help="sheet of an Excel file (default: the only one)")
    options.add_header_row(parser)
    parser.add_argument(
        "--mapping",
        type=argument_path,
        help='JSON that names your columns: {"document": "File", "columns": {"bl_number": "B/L No", '
        '"containers[].container_number": "Cntr"}}',
    )
    options.add_images_dir(parser, "searched below; repeat for more (default: data/images)")
    options.add_schema(parser, f"{DEFAULT_SCHEMA}; with --update the dataset's own")
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
        help="which images to use where a document has several kinds (default: pages, then single_page)",
    )
    parser.add_argument("--prompt", type=argument_path, help="file whose text replaces the generated instruction")
    options.add_decimal(
        parser, CONVENTIONS, "the table's numbers, if a field states none", "what fits all values of a field"
    )
    options.add_limit(parser, "documents that have images")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--update",
        action="store_true",
        help="merge into the records of --out by document: the new labels win, other records stay as they are",
    )
    existing.add_argument(
        "--overwrite", action="store_true", help="replace records of --out that came from another table"
    )
    parser.add_argument(
        "--allow-problems", action="store_true", help="exit 0 although documents or values were left out"
    )
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    choice = PageChoice(args.prefer, parse_pages(args.pages), args.limit)
    results = args.results or results_table()
    if not results.exists():
        raise StageError(f"file not found: {shown(results)}")
    out: Path = args.out
    check_outputs([(out, "")], [results, args.mapping, args.prompt, args.schema])
    if out.parent.is_dir():
        finish_group(out.parent)
    old = Dataset.read(out) if args.update and origin_of(out) is not None else None
    file = LabelFile(results, args.sheet, args.mapping, args.decimal, HeaderRows.parse(args.header_row))
    labels = read_labels(file, args.schema, old)
    prompt = prompt_of(args.prompt, labels.schema, old)
    schema_path = out.with_suffix(".schema.json")
    folders = args.images_dir or [Path("data/images")]
    join = join_images(labels, folders, choice, prompt, shown(schema_path), old.by_key if old else ())

    source = Source.of(results, args.sheet)
    keeps = args.update or args.overwrite
    before = replaced_ids(out, source, labels.documents) if join.records and not keeps else []
    gone = sorted(set(before) - {record["id"] for record in join.records})
    for sentence in labels.join.numbers.notes():
        say(sentence)
    report(out, join, labels.left_out, results)
    lost_values = report_values(out, labels)
    if not join.records:
        raise StageError(why_nothing(join), ExitCode.PROBLEMS)
    merge = merged(old, join.records)
    schema, settled = fitted_to_labels(labels.schema, (gold_of(record) or {} for record in merge.records.values()))
    for sentence in settled:
        say(sentence)
    if old:
        check_schema(old, schema, {line["document"] for line in merge.changes})
    sources = merged_sources(origin_of(out), out, source) if args.update else [source]
    raw = labels.join.numbers.stored_in(schema).raw
    if args.schema and args.schema.resolve() == schema_path.resolve() and raw != TargetSchema.load(args.schema).raw:
        raise StageError(f"{shown(args.schema)} would be replaced by the dataset's schema; choose another --out")
    with noted(out, sources), atomic_group(out.parent, [schema_path.name, out.name]) as (schema_out, records_out):
        schema_out.write(json.dumps(raw, ensure_ascii=False, indent=2) + "\n")
        records_out.writelines(map(json_line, merge.records.values()))

    if join.not_used:
        why = "another kind of picture of the same document (--prefer chooses), or a copy"
        say(f"{join.not_used} images not used: {why}")
    if gone:
        say(f"{len(gone)} documents of the earlier build are not in this one: {first_few(gone)}")
    changes = report_changes(out, merge, len(join.records)) if args.update else {}
    pages = sum(record.get("meta", {}).get("pages", 0) for record in merge.records.values())
    from_manifest = f" ({join.not_listed} of them in no manifest)" if join.not_listed else ""
    say(f"{len(merge.records)} records, {pages} page images{from_manifest} -> {shown(out)}")
    counts = {"records": len(merge.records), "pages": pages}
    result = counts | summary(labels, join) | changes | {"out": shown(out), "schema": shown(schema_path)}
    complete = join.is_complete and not lost_values
    return console.finish(args, result, ExitCode.OK if complete or args.allow_problems else ExitCode.PROBLEMS)


def results_table() -> Path:
    """The table where none is named. Raises StageError where none of the usual places has one."""
    for place in map(Path, RESULTS_PLACES):
        if place.is_file():
            return place
    raise StageError(f"no results table: none of {', '.join(RESULTS_PLACES)} exists; name it with --results FILE")


def prompt_of(file: Path | None, schema: TargetSchema, old: Dataset | None) -> Prompt:
    """The instruction of the records: the text of --prompt, that of the old records, or one made from the schema."""
    # Line ends of Windows would be tokens of the prompt.
    named = Prompt(read_text(file, MOST_SETTINGS_BYTES).replace("\r\n", "\n").strip()) if file else None
    return updated_prompt(old, schema, named) if old else named or generated_prompt(schema)


def summary(labels: Labels, join: ImageJoin) -> dict[str, Any]:
    """The counts of the build for --json."""
    return {
        "labels_without_images": len(join.without_images),
        "images_without_labels": len(join.without_labels),
        "images_leftover": len(join.leftover),
        "images_in_no_manifest": join.not_listed,
        "images_not_used": join.not_used,
        "documents_with_problems": len(join.problems),
        "documents_cut": len(join.cut),
        "fields_left_out": sorted(labels.left_out),
        "labels_not_used": {note.path: note.values for note in labels.join.account.not_used.values()},
        "values": join.account(labels),
    }


def parse_pages(text: str) -> int | None:
    if text == "all":
        return None
    if text == "first":
        return 1
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise StageError(f"--pages {text!r}: give all, first, or a number")


def report(out: Path, join: ImageJoin, left_out: set[str], results: Path) -> None:
    """Say and file what was left out; an empty list removes the file of an earlier run."""
    if left_out:
        say(f"{shown(results)} has no column for {first_few(sorted(left_out), 6)}: left out of this dataset's schema")
    stem = out.with_suffix("")
    lists = {
        "labels_without_images": join.without_images,
        "images_without_labels": join.without_labels,
        "documents_cut": join.cut,
    }
    for what, names in lists.items():
        path = Path(f"{stem}.{what}.txt")
        if write_names(path, names):
            say(f"{len(names)} {what.replace('_', ' ')}: {first_few(names)}; all in {shown(path)}")
    path = Path(f"{stem}.problems.jsonl")
    if join.problems:
        write_jsonl(path, join.problems)
        named = first_few(f"{p['document']}: {p['problems'][0]}" for p in join.problems)
        say(f"{len(join.problems)} documents with problems left out: {named}; all in {shown(path)}")
    else:
        path.unlink(missing_ok=True)
    path, leftover = Path(f"{stem}.leftover_images.txt"), sorted(join.leftover)
    if write_names(path, leftover):
        why = "leftover images not used, their document's manifest does not list them"
        say(f"{len(leftover)} {why}: {first_few(leftover)}; all in {shown(path)}")


def write_names(path: Path, names: list[str]) -> bool:
    """Write the names, one per line; without names remove the file of an earlier run. Returns whether there are any."""
    if names:
        write_text(path, "\n".join(names) + "\n")
    else:
        path.unlink(missing_ok=True)
    return bool(names)


def report_values(out: Path, labels: Labels) -> bool:
    """Say and file the values that feed no field.

    Returns True where some of them stood inside an answer: these are probably missed.
    """
    path, join = out.with_suffix(".labels_not_used.jsonl"), labels.join
    not_used = join.account.not_used
    if not not_used:
        path.unlink(missing_ok=True)
        return False
    suggestions = Suggestions(join.keys.root, labels.left_out)
    for note in not_used.values():
        near = "" if note.note else suggestions.near(note.path)
        note.note = note.note or (f"did you mean {near}?" if near else "")
    lines = []
    for note in not_used.values():
        place = {"path": note.path, "values": note.values, "first": note.first}
        lines.append(place | {"problem": not note.is_column, "note": note.note})
    write_jsonl(path, lines)
    columns = [note for note in not_used.values() if note.is_column]
    inside = [note for note in not_used.values() if not note.is_column]
    if columns:
        verb = "feeds" if len(columns) == 1 else "feed"
        few = few_notes(columns)
        say(f"{plural(len(columns), 'column')} of the table {verb} no field: {few}; all in {shown(path)}")
    if inside:
        verb = "feeds" if len(inside) == 1 else "feed"
        places = f"{plural(len(inside), 'place')} inside the labels {verb} no field"
        say(f"{places}, so the values there are in no record: {few_notes(inside)}; all in {shown(path)}")
    return bool(inside)


def why_nothing(join: ImageJoin) -> str:
    """Why no record can be made, and what to do."""
    if join.problems:
        count = plural(len(join.problems), "document")
        return f"no record can be made, nothing was written; correct the problems of the {count} named above"
    return (
        "no document has both a label and an image; nothing was written. "
        "Compare the file names in the two lists named above"
    )


def few_notes(notes: list[NotUsed]) -> str:
    """The first notes as `path (12 values; did you mean x?)`, those with something to say first."""
    ordered = sorted(notes, key=lambda note: not note.note)
    return first_few((f"{n.path} ({plural(n.values, 'value')}{f'; {n.note}' if n.note else ''})" for n in ordered), 6)


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def report_changes(out: Path, merge: Merge, given: int) -> dict[str, int]:
    """Say and file what an update changed; the counts for --json."""
    path = out.with_suffix(".changes.jsonl")
    counts = {"added": merge.count("added"), "replaced": merge.count("replaced"), "unchanged": merge.unchanged}
    counts["kept"] = len(merge.records) - given
    summary_text = ", ".join(f"{count} {name}" for name, count in counts.items())
    if merge.changes:
        write_jsonl(path, merge.changes)
        lines = {
            change: [line for line in merge.changes if line["change"] == change] for change in ("replaced", "added")
        }
        replaced = [f"{line['document']} ({first_few(line['fields'], 6)})" for line in lines["replaced"]]
        added = [line["document"] for line in lines["added"]]
        details = [f"replaced {first_few(replaced)}"] * bool(replaced) + [f"added {first_few(added)}"] * bool(added)
        say(f"{summary_text}: {'; '.join(details)}; all in {shown(path)}")
    else:
        path.unlink(missing_ok=True)
        say(summary_text)
    return counts


if __name__ == "__main__":
    sys.exit(main())
