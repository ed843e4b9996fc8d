"""Predicted memory and time of a LoRA or QLoRA run, from the model's shape and the dataset's longest record.

It counts what train_lora.py does: frozen base in bf16 (or NF4 with double quantization), adapter and Adam moments in
float32, activations kept or recomputed per layer, logits of the answer tokens. Figures are predicted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from toolkit.model.gpus import Gpu
from toolkit.model.shapes import PATCHES_PER_TOKEN, VOCABULARY, ModelShape

GIB = 2**30
NF4_BYTES = 0.5 + 8 / 64 / 8 + 32 / (64 * 256) / 8  # 4 bits, an 8-bit scale per 64 weights, a 32-bit one per 256 scales
LOGIT_BYTES = 2 + 4 + 4 + 2  # bf16 logits, their float32 copy, both gradients
CONTEXT_GIB = 1.5  # CUDA context, cuBLAS work space, fragmentation
ASSUMED_MFU = 0.35


@dataclass(frozen=True)
class TrainingMemory:
    """GiB by what holds it."""

    weights: float
    adapter: float
    activations: float
    logits: float
    context: float = CONTEXT_GIB

    @property
    def total(self) -> float:
        return self.weights + self.adapter + self.activations + self.logits + self.context


def training_memory(
    shape: ModelShape, method: str, *, tokens: int, answer_tokens: int, rank: int = 16, checkpointing: bool = False
) -> TrainingMemory:
    """Memory of the longest forward pass.

    `tokens`: records in it times tokens of the longest; `answer_tokens`: the supervised ones among them.
    """
    linear = NF4_BYTES if method == "qlora" and not shape.experts else 2.0
    weights = shape.linear * linear + 2 * (shape.embeddings + shape.vision)
    q, kv = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    # Bytes that autograd keeps of a token in a layer: two norms' inputs in float32 and their results in bf16; q and k
    # before their norms in float32; q, k, v and attention's output in bf16; gate, up, their activation and product in
    # bf16. benchmarks/training_memory.py holds this to the real model.
    layer = 12 * shape.hidden + 8 * q + 8 * kv + 8 * shape.intermediate * max(1, shape.active_experts)
    kept = layer * tokens
    activations = kept + 2 * shape.hidden * tokens * shape.layers if checkpointing else kept * shape.layers
    return TrainingMemory(
        weights / GIB,
        16 * shape.lora_weights(rank) / GIB,
        activations / GIB,
        answer_tokens * VOCABULARY * LOGIT_BYTES / GIB,
    )


def training_hours(
    shape: ModelShape,
    gpu: Gpu,
    *,
    tokens: float,
    answer_tokens: float,
    vision_tokens: float,
    checkpointing: bool = False,
    mfu: float = ASSUMED_MFU,
) -> float:
    """Hours for `tokens` in all: `vision_tokens` of them come from pages, `answer_tokens` go through the head.

    A frozen weight costs 2 operations a token forward and 2 backward (no gradient of its own), and 2 more if
    activations are recomputed. The frozen vision tower runs forward only.
    """
    passes = 6 if checkpointing else 4
    work = (
        passes * (shape.active * tokens + shape.head * answer_tokens)
        + 2 * shape.vision * vision_tokens * PATCHES_PER_TOKEN
    )
    return work / (gpu.bf16 * 1e12 * mfu) / 3600


def optimizer_steps(records: int, epochs: float, batch: int) -> int:
    """`batch`: records an optimizer step."""
    return math.ceil(math.ceil(records / batch) * epochs)
