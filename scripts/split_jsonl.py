"""Split a JSONL by document group into train, val and test; copies of one document never lie on both sides.

Records are one group when they share a page image, the whole answer, or the --group-by field (shipper, say). The split of a
group depends on its name and the seed only, so adding documents never moves old ones. Writes
data/splits/{train,val,test}.jsonl and report.json.

    python scripts/split_jsonl.py --in data/train.jsonl --out-dir data/splits
    python scripts/split_jsonl.py --in data/train.jsonl --out-dir data/splits --ratios 90/10/0 --group-by consignee_name
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import StageError, say
from toolkit.files import argument_path, shown, write_json, write_jsonl
from toolkit.records import gold_of, read_records
from toolkit.splits import Groups, identities, position

NAMES = ("train", "val", "test")


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--in", dest="input", type=argument_path, required=True, help="the JSONL")
    parser.add_argument(
        "--out-dir", type=argument_path, default=Path("data/splits"), help="where to write (default: data/splits)"
    )
    parser.add_argument("--ratios", default="80/10/10", help="train/val/test in percent (default: 80/10/10)")
    parser.add_argument(
        "--group-by", default=None, metavar="FIELD", help="documents with the same value of this field stay together"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another split (default: 0)")
    parser.add_argument("--root", type=argument_path, default=Path(), help="folder that image paths are relative to")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    ratios = parse_ratios(args.ratios)
    records = list(read_records(args.input))
    groups = grouped(records, args.root, args.group_by)
    splits: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    for members in groups:
        # The name of a group is its smallest id, so that it does not depend on the order of the file.
        place = position(min(records[m]["id"] for m in members), args.seed)
        bounds = [ratios[0], ratios[0] + ratios[1], 1.0]
        name = next(name for name, bound in zip(NAMES, bounds, strict=True) if place < bound)
        splits[name] += [records[m] for m in members]
    sizes = {name: len(members) for name, members in splits.items()}
    empty = [name for name, ratio in zip(NAMES, ratios, strict=True) if ratio > 0 and not splits[name]]
    for name, chosen in splits.items():
        write_jsonl(args.out_dir / f"{name}.jsonl", chosen)
    result = {
        **sizes,
        "groups": len(groups),
        "records_in_larger_groups": sum(len(g) for g in groups if len(g) > 1),
        "out_dir": shown(args.out_dir),
    }
    write_json(
        args.out_dir / "report.json",
        {**result, "ratios": args.ratios, "seed": args.seed, "group_by": args.group_by, "input": shown(args.input)},
    )
    say(
        ", ".join(f"{name} {size}" for name, size in sizes.items())
        + f" documents, {len(groups)} groups -> {shown(args.out_dir)}"
    )
    if empty:
        say(
            f"note: {' and '.join(empty)} got no document; with {len(groups)} groups the ratios {args.ratios} leave it empty, add documents or change --ratios"
        )
    return console.finish(args, result)


def parse_ratios(text: str) -> list[float]:
    try:
        parts = [float(part) for part in text.replace(",", "/").split("/")]
    except ValueError:
        parts = []
    if len(parts) != 3 or min(parts, default=-1) < 0 or sum(parts) <= 0:
        raise StageError(f"--ratios {text!r}: give three numbers, for example 80/10/10")
    return [part / sum(parts) for part in parts]


def grouped(records: list[dict[str, Any]], root: Path, group_by: str | None) -> list[list[int]]:
    groups = Groups(len(records))
    owners: dict[str, int] = {}
    for number, record in enumerate(records):
        try:
            found = identities(record, root, gold_of(record) or {}, group_by)
        except FileNotFoundError as error:
            raise StageError(
                f"record {record['id']!r}: image not found: {error.filename}; run verify_image_paths.py"
            ) from None
        except ValueError as error:
            raise StageError(
                f"record {record['id']!r}: the answer is not JSON: {error}; run validate_jsonl.py"
            ) from None
        for identity in found:
            groups.join(owners.setdefault(identity, number), number)
    members: dict[int, list[int]] = {}
    for number in range(len(records)):
        members.setdefault(groups.find(number), []).append(number)
    return list(members.values())


if __name__ == "__main__":
    sys.exit(main())
