"""transformers' Trainer with batches by tokens and a loss over the answer only; its checkpoints are complete or absent.

Imported late: transformers' Trainer takes seconds to load.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from toolkit.console import ExitCode, StageError, first_few, say, sentence_of
from toolkit.files import atomic_folder, shown, write_json
from toolkit.model.adapters import parameter_groups
from toolkit.model.encoding import IGNORED
from toolkit.training.log import Speed, TrainingLog
from toolkit.training.loss import summed_loss
from toolkit.training.settings import Run, TrainingSettings
from toolkit.training.token_batches import TokenBatches
from toolkit.training.validation import Validation

COMPLETE = "complete.json"  # written last: a checkpoint without it was cut off
BEST = "best"
# Their types are those of every kind of training.
Trainer: Any = transformers.Trainer
DataLoader: Any = torch.utils.data.DataLoader
TrainerCallback: Any = transformers.TrainerCallback


class Loader(DataLoader):
    """A data loader that tells its batches which epoch it is."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


class AnswerTrainer(Trainer):
    """transformers' Trainer with our batches, loss, evaluation and checkpoints; `prepare_run` comes before `train`."""

    optimizer: Any
    control: Any

    def prepare_run(
        self,
        run: Run,
        settings: TrainingSettings,
        batches: TokenBatches,
        log: TrainingLog,
        validation: Validation,
    ) -> None:
        self.run, self.settings, self.batches = run, settings, batches
        self.training_log, self.validation = log, validation
        self.model_accepts_loss_kwargs = True  # so that the answer tokens of all batches of a step are counted
        self.speed = Speed(self.model)
        self.best_score, self.best_step, self.without_gain = -1.0, 0, 0
        self.stop_signal, self.last_evaluated = "", -1

    def restore_best(self, best: dict[str, Any]) -> None:
        """What a checkpoint's COMPLETE says of the best adapter until then."""
        self.best_score, self.best_step, self.without_gain = best["score"], best["step"], best["without_gain"]

    def get_train_dataloader(self) -> Any:
        # Not prepared by accelerate: the sampler already gives each process its own batches.
        return Loader(
            self.train_dataset,
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=False,
            prefetch_factor=2 if self.args.dataloader_num_workers else None,
            multiprocessing_context="spawn" if self.args.dataloader_num_workers else None,
        )

    def create_optimizer(self, *_: Any, **__: Any) -> Any:
        if self.optimizer is None:
            fused = self.args.device.type in ("cuda", "cpu")
            self.optimizer = torch.optim.AdamW(
                parameter_groups(self.model, self.settings.adapter), weight_decay=0.0, fused=fused
            )
        return self.optimizer

    def get_batch_samples(self, *arguments: Any, **named: Any) -> Any:
        began = time.monotonic()
        found = super().get_batch_samples(*arguments, **named)
        self.speed.waited += time.monotonic() - began
        return found

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], *_: Any, num_items_in_batch: Any = None, **__: Any
    ) -> Any:
        inputs = dict(inputs)
        ids, labels = inputs.pop("ids"), inputs.pop("labels")
        supervised = int((labels != IGNORED).sum())
        loss = summed_loss(model, inputs, labels)
        self.speed.saw(inputs, supervised)
        if not bool(torch.isfinite(loss)):
            records = first_few(map(repr, ids), 8)
            raise StageError(
                f"the loss is not a number at step {self.state.global_step + 1}, records {records}; "
                "lower --learning-rate, or look at these records (the last complete checkpoint is kept)",
                ExitCode.PROBLEMS,
            )
        count = num_items_in_batch if num_items_in_batch is not None else supervised
        scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return loss / count * scale

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        if "loss" in logs:
            logs |= self.speed.look()
        super().log(logs, *arguments, **named)
        if self.is_world_process_zero() and ("loss" in logs or "eval_loss" in logs):
            self.training_log.add(
                self.state.global_step,
                self.state.epoch or 0,
                {n.replace("eval_", "val_"): v for n, v in logs.items()},
            )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss per answer token over all validation records; field scores of a sample, answered as it is served."""
        metrics = self.validation(self.model)
        self.last_evaluated = self.state.global_step
        self.speed.look()  # its time is not training's
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._keep_best(metrics)
        return metrics

    def _keep_best(self, metrics: dict[str, float]) -> None:
        score = metrics.get("eval_micro_f1", -metrics["eval_loss"])
        if score > self.best_score or (self.best_step == 0 and self.state.global_step > 0 and score == self.best_score):
            self.best_score, self.best_step, self.without_gain = score, self.state.global_step, 0
            self._save_best(metrics)
            return
        self.without_gain += 1
        if self.settings.patience and self.without_gain >= self.settings.patience:
            say(f"no better for {self.without_gain} evaluations: stopped early (--patience {self.settings.patience})")
            self.control.should_training_stop = True

    def _save_best(self, metrics: dict[str, float]) -> None:
        if self.state.global_step == 0:
            return
        self.model_to_folder(self.run.out / BEST, {"step": self.state.global_step, "score": self.best_score, **metrics})

    def model_to_folder(self, folder: Path, note: dict[str, Any]) -> None:
        """The adapter's two files in `folder`, complete or not at all; every process must call it."""
        state = self.accelerator.get_state_dict(self.model) if self.accelerator.num_processes > 1 else None
        if not self.is_world_process_zero():
            return
        with atomic_folder(folder, overwrite=True) as made:
            self.accelerator.unwrap_model(self.model).save_pretrained(made, state_dict=state)
            (made / "README.md").unlink(missing_ok=True)
            write_json(made / COMPLETE, note)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        began = time.monotonic()
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            if self.is_world_process_zero():
                best = {"score": self.best_score, "step": self.best_step, "without_gain": self.without_gain}
                write_json(folder / COMPLETE, {"step": self.state.global_step, "best": best})
        except Exception as error:
            # torch and safetensors have their own classes for a full disk.
            shutil.rmtree(folder, ignore_errors=True)
            reason = sentence_of(error) if isinstance(error, OSError) else " ".join(str(error).split())[:160]
            kept = newest_checkpoint(self.run.out)
            earlier = shown(kept) if kept else "no earlier checkpoint"
            raise StageError(
                f"checkpoint-{self.state.global_step} could not be written ({reason}); "
                f"free the disk and go on with --resume ({earlier})",
                ExitCode.PROBLEMS,
            ) from None
        self.speed.since += time.monotonic() - began


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; one that was cut off is passed over."""
    found = [path for path in folder.glob("checkpoint-*") if (path / COMPLETE).is_file()]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


class Stop(TrainerCallback):
    """Writes a checkpoint and ends the run after the step in which a signal came."""

    def __init__(self, trainer: AnswerTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if self.trainer.stop_signal:
            control = self.trainer.control
            control.should_save = control.should_training_stop = True


def stop_at_signal(trainer: AnswerTrainer) -> Any:
    """SIGTERM (a spot machine that is taken back) writes a checkpoint after the step at hand and ends the run."""

    def caught(number: int, _: Any) -> None:
        trainer.stop_signal = signal.Signals(number).name
        say(f"{trainer.stop_signal}: a checkpoint is written after this step")

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, caught)
    return Stop(trainer)


def save_result(trainer: Any, processor: Any, out: Path) -> None:
    """The adapter in `out`: the best one where validation chose, else the last."""
    best = out / BEST
    if not (trainer.best_step and best.is_dir()):
        trainer.model_to_folder(best, {"step": trainer.state.global_step})
    elif trainer.best_step != trainer.state.global_step:
        say(f"the adapter of step {trainer.best_step} is kept: it did best on the validation documents")
    if trainer.is_world_process_zero():
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            shutil.copyfile(best / name, out / f"{name}.part")
            os.replace(out / f"{name}.part", out / name)
        processor.save_pretrained(out)
