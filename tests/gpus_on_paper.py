"""train_lora.py as it starts on a machine with GPUs: gpus_on_paper.py GIB,GIB ddp|fsdp2|plain, then its own arguments.

Only the hardware is pretended: torch sees a GPU of each size, gloo stands for NCCL, and a tensor that is put onto a GPU
loses its storage ("meta") with a note of that GPU. transformers, accelerate, peft and bitsandbytes are the real ones
and load a real model. The run ends where the Trainer has wrapped the model, with one JSON line: onto which GPUs tensors
were put by then, where the parameters are, and what the Trainer made of the model.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode

REPOSITORY = Path(__file__).resolve().parents[1]


class PaperGpus(TorchFunctionMode):
    """Tensors that are put onto a GPU get no storage; `used` counts them by GPU, "cuda" alone being the current one.

    It sees one thread only, so transformers must load with HF_DEACTIVATE_ASYNC_LOAD=1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.used: Counter[str] = Counter()

    def on_paper(self, value):
        if not isinstance(value, (str, torch.device)) or not str(value).startswith("cuda"):
            return value
        index = torch.device(value).index
        self.used[f"cuda:{torch.cuda.current_device() if index is None else index}"] += 1
        return torch.device("meta")

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.device:  # a number alone is a GPU's
            return function(*(("cuda", *args) if isinstance(args[0], int) else args), **kwargs)
        if function is torch.Tensor.to and len(args) > 1 and isinstance(args[1], int):
            args = (args[0], f"cuda:{args[1]}", *args[2:])
        if isinstance(kwargs.get("device"), int):
            kwargs["device"] = f"cuda:{kwargs['device']}"
        return function(*map(self.on_paper, args), **{name: self.on_paper(value) for name, value in kwargs.items()})


def pretend_gpus(count: int, gib: Sequence[float] = (), replace: Callable[..., None] = setattr) -> None:
    """torch.cuda as it answers on a machine with `count` unused GPUs of `gib` memory (80 each by default)."""
    current = [0]
    gpus = [
        SimpleNamespace(total_memory=int(size * 2**30), name="NVIDIA A100", major=8, minor=0, multi_processor_count=108)
        for size in (gib or [80.0] * count)
    ]

    def number(device=None) -> int:
        return current[0] if device is None else device if isinstance(device, int) else torch.device(device).index or 0

    answers = {
        "is_available": lambda: True,
        "device_count": lambda: count,
        "current_device": lambda: current[0],
        "set_device": lambda device: current.__setitem__(0, number(device)),
        "get_device_properties": lambda device=None: gpus[number(device)],
        "get_device_name": lambda device=None: gpus[number(device)].name,
        "is_bf16_supported": lambda including_emulation=True: True,
        "mem_get_info": lambda device=None: (gpus[number(device)].total_memory,) * 2,
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
    }
    for name, answer in answers.items():
        replace(torch.cuda, name, answer)
    start = torch.distributed.init_process_group

    def with_gloo(backend=None, **named):
        return start(backend="gloo", **named)

    replace(torch.distributed, "init_process_group", with_gloo)


def stop_at_the_wrapped_model(gpus: PaperGpus) -> None:
    """Replace the Trainer's optimizer, which wants real weights, and end the run where the model is wrapped."""
    import transformers

    wrap = transformers.Trainer._wrap_model

    def report(self, model, *more, **named):
        base = [parameter for name, parameter in model.named_parameters() if "lora_" not in name]
        found = {
            "rank": self.args.process_index,
            "device": str(self.args.device),
            "used": sorted(gpus.used),
            "parameters": sorted(
                {"GPU" if parameter.is_meta else parameter.device.type for parameter in model.parameters()}
            ),
            "dtypes": sorted({str(parameter.dtype) for parameter in base}),
            "all zero": not any(parameter.is_meta or bool(parameter.any()) for parameter in base),
            "wrapped": type(wrap(self, model, *more, **named)).__name__,
            "records a pass": self.args.train_batch_size,
            "tokens a pass": self.settings.tokens_per_batch,
        }
        sys.stdout.write(f"\nREPORT {json.dumps(found)}\n")
        sys.stdout.flush()
        sys.exit(0)

    transformers.Trainer._wrap_model = report
    torch.optim.AdamW = lambda *_, **__: None


if __name__ == "__main__":
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    sizes, kind = [float(size) for size in sys.argv.pop(1).split(",")], sys.argv.pop(1)
    if kind == "fsdp2":
        import yaml

        config = yaml.safe_load((REPOSITORY / "scripts/accelerate/fsdp2.yaml").read_text(encoding="utf-8"))
        os.environ["ACCELERATE_USE_FSDP"] = "true"
        os.environ |= {key.upper(): str(value) for key, value in config["fsdp_config"].items()}
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    from toolkit.model.libraries import prepare_model_libraries

    prepare_model_libraries()
    gpus = PaperGpus()
    stop_at_the_wrapped_model(gpus)
    pretend_gpus(len(sizes), sizes)
    with gpus:
        import train_lora

        sys.exit(train_lora.main())
