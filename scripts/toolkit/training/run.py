"""One training run: a base model, an adapter on it, the batches, and transformers' Trainer around them."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from toolkit.console import ExitCode, StageError, say
from toolkit.model.adapters import check_nf4, lora_model, without_casts
from toolkit.model.contract import Contract
from toolkit.model.devices import join_processes, one_gpu, under_fsdp
from toolkit.model.encoding import Collator, RecordDataset
from toolkit.model.loading import load_model
from toolkit.training.log import TrainingLog
from toolkit.training.loss import show_supervised_text
from toolkit.training.memory_trial import choose_checkpointing
from toolkit.training.settings import Run, TrainingSettings
from toolkit.training.token_batches import TokenBatches
from toolkit.training.trainer import COMPLETE, AnswerTrainer, newest_checkpoint, save_result, stop_at_signal
from toolkit.training.validation import Validation


@dataclass(frozen=True)
class TrainingData:
    """What a run reads: training records with their lengths in tokens, validation records, the images' folder."""

    records: list[dict[str, Any]]
    lengths: list[int]
    validation: list[dict[str, Any]]
    root: Path

    @property
    def in_shards(self) -> bool:
        return "parts" in self.records[0]


def measured_training(
    run: Run, settings: TrainingSettings, processor: Any, contract: Contract, data: TrainingData
) -> dict[str, Any]:
    """Train, and save the adapter and processor in `run.out`; returns losses, steps and speed.

    Raises StageError where memory, disk, data or a signal ends the run.
    """
    if settings.liger:
        check_liger()
    process = join_processes()
    set_seed(settings.seed)
    attention = attention_for(settings)
    pack = data.in_shards or is_packed(settings, attention)
    model = adapted_model(run.model, settings, attention)
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(run.out / "tensorboard"))
    dataset = RecordDataset(data.records, processor, data.root)
    show_supervised_text(dataset, processor.tokenizer)
    checkpoint = newest_checkpoint(run.out) if run.resume else None
    if run.resume and checkpoint is None:
        say("no checkpoint to resume from; starting at step 0")
    batches = TokenBatches(
        data.lengths,
        records=settings.batch_size,
        tokens=settings.tokens_per_batch,
        packed=pack,
        passes=settings.accumulate,
        seed=settings.seed,
        rank=process.index,
        world=process.count,
    )
    steps_per_epoch = math.ceil(len(batches) / settings.accumulate)
    trainer = AnswerTrainer(
        model=model,
        args=trainer_arguments(
            run,
            settings,
            steps_per_epoch,
            on_cpu=process.device == "cpu",
            validates=bool(data.validation),
            resumes=checkpoint is not None,
        ),
        train_dataset=dataset,
        eval_dataset=data.validation or None,
        data_collator=Collator(processor.tokenizer.pad_token_id, pack=pack),
    )
    trainer.remove_callback(PrinterCallback)
    resumed_at = int(checkpoint.name.rpartition("-")[2]) if checkpoint else None
    log = TrainingLog(run.out / "training_log.csv", resumed_at=resumed_at)
    validation = Validation(
        processor, contract, data.validation, data.root, model=run.model, documents=settings.eval_documents
    )
    trainer.prepare_run(run, settings, batches, log, validation)
    trainer.add_callback(stop_at_signal(trainer))
    if checkpoint:
        trainer.restore_best(json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))["best"])
    with without_casts(model):
        recomputed = choose_checkpointing(trainer, settings.checkpointing, dataset, data.lengths)
        say(
            f"{len(batches)} batches an epoch, {steps_per_epoch} optimizer steps, "
            f"{'packed' if pack else f'{batches.padding():.1%} padding'}, attention {attention}"
        )
        outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if trainer.stop_signal:
            raise StageError(
                f"stopped by {trainer.stop_signal} at step {trainer.state.global_step}; go on with --resume",
                ExitCode.INTERRUPTED,
            )
        if data.validation and trainer.last_evaluated != trainer.state.global_step:
            trainer.evaluate()
    save_result(trainer, processor, run.out)
    last: dict[str, Any] = next((row for row in reversed(trainer.state.log_history) if "eval_loss" in row), {})
    # transformers divides what was lost since the start of this process by the steps of all of them.
    own_steps = trainer.state.global_step - (resumed_at or 0)
    return {
        "train_loss": round(outcome.training_loss * trainer.state.global_step / own_steps, 5) if own_steps else None,
        "val_loss": last.get("eval_loss"),
        "val_micro_f1": last.get("eval_micro_f1"),
        "steps": trainer.state.global_step,
        "best_step": trainer.best_step or trainer.state.global_step,
        "recomputed": recomputed,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "adapter": asdict(settings.adapter),
    }


def adapted_model(model: str, settings: TrainingSettings, attention: str) -> Any:
    """The base model, in 4 bit for QLoRA, with a new adapter on it."""
    base = load_model(model, nf4=settings.method == "qlora", attention=attention, fsdp=under_fsdp())
    if settings.method == "qlora":
        say(f"4 bit: {check_nf4(base)}")
    return lora_model(base, settings.adapter)


def trainer_arguments(
    run: Run, settings: TrainingSettings, steps_per_epoch: int, *, on_cpu: bool, validates: bool, resumes: bool
) -> TrainingArguments:
    """The settings in transformers' words. `resumes`: the run goes on from a checkpoint, which was evaluated."""
    each = settings.eval_each or steps_per_epoch
    steps = settings.max_steps or settings.epochs * steps_per_epoch
    return one_gpu(
        TrainingArguments(
            output_dir=str(run.out),
            num_train_epochs=settings.epochs,
            max_steps=settings.max_steps or -1,
            learning_rate=settings.learning_rate,
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.accumulate,
            warmup_steps=math.ceil(settings.warmup * steps),
            lr_scheduler_type="cosine",
            weight_decay=0.0,
            max_grad_norm=1.0,
            bf16=True,
            use_cpu=on_cpu,
            logging_steps=settings.log_each,
            logging_first_step=True,
            eval_strategy="steps" if validates else "no",
            eval_steps=each,
            eval_on_start=validates and not resumes,
            save_strategy="steps",
            save_steps=settings.save_each or each,
            save_total_limit=2,
            seed=settings.seed,
            data_seed=settings.seed,
            dataloader_num_workers=settings.loader_workers,
            remove_unused_columns=False,
            label_names=["labels"],
            # The loss is ours and over answer tokens only, so Liger's own has nothing to do.
            use_liger_kernel=settings.liger,
            liger_kernel_config=(
                {"cross_entropy": False, "fused_linear_cross_entropy": False} if settings.liger else None
            ),
            report_to=reports(),
            disable_tqdm=True,
            logging_nan_inf_filter=False,
            ddp_find_unused_parameters=False,
        )
    )


def attention_for(settings: TrainingSettings) -> str:
    """The attention backend: FlashAttention where `auto` finds it on a GPU, else torch's own."""
    import torch

    if settings.rows_per_shard or settings.fields_per_shard:
        if settings.attention == "flash_attention_2":
            raise StageError(
                "shards share their pages under a mask of their own, which FlashAttention 2 does not take; "
                "use --attention sdpa"
            )
        return "sdpa"
    if settings.attention != "auto":
        return settings.attention
    from transformers.utils.import_utils import is_flash_attn_2_available

    return "flash_attention_2" if torch.cuda.is_available() and is_flash_attn_2_available() else "sdpa"


def is_packed(settings: TrainingSettings, attention: str) -> bool:
    """Whether records of a batch lie one behind the other; `auto`: where the attention needs no mask for it."""
    return attention == "flash_attention_2" if settings.packing == "auto" else settings.packing == "on"


def check_liger() -> None:
    """Liger's kernels are Triton's, so they want a GPU. Raises StageError where they cannot run."""
    from importlib.util import find_spec

    import torch

    if not torch.cuda.is_available() or find_spec("liger_kernel") is None:
        raise StageError("--liger needs a GPU and the package: pip install liger-kernel", ExitCode.DEPENDENCY)


def reports() -> list[str]:
    """TensorBoard if it is installed; MLflow if MLFLOW_TRACKING_URI is set (Azure ML sets it)."""
    from importlib.util import find_spec

    reported = ["tensorboard"] if find_spec("tensorboard") else []
    if os.environ.get("MLFLOW_TRACKING_URI"):
        if not find_spec("mlflow"):
            raise StageError(
                "MLFLOW_TRACKING_URI is set, but mlflow is not installed; "
                "pip install mlflow azureml-mlflow, or unset it",
                ExitCode.DEPENDENCY,
            )
        reported.append("mlflow")
    return reported
