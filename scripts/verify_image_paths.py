"""Check that every image of a JSONL exists, opens, and is what its name says; names that differ only in case are errors.

Images over the vision-token budget are counted: training and serving shrink them alike, to what --image-max-tokens says.

    python scripts/verify_image_paths.py --in data/train.jsonl
    python scripts/verify_image_paths.py --in data/train.jsonl --root /mnt/dataset --json
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from toolkit import console
from toolkit.console import ExitCode, first_few, say
from toolkit.files import argument_path, shown, write_jsonl
from toolkit.pages.images import DEFAULT_MAX_TOKENS, image_tokens, processor_size
from toolkit.records.record import images_of, read_records

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
# Format: its end mark, and within how many last bytes it stands (cameras append data of their own to a JPEG).
END_MARKS = {"JPEG": (b"\xff\xd9", 64), "PNG": (b"IEND\xaeB`\x82", 12)}


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--in", dest="input", type=argument_path, required=True, help="the JSONL")
    parser.add_argument(
        "--root",
        type=argument_path,
        default=Path(),
        help="folder that image paths are relative to (default: the working directory)",
    )
    parser.add_argument(
        "--image-max-tokens",
        type=int,
        default=DEFAULT_MAX_TOKENS,
        help="vision tokens of a page at most; larger images are counted (default: 1280)",
    )
    parser.add_argument("--report", type=argument_path, default=None, help="write every problem to this JSONL")
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
        say(
            f"{len(shrunk)} images are larger than {args.image_max_tokens} vision tokens and will be shrunk in training and serving: {first_few(shrunk)}"
        )
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
            found, size = str(image.format), image.size
            # Turned photos: training and serving would see another page than people do.
            turned = image.getexif().get(0x0112, 1) != 1
        if found in END_MARKS and not ends_with(path, *END_MARKS[found]):
            return f"the {found} is cut off", size
    except Exception as error:
        return f"cannot be opened ({' '.join(str(error).split())[:120]})", (0, 0)
    if FORMATS.get(path.suffix.lower()) != found:
        return f"is a {found} file, whatever its name says", size
    return "is turned by EXIF; render it with pdf_to_images.py" if turned else "", size


def ends_with(path: Path, mark: bytes, within: int) -> bool:
    """A truncated image passes Pillow's lazy open and, as JPEG, its `verify()`; the missing end mark tells."""
    with path.open("rb") as file:
        file.seek(-min(within, path.stat().st_size), os.SEEK_END)
        return mark in file.read()


if __name__ == "__main__":
    sys.exit(main())
