"""Page images: their sizes in vision tokens, their names, and which document each belongs to.

One vision token of Qwen3-VL is 32 x 32 px (patch 16, merge 2), so a budget in tokens is the one measure of resolution.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

TOKEN_SIDE = 32
MAX_ASPECT = 200  # Qwen3-VL's processor refuses longer strips
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
DEFAULT_MAX_TOKENS = 1280
KINDS = ("pages", "single_page", "combined_grid")

# What may stand behind a document's name: "_page_0001", "_1", "-p2", "_single_page", "_combined_grid_2", " (3)".
_SUFFIX = re.compile(
    r"(?:(?P<kind>single_page|combined_grid|combined|grid)(?:_(?P<kind_number>\d{1,4}))?|(?:page|pages|pg|p|img|image|scan)?_?(?P<number>\d{1,4}))"
)


class PageShape(ValueError):
    """A page whose shape no model takes; the message is one sentence."""


def image_tokens(width: int, height: int) -> int:
    """Vision tokens of an image whose sides are multiples of 32."""
    return (width // TOKEN_SIDE) * (height // TOKEN_SIDE)


def fitted_size(width: float, height: float, max_tokens: int, *, max_scale: float | None = None) -> tuple[int, int]:
    """`(width, height)` in pixels, multiples of 32, of at most `max_tokens`, closest to the aspect of the input.

    The size is a fixed point of Qwen3-VL's `smart_resize`, so that the processor does not resize the image again.
    `max_scale` bounds the enlargement (pixels out per unit in). Raises PageShape for an aspect above 200.
    """
    if width <= 0 or height <= 0:
        raise PageShape("the page has no area")
    if max(width, height) / min(width, height) > MAX_ASPECT:
        raise PageShape(
            f"the page is {max(width, height) / min(width, height):.0f} times longer than wide; the model takes {MAX_ASPECT} at most"
        )
    scale = (max_tokens * TOKEN_SIDE**2 / (width * height)) ** 0.5
    if max_scale is not None:
        scale = min(scale, max_scale)
    columns = max(1, round(width * scale / TOKEN_SIDE))
    rows = max(1, round(height * scale / TOKEN_SIDE))
    while columns * rows > max_tokens:
        # Shrink the side whose loss keeps the aspect nearer.
        if rows == 1 or (columns > 1 and columns / rows > width / height):
            columns -= 1
        else:
            rows -= 1
    return columns * TOKEN_SIDE, rows * TOKEN_SIDE


def processor_size(width: int, height: int, max_tokens: int) -> tuple[int, int]:
    """`(width, height)` after Qwen's `smart_resize` (factor 32) with a budget of `max_tokens`; the processor's own formula.

    Source: qwen_vl_utils.vision_process.smart_resize; a test compares the two.
    """
    import math

    rows, columns = max(1, round(height / TOKEN_SIDE)), max(1, round(width / TOKEN_SIDE))
    max_pixels = max_tokens * TOKEN_SIDE**2
    if rows * columns * TOKEN_SIDE**2 > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        rows = max(1, math.floor(height / beta / TOKEN_SIDE))
        columns = max(1, math.floor(width / beta / TOKEN_SIDE))
    elif rows * columns < 4:
        beta = math.sqrt(4 * TOKEN_SIDE**2 / (height * width))
        rows, columns = math.ceil(height * beta / TOKEN_SIDE), math.ceil(width * beta / TOKEN_SIDE)
    return columns * TOKEN_SIDE, rows * TOKEN_SIDE


def document_key(name: str) -> str:
    """A file name as images and labels agree on it: no folder, no image or PDF suffix, NFKC, casefold, one _ between words."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    stem = re.sub(r"\.(pdf|png|jpe?g|webp|tiff?|bmp)$", "", unicodedata.normalize("NFKC", name), flags=re.IGNORECASE)
    return re.sub(r"[\W_]+", "_", stem.casefold()).strip("_")


def parse_suffix(suffix: str) -> tuple[str, int] | None:
    """`(kind, page number)` of what stands behind a document's key, or None where it is no page suffix."""
    if suffix == "":
        return "pages", 0
    match = _SUFFIX.fullmatch(suffix)
    if not match:
        return None
    if match["kind"]:
        kind = "single_page" if match["kind"] == "single_page" else "combined_grid"
        return kind, int(match["kind_number"] or 0)
    return "pages", int(match["number"])


@dataclass
class DocumentImages:
    """The images of one document by kind: `{kind: {page number: [paths]}}`."""

    kinds: dict[str, dict[int, list[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def choose(self, prefer: str | None) -> str:
        """The kind to use: the preferred one if there, else single pages before grids."""
        if prefer and prefer in self.kinds:
            return prefer
        return next(kind for kind in KINDS if kind in self.kinds)


def match_images(paths: Iterable[str], keys: Iterable[str]) -> tuple[dict[str, DocumentImages], list[str]]:
    """Images by document key, and the images that belong to none.

    An image belongs to the longest key that is its whole name or its name before a page suffix, so that `BL1` never takes
    `BL10`. One look-up per word of a name: the cost does not grow with the number of documents.
    """
    known = set(keys)
    found: dict[str, DocumentImages] = defaultdict(DocumentImages)
    left_over = []
    for path in paths:
        parts = document_key(Path(path).name).split("_")
        for cut in range(len(parts), 0, -1):
            key = "_".join(parts[:cut])
            place = parse_suffix("_".join(parts[cut:])) if key in known else None
            if place:
                found[key].kinds[place[0]][place[1]].append(path)
                break
        else:
            left_over.append(path)
    return dict(found), left_over


def page_gaps(numbers: Iterable[int]) -> list[int]:
    """Page numbers missing before the last one; counting starts at 0 where a page 0 exists, else at 1."""
    present = set(numbers)
    return [n for n in range(0 if 0 in present else 1, max(present)) if n not in present]
