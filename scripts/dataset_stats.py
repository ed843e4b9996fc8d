"""What a JSONL holds: documents, pages, rows, field fill rates, answer lengths, vision tokens.

With --model the tokens of whole records are counted with that model's own tokenizer.

    python scripts/dataset_stats.py --in data/train.jsonl
    python scripts/dataset_stats.py --in data/train.jsonl --model outputs/tiny --json
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import StageError
from toolkit.files import argument_path, shown
from toolkit.page_images import DEFAULT_MAX_TOKENS, image_tokens, processor_size
from toolkit.records import answer_text, gold_of, images_of, prompt_of, read_records
from toolkit.target_schema import TargetSchema, value_at


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--in", dest="input", type=argument_path, required=True, help="the JSONL")
    parser.add_argument(
        "--schema", type=argument_path, default=None, help="target schema (default: the records' meta.schema)"
    )
    parser.add_argument("--root", type=argument_path, default=Path(), help="folder that image paths are relative to")
    parser.add_argument(
        "--image-max-tokens",
        type=int,
        default=DEFAULT_MAX_TOKENS,
        help="vision tokens of a page at most (default: 1280)",
    )
    parser.add_argument(
        "--model", type=argument_path, default=None, help="model folder whose tokenizer counts the text"
    )
    parser.add_argument("--limit", type=int, default=None, help="only the first N records")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    records = list(read_records(args.input, args.limit))
    name = args.schema or records[0].get("meta", {}).get("schema")
    if name is None:
        raise StageError("the records name no schema in meta.schema; give --schema FILE")
    schema = TargetSchema.load(Path(name))
    tokenizer = load_tokenizer(args.model) if args.model else None
    filled: Counter[str] = Counter()
    rows: list[int] = []
    pages, vision, characters, text_tokens = [], [], [], []
    unreadable = 0
    for record in console.progress(records, total=len(records), what="records"):
        gold = gold_of(record) or {}
        for leaf in schema.header:
            filled[leaf.name] += value_at(gold, leaf.path) is not None
        for row_list in schema.lists:
            rows.append(len(value_at(gold, row_list.path) or []))
            filled[row_list.name] += bool(value_at(gold, row_list.path))
        pages.append(len(images_of(record)))
        characters.append(len(answer_text(record)))
        try:
            vision.append(sum(vision_tokens(args.root / image, args.image_max_tokens) for image in images_of(record)))
        except OSError:
            unreadable += 1
        if tokenizer:
            prompt = prompt_of(record)
            text_tokens.append(len(tokenizer.encode(prompt.system + prompt.question + answer_text(record))))
    result: dict[str, Any] = {
        "documents": len(records), "pages": sum(pages), "pages_per_document": spread(pages), "rows_per_document": spread(rows),
        "answer_characters": spread(characters), "vision_tokens": spread(vision), "text_tokens": spread(text_tokens),
        "records_with_unreadable_images": unreadable, "fill_rate": {name: round(count / len(records), 4) for name, count in filled.items()},
    }  # fmt: skip
    print(f"{shown(args.input)}: {len(records)} documents, {sum(pages)} pages, schema {shown(name)}")
    for label in ("pages_per_document", "rows_per_document", "answer_characters", "vision_tokens", "text_tokens"):
        if result[label]:
            print(f"  {label.replace('_', ' '):20s} " + "  ".join(f"{k} {v}" for k, v in result[label].items()))
    print("  filled: " + ", ".join(f"{name} {rate:.0%}" for name, rate in result["fill_rate"].items()))
    if unreadable:
        print(f"  {unreadable} records have images that cannot be read; run verify_image_paths.py")
    return console.finish(args, result)


def vision_tokens(path: Path, budget: int) -> int:
    from PIL import Image

    with Image.open(path) as image:
        return image_tokens(*processor_size(*image.size, budget))


def load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def spread(values: list[int]) -> dict[str, int]:
    """Smallest, median, 95th percentile, largest, by rank; empty for no values."""
    if not values:
        return {}
    ordered = sorted(values)
    return {
        "min": ordered[0],
        "median": ordered[len(ordered) // 2],
        "p95": ordered[int(0.95 * (len(ordered) - 1))],
        "max": ordered[-1],
    }


if __name__ == "__main__":
    sys.exit(main())
