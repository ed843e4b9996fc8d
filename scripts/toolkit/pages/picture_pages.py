"""The pages of an image file: its frames, as RGB on white within the token budget."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.files import escaped
from toolkit.pages.images import PageShape, fitted_size
from toolkit.pages.pictures import (
    DEFAULT_MAX_DECODED_MB,
    HEIC_SUFFIXES,
    PAGED_FORMATS,
    UnreadablePicture,
    check_size,
    damage,
    eight_bit,
    is_white_zero,
    messages,
    on_ground,
    opened_picture,
)
from toolkit.pages.rendered_page import RenderedPage, UnreadableDocument, is_blank, said


def picture_pages(
    path: Path, image_max_tokens: int, max_decoded_mb: float = DEFAULT_MAX_DECODED_MB
) -> Iterator[RenderedPage]:
    """The pages of an image file (a TIFF may hold several), turned as EXIF says and fitted to the token budget.

    Gray of 16 bits is scaled to 8, and transparent pictures are laid on white. Frames of an animation, further views of
    a phone's photo and small previews in a TIFF are no pages; a warning of the first page counts them.
    """
    if path.suffix.lower() in HEIC_SUFFIXES:
        try:
            import pillow_heif
        except ModuleNotFoundError:
            raise UnreadableDocument(
                "HEIC images need the package pillow-heif: python -m pip install pillow-heif"
            ) from None
        pillow_heif.register_heif_opener()
    try:
        with opened_picture(path, max_decoded_mb) as opened:
            with messages():
                frames = getattr(opened, "n_frames", 1)
            paged = opened.format in PAGED_FORMATS
            pages = [number for number in range(frames if paged else 1) if not paged or is_page(opened, number)]
            for number in pages or [0]:
                page = picture_page(path, opened, number, image_max_tokens, max_decoded_mb)
                if number == (pages or [0])[0] and frames > len(pages):
                    rest = frames - len(pages)
                    page.warnings.append(f"{rest} further pictures in the file are no pages (an animation, a preview)")
                yield page
    except (UnreadableDocument, MemoryError):
        raise
    except UnreadablePicture as error:
        raise UnreadableDocument(str(error)) from None
    except PageShape as error:
        raise UnreadableDocument(str(error).replace("the page", "the picture")) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UnreadableDocument(f"it cannot be read as an image ({said(error)})") from None


def is_page(opened: Any, number: int) -> bool:
    """Whether frame `number` is a page: a TIFF may hold smaller copies and masks of its pages (NewSubfileType)."""
    if opened.format != "TIFF":
        return True
    with messages():
        opened.seek(number)
    kind = opened.tag_v2.get(254, 0)
    return not (isinstance(kind, int) and kind & 0b101)


def picture_page(path: Path, opened: Any, number: int, image_max_tokens: int, max_decoded_mb: float) -> RenderedPage:
    """Frame `number` (from 0) of an opened picture as a page. Raises UnreadablePicture where it is damaged."""
    from PIL import Image, ImageOps

    if number or opened.tell():
        with messages():
            opened.seek(number)
        check_size(opened, max_decoded_mb)
    problem = damage(path, opened)
    if problem:
        raise UnreadablePicture(problem if number == 0 else f"page {number + 1}: {problem}")
    with messages() as warned:
        image = eight_bit(ImageOps.exif_transpose(opened), white_is_zero=is_white_zero(opened))
    width, height = fitted_size(image.width, image.height, image_max_tokens, max_scale=1.0)
    if image.size != (width, height):
        # Before the colours: a gray sheet in full size takes four times as much as RGB.
        image = image.convert(resizable_mode(image)).resize((width, height), Image.Resampling.LANCZOS)
    page = on_ground(image)
    if is_blank(page) and image.has_transparency_data and not is_blank(on_ground(image, "black")):
        page = on_ground(image, "black")
        warned.append("white on a transparent ground; shown on black")
    return RenderedPage(page, "pillow", is_blank(page), [escaped(line) for line in warned[:5]])


def resizable_mode(image: Any) -> str:
    """The mode in which a picture of 8 bits is resized without loss."""
    if image.has_transparency_data:
        return "RGBA"
    return "L" if image.mode in ("1", "L") else "RGB"
