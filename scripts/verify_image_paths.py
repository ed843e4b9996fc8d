"""Check that every image of a JSONL exists, opens, and is what its name says; names that differ only in case are errors.

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
from toolkit.records import images_of, read_records

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--in", dest="input", type=argument_path, required=True, help="the JSONL")
    parser.add_argument(
        "--root",
        type=argument_path,
        default=Path(),
        help="folder that image paths are relative to (default: the working directory)",
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
    problems = []
    for image, identity in console.progress(images.items(), total=len(images), what="images"):
        if sentence := problem_of(args.root / image, folders):
            problems.append({"id": identity, "image": image, "problem": sentence})
    if args.report:
        write_jsonl(args.report, problems)
    if problems:
        say(
            f"{len(problems)} of {len(images)} images have problems: "
            + first_few(f"{p['image']}: {p['problem']}" for p in problems)
        )
    else:
        say(f"{len(images)} images of {shown(args.input)}: all there and readable")
    return console.finish(
        args, {"images": len(images), "problems": len(problems)}, ExitCode.PROBLEMS if problems else ExitCode.OK
    )


def problem_of(path: Path, folders: dict[Path, set[str]]) -> str:
    """What is wrong with one image; empty where nothing is. One listing a folder instead of one stat call an image."""
    from PIL import Image

    if path.parent not in folders:
        folders[path.parent] = {entry.name for entry in os.scandir(path.parent)} if path.parent.is_dir() else set()
    names = folders[path.parent]
    if path.name not in names:
        similar = [name for name in names if name.casefold() == path.name.casefold()]
        return f"the file is called {similar[0]!r}; Linux tells upper and lower case apart" if similar else "not found"
    try:
        with Image.open(path) as image:
            found = str(image.format)
            # Turned photos: training and serving would see another page than people do.
            turned = image.getexif().get(0x0112, 1) != 1
        if found == "JPEG" and not jpeg_is_complete(path):
            return "the JPEG is cut off"
        if found == "PNG" and not path.read_bytes()[-12:].endswith(b"IEND\xaeB`\x82"):
            return "the PNG is cut off"
    except Exception as error:
        return f"cannot be opened ({' '.join(str(error).split())[:120]})"
    if FORMATS.get(path.suffix.lower()) != found:
        return f"is a {found} file, whatever its name says"
    return "is turned by EXIF; render it with pdf_to_images.py" if turned else ""


def jpeg_is_complete(path: Path) -> bool:
    """A truncated JPEG passes Pillow's `verify()`; its missing end marker tells."""
    with path.open("rb") as file:
        file.seek(-min(64, path.stat().st_size), os.SEEK_END)
        return b"\xff\xd9" in file.read()


if __name__ == "__main__":
    sys.exit(main())
