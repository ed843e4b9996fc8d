"""What is trained: LoRA on the language model by name, optionally on vision tower, merger and experts, each with its own rate."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from toolkit.console import StageError
from toolkit.model.loading import LORA_TARGETS, LORA_TARGETS_ATTENTION, NF4_SKIPPED, is_moe

VISION_TARGETS = r".*model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc[12])"
MERGER_TARGETS = r".*model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]"
EXPERT_PARAMETERS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
MIB = 2**20


@dataclass(frozen=True)
class AdapterSettings:
    """`vision_rate`, `merger_rate`: learning rates of LoRA there; None: not trained, which is what vLLM can serve live."""

    rank: int
    alpha: int
    dropout: float
    rate: float
    vision_rate: float | None = None
    merger_rate: float | None = None
    experts: bool = False


def lora_model(model: Any, settings: AdapterSettings) -> Any:
    """`model` with trainable LoRA weights; attention only on MoE, because vLLM cannot load LoRA on fused experts.

    Raises StageError for experts of a dense model, and for dropout on experts (peft has none for parameters).
    """
    from peft import LoraConfig, get_peft_model

    moe = is_moe(model.config)
    if settings.experts and not moe:
        raise StageError("--train-experts is for MoE models; this one is dense")
    if settings.experts and settings.dropout:
        raise StageError("--train-experts goes without --dropout: LoRA on fused experts has none")
    parts = [LORA_TARGETS_ATTENTION if moe else LORA_TARGETS]
    parts += [VISION_TARGETS] if settings.vision_rate is not None else []
    parts += [MERGER_TARGETS] if settings.merger_rate is not None else []
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="|".join(f"({part})" for part in parts) if len(parts) > 1 else parts[0],
        target_parameters=EXPERT_PARAMETERS if settings.experts else None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)  # in float32: a step of 1e-4 is lost in bfloat16's seven bits


def without_casts(model: Any) -> Any:
    """Context in which LoRA takes its inputs as they are. peft turns them to the adapter's float32 first, and autocast turns them back: copies of every
    layer's inputs that autograd keeps (15 % of all activations on the 8B) and that change nothing. For use under autocast only."""
    from peft.helpers import disable_input_dtype_casting

    return disable_input_dtype_casting(model)


def parameter_groups(model: Any, settings: AdapterSettings) -> list[dict[str, Any]]:
    """Trainable parameters with their rates, for an optimizer."""
    rates: dict[float, list[Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = settings.rate
        if ".visual.blocks." in name:
            rate = settings.vision_rate or rate
        elif ".visual." in name:
            rate = settings.merger_rate or rate
        rates.setdefault(rate, []).append(parameter)
    return [{"params": parameters, "lr": rate} for rate, parameters in rates.items()]


def weight_bytes(model: Any) -> dict[str, tuple[int, int]]:
    """`{part: (bytes in 4 bit, bytes in other forms)}` for language model, vision tower, embeddings and head."""
    found = {"language model": (0, 0), "vision tower": (0, 0), "embeddings and head": (0, 0)}
    for name, parameter in model.named_parameters():
        part = (
            "vision tower"
            if ".visual." in f".{name}"
            else "embeddings and head"
            if re.search(r"embed_tokens|lm_head", name)
            else "language model"
        )
        size = parameter.numel() * parameter.element_size()
        four, other = found[part]
        found[part] = (four + size, other) if type(parameter).__name__ == "Params4bit" else (four, other + size)
    return found


def check_nf4(model: Any) -> str:
    """A sentence with the bytes of each part of a model loaded in 4 bit. Raises StageError where a layer of the language model stayed in 16
    bit, or the vision tower or the head did not (which is what a wrong skip list does silently)."""
    import torch

    kinds = {
        name: type(module.weight).__name__ == "Params4bit"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    for name, four_bit in kinds.items():
        skipped = any(name == part or name.startswith(part + ".") for part in NF4_SKIPPED)
        if four_bit is skipped:
            raise StageError(
                f"{name} is {'in 4 bit' if four_bit else 'not in 4 bit'} after loading; another layout of the model or of bitsandbytes"
            )
    return ", ".join(
        f"{part} {(four + other) / MIB:.1f} MiB{f' ({four / MIB:.1f} of it in 4 bit)' if four else ''}"
        for part, (four, other) in weight_bytes(model).items()
    )
