"""The memory that plan_training.py predicts for a LoRA pass, beside what the pass holds.

The real model, adapter, loss, backward and optimizer step at the published sizes run on tensors that have shapes and
no values (torch's fake tensors); every storage is counted from its making to its end. Nothing is allocated and
nothing is measured on a GPU: the CUDA context, fragmentation and kernels' work space (`CONTEXT_GIB` in the plan) are
left out on both sides, and so is the vision tower's forward pass, which keeps nothing. Exit code 1 if the plan is off
by more than 15 %.

    python benchmarks/training_memory.py
    python benchmarks/training_memory.py --shapes 8b --tokens 4096
"""

from __future__ import annotations

import argparse
import sys
import weakref
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from toolkit.model.adapters import AdapterSettings, lora_model, parameter_groups, without_casts
from toolkit.model.shapes import SHAPES, ModelShape, config_of
from toolkit.training.plan import CONTEXT_GIB, GIB, training_memory

BAR = 0.15


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    dense = [name for name, shape in SHAPES.items() if not shape.experts]
    parser.add_argument("--shapes", nargs="+", choices=dense, default=dense)
    parser.add_argument("--tokens", nargs="+", type=int, default=[1500, 6000], help="of a pass (default: 1500 6000)")
    parser.add_argument("--answers", type=float, default=0.2, help="share of them that is supervised (default: 0.2)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--casts", action="store_true", help="count with peft's float32 copies of LoRA's inputs")
    return parser


def fake_model(shape: ModelShape, adapter: AdapterSettings) -> Any:
    """The model with its adapter, of fake tensors on the CPU; to be called under FakeTensorMode."""
    import torch
    import transformers

    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config_of(shape), dtype=torch.bfloat16)
        model = lora_model(model, adapter)
    made: dict[int, Any] = {}  # by the parameter that it replaces: a tied head stays tied
    for module in model.modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                if id(value) not in made:
                    empty = torch.empty(value.shape, dtype=value.dtype)
                    made[id(value)] = (value, torch.nn.Parameter(empty, requires_grad=value.requires_grad))
                module._parameters[name] = made[id(value)][1]
        for name, value in list(module._buffers.items()):
            if value is not None:
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype)
    return model.train()


def live_storages() -> Any:
    """A dispatch mode whose `peak` is the most bytes that were alive at a time."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class LiveStorages(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.now = self.peak = 0
            self.known: set[int] = set()

        def count(self, tensor: Any) -> None:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self.known:
                return
            self.known.add(key)
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.freed, key, size)

        def freed(self, key: int, size: int) -> None:
            self.known.discard(key)
            self.now -= size

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(out):
                if isinstance(leaf, torch.Tensor):
                    self.count(leaf)
            return out

    return LiveStorages()


def counted_bytes(
    shape: ModelShape, *, tokens: int, answers: int, rank: int, recompute: bool, casts: bool = False
) -> int:
    """Peak bytes of two optimizer steps of one record of text; the second one also holds the optimizer's moments."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers.models.qwen3_vl import modeling_qwen3_vl

    adapter = AdapterSettings(rank, 2 * rank, 0.0, 1e-4)
    mask = modeling_qwen3_vl.create_causal_mask
    # Whether a mask can be left out is decided by values, which fake tensors have not; a record alone needs none.
    modeling_qwen3_vl.create_causal_mask = lambda **_: None
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            model = fake_model(shape, adapter)
            if recompute:
                model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
            optimizer = torch.optim.AdamW(parameter_groups(model, adapter), foreach=False)
            ids = torch.zeros(1, tokens, dtype=torch.long)
            keep = torch.arange(tokens - answers - 1, tokens - 1)
            autocast: AbstractContextManager[Any] = torch.autocast("cpu", torch.bfloat16)
            with live_storages() as storages:
                for parameter in model.parameters():
                    storages.count(parameter)
                for _ in range(2):
                    with autocast, nullcontext() if casts else without_casts(model):
                        logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits[0]
                        loss = torch.nn.functional.cross_entropy(logits.float(), ids[0, keep + 1], reduction="sum")
                    del logits
                    loss.backward()
                    del loss
                    optimizer.step()
                    optimizer.zero_grad()
            return int(storages.peak)
    finally:
        modeling_qwen3_vl.create_causal_mask = mask


def main() -> int:
    args = build_parser().parse_args()
    import peft
    import torch
    import transformers

    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}; "
        f"LoRA of rank {args.rank}, GiB without context"
    )
    print(f"{'':8s}{'tokens':>8s}{'activations':>14s}{'counted':>10s}{'predicted':>11s}{'off by':>9s}")
    worst = 0.0
    for name in args.shapes:
        for tokens in args.tokens:
            for recompute in (False, True):
                answers = max(1, round(tokens * args.answers))
                counted = (
                    counted_bytes(
                        SHAPES[name],
                        tokens=tokens,
                        answers=answers,
                        rank=args.rank,
                        recompute=recompute,
                        casts=args.casts,
                    )
                    / GIB
                )
                plan = training_memory(
                    SHAPES[name], "lora", tokens=tokens, answer_tokens=answers, rank=args.rank, checkpointing=recompute
                )
                predicted = plan.total - CONTEXT_GIB
                off = predicted / counted - 1
                worst = max(worst, abs(off))
                how = "recomputed" if recompute else "kept"
                print(f"{name:8s}{tokens:8d}{how:>14s}{counted:10.2f}{predicted:11.2f}{off:9.1%}", flush=True)
    print(f"the plan is off by {worst:.1%} at most")
    return int(worst > BAR)


if __name__ == "__main__":
    sys.exit(main())
