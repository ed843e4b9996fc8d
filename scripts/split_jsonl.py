"""Split a JSONL into train, val and test so that copies of one document never lie in two of them.

Records belong to one group when they share one of: a page image (pixel for pixel), the label key (the header fields
that the schema marks with "key"), the whole answer, or a --group-by field such as the shipper. A group is never split.

Where --out-dir already holds a split of this data, its documents stay where they are, unless --reassign. A new
document goes where its group lies. Without a group its place depends only on the seed and on its --group-by value,
label key or page.

Documents that are alike in two splits without being equal are listed in near_duplicates.jsonl; none is dropped.
Writes data/splits/{train,val,test}.jsonl and report.json.

    python scripts/split_jsonl.py --in data/train.jsonl --out-dir data/splits
    python scripts/split_jsonl.py --in data/train.jsonl --out-dir data/splits --ratios 90/10/0 --group-by consignee_name
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from toolkit import console, options
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.files import argument_path, decode_text, iter_data_lines, read_text, shown, write_json, write_problems
from toolkit.outputs import atomic_group, finish_group
from toolkit.pages.pictures import DEFAULT_MAX_DECODED_MB
from toolkit.records.earlier_split import (
    REMOVED,
    EarlierSplit,
    check_same_data,
    holds_split,
    other_settings,
    read_split,
    removed_lines,
    split_files,
)
from toolkit.records.split_documents import Reading, read_documents, strata_of
from toolkit.records.splits import NAMES, Documents, Move, Near, assign, grouped, near_duplicates


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    options.add_input(parser)
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
        help="new documents by a hash, or balanced: exact ratios by pages and rows (default: hash)",
    )
    parser.add_argument(
        "--keep",
        type=argument_path,
        metavar="FOLDER",
        help="an earlier split in another folder, whose documents stay in their files",
    )
    parser.add_argument(
        "--reassign", action="store_true", help="place all documents anew, also those of the split that --out-dir holds"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the split of other data in --out-dir")
    parser.add_argument("--holdout-file", type=argument_path, help="ids, one a line, that go to test with their groups")
    parser.add_argument(
        "--compare-images",
        choices=["pixels", "bytes", "names"],
        default="pixels",
        help="pages are equal by decoded pixels, by the file's bytes (faster), or only by the path (default: pixels)",
    )
    parser.add_argument(
        "--near-text", type=float, default=0.8, help="report answers that share this part of their words (default: 0.8)"
    )
    parser.add_argument(
        "--near-bits",
        type=int,
        default=6,
        help="report first pages that differ in so many of 256 bits at most (default: 6)",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another split (default: 0)")
    options.add_root(parser)
    options.add_max_decoded_mb(parser, DEFAULT_MAX_DECODED_MB)
    parser.add_argument("--workers", type=int, default=0, help="threads that read images; 0: one a core (default: 0)")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    ratios = parse_ratios(args.ratios)
    held_out = (
        {line.strip() for line in read_text(args.holdout_file).splitlines()} - {""} if args.holdout_file else set()
    )
    if args.out_dir.is_dir():
        finish_group(args.out_dir)
    kept = earlier_places(args)
    reading = Reading(args.root, args.compare_images, tuple(args.group_by), args.workers, args.max_decoded_mb)
    documents = read_documents(args.input, reading)
    grouping = grouped(documents)
    places, moved = assign(
        documents, grouping, ratios, args.seed, balanced=args.assign == "balanced", kept=kept, held_out=held_out
    )
    near, near_counts = near_duplicates(documents, places, text=args.near_text, bits=args.near_bits)
    write_splits(args.input, args.out_dir, places)

    sizes = {name: places.count(index) for index, name in enumerate(NAMES)}
    ids = set(documents.ids)
    removed = {identity: place for identity, place in kept.items() if identity not in ids}
    result = {
        **sizes,
        "groups": len(grouping.groups),
        "records_in_larger_groups": sum(len(g) for g in grouping.groups if len(g) > 1),
        "near_duplicates": near_counts["near_duplicates"],
        "kept": len(ids & set(kept)) - len(moved),
        "moved": len(moved),
        "removed": len(removed),
        "out_dir": shown(args.out_dir),
    }
    say(
        ", ".join(f"{name} {size}" for name, size in sizes.items())
        + f" documents, {len(grouping.groups)} groups -> {shown(args.out_dir)}"
    )
    tell_earlier(args, result, removed, moved)
    if grouping.joins["common_pages"]:
        common = f"{grouping.joins['common_pages']} pages stand in more than five different documents"
        say(f"{common} (a form's back, a cover): they join none")
    tell_near(args, documents, places, near, near_counts)
    unknown = sorted(held_out - ids)
    if unknown:
        say(f"{len(unknown)} ids of {shown(args.holdout_file)} are in no record: {first_few(unknown)}")
    tell_sizes(args, ratios, sizes, len(documents), len(grouping.groups))
    settings = ("ratios", "assign", "seed", "group_by", "compare_images", "near_text", "near_bits")
    report = {
        **result,
        "joined_by": grouping.joins,
        **near_counts,
        "moved": [move.identity for move in moved],
        "unknown_holdout_ids": unknown,
        "strata": strata_of(documents, places),
        **{name: getattr(args, name) for name in settings},
        "input": shown(args.input),
    }
    write_json(args.out_dir / "report.json", report)
    return console.finish(args, result, ExitCode.PROBLEMS if unknown else ExitCode.OK)


def earlier_places(args: Any) -> dict[str, int]:
    """`{id: index of NAMES}` of the documents that stay where an earlier split has them: that of --out-dir and that
    of --keep.

    Raises StageError where writing the split would replace other data, or where the two disagree.
    """
    for name in NAMES:
        path = args.out_dir / f"{name}.jsonl"
        if path.exists() and args.input.exists() and path.samefile(args.input):
            raise StageError(f"--out-dir {shown(args.out_dir)}: {name}.jsonl there is the input; choose another folder")
    named = read_split(args.keep) if args.keep else None
    is_named = args.keep is not None and args.keep.resolve() == args.out_dir.resolve()
    here = {} if is_named else places_here(args)
    if named is None:
        return here
    tell_twice(named)
    differing = sorted(identity for identity, place in here.items() if named.places.get(identity, place) != place)
    if differing:
        raise StageError(
            f"{len(differing)} documents lie in other files in {shown(args.out_dir)} than in --keep {shown(args.keep)} "
            f"({first_few(differing)}); choose another --out-dir, or --reassign to follow --keep"
        )
    return here | named.remembered


def places_here(args: Any) -> dict[str, int]:
    """The places that count of the split that --out-dir holds; none with --reassign. Raises StageError where its
    files are of other data."""
    files = split_files(args.out_dir)
    if not files:
        return {}
    if not holds_split(args.out_dir):
        if args.overwrite:
            return {}
        raise StageError(
            f"{shown(files[0])} is there already and is no part of a split; choose another --out-dir, or --overwrite"
        )
    earlier = read_split(args.out_dir)
    same = check_same_data(earlier, args.input)
    if same is not None and not args.overwrite:
        shared = f"{len(same)} of its {len(earlier.places)} documents are in {shown(args.input)}"
        raise StageError(
            f"{shown(args.out_dir)} holds a split of other data: {shared}; choose another --out-dir, or --overwrite "
            "to replace it"
        )
    if args.reassign:
        return {}
    if same is not None:
        return {identity: earlier.places[identity] for identity in same}
    tell_twice(earlier)
    settings = {"ratios": args.ratios, "assign": args.assign, "seed": args.seed}
    if others := other_settings(earlier, settings):
        say(
            f"note: {shown(args.out_dir)} was split with {', '.join(others)}; what you give now places new documents "
            "only, --reassign places all anew"
        )
    return earlier.remembered


def tell_twice(earlier: EarlierSplit) -> None:
    if earlier.twice:
        say(
            f"{len(earlier.twice)} documents stand twice in {shown(earlier.folder)}; the earliest of train, val, test "
            f"counts: {first_few(earlier.twice)}"
        )


def tell_earlier(args: Any, result: dict[str, Any], removed: dict[str, int], moved: list[Move]) -> None:
    """Say and file what became of an earlier split's documents."""
    if result["kept"] or removed:
        say(f"{result['kept']} documents stay where the earlier split has them (--reassign places all anew)")
    write_problems(args.out_dir / REMOVED, removed_lines(removed.items()), lambda _: None)
    if removed:
        gone = f"{len(removed)} documents of the earlier split are no longer in {shown(args.input)}"
        say(f"{gone}: {first_few(sorted(removed))}; {REMOVED} remembers their places")
    if moved:
        say(
            f"{len(moved)} documents could not stay where the earlier split has them, their group lay on both sides or "
            "is held out: "
            + first_few(f"{move.identity} ({NAMES[move.before]} to {NAMES[move.after]})" for move in moved)
        )
    lines = [{"id": move.identity, "from": NAMES[move.before], "to": NAMES[move.after]} for move in moved]
    write_problems(args.out_dir / "moved.jsonl", lines, say)


def tell_near(args: Any, documents: Documents, places: bytearray, near: list[Near], counts: dict[str, int]) -> None:
    """Say and file what is alike on both sides."""
    pairs = []
    for pair in near:
        alike = {"text": pair.text, "image_bits": pair.bits}
        held_out, train = documents.ids[pair.held_out], documents.ids[pair.train]
        pairs.append({"held_out": held_out, "split": NAMES[places[pair.held_out]], "train": train, **alike})
    if near:
        say(
            f"{counts['near_duplicates']} held-out documents look like one in train: "
            + first_few(f"{p['held_out']} ~ {p['train']}" for p in pairs)
        )
    if counts["pictures_compared"] < counts["pictures"]:
        compared = f"{counts['pictures_compared']} of {counts['pictures']} held-out pages"
        say(f"only {compared} were compared with train by their pictures")
    write_problems(args.out_dir / "near_duplicates.jsonl", pairs, say)


def tell_sizes(args: Any, ratios: list[float], sizes: dict[str, int], documents: int, groups: int) -> None:
    """Say where a split got no document, or far less than its share."""
    empty = [name for name, ratio in zip(NAMES, ratios, strict=True) if ratio > 0 and not sizes[name]]
    if empty:
        say(
            f"note: {' and '.join(empty)} got no document; with {groups} groups the ratios {args.ratios} leave it "
            "empty, add documents or change --ratios"
        )
    thin = [name for name, ratio in zip(NAMES, ratios, strict=True) if 0 < sizes[name] < ratio * documents / 2]
    if thin and args.assign == "hash":
        say(f"note: {' and '.join(thin)} got less than half its share by chance; --assign balanced meets the ratios")


def parse_ratios(text: str) -> list[float]:
    try:
        parts = [float(part) for part in text.replace(",", "/").split("/")]
    except ValueError:
        parts = []
    if len(parts) != 3 or min(parts, default=-1) < 0 or sum(parts) <= 0:
        raise StageError(f"--ratios {text!r}: give three numbers, for example 80/10/10")
    return [part / sum(parts) for part in parts]


def write_splits(path: Path, out_dir: Path, places: bytearray) -> None:
    """Copy every line of `path` to the file of its split; all three appear when all are written."""
    with atomic_group(out_dir, [f"{name}.jsonl" for name in NAMES]) as files:
        for place, (_, line) in zip(places, iter_data_lines(path), strict=True):
            files[place].write(decode_text(line, shown(path)) + "\n")


if __name__ == "__main__":
    sys.exit(main())
