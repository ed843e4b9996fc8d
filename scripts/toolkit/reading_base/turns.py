"""Pages and questions as token ids, labels and positions: several turns of question and answer about one page."""

from __future__ import annotations

from typing import Any

from toolkit.reading_base.pages import FILLER, PAGE_CHARACTERS, PageMaker


class Turns:
    """Turns pages and questions into token ids and labels, with the model's own chat layout (positions as in mrope)."""

    def __init__(self, tokenizer: Any) -> None:
        import numpy as np

        self.tokenizer = tokenizer
        self.character_ids = np.full(256, tokenizer.convert_tokens_to_ids("A"), dtype=np.int64)
        for character in PAGE_CHARACTERS:
            ids = tokenizer.encode(character, add_special_tokens=False)
            if len(ids) != 1:
                raise ValueError(f"page character {character!r} is not one token")
            self.character_ids[ord(character)] = ids[0]
        self.image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def sequence(self, maker: PageMaker, rows: int, columns: int, turns: int) -> dict[str, Any]:
        """One page with several turns.

        `ids` and `labels` (-100 outside answers) are lists of L tokens, `positions` int64 [3, L], `cells` int64
        [rows * columns] the token of each character on the page.
        """
        import numpy as np

        lines, pairs, table = maker.page(rows, columns)
        cells = self.character_ids[np.frombuffer("".join(lines).encode("latin-1"), dtype=np.uint8)]
        before = "<|im_start|>user\n"
        if maker.rng.random() < 0.5:
            words = maker.rng.sample(FILLER, maker.rng.randint(1, 12))
            before = "<|im_start|>system\n" + " ".join(words) + "<|im_end|>\n" + before
        ids = self.encode(before + "<|vision_start|>")
        labels = [-100] * len(ids)
        image_start = len(ids)
        ids += [self.image_id] * (rows * columns)
        labels += [-100] * (rows * columns)
        opening = "<|vision_end|>"
        asked: set[str] = set()
        for _ in range(turns):
            question, answer = maker.question(lines, pairs, table)
            if question in asked:
                # A question that was answered above is copied from there, not read from the page.
                continue
            asked.add(question)
            prompt = self.encode(opening + question + "<|im_end|>\n<|im_start|>assistant\n")
            reply = self.encode(answer + "<|im_end|>")
            newline = self.encode("\n")
            ids += prompt + reply + newline
            labels += [-100] * len(prompt) + reply + [-100] * len(newline)
            opening = "<|im_start|>user\n"
        positions = np.zeros((3, len(ids)), dtype=np.int64)
        positions[:, :image_start] = np.arange(image_start)
        grid = slice(image_start, image_start + rows * columns)
        positions[0, grid] = image_start
        positions[1, grid] = image_start + np.repeat(np.arange(rows), columns)
        positions[2, grid] = image_start + np.tile(np.arange(columns), rows)
        after = len(ids) - grid.stop
        positions[:, grid.stop :] = image_start + max(rows, columns) + np.arange(after)
        return {
            "ids": ids,
            "labels": labels,
            "positions": positions,
            "cells": cells,
            "image_start": image_start,
            "lines": lines,
        }


def batch_of(sequences: list[dict[str, Any]]) -> dict[str, Any]:
    """Right-padded tensors; padding needs no mask, because attention is causal and padding carries no label."""
    import numpy as np
    import torch

    length = max(len(s["ids"]) for s in sequences)
    count = len(sequences)
    ids = np.zeros((count, length), dtype=np.int64)
    labels = np.full((count, length), -100, dtype=np.int64)
    positions = np.zeros((3, count, length), dtype=np.int64)
    is_image = np.zeros((count, length), dtype=bool)
    for i, s in enumerate(sequences):
        n = len(s["ids"])
        ids[i, :n], labels[i, :n], positions[:, i, :n] = s["ids"], s["labels"], s["positions"]
        is_image[i, s["image_start"] : s["image_start"] + len(s["cells"])] = True
    cells = np.stack([s["cells"] for s in sequences])
    return {
        k: torch.from_numpy(v)
        for k, v in {"ids": ids, "labels": labels, "positions": positions, "is_image": is_image, "cells": cells}.items()
    }
