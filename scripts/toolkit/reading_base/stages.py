"""The three stages of training (language, vision, joint), their log, and the reading score on held-out pages."""

from __future__ import annotations

import csv
import random
import sys
import time
from pathlib import Path
from typing import Any

from toolkit.reading_base.drawing import GlyphAtlas, patches_of
from toolkit.reading_base.pages import PAGE_CHARACTERS, PageMaker
from toolkit.reading_base.turns import Turns, batch_of

CURRICULUM = [(2, 10), (4, 14), (8, 20), (16, 24)]


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
    """Loss (a tensor) and accuracy of the language model on symbolic pages; `noise`: of their vectors' spread."""
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


def held_out_score(model: Any, turns: Turns, atlas: GlyphAtlas, seed: int, pages: int) -> dict[str, float]:
    """Token and whole-answer accuracy (teacher forcing) on rendered pages of a seed that training never used."""
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
    """Last hidden states of the whole model over drawn pages, and the batch that they belong to."""
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
        # Positions as a row vector plus a column vector: what the target asks for, so it is learned at once.
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
