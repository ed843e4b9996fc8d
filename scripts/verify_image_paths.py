"""Check that every image of a JSONL exists, is whole, and is what its name says. Every image is decoded.

A name that differs from the file's only in case is an error: Linux would not find the file. Images above the
vision-token budget (--image-max-tokens) are counted; training and serving both shrink them to that budget.

    python scripts/verify_image_paths.py --in data/train.jsonl
    python scripts/verify_image_paths.py --in data/train.jsonl --root /mnt/dataset --json
"""

from __future__ import annotations

import os
import sys

from toolkit import console, options
from toolkit.console import ExitCode, first_few, say
from toolkit.files import argument_path, shown, write_jsonl
from toolkit.pages.image_check import checked_images
from toolkit.pages.images import DEFAULT_MAX_TOKENS, image_tokens, processor_size
from toolkit.pages.pictures import DEFAULT_MAX_DECODED_MB
from toolkit.records.record import images_of, read_records


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    options.add_input(parser)
    options.add_root(parser, "the working directory")
    options.add_image_max_tokens(parser, DEFAULT_MAX_TOKENS, "; larger images are counted")
    options.add_max_decoded_mb(parser, DEFAULT_MAX_DECODED_MB)
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that decode images; 0: one a core (default: 0)"
    )
    parser.add_argument("--report", type=argument_path, help="write every problem to this JSONL")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    images: dict[str, str] = {}
    for record in read_records(args.input):
        for image in images_of(record):
            images.setdefault(image, record["id"])
    problems, shrunk = [], []
    looks = checked_images(
        [args.root / image for image in images], args.max_decoded_mb, args.workers or os.cpu_count() or 1
    )
    for (image, identity), look in zip(
        images.items(), console.progress(looks, total=len(images), what="images"), strict=True
    ):
        size = look.size
        if look.problem:
            problems.append({"id": identity, "image": image, "problem": look.problem})
        elif image_tokens(size[0] + 31, size[1] + 31) > args.image_max_tokens:
            wide, high = processor_size(*size, args.image_max_tokens)
            shrunk.append(f"{image} ({size[0]} x {size[1]} to {wide} x {high})")
    if args.report:
        write_jsonl(args.report, problems)
    if problems:
        say(
            f"{len(problems)} of {len(images)} images have problems: "
            + first_few(f"{p['image']}: {p['problem']}" for p in problems)
        )
    else:
        say(f"{len(images)} images of {shown(args.input)}: all there and readable")
    if shrunk:
        large = f"{len(shrunk)} images are larger than {args.image_max_tokens} vision tokens"
        say(f"{large} and will be shrunk in training and serving: {first_few(shrunk)}")
    result = {"images": len(images), "problems": len(problems), "over_budget": len(shrunk)}
    return console.finish(args, result, ExitCode.PROBLEMS if problems else ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
