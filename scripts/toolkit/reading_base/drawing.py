"""Symbolic pages drawn as images, one character per vision token, and cut into the vision tower's patches."""

from __future__ import annotations

import random
from typing import Any

from toolkit.reading_base.pages import PAGE_CHARACTERS

CELL = 32  # pixels; one vision token


class GlyphAtlas:
    """Every page character as MuPDF renders it in Courier, in a 32 x 32 cell, at several sizes, weights and offsets."""

    def __init__(self) -> None:
        import numpy as np
        import pymupdf

        self.variants = []
        for font in ("cour", "cobo"):
            for size in (26.0, 28.0, 30.0):
                for shift_x, shift_y in ((0, 0), (0.5, 0.5), (-0.5, 0), (0, -0.5), (1.0, -1.0), (-1.0, 1.0)):
                    document = pymupdf.open()
                    page = document.new_page(width=24 * len(PAGE_CHARACTERS), height=24)
                    for i, character in enumerate(PAGE_CHARACTERS):
                        width = pymupdf.get_text_length(character, fontname=font, fontsize=size * 0.75)
                        x = 24 * i + (24 - width) / 2 + shift_x
                        page.insert_text((x, 18 + shift_y), character, fontname=font, fontsize=size * 0.75)
                    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(CELL / 24, CELL / 24), colorspace=pymupdf.csGRAY)
                    image = np.frombuffer(pixmap.samples, dtype=np.uint8).reshape(pixmap.height, pixmap.width)
                    cells = image[:CELL, : CELL * len(PAGE_CHARACTERS)].reshape(CELL, len(PAGE_CHARACTERS), CELL)
                    self.variants.append(cells.transpose(1, 0, 2).copy())
        self.index = {ord(c): i for i, c in enumerate(PAGE_CHARACTERS)}

    def draw(self, lines: list[str], rng: random.Random) -> Any:
        """uint8 [rows*32, columns*32]: the page image of `lines` in one of the variants."""
        import numpy as np

        glyphs = self.variants[rng.randrange(len(self.variants))]
        codes = np.array([[self.index[ord(c)] for c in line] for line in lines])
        rows, columns = codes.shape
        image = glyphs[codes].transpose(0, 2, 1, 3).reshape(rows * CELL, columns * CELL)
        if rng.random() < 0.3:
            ink = rng.randint(0, 70)
            image = (ink + image.astype(np.float32) * (255 - ink) / 255).astype(np.uint8)
        return image


def patches_of(images: list[Any]) -> tuple[Any, Any]:
    """`pixel_values` float32 [patches, 1536] and `image_grid_thw` int64 [N, 3], in Qwen2VLImageProcessor's order."""
    import numpy as np
    import torch

    parts, grids = [], []
    for image in images:
        height, width = image.shape
        h, w = height // 16, width // 16
        x = (image.astype(np.float32) / 255.0 - 0.5) / 0.5
        x = x.reshape(h // 2, 2, 16, w // 2, 2, 16).transpose(0, 3, 1, 4, 2, 5).reshape(h * w, 1, 1, 256)
        parts.append(np.broadcast_to(x, (h * w, 3, 2, 256)).reshape(h * w, 1536))
        grids.append((1, h, w))
    return torch.from_numpy(np.concatenate(parts)), torch.tensor(grids)
