"""The training run: LoRA on the language model, the Trainer of transformers, a log, a curve, complete checkpoints."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path
from typing import Any

from toolkit.batches import END_OF_ANSWER, IGNORED, Collator, RecordDataset
from toolkit.console import ExitCode, StageError, say
from toolkit.files import atomic
from toolkit.page_images import image_tokens, processor_size
from toolkit.records import answer_text, images_of, prompt_of


def answer_lengths(processor: Any, records: list[dict[str, Any]]) -> list[int]:
    """Tokens of each answer with its end mark."""
    return [
        len(processor.tokenizer.encode(answer_text(record) + END_OF_ANSWER, add_special_tokens=False))
        for record in records
    ]


def prompt_length(processor: Any, prompt: Any) -> int:
    """Text tokens of a request without its pages."""
    text = processor.apply_chat_template(prompt.messages([]), add_generation_prompt=True, tokenize=False)
    return len(processor.tokenizer.encode(text, add_special_tokens=False))


def record_length(processor: Any, record: dict[str, Any], root: Path, image_max_tokens: int) -> int:
    """Tokens of a whole record without decoding its images: their headers tell their sizes."""
    from PIL import Image

    prompt = prompt_of(record)
    text = processor.apply_chat_template(prompt.messages(images_of(record)), add_generation_prompt=True, tokenize=False)
    total = len(processor.tokenizer.encode(text + answer_text(record) + END_OF_ANSWER, add_special_tokens=False))
    for image in images_of(record):
        try:
            with Image.open(root / image) as opened:
                total += image_tokens(*processor_size(*opened.size, image_max_tokens)) - 1
        except OSError:
            raise StageError(
                f"record {record['id']!r}: the image {image} cannot be read; run verify_image_paths.py"
            ) from None
    return total


def lora_model(model: Any, config: Any, args: Any) -> Any:
    """`model` with trainable LoRA weights; attention only on MoE, because vLLM cannot load LoRA on fused experts."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    from toolkit.qwen3vl import LORA_TARGETS, LORA_TARGETS_ATTENTION, is_moe

    if args.method == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=args.gradient_checkpointing)
    targets = LORA_TARGETS_ATTENTION if is_moe(config) else LORA_TARGETS
    return get_peft_model(
        model,
        LoraConfig(
            r=args.rank, lora_alpha=args.alpha, lora_dropout=args.dropout, target_modules=targets, task_type="CAUSAL_LM"
        ),
    )


def show_supervised_text(dataset: RecordDataset, tokenizer: Any) -> None:
    """Print what the loss sees of the first record; it must be the answer and its end mark, to the letter."""
    example = dataset[0]
    text = tokenizer.decode(example["labels"][example["labels"] != IGNORED])
    wanted = answer_text(dataset.records[0]) + END_OF_ANSWER
    if text != wanted:
        raise StageError(f"the tokenizer does not give the answer back: {text[:100]!r} for {wanted[:100]!r}")
    say(f"supervised text of the first record: {text if len(text) < 400 else text[:400] + ' ...'}")


def measured_training(
    args: Any, config: Any, processor: Any, records: list[dict[str, Any]], validation: list[dict[str, Any]]
) -> dict[str, Any]:
    """Train and save the adapter and processor in `args.out`; returns losses, steps and speed."""
    import torch
    from transformers import Trainer, TrainingArguments, set_seed
    from transformers.trainer_utils import get_last_checkpoint

    from toolkit.qwen3vl import load_model

    set_seed(args.seed)
    model = lora_model(load_model(args.model, nf4=args.method == "qlora"), config, args)
    # transformers marks Qwen3-VL as if its loss could not take the batch's token count; it can, and only with it is
    # 1 x 8 accumulated the same as a batch of 8.
    model.get_base_model().accepts_loss_kwargs = True
    dataset = RecordDataset(records, processor, args.root)
    show_supervised_text(dataset, processor.tokenizer)
    on_cpu = not torch.cuda.is_available()
    steps_per_epoch = max(1, math.ceil(len(records) / (args.batch_size * args.accumulate)))
    settings = TrainingArguments(
        output_dir=str(args.out),
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        gradient_accumulation_steps=args.accumulate,
        warmup_steps=math.ceil(args.warmup * args.epochs * steps_per_epoch),
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=True,
        use_cpu=on_cpu,
        gradient_checkpointing=args.gradient_checkpointing,
        logging_steps=args.log_each,
        logging_first_step=True,
        eval_strategy="epoch" if validation else "no",
        save_strategy="steps" if args.save_each else "epoch",
        save_steps=args.save_each or 500,
        save_total_limit=1,
        seed=args.seed,
        data_seed=args.seed,
        dataloader_num_workers=args.loader_workers,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        disable_tqdm=True,
        logging_nan_inf_filter=False,
    )
    log = LogWriter(args.out / "training_log.csv", append=args.resume)
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=dataset,
        eval_dataset=RecordDataset(validation, processor, args.root) if validation else None,
        data_collator=Collator(processor.tokenizer.pad_token_id),
        callbacks=[log.callback()],
    )
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    checkpoint = get_last_checkpoint(str(args.out)) if args.resume and args.out.is_dir() else None
    if args.resume and checkpoint is None:
        say("no checkpoint to resume from; starting at step 0")
    outcome = trainer.train(resume_from_checkpoint=checkpoint)
    if not math.isfinite(outcome.training_loss):
        raise StageError("the loss is not a number; lower --learning-rate (nothing was saved)", ExitCode.PROBLEMS)
    model.save_pretrained(args.out)
    processor.save_pretrained(args.out)
    final = next((row["eval_loss"] for row in reversed(trainer.state.log_history) if "eval_loss" in row), None)
    return {
        "train_loss": round(outcome.training_loss, 5),
        "val_loss": None if final is None else round(final, 5),
        "steps": trainer.state.global_step,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


class LogWriter:
    """training_log.csv: one row a log event (seconds, step, epoch, loss, val_loss, learning rate, gradient norm)."""

    FIELDS = ("seconds", "step", "epoch", "loss", "val_loss", "learning_rate", "grad_norm")

    def __init__(self, path: Path, *, append: bool) -> None:
        self.path = path
        self.started = time.monotonic()
        self.rows: list[dict[str, Any]] = []
        if append and path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                self.rows = list(csv.DictReader(file))
        path.parent.mkdir(parents=True, exist_ok=True)

    def callback(self) -> Any:
        from transformers import TrainerCallback

        writer = self

        class Callback(TrainerCallback):
            def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
                writer.write(state, logs or {})

        return Callback()

    def write(self, state: Any, logs: dict[str, Any]) -> None:
        if "loss" not in logs and "eval_loss" not in logs:
            return
        row = {
            "seconds": round(time.monotonic() - self.started, 1), "step": state.global_step, "epoch": round(state.epoch or 0, 3), "loss": logs.get("loss", ""),
            "val_loss": logs.get("eval_loss", ""), "learning_rate": logs.get("learning_rate", ""), "grad_norm": logs.get("grad_norm", ""),
        }  # fmt: skip
        self.rows.append(row)
        what = (
            f"loss {float(row['loss']):.4f}" if row["loss"] != "" else f"validation loss {float(row['val_loss']):.4f}"
        )
        say(f"{row['seconds']:7.1f} s  step {row['step']:5d}  epoch {row['epoch']:.2f}  {what}")
        with atomic(self.path) as file:
            table = csv.DictWriter(file, self.FIELDS, lineterminator="\n")
            table.writeheader()
            table.writerows(self.rows)


def curve_picture(log: Path, picture: Path) -> None:
    """The loss curves of training_log.csv as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with log.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=130)
    for name, style in (("loss", "-"), ("val_loss", "o-")):
        points = [(int(row["step"]), float(row[name])) for row in rows if row[name] != ""]
        if points:
            axes.plot(
                *zip(*points, strict=True), style, label={"loss": "training loss", "val_loss": "validation loss"}[name]
            )
    axes.set(xlabel="optimizer step", ylabel="cross-entropy per answer token", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    with atomic(picture, "wb") as target:
        figure.savefig(target, format="png")
    pyplot.close(figure)
