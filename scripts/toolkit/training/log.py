"""What a training run reports while it runs: training_log.csv, its curves as a picture, speed and GPU utilisation."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

from toolkit.console import say
from toolkit.files import atomic
from toolkit.model.gpus import GPUS

FIELDS = (
    "seconds",
    "step",
    "epoch",
    "loss",
    "val_loss",
    "val_micro_f1",
    "val_row_f1",
    "val_valid",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "answer_tokens_per_second",
    "padding",
    "data_wait",
    "mfu",
    "memory_gib",
)


class TrainingLog:
    """training_log.csv: one row a log event, rewritten whole each time. A resumed run goes on in it, from `step` on."""

    def __init__(self, path: Path, *, resumed_at: int | None = None) -> None:
        self.path = path
        self.started = time.monotonic()
        self.rows: list[dict[str, Any]] = []
        if resumed_at is not None and path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= resumed_at]
            # Seconds count on from where the run stood.
            self.started -= max((float(row["seconds"]) for row in self.rows), default=0.0)
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        """`values` by FIELDS; others are passed over."""
        known = {name: values.get(name, "") for name in FIELDS[3:]}
        row = {"seconds": round(time.monotonic() - self.started, 1), "step": step, "epoch": round(epoch, 3), **known}
        self.rows.append(row)
        say(f"{row['seconds']:7.1f} s  step {step:5d}  epoch {row['epoch']:.2f}  {sentence(values)}")
        with atomic(self.path) as file:
            table = csv.DictWriter(file, FIELDS, lineterminator="\n")
            table.writeheader()
            table.writerows(self.rows)


def sentence(values: dict[str, Any]) -> str:
    """A log event in words."""
    parts = []
    for name, words in (
        ("loss", "loss {:.4f}"),
        ("val_loss", "validation loss {:.4f}"),
        ("val_micro_f1", "field micro-F1 {:.3f}"),
        ("val_valid", "{:.0%} valid"),
        ("tokens_per_second", "{:,.0f} tokens/s"),
        ("mfu", "MFU {:.0%}"),
        ("padding", "{:.0%} padding"),
        ("data_wait", "{:.0%} waiting for data"),
        ("memory_gib", "{:.1f} GiB"),
    ):
        if values.get(name) not in (None, ""):
            parts.append(words.format(values[name]))
    return ", ".join(parts)


class Speed:
    """Tokens, padding and waiting since the last look; one a run. Times are wall seconds."""

    def __init__(self, model: Any) -> None:
        import torch

        self.on_gpu = torch.cuda.is_available()
        self.peak = peak_flops(torch.cuda.get_device_name()) if self.on_gpu else None
        self.work_text, self.work_head, self.work_vision = work_per_token(model)
        self.since, self.waited = time.monotonic(), 0.0
        self.tokens = self.spent = self.answers = self.vision = 0

    def look(self) -> dict[str, float]:
        """The figures since the last look, which start anew."""
        now = time.monotonic()
        found: dict[str, float] = {}
        if self.tokens:
            seconds = now - self.since
            found = {
                "tokens_per_second": round(self.tokens / seconds, 1),
                "answer_tokens_per_second": round(self.answers / seconds, 1),
                "padding": round(1 - self.tokens / self.spent, 4),
                "data_wait": round(self.waited / seconds, 4),
            }
            if self.peak:
                work = self.work_text * self.tokens + self.work_head * self.answers + self.work_vision * self.vision
                found["mfu"] = round(work / seconds / self.peak, 4)
        if self.on_gpu:
            import torch

            found["memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        self.since, self.waited, self.tokens, self.spent, self.answers, self.vision = now, 0.0, 0, 0, 0, 0
        return found

    def saw(self, batch: dict[str, Any], supervised: int) -> None:
        """Count one forward pass of a training batch."""
        mask = batch.get("attention_mask")
        self.spent += batch["input_ids"].numel()
        # The mask of packed shards is one of pairs: nothing is padded there.
        self.tokens += int(mask.sum()) if mask is not None and mask.dim() == 2 else batch["input_ids"].numel()
        self.answers += supervised
        self.vision += int(batch["image_grid_thw"].prod(-1).sum()) // 4


def work_per_token(model: Any) -> tuple[float, float, float]:
    """Operations of a text token in the layers, an answer token in the head, a vision token in the tower.

    Forward and backward of a frozen weight cost 2 + 2 operations a token (no gradient of its own), of a LoRA weight
    6. The vision tower runs forward only, over four patches a token. Recomputation is not counted, as in the usual
    definition of MFU (PaLM, appendix B).
    """
    config = model.config.text_config
    text = vision = head = 0.0
    for name, parameter in model.named_parameters():
        stored: Any = getattr(parameter, "quant_state", None)  # a 4-bit weight knows its own shape
        count = float(stored.shape.numel() if stored else parameter.numel())
        if ".visual." in name:
            vision += (2 if not parameter.requires_grad else 6) * 4 * count
        elif "lm_head" in name:
            head = 4 * count
        elif "embed_tokens" in name:
            continue
        else:
            share = config.num_experts_per_tok / config.num_experts if ".experts." in name else 1.0
            text += (6 if parameter.requires_grad else 4) * share * count
    return text, head or 4.0 * config.vocab_size * config.hidden_size, vision


def peak_flops(device: str) -> float | None:
    """bf16 operations a second of a GPU that the plans know, by the driver's name; None for another."""
    words = device.upper().replace("-", " ").split()
    for gpu in GPUS.values():
        if gpu.name.split()[-1 if gpu.name.startswith("RTX") else 0].upper() in words:
            return gpu.bf16 * 1e12
    return None


def curve_picture(log: Path, picture: Path) -> None:
    """The curves of training_log.csv as a PNG: losses, and the field scores where there are any."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with log.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scored = any(row["val_micro_f1"] for row in rows)
    figure, axes = pyplot.subplots(1, 2 if scored else 1, figsize=(11 if scored else 7, 4), dpi=130, squeeze=False)

    def draw(place: Any, names: dict[str, tuple[str, str]]) -> None:
        for name, (label, style) in names.items():
            points = [(int(row["step"]), float(row[name])) for row in rows if row[name] != ""]
            if points:
                place.plot(*zip(*points, strict=True), style, label=label)
        place.set(xlabel="optimizer step")
        place.grid(alpha=0.3)
        place.legend()

    draw(axes[0][0], {"loss": ("training loss", "-"), "val_loss": ("validation loss", "o-")})
    axes[0][0].set(ylabel="cross-entropy per answer token", yscale="log")
    if scored:
        draw(
            axes[0][1],
            {
                "val_micro_f1": ("field micro-F1", "o-"),
                "val_row_f1": ("row F1", "o-"),
                "val_valid": ("valid answers", "o--"),
            },
        )
        axes[0][1].set(ylabel="share, on the validation sample", ylim=(-0.02, 1.02))
    figure.tight_layout()
    with atomic(picture, "wb") as target:
        figure.savefig(target, format="png")
    pyplot.close(figure)
