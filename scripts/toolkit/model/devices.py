"""One process uses one GPU: which one, and the state of all processes, which must stand before anything is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from toolkit.console import StageError, say
from toolkit.model.gpus import check_torch_sees, installed_driver

# One process writes checkpoints while the others wait for it, and validation takes as long as its slowest.
LONGEST_WAIT = timedelta(hours=2)


@dataclass(frozen=True)
class Process:
    """One of the `count` processes of a run, and the device that it uses: `cuda:N` or `cpu`."""

    index: int
    count: int
    device: str


def own_device() -> str:
    """The GPU of this process: the first visible one, or under a launcher (accelerate, torchrun) that of its number on
    this machine; `cpu` without a GPU.

    Raises StageError where a GPU is here that this torch cannot use, and where there are more processes than GPUs.
    """
    import torch

    if not torch.cuda.is_available():
        check_torch_sees(installed_driver(), torch.__version__, torch.version.cuda)
        return "cpu"
    number, visible = max(0, int(os.environ.get("LOCAL_RANK", "0"))), torch.cuda.device_count()
    if number >= visible:
        raise StageError(
            f"process {number + 1} of this machine has no GPU of its own, {visible} visible here; "
            f"start at most one process a GPU (accelerate launch --num_processes {visible} on one machine)"
        )
    return f"cuda:{number}"


def join_processes() -> Process:
    """Settle the device of this process and meet the others of the run, if any; repeated calls change nothing.

    Call it before anything is loaded. From here on "the GPU" is this process's own, and under FSDP transformers knows
    that only the first process of a machine keeps the weights.
    """
    import torch
    from accelerate.state import PartialState

    device = own_device()
    if device != "cpu":
        torch.cuda.set_device(device)  # before the first use, which would open a context on GPU 0
    state = PartialState(cpu=device == "cpu", timeout=LONGEST_WAIT)
    return Process(state.process_index, state.num_processes, device)


def least_memory(process: Process) -> float | None:
    """GiB of the smallest GPU of the run, None without GPUs; settings by it are the same in every process."""
    import torch

    if process.device == "cpu":
        return None
    found: list[Any] = [torch.cuda.get_device_properties(process.device).total_memory / 2**30]
    if process.count > 1:
        own, found = found[0], [None] * process.count
        torch.distributed.all_gather_object(found, own)
    return float(min(found))


def under_fsdp() -> bool:
    """Whether accelerate will cut the weights into shards and give each process its own; no GPU holds any before."""
    from accelerate.utils import parse_flag_from_env

    return bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def one_gpu(arguments: Any) -> Any:
    """transformers' TrainingArguments for one process on one GPU.

    Where several GPUs are visible to one process, transformers wraps the model in DataParallel, which cuts each input by
    its first dimension; in `pixel_values` that is patches, not records. Trainer reads the number from here, and sets it
    in the same way for a model that is spread over GPUs. CUDA_VISIBLE_DEVICES is too late once torch has counted.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def say_unused_gpus(how: str = "", used: int = 1) -> None:
    """One sentence where this machine has more visible GPUs than are used, with `how` to use them all."""
    import torch

    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if used < visible:
        say(f"{used} of {visible} GPUs {'is' if used == 1 else 'are'} used{f'; {how}' if how else ''}")
