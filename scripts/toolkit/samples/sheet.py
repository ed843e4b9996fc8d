"""A4 pages written from top to bottom, and how they are saved: the same bytes for the same content, or as a scan."""

from __future__ import annotations

import io
import random
from typing import Any


class Sheet:
    """A4 pages written from top to bottom; a new page starts where the old one is full."""

    def __init__(self, font: str, size: float) -> None:
        import pymupdf

        self.document = pymupdf.open()
        self.font, self.size = font, size
        self.new_page()

    def new_page(self) -> None:
        self.page = self.document.new_page(width=595, height=842)
        self.y = 50.0

    def text(
        self, x: float, text: str, *, size: float | None = None, bold: bool = False, y: float | None = None
    ) -> None:
        font = {"helv": "hebo", "tiro": "tibo", "cour": "cobo"}[self.font] if bold else self.font
        self.page.insert_text((x, self.y if y is None else y), text, fontname=font, fontsize=size or self.size)

    def down(self, points: float) -> None:
        self.y += points

    def room(self, points: float) -> bool:
        return self.y + points < 800


def saved(document: Any) -> bytes:
    """The PDF's bytes; no random file id and no date, so that the same seed gives the same bytes."""
    data: bytes = document.tobytes(garbage=3, deflate=True, no_new_id=True)
    document.close()
    return data


def scanned_pdf(pdf: bytes, rng: random.Random) -> bytes:
    """The pages as a photocopier delivers them: grey, turned by up to 2 degrees, specks, JPEG; no text layer."""
    import numpy as np
    import pymupdf
    from PIL import Image, ImageFilter

    source = pymupdf.open(stream=pdf, filetype="pdf")
    target = pymupdf.open()
    noise = np.random.default_rng(rng.randrange(2**32))
    for page in source.pages():
        pixmap = page.get_pixmap(dpi=150, colorspace=pymupdf.csGRAY)
        image = Image.frombytes("L", (pixmap.width, pixmap.height), pixmap.samples)
        image = image.rotate(rng.uniform(-2, 2), resample=Image.Resampling.BICUBIC, fillcolor=255)
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
        pixels = np.asarray(image).astype(np.float64)
        pixels = 255 - (255 - pixels) * rng.uniform(0.75, 1.0) + noise.normal(0, rng.uniform(3, 12), pixels.shape)
        pixels[noise.random(pixels.shape) < 0.0006] = 20
        if rng.random() < 0.3:
            column = rng.randrange(pixels.shape[1])
            pixels[:, column : column + 2] -= 70
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=rng.randint(40, 80))
        target.new_page(width=page.rect.width, height=page.rect.height).insert_image(
            page.rect, stream=buffer.getvalue()
        )
    return saved(target)
