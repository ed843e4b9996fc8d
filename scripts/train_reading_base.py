"""Train the reading base of the quickstart: a tiny Qwen3-VL that reads easy pages but has never seen a bill of lading.

    python scripts/train_reading_base.py --out examples/reading_base
    python scripts/train_reading_base.py --out outputs/reading_base --seed 1 --language-minutes 40

A real project starts from Qwen3-VL-8B and needs none of this. The demonstration has no internet and no GPU, so it starts
from a base of 2 million parameters that this script makes in about 75 minutes on two cores, in three stages:

1. Language: the language model alone learns to look things up on symbolic pages. A page is a grid of characters; the
   vision token of a cell is the embedding of its character plus a learned row and column vector plus 10 % noise. Tasks,
   several turns on one page: the value behind a label, several values (text, whole numbers, null), all pairs, a line, a
   table, a count.
2. Vision: the vision tower learns to produce exactly those vectors from rendered pages (the language model is frozen).
3. Joint: both together on rendered pages.

Labels and values are random words and codes; no document type of this project is among them. Writes the model folder,
`reading_base.json` (seed, steps, held-out reading score, time) and `training_log.csv`.
"""

from __future__ import annotations

import csv
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.files import argument_path, write_json

PAGE_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,-/:()&+'#"
CELL = 32  # pixels; one vision token
CURRICULUM = [(2, 10), (4, 14), (8, 20), (16, 24)]
WORDS = [
    "NAME",
    "CODE",
    "ITEM",
    "UNIT",
    "PRICE",
    "COLOR",
    "MODEL",
    "BRAND",
    "STATE",
    "CITY",
    "ROAD",
    "STREET",
    "HOUSE",
    "PHONE",
    "MAIL",
    "NOTE",
    "GROUP",
    "CLASS",
    "LEVEL",
    "GRADE",
    "SCORE",
    "TEAM",
    "ROOM",
    "FLOOR",
    "DESK",
    "SHELF",
    "BOX",
    "PART",
    "KIND",
    "TYPE",
    "SIZE",
    "WIDTH",
    "HEIGHT",
    "DEPTH",
    "SPEED",
    "POWER",
    "START",
    "END",
    "FIRST",
    "LAST",
    "OWNER",
    "AUTHOR",
    "TITLE",
    "PAGE",
    "BOOK",
    "PAPER",
    "STONE",
    "RIVER",
    "MOUNT",
    "LAKE",
    "FOREST",
    "GREEN",
    "BLUE",
    "RED",
    "WHITE",
    "BLACK",
    "GOLD",
    "SILVER",
    "NORTH",
    "SOUTH",
    "EAST",
    "WEST",
    "OLD",
    "NEW",
    "LONG",
    "SHORT",
    "OF",
    "THE",
    "AND",
    "FOR",
    "BY",
    "TO",
    "IN",
    "ON",
    "AT",
    "NO",
    "NET",
    "SUM",
    "TAX",
    "DUE",
    "PAID",
    "OPEN",
    "CLOSED",
    "DATE",
    "TIME",
    "DAY",
    "DAYS",
    "MONTH",
    "YEAR",
    "WEEK",
    "HOUR",
    "FREE",
    "TOTAL",
    "COUNT",
    "LIST",
    "LINE",
    "ROW",
    "STAR",
    "MOON",
    "SUN",
]

# Words of the system turn that half of the pages get, so that answers do not depend on what stands before the image.
FILLER = (
    "you read the page and answer with json only copy values exactly as printed use null for none fields document"
).split()


UNITS = ["DAYS", "DAY", "KG", "PCS", "BOX", "HOURS", "PAGES", "CM"]


class PageMaker:
    """Random symbolic pages and the questions about them; one instance per seed, all randomness from `self.rng`."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def word(self) -> str:
        rng = self.rng
        if rng.random() < 0.35:
            return rng.choice(WORDS)
        length = rng.randint(2, 7)
        if rng.random() < 0.5:
            return "".join(rng.choice("BCDFGHJKLMNPRSTVWXYZ" if (i + length) % 2 else "AEIOU") for i in range(length))
        return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(length))

    def digits(self, low: int, high: int) -> str:
        rng = self.rng
        length = rng.randint(low, high)
        # Repeats ("1100", "7777") are what a small copier gets wrong, so they are more frequent than chance.
        alphabet = rng.choice(["0123456789", "0123456789", "01", "".join(rng.sample("0123456789", 3))])
        return "".join(rng.choice(alphabet) for _ in range(length))

    def value(self, width: int) -> str:
        """A value of at most `width` characters."""
        rng = self.rng
        for _ in range(20):
            kind = rng.random()
            if kind < 0.35:
                text = " ".join(self.word() for _ in range(rng.randint(1, 3)))
            elif kind < 0.42:
                text = self.digits(1, 3)
            elif kind < 0.5:
                text = f"{rng.randint(0, 99)} {rng.choice(UNITS)}"
            elif kind < 0.65:
                text = self.digits(4, 10)
            elif kind < 0.85:
                letters = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(2, 4)))
                text = letters + rng.choice(["", "", " ", "-", "/"]) + self.digits(3, 8)
            elif kind < 0.92:
                text = rng.choice(["-", "/", "."]).join([self.digits(2, 2), self.digits(2, 2), self.digits(4, 4)])
            else:
                text = f"{self.digits(1, 2)}{rng.choice(['X', ' X '])}{self.digits(2, 2)}{rng.choice(['AB', 'CD', 'QF', ''])}"
            if len(text) <= width:
                return text
        return self.digits(1, max(1, min(width, 3)))

    def page(self, rows: int, columns: int) -> tuple[list[str], list[tuple[str, str]], list[list[str]]]:
        """`(lines, pairs, table)`: the page's lines (each `columns` long), its label-value pairs and its table rows."""
        rng = self.rng
        lines: list[str] = []
        pairs: list[tuple[str, str]] = []
        table: list[list[str]] = []
        labels: set[str] = set()
        style = rng.choice([": ", ":", " ", "  ", "column", "mixed"])
        value_column = rng.randint(min(5, columns // 2), max(5, columns // 2))
        want_table = rows >= 3 and rng.random() < 0.75
        table_at = rng.randint(1, rows - 1) if want_table else rows
        while len(lines) < rows:
            if len(lines) >= table_at and not table:
                table = self.table(min(rows - len(lines), rng.randint(1, 7)), columns)
                offsets, start = [], rng.randint(0, 2)
                for column in range(len(table[0])):
                    offsets.append(start)
                    start += max(len(row[column]) for row in table) + rng.randint(1, 2)
                if start - 1 <= columns + 1:
                    for row in table:
                        line = ""
                        for offset, cell in zip(offsets, row, strict=True):
                            line = line.ljust(offset) + cell
                        lines.append(line[:columns].ljust(columns))
                    continue
                table = []
                table_at = rows
            draw = rng.random()
            if draw < 0.08:
                lines.append(" " * columns)
            elif draw < 0.2:
                text = " ".join(self.word() for _ in range(3))
                lines.append((" " * rng.randint(0, 3) + text)[:columns].ljust(columns))
            else:
                line = " " * rng.choice([0, 0, 0, 1, 2])
                for _ in range(rng.choice([1, 1, 1, 2])):
                    label = self.word() if rng.random() < 0.6 else self.word() + " " + self.word()
                    separator = style if style != "mixed" else rng.choice([": ", " ", ":"])
                    head = line + label
                    head = (head + " ").ljust(value_column) if separator == "column" else head + separator
                    room = columns - len(head)
                    if label in labels or room < 1 or any(label in known or known in label for known in labels):
                        break
                    text = self.value(room)
                    labels.add(label)
                    pairs.append((label, text))
                    line = head + text + "  "
                    if len(line) > columns * 0.6:
                        break
                lines.append(line[:columns].ljust(columns))
        return lines, pairs, table

    def table(self, count: int, columns: int) -> list[list[str]]:
        rng = self.rng
        width = rng.randint(1, 3)
        kinds = [rng.random() for _ in range(width)]
        prefix_length = rng.randint(2, 4)
        number_length = rng.randint(2, 7)
        tag_choices = [self.word()[:2] for _ in range(3)]
        size_choices = [self.digits(2, 2) for _ in range(3)]
        rows = []
        for _ in range(count):
            row = []
            for column in range(width):
                if column == 0 and kinds[0] < 0.7:
                    letters = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(prefix_length))
                    row.append(letters + self.digits(number_length, number_length))
                elif kinds[column] < 0.35:
                    row.append(self.digits(2, 5))
                elif kinds[column] < 0.6:
                    row.append(rng.choice(tag_choices))
                elif kinds[column] < 0.85:
                    row.append(rng.choice(size_choices))
                else:
                    row.append(self.word())
            rows.append(row)
        return rows

    def fields_question(self, pairs: list[tuple[str, str]]) -> tuple[str, str]:
        """Several labels under given names, as strings or (count, number, total) as whole numbers; null where absent."""
        rng = self.rng
        texts = rng.sample(["first", "name", "last", "code", "date"], rng.randint(1, 4))
        numbers = rng.sample(["count", "number", "total"], rng.randint(0, 2))
        numeric = [pair for pair in pairs if whole_number(pair[1]) is not None]
        wanted: list[tuple[str, str, Any]] = []
        for key in rng.sample(texts + numbers, len(texts) + len(numbers)):
            pool = numeric if key in numbers else pairs
            if not pool or rng.random() < 0.15:
                wanted.append((key, self.word(), None))
                continue
            label, value = rng.choice(pool)
            wanted.append((key, label, whole_number(value) if key in numbers else value))
        known = {label for label, _ in pairs}
        wanted = [(k, label, v) for k, label, v in wanted if v is not None or label not in known]
        question = "fields " + ", ".join(f"{key} {label}" for key, label, _ in wanted)
        return question, compact({key: value for key, _, value in wanted})

    def question(self, lines: list[str], pairs: list[tuple[str, str]], table: list[list[str]]) -> tuple[str, str]:
        """One `(question, answer)` about the page; answers are compact JSON."""
        rng = self.rng
        choices = ["line"]
        if pairs:
            choices += ["value"] * 2 + ["several"] * 3 + ["pairs"] * 2 + ["fields"] * 5
        if table:
            choices += ["table"] * 3 + ["rows"] * 2 + ["count"]
        kind = rng.choice(choices)
        if kind == "value":
            label, value = rng.choice(pairs)
            return f"value {label}", compact({"value": value})
        if kind == "several":
            asked = [(label, value) for label, value in rng.sample(pairs, min(len(pairs), rng.randint(1, 5)))]
            wanted: list[tuple[str, str | None]] = list(asked)
            if rng.random() < 0.4:
                wanted.insert(rng.randint(0, len(wanted)), (self.word() + " " + self.word(), None))
            return "several " + ", ".join(label for label, _ in wanted), compact([value for _, value in wanted])
        if kind == "fields":
            return self.fields_question(pairs)
        if kind == "pairs":
            return "pairs", compact(dict(pairs))
        if kind == "table":
            return "table", compact(table)
        if kind == "rows":
            names = ["first", "name", "last"][: len(table[0])]
            return "rows " + " ".join(names), compact({"rows": [dict(zip(names, row, strict=True)) for row in table]})
        if kind == "count":
            return "count", compact({"rows": len(table)})
        filled = [index for index, line in enumerate(lines) if line.strip()]
        index = rng.choice(filled) if filled else 0
        return f"line {index + 1}", compact(" ".join(lines[index].split()))


def whole_number(text: str) -> int | None:
    """The number of "14" and "14 DAYS"; None for anything else (also for "007", which is a code)."""
    head, _, unit = text.partition(" ")
    return int(head) if head.isdigit() and str(int(head)) == head and len(head) <= 3 and unit in ("", *UNITS) else None


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


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
        """One page with several turns: `ids`, `labels` (-100 outside answers), `positions` [3, L], `cells` [rows*columns]."""
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


class SymbolicPages:
    """The learned row and column vectors that stand beside the character embeddings (the vision tower's targets)."""

    def __init__(self, hidden: int, rows: int, columns: int) -> None:
        import torch

        self.rows = torch.nn.Parameter(torch.randn(rows, hidden) * 0.05)
        self.columns = torch.nn.Parameter(torch.randn(columns, hidden) * 0.05)

    def read_from(self, model: Any, turns: Turns, atlas: GlyphAtlas) -> None:
        """Take the place vectors from a trained vision tower: what it returns less the character's embedding."""
        import torch

        rows, columns = CURRICULUM[-1]
        rng = random.Random(0)
        total = torch.zeros(rows, columns, self.rows.shape[1])
        with torch.no_grad():
            for _ in range(24):
                lines = ["".join(rng.choice(PAGE_CHARACTERS) for _ in range(columns)) for _ in range(rows)]
                pixels, grids = patches_of([atlas.draw(lines, rng)])
                features = model.model.visual(pixels, grid_thw=grids).pooler_output
                ids = torch.tensor([int(turns.character_ids[ord(c)]) for line in lines for c in line])
                total += (features - model.model.language_model.embed_tokens(ids)).reshape(rows, columns, -1)
            mean = total / 24
            self.rows.data = mean.mean(1)
            self.columns.data = (mean - self.rows.data[:, None]).mean(0)

    def vectors(self, embed: Any, cells: Any, rows: int, columns: int) -> Any:
        """float32 [B, rows*columns, H]: what the vision tower should return for these cells."""
        place = (self.rows[:rows, None] + self.columns[None, :columns]).reshape(rows * columns, -1)
        return embed(cells) + place


def answer_loss(model: Any, hidden: Any, labels: Any) -> tuple[Any, float]:
    """Cross-entropy at the supervised positions only, and the token accuracy there."""
    import torch

    keep = labels[:, 1:] != -100
    picked = hidden[:, :-1][keep]
    targets = labels[:, 1:][keep]
    logits = model.lm_head(picked).float()
    loss = torch.nn.functional.cross_entropy(logits, targets)
    return loss, float((logits.argmax(-1) == targets).float().mean())


def language_step(
    model: Any, symbols: SymbolicPages, batch: dict[str, Any], shape: tuple[int, int], noise: float
) -> tuple[Any, float]:
    import torch

    language = model.model.language_model
    embed = language.embed_tokens
    page = symbols.vectors(embed, batch["cells"], *shape)
    page = page + noise * page.detach().std() * torch.randn_like(page)
    inputs = embed(batch["ids"])
    inputs = inputs.masked_scatter(batch["is_image"][..., None].expand_as(inputs), page.to(inputs.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = language(
            inputs_embeds=inputs, position_ids=batch["positions"], attention_mask=None, use_cache=False
        ).last_hidden_state
        return answer_loss(model, hidden, batch["labels"])


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
    """`pixel_values` float32 [patches, 1536] and `image_grid_thw` int64 [N, 3], exactly as Qwen2VLImageProcessor orders them."""
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


def held_out_score(model: Any, turns: Turns, atlas: GlyphAtlas, seed: int, pages: int) -> dict[str, float]:
    """Token accuracy and whole-answer accuracy (teacher forcing) on rendered pages of a seed that training never used."""
    import torch

    maker = PageMaker(seed)
    tokens = right_tokens = answers = right_answers = 0
    model.eval()
    with torch.no_grad():
        for _ in range(pages // 8):
            sequences = [turns.sequence(maker, *CURRICULUM[-1], 6) for _ in range(8)]
            hidden, batch = joint_hidden(model, atlas, sequences, maker.rng)
            predicted = model.lm_head(hidden[:, :-1]).argmax(-1)
            for row, labels in zip(predicted, batch["labels"][:, 1:], strict=True):
                keep = labels != -100
                right = (row == labels) & keep
                tokens += int(keep.sum())
                right_tokens += int(right.sum())
                edges = torch.cat([torch.tensor([False]), keep, torch.tensor([False])]).int().diff()
                for start, stop in zip((edges == 1).nonzero()[:, 0], (edges == -1).nonzero()[:, 0], strict=True):
                    answers += 1
                    right_answers += int(right[start:stop].all())
    model.train()
    return {"token_accuracy": right_tokens / tokens, "answer_accuracy": right_answers / answers, "answers": answers}


def joint_hidden(
    model: Any, atlas: GlyphAtlas, sequences: list[dict[str, Any]], rng: random.Random
) -> tuple[Any, dict[str, Any]]:
    import torch

    batch = batch_of(sequences)
    pixels, grids = patches_of([atlas.draw(s["lines"], rng) for s in sequences])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.model(
            input_ids=batch["ids"],
            pixel_values=pixels,
            image_grid_thw=grids,
            position_ids=batch["positions"],
            mm_token_type_ids=batch["is_image"].long(),
            use_cache=False,
        )
    return output.last_hidden_state.float(), batch


class Log:
    """training_log.csv, behind the rows of the base that this run started from."""

    def __init__(self, path: Path, earlier: Path | None) -> None:
        before = (earlier / "training_log.csv").read_text(encoding="utf-8") if earlier else ""
        self.started = time.monotonic()
        self.file = path.open("w", newline="", encoding="utf-8")
        self.file.write(before or "seconds,stage,step,grid,loss,accuracy\n")
        self.writer = csv.writer(self.file, lineterminator="\n")

    def write(self, stage: str, step: int, grid: str, loss: float, accuracy: float) -> None:
        seconds = time.monotonic() - self.started
        self.writer.writerow([f"{seconds:.0f}", stage, step, grid, f"{loss:.4f}", f"{accuracy:.4f}"])
        self.file.flush()
        print(
            f"{seconds:6.0f} s  {stage:8s} step {step:5d}  grid {grid:6s} loss {loss:.4f}  accuracy {accuracy:.4f}",
            file=sys.stderr,
            flush=True,
        )


def train_language(
    model: Any, turns: Turns, symbols: SymbolicPages, minutes: float, seed: int, rate: float, log: Log, first_level: int
) -> int:
    """Stage 1; moves to the next grid when the accuracy of the current one is good or its share of the time is used."""
    import torch

    maker = PageMaker(seed)
    parameters = [*model.model.language_model.parameters(), symbols.rows, symbols.columns]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    budget = minutes * 60
    started = time.monotonic()
    level, step = first_level, 0
    recent: list[tuple[float, float]] = []
    shares = [0.18, 0.36, 0.55, 1.0]
    while (elapsed := time.monotonic() - started) < budget:
        warm = min(1.0, (step + 1) / 150)
        fraction = elapsed / budget
        decay = 1.0 if fraction < 0.6 else max(0.05, (1 - fraction) / 0.4)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * decay
        # One batch in five comes from an earlier grid, so that small pages stay readable.
        here = level if maker.rng.random() < 0.8 else maker.rng.randint(0, level)
        shape = CURRICULUM[here]
        sequences = [turns.sequence(maker, *shape, [10, 8, 8, 8][here]) for _ in range([24, 16, 12, 8][here])]
        loss, accuracy = language_step(model, symbols, batch_of(sequences), shape, 0.1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if here == level:
            recent.append((loss.item(), accuracy))
        if step % 50 == 0 and recent:
            mean_loss = sum(r[0] for r in recent) / len(recent)
            mean_accuracy = sum(r[1] for r in recent) / len(recent)
            log.write("language", step, "x".join(map(str, CURRICULUM[level])), mean_loss, mean_accuracy)
            recent = []
            if level + 1 < len(CURRICULUM) and (mean_accuracy > 0.93 or elapsed > shares[level] * budget):
                level += 1
    if recent:
        log.write(
            "language",
            step,
            "x".join(map(str, CURRICULUM[level])),
            *(sum(r[k] for r in recent) / len(recent) for k in (0, 1)),
        )
    return step


def train_vision(
    model: Any,
    symbols: SymbolicPages,
    turns: Turns,
    atlas: GlyphAtlas,
    minutes: float,
    seed: int,
    log: Log,
    *,
    fresh: bool,
) -> int:
    """Stage 2: distil the vision tower onto the symbolic vectors; the language model is not touched."""
    import numpy as np
    import torch

    maker = PageMaker(seed)
    visual = model.model.visual
    rows, columns = CURRICULUM[-1]
    side = int(visual.config.num_position_embeddings**0.5)
    with torch.no_grad():
        # Positions in factors (one vector per row plus one per column): what the target asks for, so it is learned at once.
        if fresh:
            down = torch.randn(side, 1, visual.config.hidden_size) * 0.2
            across = torch.randn(1, side, visual.config.hidden_size) * 0.2
            visual.pos_embed.weight.copy_((down + across).reshape(side * side, -1))
        for merger in visual.deepstack_merger_list:
            merger.linear_fc2.weight.zero_()
            merger.linear_fc2.bias.zero_()
    # Parameters the language stages read directly from the deepstack stay zero until the joint stage.
    parameters = [p for n, p in visual.named_parameters() if "deepstack" not in n]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0)
    embed = model.model.language_model.embed_tokens
    budget, started, step = minutes * 60, time.monotonic(), 0
    page_ids = torch.from_numpy(turns.character_ids[[ord(c) for c in PAGE_CHARACTERS]])
    recent: list[tuple[float, float]] = []
    while (elapsed := time.monotonic() - started) < budget:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * max(0.02, 1 - elapsed / budget)
        lines_of = []
        for _ in range(3):
            if maker.rng.random() < 0.6:
                # Uniform characters: every glyph is seen at every place.
                picks = np.array([maker.rng.choice(PAGE_CHARACTERS) for _ in range(rows * columns)])
                lines_of.append(["".join(picks[r * columns : (r + 1) * columns]) for r in range(rows)])
            else:
                lines_of.append(maker.page(rows, columns)[0])
        cells = torch.from_numpy(
            np.stack(
                [turns.character_ids[np.frombuffer("".join(lines).encode(), dtype=np.uint8)] for lines in lines_of]
            )
        )
        pixels, grids = patches_of([atlas.draw(lines, maker.rng) for lines in lines_of])
        with torch.no_grad():
            target = symbols.vectors(embed, cells, rows, columns).reshape(-1, symbols.rows.shape[1])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = visual(pixels, grid_thw=grids)
        features = output.pooler_output if hasattr(output, "pooler_output") else output[0]
        features = torch.cat(list(features)) if isinstance(features, (list, tuple)) else features
        loss = torch.nn.functional.mse_loss(features.float(), target) / target.var()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            with torch.no_grad():
                place = (
                    (symbols.rows[:rows, None] + symbols.columns[None, :columns])
                    .reshape(rows * columns, -1)
                    .repeat(len(lines_of), 1)
                )
                distance = torch.cdist(features.float() - place, embed(page_ids))
                right = page_ids[distance.argmin(-1)] == cells.reshape(-1)
            recent.append((loss.item(), float(right.float().mean())))
            log.write("vision", step, f"{rows}x{columns}", *recent[-1])
    return step


def train_joint(model: Any, turns: Turns, atlas: GlyphAtlas, minutes: float, seed: int, log: Log) -> int:
    """Stage 3: the whole model on rendered pages at a low rate (a high one undoes what was learned)."""
    import torch

    maker = PageMaker(seed)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.98), weight_decay=0.0)
    budget, started, step = minutes * 60, time.monotonic(), 0
    recent: list[tuple[float, float]] = []
    while (elapsed := time.monotonic() - started) < budget:
        for group in optimizer.param_groups:
            group["lr"] = 3e-4 * min(1.0, (step + 1) / 50) * max(0.05, 1 - elapsed / budget)
        sequences = [turns.sequence(maker, *CURRICULUM[-1], 8) for _ in range(6)]
        hidden, batch = joint_hidden(model, atlas, sequences, maker.rng)
        loss, accuracy = answer_loss(model, hidden, batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        recent.append((loss.item(), accuracy))
        if step % 50 == 0:
            log.write(
                "joint",
                step,
                "x".join(map(str, CURRICULUM[-1])),
                sum(r[0] for r in recent) / 50,
                sum(r[1] for r in recent) / 50,
            )
            recent = []
    return step


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--out", type=argument_path, required=True, help="model folder to write")
    parser.add_argument(
        "--start-from", type=argument_path, help="go on from an earlier reading base instead of random weights"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and pages (default: 0)")
    parser.add_argument("--language-minutes", type=float, default=60, help="time for stage 1 (default: 60)")
    parser.add_argument("--vision-minutes", type=float, default=6, help="time for stage 2 (default: 6)")
    parser.add_argument("--joint-minutes", type=float, default=8, help="time for stage 3 (default: 8)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak rate of stage 1 (default: 2e-3)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for torch (default: 2)")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    import torch

    from toolkit.model.libraries import prepare_model_libraries
    from toolkit.model.tiny import build_config, build_model, build_processor, build_tokenizer

    prepare_model_libraries()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    tokenizer = build_tokenizer()
    model = build_model(build_config(tokenizer), seed=args.seed)
    model.train()
    turns = Turns(tokenizer)
    symbols = SymbolicPages(model.config.text_config.hidden_size, *CURRICULUM[-1])
    log = Log(args.out / "training_log.csv", args.start_from)

    steps: dict[str, int] = {}
    atlas = GlyphAtlas()
    first_level = 0
    if args.start_from:
        from transformers import AutoModelForImageTextToText

        model = AutoModelForImageTextToText.from_pretrained(args.start_from, dtype=torch.float32).train()
        symbols.read_from(model, turns, atlas)
        first_level = len(CURRICULUM) - 1
    steps["language"] = train_language(
        model, turns, symbols, args.language_minutes, 1000 + args.seed, args.learning_rate, log, first_level
    )
    steps["vision"] = train_vision(
        model, symbols, turns, atlas, args.vision_minutes, 2000 + args.seed, log, fresh=not args.start_from
    )
    steps["joint"] = train_joint(model, turns, atlas, args.joint_minutes, 3000 + args.seed, log)
    score = held_out_score(model, turns, atlas, 9_000_000 + args.seed, 80)
    model.to(torch.bfloat16).save_pretrained(args.out)
    build_processor(tokenizer).save_pretrained(args.out)
    facts = {
        "what": "Reading base of the quickstart: a random-weight Qwen3-VL in miniature, trained on synthetic pages only.",
        "license": "Apache-2.0 (made by scripts/train_reading_base.py from nothing but this repository)",
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out_reading": {k: round(v, 4) for k, v in score.items()},
        "runs": [
            *earlier_runs(args.start_from),
            {
                "seed": args.seed,
                "learning_rate": args.learning_rate,
                "steps": steps,
                "minutes": round((time.monotonic() - started) / 60, 1),
                "torch": torch.__version__,
            },
        ],
    }
    write_json(args.out / "reading_base.json", facts)
    return console.finish(args, facts)


def earlier_runs(folder: Path | None) -> list[dict[str, Any]]:
    """What the base this run started from says of its own making."""
    if folder is None:
        return []
    return list(json.loads((folder / "reading_base.json").read_text(encoding="utf-8"))["runs"])


if __name__ == "__main__":
    sys.exit(main())
