"""The training run: transformers' Trainer with batches by tokens and a loss over the answer only.

Validation documents give field scores. Checkpoints are complete or absent.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolkit.console import ExitCode, StageError, first_few, say, sentence_of
from toolkit.files import atomic_folder, shown, write_json
from toolkit.model.adapters import AdapterSettings, check_nf4, lora_model, parameter_groups, without_casts
from toolkit.model.contract import Contract
from toolkit.model.devices import join_processes, one_gpu, under_fsdp
from toolkit.model.encoding import END_OF_ANSWER, IGNORED, Collator, RecordDataset
from toolkit.model.lengths import answers_of
from toolkit.training.log import Speed, TrainingLog
from toolkit.training.token_batches import TokenBatches

COMPLETE = "complete.json"  # written last: a checkpoint without it was cut off
BEST = "best"


def show_supervised_text(dataset: RecordDataset, tokenizer: Any) -> None:
    """Print what the loss sees of the first record; it must be the answer and its end mark, to the letter."""
    example = dataset[0]
    text = tokenizer.decode(example["labels"][example["labels"] != IGNORED])
    wanted = "".join(text + END_OF_ANSWER for text in answers_of(dataset.records[0]))
    if text != wanted:
        raise StageError(f"the tokenizer does not give the answer back: {text[:100]!r} for {wanted[:100]!r}")
    say(f"supervised text of the first record: {text if len(text) < 400 else text[:400] + ' ...'}")


def answer_logits(model: Any, inputs: dict[str, Any], labels: Any) -> tuple[Any, Any]:
    """`(logits [N, vocabulary], labels [N])` of the N supervised tokens.

    The head runs over no other token of a packed row, and only over the last columns of a batch padded on the left. At
    Qwen's vocabulary the logits of a prompt token cost 1.8 MB forward and backward.
    """
    import torch

    supervised = labels[:, 1:] != IGNORED
    # With a cache transformers (5.17) does not look for packed records in the positions, and they see each other.
    inputs = inputs | {"use_cache": False}
    if labels.shape[0] == 1:
        keep = torch.nonzero(supervised[0])[:, 0]
        if len(keep) == 0:  # a batch without a loss still takes part: the other processes wait for its gradients
            keep = torch.zeros(1, dtype=torch.long, device=labels.device)
        logits = model(**inputs, logits_to_keep=keep).logits[0]
        return logits, labels[0, keep + 1]
    first = int(torch.nonzero(supervised.any(0))[0, 0]) if supervised.any() else supervised.shape[1] - 1
    columns = labels.shape[1] - first
    logits = model(**inputs, logits_to_keep=columns).logits[:, :-1]
    wanted = labels[:, first + 1 :]
    mask = wanted != IGNORED
    return (logits[mask], wanted[mask]) if mask.any() else (logits[:1, 0], wanted[:1, 0])


def summed_loss(model: Any, inputs: dict[str, Any], labels: Any) -> Any:
    """Cross-entropy summed over the supervised tokens of a batch, float32."""
    import torch

    logits, wanted = answer_logits(model, inputs, labels)
    return torch.nn.functional.cross_entropy(logits.float(), wanted, ignore_index=IGNORED, reduction="sum")


def trainer_class() -> Any:
    """The Trainer with our batches, loss, evaluation and checkpoints; made late, as transformers is imported late."""
    import torch
    import transformers

    Trainer: Any = transformers.Trainer  # its types are those of every kind of training
    DataLoader: Any = torch.utils.data.DataLoader

    class Loader(DataLoader):
        def set_epoch(self, epoch: int) -> None:
            self.batch_sampler.set_epoch(epoch)

    class AnswerTrainer(Trainer):
        optimizer: Any
        control: Any

        def prepare_run(
            self, args: Any, adapter: AdapterSettings, batches: TokenBatches, log: TrainingLog, validation: Any
        ) -> None:
            self.run, self.adapter, self.batches, self.training_log, self.validation = (
                args,
                adapter,
                batches,
                log,
                validation,
            )
            self.model_accepts_loss_kwargs = True  # so that the answer tokens of all batches of a step are counted
            self.speed = Speed(self.model)
            self.best_score, self.best_step, self.without_gain = -1.0, 0, 0
            self.stop_signal, self.last_evaluated = "", -1

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
                    parameter_groups(self.model, self.adapter), weight_decay=0.0, fused=fused
                )
            return self.optimizer

        def get_batch_samples(self, *arguments: Any, **named: Any) -> Any:
            began = time.monotonic()
            found = super().get_batch_samples(*arguments, **named)
            self.speed.waited += time.monotonic() - began
            return found

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
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
            if score > self.best_score or (
                self.best_step == 0 and self.state.global_step > 0 and score == self.best_score
            ):
                self.best_score, self.best_step, self.without_gain = score, self.state.global_step, 0
                self._save_best(metrics)
                return
            self.without_gain += 1
            if self.run.patience and self.without_gain >= self.run.patience:
                say(f"no better for {self.without_gain} evaluations: stopped early (--patience {self.run.patience})")
                self.control.should_training_stop = True

        def _save_best(self, metrics: dict[str, float]) -> None:
            if self.state.global_step == 0:
                return
            self.model_to_folder(
                self.run.out / BEST, {"step": self.state.global_step, "score": self.best_score, **metrics}
            )

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

    return AnswerTrainer


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; one that was cut off is passed over."""
    found = [path for path in folder.glob("checkpoint-*") if (path / COMPLETE).is_file()]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


class Validation:
    """Scores a model in training.

    `eval_loss` is per answer token over all records. `eval_micro_f1`, `eval_row_f1` and `eval_valid` are of a fixed
    sample of records, answered as they will be served (prompt, sizes and grammar of the contract).
    """

    def __init__(self, args: Any, processor: Any, contract: Contract, records: list[dict[str, Any]]) -> None:
        import random

        self.args, self.processor, self.contract, self.records = args, processor, contract, records
        self.sample = random.Random(0).sample(records, min(args.eval_documents, len(records)))
        self._local: Any = None

    def __call__(self, model: Any) -> dict[str, float]:
        was_training = model.training
        model.eval()
        metrics = {"eval_loss": self.loss(model)} | (self.field_scores(model) if self.sample else {})
        model.train(was_training)
        return metrics

    def loss(self, model: Any) -> float:
        import torch

        dataset = RecordDataset(self.records, self.processor, self.args.root)
        collator = Collator(self.processor.tokenizer.pad_token_id)
        total, count = 0.0, 0
        autocast = torch.autocast(model.device.type, torch.bfloat16)
        with torch.no_grad(), autocast:
            for index in range(len(dataset)):
                batch = collator([dataset[index]])
                batch.pop("ids")
                labels = batch.pop("labels").to(model.device)
                inputs = {name: value.to(model.device) for name, value in batch.items()}
                total += float(summed_loss(model, inputs, labels))
                count += int((labels != IGNORED).sum())
        return round(total / count, 6)

    def field_scores(self, model: Any) -> dict[str, float]:
        from toolkit.evaluation.score_table import ScoreTable
        from toolkit.evaluation.scoring import score_document
        from toolkit.extraction.local_model import LocalModel
        from toolkit.extraction.run import Judge, records_answered

        if self._local is None:
            self._local = LocalModel(self.args.model, None, self.contract, loaded=model, autocast=True)
        judge, table = Judge(self.contract.answer_plan), ScoreTable(self.contract.target)
        lines = records_answered(self._local, judge, self.sample, self.args.root, 8)
        for record, line in zip(self.sample, lines, strict=True):
            gold = judge.plan.gold(record)
            table.add(score_document(self.contract.target, record["id"], gold, line["prediction"], line["status"]))
        found = table.summary()
        rows = {} if found["row_f1"] is None else {"eval_row_f1": round(found["row_f1"], 4)}
        return {"eval_micro_f1": round(found["micro_f1"], 4), **rows, "eval_valid": found["valid"] / len(self.sample)}


def fits_without_checkpointing(trainer: Any, batch: dict[str, Any]) -> bool:
    """A forward and backward pass of the longest batch: True if memory holds it.

    Leaves no gradients, and the random state as it was.
    """
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            inputs = trainer._prepare_inputs(dict(batch))
            inputs.pop("ids")
            labels = inputs.pop("labels")
            with torch.autocast(trainer.args.device.type, torch.bfloat16):
                loss = summed_loss(trainer.model.train(), inputs, labels)
            loss.backward()
            return True
        except torch.OutOfMemoryError:
            return False
        finally:
            loss = inputs = None
            trainer.model.zero_grad(set_to_none=True)
            if devices:
                torch.cuda.empty_cache()


def choose_checkpointing(trainer: Any, args: Any, dataset: RecordDataset, lengths: list[int]) -> bool:
    """Whether activations are recomputed: by --checkpointing; for `auto`, if the longest batch does not fit without.

    Raises StageError if it does not fit at all, before anything is spent.
    """
    if args.checkpointing != "off" and trainer.is_fsdp_enabled:
        # A model that only fits in shards cannot be tried before they are made.
        trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
        return True
    indexes = trainer.batches.longest()
    named = f"{len(indexes)} records, {sum(lengths[i] for i in indexes)} tokens"
    if args.checkpointing == "off" or (args.checkpointing == "auto" and trainer.args.device.type == "cpu"):
        return False
    batch = trainer.data_collator([dataset[index] for index in indexes])
    if args.checkpointing == "auto" and fits_without_checkpointing(trainer, batch):
        say(f"the longest batch ({named}) fits without recomputing activations")
        return False
    trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    if not fits_without_checkpointing(trainer, batch):
        records = first_few(dataset.records[i]["id"] for i in indexes)
        raise StageError(
            f"the longest batch ({named}; {records}) does not fit into memory even with activations recomputed; "
            "lower --tokens-per-batch or --image-max-tokens, or take --method qlora",
            ExitCode.PROBLEMS,
        )
    say(f"the longest batch ({named}) needs activations recomputed (--checkpointing on): about a third slower")
    return True


def stop_at_signal(trainer: Any) -> Any:
    """SIGTERM (a spot machine that is taken back) writes a checkpoint after the step at hand and ends the run."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if trainer.stop_signal:
                control.should_save = control.should_training_stop = True

    def caught(number: int, _: Any) -> None:
        trainer.stop_signal = signal.Signals(number).name
        say(f"{trainer.stop_signal}: a checkpoint is written after this step")

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, caught)
    return Stop()


def reports() -> list[str]:
    """TensorBoard if it is installed; MLflow if MLFLOW_TRACKING_URI is set (Azure ML sets it)."""
    from importlib.util import find_spec

    found = ["tensorboard"] if find_spec("tensorboard") else []
    if os.environ.get("MLFLOW_TRACKING_URI"):
        if not find_spec("mlflow"):
            raise StageError(
                "MLFLOW_TRACKING_URI is set, but mlflow is not installed; "
                "pip install mlflow azureml-mlflow, or unset it",
                ExitCode.DEPENDENCY,
            )
        found.append("mlflow")
    return found


def attention_for(args: Any) -> str:
    """The attention backend: FlashAttention where `auto` finds it on a GPU, else torch's own."""
    import torch

    if args.rows_per_shard or args.fields_per_shard:
        if args.attention == "flash_attention_2":
            raise StageError(
                "shards share their pages under a mask of their own, which FlashAttention 2 does not take; "
                "use --attention sdpa"
            )
        return "sdpa"
    if args.attention != "auto":
        return str(args.attention)
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if torch.cuda.is_available() and is_flash_attn_2_available() else "sdpa"


def check_liger() -> None:
    """Liger's kernels are Triton's, so they want a GPU. Raises StageError where they cannot run."""
    from importlib.util import find_spec

    import torch

    if not torch.cuda.is_available() or find_spec("liger_kernel") is None:
        raise StageError("--liger needs a GPU and the package: pip install liger-kernel", ExitCode.DEPENDENCY)


def adapter_settings(args: Any) -> AdapterSettings:
    vision = (args.vision_rate or args.learning_rate / 10) if args.train_vision else None
    merger = (args.merger_rate or args.learning_rate / 10) if args.train_merger else None
    return AdapterSettings(args.rank, args.alpha, args.dropout, args.learning_rate, vision, merger, args.train_experts)


def measured_training(
    args: Any,
    config: Any,
    processor: Any,
    contract: Contract,
    records: list[dict[str, Any]],
    lengths: list[int],
    validation: list[dict[str, Any]],
) -> dict[str, Any]:
    """Train, and save the adapter and processor in `args.out`; returns losses, steps and speed.

    `lengths`: tokens of each record.
    """
    from transformers import TrainingArguments, set_seed
    from transformers.trainer_callback import PrinterCallback

    from toolkit.model.loading import load_model

    if args.liger:
        check_liger()
    process = join_processes()
    set_seed(args.seed)
    attention = attention_for(args)
    sharded = "parts" in records[0]
    pack = sharded or (attention == "flash_attention_2" if args.packing == "auto" else args.packing == "on")
    base = load_model(args.model, nf4=args.method == "qlora", attention=attention, fsdp=under_fsdp())
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(args.out / "tensorboard"))
    if args.method == "qlora":
        say(f"4 bit: {check_nf4(base)}")
    adapter = adapter_settings(args)
    model = lora_model(base, adapter)
    dataset = RecordDataset(records, processor, args.root)
    show_supervised_text(dataset, processor.tokenizer)
    checkpoint = newest_checkpoint(args.out) if args.resume else None
    if args.resume and checkpoint is None:
        say("no checkpoint to resume from; starting at step 0")
    batches = TokenBatches(
        lengths,
        records=args.batch_size,
        tokens=args.tokens_per_batch,
        packed=pack,
        passes=args.accumulate,
        seed=args.seed,
        rank=process.index,
        world=process.count,
    )
    steps_per_epoch = math.ceil(len(batches) / args.accumulate)
    each = args.eval_each or steps_per_epoch
    steps = args.max_steps or args.epochs * steps_per_epoch
    settings = one_gpu(
        TrainingArguments(
            output_dir=str(args.out),
            num_train_epochs=args.epochs,
            max_steps=args.max_steps or -1,
            learning_rate=args.learning_rate,
            per_device_train_batch_size=args.batch_size,
            gradient_accumulation_steps=args.accumulate,
            warmup_steps=math.ceil(args.warmup * steps),
            lr_scheduler_type="cosine",
            weight_decay=0.0,
            max_grad_norm=1.0,
            bf16=True,
            use_cpu=process.device == "cpu",
            logging_steps=args.log_each,
            logging_first_step=True,
            eval_strategy="steps" if validation else "no",
            eval_steps=each,
            eval_on_start=bool(validation) and checkpoint is None,
            save_strategy="steps",
            save_steps=args.save_each or each,
            save_total_limit=2,
            seed=args.seed,
            data_seed=args.seed,
            dataloader_num_workers=args.loader_workers,
            remove_unused_columns=False,
            label_names=["labels"],
            # The loss is ours and over answer tokens only, so Liger's own has nothing to do.
            use_liger_kernel=args.liger,
            liger_kernel_config={"cross_entropy": False, "fused_linear_cross_entropy": False} if args.liger else None,
            report_to=reports(),
            disable_tqdm=True,
            logging_nan_inf_filter=False,
            ddp_find_unused_parameters=False,
        )
    )
    trainer = trainer_class()(
        model=model,
        args=settings,
        train_dataset=dataset,
        eval_dataset=validation or None,
        data_collator=Collator(processor.tokenizer.pad_token_id, pack=pack),
    )
    trainer.remove_callback(PrinterCallback)
    resumed_at = int(checkpoint.name.rpartition("-")[2]) if checkpoint else None
    log = TrainingLog(args.out / "training_log.csv", resumed_at=resumed_at)
    trainer.prepare_run(args, adapter, batches, log, Validation(args, processor, contract, validation))
    trainer.add_callback(stop_at_signal(trainer))
    if checkpoint:
        best = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))["best"]
        trainer.best_score, trainer.best_step, trainer.without_gain = best["score"], best["step"], best["without_gain"]
    with without_casts(model):
        recomputed = choose_checkpointing(trainer, args, dataset, lengths)
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
        if validation and trainer.last_evaluated != trainer.state.global_step:
            trainer.evaluate()
    save_result(trainer, processor, args.out)
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
        "adapter": asdict(adapter),
    }


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
