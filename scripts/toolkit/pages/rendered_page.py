"""One rendered page, and why a document cannot be rendered: what the readers of PDFs and of pictures have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from toolkit.files import escaped

MAX_DPI = 300  # a small page is not enlarged beyond this


@dataclass
class RenderedPage:
    """One page as an RGB image.

    `words` are [x0, y0, x1, y1, text] in pixels of the image; empty where no text layer was asked for.
    """

    image: Any
    engine: str
    blank: bool
    warnings: list[str] = field(default_factory=list)
    words: list[list[Any]] = field(default_factory=list)


class UnreadableDocument(Exception):
    """The document cannot be rendered; the message is one sentence without the file's name."""


def said(error: object, most: int = 200) -> str:
    """What an engine says about a file, as part of a sentence."""
    return escaped(" ".join(str(error).split())[:most])


def is_blank(image: Any) -> bool:
    """True where the darkest and the lightest pixel hardly differ.

    Pillow's extrema are used because MuPDF's `is_unicolor` takes 0.2 to 2 s a page. Every eighth pixel is enough for
    almost every page; all pixels are read only where those look alike.
    """
    for view in (image.resize((max(1, image.width // 8), max(1, image.height // 8)), 0), image):  # 0: nearest
        low, high = view.convert("L").getextrema()
        if high - low >= 24:
            return False
    return True
