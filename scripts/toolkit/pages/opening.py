"""Opening a page image for a model: as RGB, or with one exception for what cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.console import StageError


class UnreadablePage(StageError):
    """One page image is damaged or missing; other documents are not affected."""


def open_page(path: Path) -> Any:
    """A page image as a PIL image in RGB. Raises UnreadablePage if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UnreadablePage(
            f"{path.as_posix()}: the page image cannot be read ({reason}); run verify_image_paths.py"
        ) from None
