"""Check that every image of a JSONL exists, opens, and is what its name says.

A name that differs from the file's only in case is an error: Linux would not find the file. Images above the
vision-token budget (--image-max-tokens) are counted; training and serving both shrink them to that budget.

    python scripts/verify_image_paths.py --in data/train.jsonl
    python scripts/verify_image_paths.py --in data/train.jsonl --root /mnt/dataset --json
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from toolkit import console, options
from toolkit.console import ExitCode, first_few, say
from toolkit.files import argument_path, shown, write_jsonl
from toolkit.pages.images import DEFAULT_MAX_TOKENS, image_tokens, processor_size
from toolkit.records.record import images_of, read_records

SUFFIXES = {"PNG": [".png"], "JPEG": [".jpg", ".jpeg"], "WEBP": [".webp"], "TIFF": [".tif", ".tiff"], "BMP": [".bmp"]}
FORMATS = {suffix: name for name, suffixes in SUFFIXES.items() for suffix in suffixes}
# Format: its end mark, and within how many last bytes it stands (cameras append data of their own to a JPEG).
END_MARKS = {"JPEG": (b"\xff\xd9", 64), "PNG": (b"IEND\xaeB`\x82", 12)}


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    options.add_input(parser)
    options.add_root(parser, "the working directory")
    options.add_image_max_tokens(parser, DEFAULT_MAX_TOKENS, "; larger images are counted")
    parser.add_argument("--report", type=argument_path, help="write every problem to this JSONL")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    images: dict[str, str] = {}
    for record in read_records(args.input):
        for image in images_of(record):
            images.setdefault(image, record["id"])
    folders: dict[Path, set[str]] = {}
    problems, shrunk = [], []
    for image, identity in console.progress(images.items(), total=len(images), what="images"):
        sentence, size = look_at(args.root / image, folders)
        if sentence:
            problems.append({"id": identity, "image": image, "problem": sentence})
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


def look_at(path: Path, folders: dict[Path, set[str]]) -> tuple[str, tuple[int, int]]:
    """`(what is wrong with one image, (width, height) in pixels)`; the sentence is empty where nothing is wrong.

    One listing a folder instead of one stat call an image.
    """
    from PIL import Image

    if path.parent not in folders:
        folders[path.parent] = {entry.name for entry in os.scandir(path.parent)} if path.parent.is_dir() else set()
    names = folders[path.parent]
    if path.name not in names:
        similar = [name for name in names if name.casefold() == path.name.casefold()]
        sentence = (
            f"the file is called {similar[0]!r}; Linux tells upper and lower case apart" if similar else "not found"
        )
        return sentence, (0, 0)
    try:
        with Image.open(path) as image:
            image_format, size = str(image.format), image.size
            # Turned photos: training and serving would see another page than people do.
            turned = image.getexif().get(0x0112, 1) != 1
        if image_format in END_MARKS and not ends_with(path, *END_MARKS[image_format]):
            return f"the {image_format} is cut off", size
    except Exception as error:
        return f"cannot be opened ({' '.join(str(error).split())[:120]})", (0, 0)
    if FORMATS.get(path.suffix.lower()) != image_format:
        return f"is a {image_format} file, whatever its name says", size
    return "is turned by EXIF; render it with pdf_to_images.py" if turned else "", size


def ends_with(path: Path, mark: bytes, within: int) -> bool:
    """Whether the file's last `within` bytes hold its format's end mark.

    A cut image passes Pillow's lazy open and, as JPEG, its `verify()`; only the missing end mark shows the cut.
    """
    with path.open("rb") as file:
        file.seek(-min(within, path.stat().st_size), os.SEEK_END)
        return mark in file.read()


if __name__ == "__main__":
    sys.exit(main())
