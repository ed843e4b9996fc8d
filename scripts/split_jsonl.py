"""Split a JSONL by document group into train, val and test; copies of one document never lie on both sides.

Records are one group when they share a page image (pixel for pixel), the label key (the header fields that the schema marks with
"key"), the whole answer, or a --group-by field (shipper, say). The place of a group depends on its name and the seed only, so
adding documents never moves old ones; every stratum of pages and rows gets the ratios in expectation. --assign balanced meets
them exactly, and --keep FOLDER leaves an earlier split's documents where they are. What is alike on both sides
without being equal is listed in near_duplicates.jsonl, never dropped. Writes data/splits/{train,val,test}.jsonl and report.json.

    python scripts/split_jsonl.py --in data/train.jsonl --out-dir data/splits
    python scripts/split_jsonl.py --in data/train.jsonl --out-dir data/splits --ratios 90/10/0 --group-by consignee_name
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.files import (
    argument_path,
    atomic,
    iter_data_lines,
    read_jsonl,
    read_text,
    shown,
    write_json,
    write_problems,
)
from toolkit.fingerprints import PageFingerprint, key_of, page_fingerprint, text_sketch, words_of
from toolkit.records import answer_text, gold_of, images_of, read_records
from toolkit.splits import NAMES, Documents, assign, grouped, near_duplicates, stratum_of
from toolkit.target_schema import TargetSchema, value_at

BATCH = 500


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--in", dest="input", type=argument_path, required=True, help="the JSONL")
    parser.add_argument(
        "--out-dir", type=argument_path, default=Path("data/splits"), help="where to write (default: data/splits)"
    )
    parser.add_argument("--ratios", default="80/10/10", help="train/val/test in percent (default: 80/10/10)")
    parser.add_argument(
        "--group-by",
        action="append",
        default=[],
        metavar="FIELD",
        help="documents with the same value of this field stay together; repeat for more",
    )
    parser.add_argument(
        "--assign",
        choices=["hash", "balanced"],
        default="hash",
        help="hash: adding documents moves none; balanced: exact ratios by pages and rows (default: hash)",
    )
    parser.add_argument(
        "--keep",
        type=argument_path,
        default=None,
        metavar="FOLDER",
        help="an earlier split, whose documents stay in their files",
    )
    parser.add_argument(
        "--holdout-file", type=argument_path, default=None, help="ids, one a line, that go to test with their groups"
    )
    parser.add_argument(
        "--compare-images",
        choices=["pixels", "bytes", "names"],
        default="pixels",
        help="what makes two pages equal: decoded pixels, the file's bytes (faster), or only the path (default: pixels)",
    )
    parser.add_argument(
        "--near-text",
        type=float,
        default=0.8,
        help="report answers that share this part of their words (default: 0.8)",
    )
    parser.add_argument(
        "--near-bits",
        type=int,
        default=6,
        help="report first pages that differ in so many of 256 bits at most (default: 6)",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another split (default: 0)")
    parser.add_argument("--root", type=argument_path, default=Path(), help="folder that image paths are relative to")
    parser.add_argument("--workers", type=int, default=0, help="threads that read images; 0: one a core (default: 0)")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    ratios = parse_ratios(args.ratios)
    held_out = (
        {line.strip() for line in read_text(args.holdout_file).splitlines()} - {""} if args.holdout_file else set()
    )
    kept = earlier_split(args.keep) if args.keep else {}
    documents = read_documents(args)
    groups, joined = grouped(documents)
    places, moved = assign(
        documents, groups, ratios, args.seed, balanced=args.assign == "balanced", kept=kept, held_out=held_out
    )
    near, near_counts = near_duplicates(documents, places, text=args.near_text, bits=args.near_bits)
    write_splits(args.input, args.out_dir, places)

    sizes = {name: places.count(index) for index, name in enumerate(NAMES)}
    unknown = sorted(held_out - set(documents.ids))
    pairs = [
        {"held_out": documents.ids[n.held_out], "split": NAMES[places[n.held_out]], "train": documents.ids[n.train], "text": n.text, "image_bits": n.bits}
        for n in near
    ]  # fmt: skip
    strata: dict[str, list[int]] = {}
    for stratum, place in zip(documents.strata, places, strict=True):
        strata.setdefault(stratum, [0, 0, 0])[place] += 1
    result = {
        **sizes,
        "groups": len(groups),
        "records_in_larger_groups": sum(len(g) for g in groups if len(g) > 1),
        "near_duplicates": near_counts["near_duplicates"],
        "out_dir": shown(args.out_dir),
    }
    say(
        ", ".join(f"{name} {size}" for name, size in sizes.items())
        + f" documents, {len(groups)} groups -> {shown(args.out_dir)}"
    )
    if joined["common_pages"]:
        say(
            f"{joined['common_pages']} pages stand in more than five different documents (a form's back, a cover): they join none"
        )
    if moved:
        say(
            f"{len(moved)} documents could not stay where {shown(args.keep)} has them, their group lay on both sides or is held out: {first_few(moved)}"
        )
    if near:
        say(
            f"{near_counts['near_duplicates']} held-out documents look like one in train: "
            + first_few(f"{p['held_out']} ~ {p['train']}" for p in pairs)
        )
    if near_counts["pictures_compared"] < near_counts["pictures"]:
        say(f"only {near_counts['pictures_compared']} of {near_counts['pictures']} held-out pages were compared with train by their pictures")  # fmt: skip
    write_problems(args.out_dir / "near_duplicates.jsonl", pairs, say)
    if unknown:
        say(f"{len(unknown)} ids of {shown(args.holdout_file)} are in no record: {first_few(unknown)}")
    empty = [name for name, ratio in zip(NAMES, ratios, strict=True) if ratio > 0 and not sizes[name]]
    if empty:
        say(
            f"note: {' and '.join(empty)} got no document; with {len(groups)} groups the ratios {args.ratios} leave it empty, add documents or change --ratios"
        )
    thin = [name for name, ratio in zip(NAMES, ratios, strict=True) if 0 < sizes[name] < ratio * len(documents) / 2]
    if thin and args.assign == "hash":
        say(f"note: {' and '.join(thin)} got less than half its share by chance; --assign balanced meets the ratios")
    write_json(
        args.out_dir / "report.json",
        {**result, "joined_by": joined, **near_counts, "moved": moved, "unknown_holdout_ids": unknown,
         "strata": {name: dict(zip(NAMES, strata[name], strict=True)) for name in sorted(strata)},
         "ratios": args.ratios, "assign": args.assign, "seed": args.seed, "group_by": args.group_by,
         "compare_images": args.compare_images, "near_text": args.near_text, "near_bits": args.near_bits, "input": shown(args.input)},
    )  # fmt: skip
    return console.finish(args, result, ExitCode.PROBLEMS if unknown else ExitCode.OK)


def parse_ratios(text: str) -> list[float]:
    try:
        parts = [float(part) for part in text.replace(",", "/").split("/")]
    except ValueError:
        parts = []
    if len(parts) != 3 or min(parts, default=-1) < 0 or sum(parts) <= 0:
        raise StageError(f"--ratios {text!r}: give three numbers, for example 80/10/10")
    return [part / sum(parts) for part in parts]


def earlier_split(folder: Path) -> dict[str, int]:
    """`{id: index of the split}` of an earlier split's files."""
    files = {index: folder / f"{name}.jsonl" for index, name in enumerate(NAMES)}
    if not any(path.is_file() for path in files.values()):
        raise StageError(f"--keep {shown(folder)}: no {', '.join(f'{name}.jsonl' for name in NAMES)} there")
    return {record["id"]: index for index, path in files.items() if path.is_file() for _, record in read_jsonl(path)}


def read_documents(args: Any) -> Documents:
    """One pass over the records; the pages are read by threads, a batch of records at a time."""
    documents = Documents()
    stream = console.progress(read_records(args.input), total=None, what="records")
    with ThreadPoolExecutor(args.workers or os.cpu_count() or 1) as pool:
        for batch in batches(stream):
            images = [(record["id"], image) for record in batch for image in images_of(record)]
            prints = pool.map(lambda one: fingerprint(one[0], args.root / one[1], args.compare_images), images)
            for record in batch:
                pages = list(itertools.islice(prints, len(images_of(record))))
                add_record(documents, record, pages, args.group_by)
    return documents


def batches(stream: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while batch := list(itertools.islice(stream, BATCH)):
        yield batch


def fingerprint(identity: str, path: Path, compare: str) -> PageFingerprint:
    try:
        return page_fingerprint(path, compare)
    except FileNotFoundError:
        raise StageError(f"record {identity!r}: image not found: {shown(path)}; run verify_image_paths.py") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise StageError(
            f"record {identity!r}: {shown(path)} cannot be read ({reason}); run verify_image_paths.py"
        ) from None


def add_record(documents: Documents, record: dict[str, Any], pages: list[PageFingerprint], group_by: list[str]) -> None:
    try:
        gold = gold_of(record) or {}
    except ValueError as error:
        raise StageError(f"record {record['id']!r}: the answer is not JSON: {error}; run validate_jsonl.py") from None
    schema = schema_of(record.get("meta", {}).get("schema"))
    keys = [("image", page.key) for page in pages if page.key is not None]
    if answer := answer_text(record):
        keys.append(("answer", key_of("answer", answer)))
    if label := label_key(schema, gold):
        keys.append(("label", key_of("label", label)))
    for field in group_by:
        value = value_at(gold, tuple(field.split(".")))
        value = record.get("meta", {}).get(field) if value is None else value
        if value is not None:
            keys.append(("group-by", key_of("group-by", f"{field}\0{' '.join(str(value).casefold().split())}")))
    rows = max((len(value_at(gold, rows.path) or []) for rows in schema.lists), default=0) if schema else 0
    look = next((page.look for page in pages if page.look), None)
    documents.add(record["id"], stratum_of(len(pages), rows), keys, text_sketch(words_of(gold)), look)


@cache
def schema_of(name: str | None) -> TargetSchema | None:
    """The record's own target schema; without one there are no label keys and no rows to count."""
    if name is None or not Path(name).is_file():
        say(f"note: {f'the schema {name} is not there' if name else 'records name no schema in meta.schema'}; label keys and rows are not looked at")  # fmt: skip
        return None
    return TargetSchema.load(Path(name))


def label_key(schema: TargetSchema | None, gold: dict[str, Any]) -> str:
    """The values of the header fields that identify a document; empty where the schema marks none or one is absent."""
    leaves = [leaf for leaf in schema.header if leaf.is_key] if schema else []
    values = [value_at(gold, leaf.path) for leaf in leaves]
    if not leaves or any(value in (None, "") for value in values):
        return ""
    return "\0".join("".join(ch for ch in str(value).upper() if ch.isalnum()) for value in values)


def write_splits(path: Path, out_dir: Path, places: bytearray) -> None:
    """Copy every line of `path` to the file of its split; all three appear when all are written."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(atomic(out_dir / f"{name}.jsonl", "wb")) for name in NAMES]
        for place, (_, line) in zip(places, iter_data_lines(path), strict=True):
            files[place].write(line + b"\n")


if __name__ == "__main__":
    sys.exit(main())
