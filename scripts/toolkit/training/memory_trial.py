"""A trial of the longest batch before training: do its activations fit into memory, or must they be recomputed?"""

from __future__ import annotations

from typing import Any

from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.model.encoding import RecordDataset
from toolkit.training.loss import summed_loss


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


def choose_checkpointing(trainer: Any, mode: str, dataset: RecordDataset, lengths: list[int]) -> bool:
    """Whether activations are recomputed: by `mode`: on, off, or auto (if the longest batch does not fit without).

    Raises StageError if it does not fit at all, before anything is spent.
    """
    if mode != "off" and trainer.is_fsdp_enabled:
        # A model that only fits in shards cannot be tried before they are made.
        trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
        return True
    indexes = trainer.batches.longest()
    named = f"{len(indexes)} records, {sum(lengths[i] for i in indexes)} tokens"
    if mode == "off" or (mode == "auto" and trainer.args.device.type == "cpu"):
        return False
    batch = trainer.data_collator([dataset[index] for index in indexes])
    if mode == "auto" and fits_without_checkpointing(trainer, batch):
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
