"""Predicted latency of one request from first principles: bytes over bandwidth, operations over peak arithmetic.

A token cannot be decoded faster than the weights that it passes through, and the keys and values before it, are read once; a page cannot be
read faster than its matrix products take. The shares of the peaks that an engine reaches, and its fixed cost, are assumed until
they are measured on the GPU at hand; every figure from here is marked predicted.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.gpus import Gpu
from toolkit.model_shapes import PATCHES_PER_TOKEN, ModelShape

# Bytes of one weight of the language model's linear layers; W4A16 with groups of 128 holds a scale and a zero point each.
WEIGHT_BYTES = {"bf16": 2.0, "fp8": 1.0, "w4a16": 0.5 + 2.5 / 128}


@dataclass(frozen=True)
class Efficiency:
    """What an engine reaches: share of the bandwidth in decoding, of the peak in prefill and vision; fixed milliseconds a request."""

    bandwidth: float = 0.75
    prefill: float = 0.50
    vision: float = 0.35
    fixed_ms: float = 45.0


ASSUMED = Efficiency()


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one request that has the GPU to itself."""

    fixed: float
    vision: float
    prefill: float
    decode: float

    @property
    def first_token(self) -> float:
        return self.fixed + self.vision + self.prefill

    @property
    def total(self) -> float:
        return self.first_token + self.decode


def weight_gib(shape: ModelShape, precision: str) -> float:
    """Memory of the weights: linear layers in `precision`; embeddings, head and vision tower in bf16."""
    return (shape.linear * WEIGHT_BYTES[precision] + 2 * (shape.embeddings + shape.vision)) / 2**30


def predicted_latency(
    shape: ModelShape,
    gpu: Gpu,
    precision: str,
    *,
    vision_tokens: float,
    text_tokens: float,
    answer_tokens: float,
    efficiency: Efficiency = ASSUMED,
) -> Latency:
    """One request: `vision_tokens` of all pages, `text_tokens` of the instruction, `answer_tokens` decoded one by one."""
    peak = (gpu.fp8 if precision == "fp8" and gpu.fp8 else gpu.bf16) * 1e12
    prompt = vision_tokens + text_tokens
    patches = vision_tokens * PATCHES_PER_TOKEN
    vision = 2 * shape.vision * patches / (gpu.bf16 * 1e12 * efficiency.vision)
    attention = 2 * prompt**2 * shape.heads * shape.head_width * shape.layers  # causal: half of 4 x L^2 x width
    prefill = (2 * shape.active * prompt + attention) / (peak * efficiency.prefill)
    read = shape.active * WEIGHT_BYTES[precision] + 2 * shape.head
    read += shape.kv_bytes() * (prompt + answer_tokens / 2)
    decode = answer_tokens * read / (gpu.bandwidth * 1e9 * efficiency.bandwidth)
    return Latency(efficiency.fixed_ms, 1e3 * vision, 1e3 * prefill, 1e3 * decode)
