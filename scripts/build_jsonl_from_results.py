"""Join a labels table with the page images: one training record per document, all its pages, the gold JSON as the answer.

Reads results.json (also JSONL, CSV or Excel), image folders and a target schema. A row is flat (one per list item; the schema's
x-extract says which column feeds which field), or a whole answer shaped like the schema, or a mixture. Writes
data/train.jsonl, the dataset's schema beside it (fields whose column the table lacks are left out), and what was left over:
labels without images, images without labels, documents with problems, values that feed no field. Any of these makes the
exit code 1, but for plain columns that feed no field; --allow-problems makes it 0 (they are still counted and listed).

Records of another table are not replaced: --update merges by document (the new labels win), --overwrite replaces them all.

    python scripts/build_jsonl_from_results.py --images-dir data/raw/combined --images-dir data/raw/bls_another
    python scripts/build_jsonl_from_results.py --results labels.csv --schema schemas/receipt.schema.json --images-dir data/images
    python scripts/build_jsonl_from_results.py --results reviewed.json --images-dir data/images --update
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.files import (
    argument_path,
    is_temporary,
    name_problem,
    read_json,
    read_jsonl,
    read_text,
    sha256_of,
    shown,
    write_json,
    write_jsonl,
    write_text,
)
from toolkit.pages.images import IMAGE_SUFFIXES, KINDS, DocumentImages, match_images, page_gaps
from toolkit.pages.manifest import PageCatalog, path_in_records
from toolkit.records.label_account import LabelledDocument, NotUsed
from toolkit.records.label_fields import Suggestions
from toolkit.records.label_join import LabelJoin, is_empty, narrowed
from toolkit.records.label_table import Table, fold, read_table
from toolkit.records.origins import Source, merged_sources, noted, origin_of, why_not_replace
from toolkit.records.prompt import Prompt, generated_prompt
from toolkit.records.record import make_record
from toolkit.records.record_merge import Dataset, Merge, check_schema, merged, updated_prompt
from toolkit.schema.number_text import CONVENTIONS
from toolkit.schema.target import DEFAULT_SCHEMA, TargetSchema, compact_json

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
        "--schema",
        type=argument_path,
        default=None,
        help=f"target schema (default: {DEFAULT_SCHEMA}; with --update the dataset's own)",
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


@dataclass(frozen=True)
class Labels:
    """The labels as documents; `schema` is the dataset's own, less the fields that the table lacks: `left_out`."""

    documents: list[LabelledDocument]
    schema: TargetSchema
    left_out: set[str]
    join: LabelJoin


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    page_limit = parse_pages(args.pages)
    results = args.results or next((Path(place) for place in RESULTS_PLACES if Path(place).is_file()), None)
    if results is None:
        raise StageError(f"no results table: none of {', '.join(RESULTS_PLACES)} exists; name it with --results FILE")
    if not results.exists():
        raise StageError(f"file not found: {shown(results)}")
    old = Dataset.read(args.out) if args.update and origin_of(args.out) is not None else None
    labels = read_labels(args, results, old)
    schema = labels.schema
    # Line ends of Windows would be tokens of the prompt.
    text = read_text(args.prompt).replace("\r\n", "\n").strip() if args.prompt else ""
    given_prompt = Prompt(text) if args.prompt else None
    prompt = updated_prompt(old, schema, given_prompt) if old else given_prompt or generated_prompt(schema)
    folders = args.images_dir or [Path("data/images")]
    images, unnameable = list_images(folders)
    catalog = PageCatalog(folders)
    documents, problems = unambiguous(labels.documents)
    problems += unnameable
    # Images of records that only stay belong to a label, too.
    keys = {document.key for document in documents} | set(old.by_key if old else ())
    # Listed pages whose file is gone are matched too: they are a problem of their document.
    found, not_matched = match_images(sorted({*images, *catalog.by_image}), keys)
    on_disk = set(images)
    images_left = [path for path in not_matched if path in on_disk]

    schema_path = args.out.with_suffix(".schema.json")
    schema_name = shown(schema_path)
    records: list[dict[str, Any]] = []
    without_images: list[str] = []
    cut: list[str] = []
    leftover: list[str] = []
    not_used = not_listed = 0
    values: Counter[str] = Counter()
    for document in documents:
        if document.key not in found:
            without_images.append(document.file_name)
            values["without_images"] += document.values
            continue
        pictures = [p for kind in found[document.key].kinds.values() for paths in kind.values() for p in paths]
        kind, pages, others, trouble = choose_pages(found[document.key], args.prefer, catalog)
        leftover += others
        not_used += len(on_disk.intersection(pictures) - {*pages, *others})
        trouble = document.problems + trouble
        if trouble:
            problems.append({"document": document.file_name, "problems": trouble})
            continue
        if page_limit is not None and len(pages) > page_limit:
            cut.append(document.file_name)
            pages = pages[:page_limit]
        if args.limit is not None and len(records) >= args.limit:
            values["beyond_limit"] += document.values
            continue
        values["used"] += document.values
        not_listed += sum(page not in catalog.by_image for page in pages)
        meta = {"schema": schema_name, "source": document.file_name, "pages": len(pages), "images": kind}
        records.append(make_record(document.file_name, pages, prompt, compact_json(document.answer), meta))
    source = Source.of(results, args.sheet)
    gone = lost_documents(args, source, labels.documents, records) if records and not args.update else []
    for sentence in labels.join.numbers.notes():
        say(sentence)
    report(args, records, labels.left_out, without_images, images_left, problems, cut, results)
    report_leftover(args.out, leftover)
    lost_values = report_values(args, labels)
    if not records:
        raise StageError(
            "no document has both a label and an image; nothing was written. Compare the file names in the two lists named above",
            ExitCode.PROBLEMS,
        )
    merge = merged(old, records)
    if old:
        check_schema(old, schema, {line["document"] for line in merge.changes})
    sources = merged_sources(origin_of(args.out), args.out, source) if args.update else [source]
    write_json(schema_path, labels.join.numbers.stored_in(schema).raw)
    with noted(args.out, sources):
        write_jsonl(args.out, merge.records.values())
    if not_used:
        say(f"{not_used} images not used: another kind of picture of the same document (--prefer chooses), or a copy")
    if gone:
        say(f"{len(gone)} documents of the earlier build are not in this one: {first_few(gone)}")
    changes = report_changes(args, merge, len(records)) if args.update else {}
    page_count = sum(record.get("meta", {}).get("pages", 0) for record in merge.records.values())
    from_manifest = f" ({not_listed} of them in no manifest)" if not_listed else ""
    say(f"{len(merge.records)} records, {page_count} page images{from_manifest} -> {shown(args.out)}")
    left = bool(without_images or images_left or problems or cut or leftover or lost_values)
    result: dict[str, Any] = {
        "records": len(merge.records),
        "pages": page_count,
        "labels_without_images": len(without_images),
        "images_without_labels": len(images_left),
        "images_leftover": len(leftover),
        "images_in_no_manifest": not_listed,
        "images_not_used": not_used,
        "documents_with_problems": len(problems),
        "documents_cut": len(cut),
        "fields_left_out": sorted(labels.left_out),
        "labels_not_used": {note.path: note.values for note in labels.join.account.not_used.values()},
        "values": account(labels, values),
        **changes,
        "out": shown(args.out),
        "schema": shown(schema_path),
    }
    return console.finish(args, result, ExitCode.PROBLEMS if left and not args.allow_problems else ExitCode.OK)


def read_labels(args: Any, results: Path, old: Dataset | None) -> Labels:
    """The table, and the schema that the dataset has: the one asked for, less what the table lacks; with --update the old one."""
    wanted = old.schema if old and not args.schema else TargetSchema.load(args.schema or DEFAULT_SCHEMA)
    mapping = read_json(args.mapping) if args.mapping else None
    if mapping is not None:
        if not isinstance(mapping, dict):
            raise StageError(f"{shown(args.mapping)}: a JSON object is needed")
        wanted = wanted.with_columns(mapping, shown(args.mapping))
    table = read_table(results, args.sheet, wanted.document_columns)
    if mapping is not None:
        check_mapping(mapping, args.mapping, table, results)
    join = LabelJoin(wanted, args.decimal)
    join.add_beside(table.beside, shown(results))
    documents = list(join.documents(table.rows))
    left_out = join.keys.without_column()
    if left_out >= {leaf.name for leaf in wanted.header} | {found.name for found in wanted.lists}:
        columns = sorted({str(column) for _, row in table.rows for column in row})
        raise StageError(
            f"the table has none of the schema's columns ({first_few(columns, 6)}); is {wanted.source} the right --schema?"
        )
    schema = wanted.without(left_out) if left_out else wanted
    if old and (extra := fields_not_in(old, schema, documents, results)):
        schema = schema.without(extra)
    for document in documents:
        document.answer = narrowed(document.answer, schema.raw)
    return Labels(documents, schema, left_out, join)


def fields_not_in(old: Dataset, schema: TargetSchema, documents: list[LabelledDocument], results: Path) -> set[str]:
    """Fields that the labels have and the old records lack. Raises StageError where values of either would be lost."""
    new_fields, old_fields = ({leaf.name for leaf in one.leaves} for one in (schema, old.schema))
    if lacking := sorted(old_fields - new_fields):
        raise StageError(
            f"{shown(results)} has no column for {first_few(lacking, 6)}, which the records of {shown(old.path)} have; "
            "add it, or build into another --out"
        )
    extra = new_fields - old_fields
    if not extra:
        return set()
    only_extra = schema.without(old_fields)
    if filled := [one.file_name for one in documents if not is_empty(narrowed(one.answer, only_extra.raw))]:
        raise StageError(
            f"{shown(old.path)} has no field {first_few(sorted(extra), 6)}, for which {shown(results)} has values "
            f"({first_few(filled, 2)}); leave --schema out to do without, or build all documents anew with --overwrite"
        )
    return extra


def account(labels: Labels, values: Counter[str]) -> dict[str, int]:
    """What became of every value of the table; the parts add up to `given`. `values` counts what is in no problem."""
    book = labels.join.account
    mapped = sum(document.values for document in labels.documents)
    return {
        "given": book.given,
        "used": values["used"],
        "not_mapped": sum(note.values for note in book.not_used.values()),
        "with_problems": mapped - values.total(),
        "without_images": values["without_images"],
        "beyond_limit": values["beyond_limit"],
        "blank": book.blank,
    }


def parse_pages(text: str) -> int | None:
    if text == "all":
        return None
    if text == "first":
        return 1
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise StageError(f"--pages {text!r}: give all, first, or a number")


def check_mapping(mapping: dict[str, Any], path: Path, table: Table, results: Path) -> None:
    """A column that --mapping names and the table lacks is a mistake, not a gap. Raises StageError for it."""
    columns = {fold(key) for _, row in table.rows for key in keys_of(row)}
    named = [mapping.get("document"), *mapping.get("columns", {}).values()]
    for names in ([name] if isinstance(name, str) else name or [] for name in named):
        if names and not any(fold(name) in columns for name in names):
            there = first_few(sorted({str(column) for _, row in table.rows for column in row}), 8)
            raise StageError(f"{shown(path)}: {shown(results)} has no column {names[0]!r}; it has {there}")


def keys_of(value: Any) -> Iterator[str]:
    """Every key of a row, and of the objects inside it."""
    if isinstance(value, dict):
        yield from value
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from keys_of(item)


def list_images(folders: list[Path]) -> tuple[list[str], list[dict[str, Any]]]:
    """POSIX paths of every image below the folders, sorted, and a problem for each whose path no record can hold."""
    images: set[str] = set()
    unnameable: dict[str, str] = {}
    for folder in folders:
        if not folder.is_dir():
            raise StageError(f"image folder not found: {shown(folder)}")
        for root, below, names in os.walk(folder):
            below[:] = [name for name in below if not is_temporary(Path(name))]
            for name in names:
                if not name.lower().endswith(IMAGE_SUFFIXES):
                    continue
                path = Path(root, name)
                if problem := name_problem(path):
                    unnameable[shown(path)] = problem
                else:
                    images.add(path_in_records(path))
    problems = [{"document": path, "problems": [problem]} for path, problem in sorted(unnameable.items())]
    return sorted(images), problems


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


def choose_pages(
    images: DocumentImages, prefer: str | None, catalog: PageCatalog
) -> tuple[str, list[str], list[str], list[str]]:
    """`(kind, page images in order, leftover images, problems)` of one document.

    Where a manifest lists its pages, exactly these are used; its other page images are leftovers of an earlier one.
    """
    kind = images.choose(prefer)
    leftover, problems = catalog.settle(images) if kind == "pages" else ([], [])
    if problems:
        return kind, [], leftover, problems
    numbers = images.kinds[kind]
    pages = []
    for number in sorted(numbers):
        paths = numbers[number]
        if len(paths) > 1 and len({sha256_of(path) for path in paths}) > 1:
            problems.append(f"page {number}: {paths[0]} and {paths[1]} differ and both claim to be it")
        pages.append(paths[0])
    if kind == "pages" and (gaps := page_gaps(numbers)):
        problems.append(f"page {first_few(map(str, gaps))} missing before {Path(pages[-1]).name}")
    return kind, pages, leftover, problems


def report_leftover(out: Path, leftover: list[str]) -> None:
    """Say and file the page images that a manifest knows no more; none removes the file of an earlier run."""
    path = Path(f"{out.with_suffix('')}.leftover_images.txt")
    if leftover:
        write_text(path, "\n".join(sorted(leftover)) + "\n")
        say(
            f"{len(leftover)} leftover images not used, their document's manifest does not list them: "
            f"{first_few(sorted(leftover))}; all in {shown(path)}"
        )
    else:
        path.unlink(missing_ok=True)


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


def report_values(args: Any, labels: Labels) -> bool:
    """Say and file the values that feed no field; True where some of them were part of an answer, so are probably missed."""
    path, join = args.out.with_suffix(".labels_not_used.jsonl"), labels.join
    not_used = join.account.not_used
    if not not_used:
        path.unlink(missing_ok=True)
        return False
    suggestions = Suggestions(join.keys.root, labels.left_out)
    for note in not_used.values():
        near = "" if note.note else suggestions.near(note.path)
        note.note = note.note or (f"did you mean {near}?" if near else "")
    lines = [
        {
            "path": note.path,
            "values": note.values,
            "first": note.first,
            "problem": not note.is_column,
            "note": note.note,
        }
        for note in not_used.values()
    ]
    write_jsonl(path, lines)
    columns = [note for note in not_used.values() if note.is_column]
    inside = [note for note in not_used.values() if not note.is_column]
    if columns:
        say(f"{plural(len(columns), 'column')} of the table feed no field: {few_notes(columns)}; all in {shown(path)}")
    if inside:
        say(
            f"{plural(len(inside), 'place')} inside the labels feed no field, so their values are in no record: {few_notes(inside)}; all in {shown(path)}"
        )
    return bool(inside)


def few_notes(notes: list[NotUsed]) -> str:
    """The first notes as `path (12 values; did you mean x?)`, those with something to say first."""
    ordered = sorted(notes, key=lambda note: not note.note)
    return first_few((f"{n.path} ({plural(n.values, 'value')}{f'; {n.note}' if n.note else ''})" for n in ordered), 6)


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def lost_documents(
    args: Any, source: Source, labelled: list[LabelledDocument], records: list[dict[str, Any]]
) -> list[str]:
    """Ids of records in --out that the new ones do not replace. Raises StageError where they came from another table."""
    origin = origin_of(args.out)
    if origin is None:
        return []
    if args.overwrite:
        return []
    reason = why_not_replace(args.out, origin, source)
    before: list[str] = []
    if not reason:
        before = [str(record["id"]) for _, record in read_jsonl(args.out)]
        names = {document.file_name for document in labelled}
        if before and names.isdisjoint(before) and all(known.sha256 != source.sha256 for known in origin.sources):
            reason = f"holds records of other documents, from an earlier {source.name}"
    if reason:
        raise StageError(
            f"{shown(args.out)} {reason}; merge {source.name} into it with --update, replace it with --overwrite, "
            "or choose another --out"
        )
    return sorted(set(before) - {record["id"] for record in records})


def report_changes(args: Any, merge: Merge, given: int) -> dict[str, int]:
    """Say and file what an update changed; the counts for --json."""
    path = args.out.with_suffix(".changes.jsonl")
    counts = {"added": merge.count("added"), "replaced": merge.count("replaced"), "unchanged": merge.unchanged}
    counts["kept"] = len(merge.records) - given
    said = ", ".join(f"{count} {name}" for name, count in counts.items())
    if merge.changes:
        write_jsonl(path, merge.changes)
        replaced = [
            f"{line['document']} ({first_few(line['fields'], 6)})"
            for line in merge.changes
            if line["change"] == "replaced"
        ]
        added = [line["document"] for line in merge.changes if line["change"] == "added"]
        details = [f"replaced {first_few(replaced)}"] * bool(replaced) + [f"added {first_few(added)}"] * bool(added)
        say(f"{said}: {'; '.join(details)}; all in {shown(path)}")
    else:
        path.unlink(missing_ok=True)
        say(said)
    return counts


if __name__ == "__main__":
    sys.exit(main())
