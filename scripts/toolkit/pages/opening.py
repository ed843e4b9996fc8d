"""Opening a page image for a model: as RGB, or with one exception for what cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.console import StageError, one_line
from toolkit.pages.pictures import as_page, opened_picture


class UnreadablePage(StageError):
    """One page image is damaged or missing; other documents are not affected."""


def open_page(path: Path) -> Any:
    """A page image as a PIL image in RGB, what is transparent as white.

    Raises UnreadablePage if it cannot be read, or is larger than a page image may be (see `opened_picture`).
    """
    try:
        with opened_picture(path) as image:
            return as_page(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a hostile file makes them raise
        sentence = f"the page image cannot be read ({one_line(error)}); run verify_image_paths.py"
        raise UnreadablePage(f"{path.as_posix()}: {sentence}") from None
