"""Predicted latency of one document from first principles: bytes over bandwidth, operations over peak arithmetic.

A token cannot be decoded faster than the weights that it passes through, and the keys and values before it, are read once; a page cannot be
read faster than its matrix products take. Shards that are decoded at the same time share the reading of the weights, but each reads the
keys and values of the pages for itself. The shares of the peaks that an engine reaches, and its fixed costs, are assumed until
`calibrated` has fitted them to measured runs; every figure from here is marked predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from toolkit.model.gpus import Gpu
from toolkit.model.shapes import PATCHES_PER_TOKEN, ModelShape

# Bytes of one weight of the language model's linear layers; W4A16 with groups of 128 holds a scale and a zero point each.
WEIGHT_BYTES = {"bf16": 2.0, "fp8": 1.0, "w4a16": 0.5 + 2.5 / 128}
LINE_TOKENS = 8  # of a shard's own line and the marks behind it

Waves = Sequence[Sequence[float]]  # answer tokens of the requests that are sent together, wave after wave


@dataclass(frozen=True)
class Efficiency:
    """What an engine reaches: share of the bandwidth in decoding, of the peak in prefill and vision; milliseconds: `fixed_ms` a document
    (HTTP, image decoding, scheduling), `wave_ms` each further wave of requests, `request_ms` each further request, `step_ms` a decoding step
    beside its bytes, `token_ms` a token of any shard. `prompt_scale`, `decode_scale`: what calibration found of the computed times."""

    bandwidth: float = 0.75
    prefill: float = 0.50
    vision: float = 0.35
    fixed_ms: float = 45.0
    wave_ms: float = 10.0
    request_ms: float = 1.0
    step_ms: float = 0.0
    token_ms: float = 0.0
    prompt_scale: float = 1.0
    decode_scale: float = 1.0


ASSUMED = Efficiency()


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one document that has the GPU to itself."""

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


def decode_bytes(shape: ModelShape, precision: str, prompt: float, waves: Waves, kv_bytes: float = 2) -> float:
    """Bytes read to decode all waves: the weights once a step for all shards of a wave, the keys and values of prompt and own answer for each
    token of each shard."""
    weights = shape.active * WEIGHT_BYTES[precision] + 2 * shape.head
    per_token = shape.kv_bytes(kv_bytes)
    read = 0.0
    for wave in waves:
        read += max(wave) * weights + sum(tokens * per_token * (prompt + tokens / 2) for tokens in wave)
    return read


def terms(
    shape: ModelShape,
    gpu: Gpu,
    precision: str,
    *,
    vision_tokens: float,
    text_tokens: float,
    waves: Waves,
    efficiency: Efficiency = ASSUMED,
    kv_bytes: float = 2,
) -> list[float]:
    """What a document's time is made of, each with the factor that calibration fits: 1 document, further waves, further requests, milliseconds of
    vision, prefill and decoding at the assumed shares of the peaks (vision and prefill in one), steps, tokens."""
    peak = (gpu.fp8 if precision == "fp8" and gpu.fp8 else gpu.bf16) * 1e12
    requests = sum(len(wave) for wave in waves)
    prompt = vision_tokens + text_tokens
    vision = 2 * shape.vision * vision_tokens * PATCHES_PER_TOKEN / (gpu.bf16 * 1e12 * efficiency.vision)
    computed = prompt + (requests - 1) * LINE_TOKENS  # the pages once
    attention = 2 * prompt**2 * shape.heads * shape.head_width * shape.layers  # causal: half of 4 x L^2 x width
    prefill = (2 * shape.active * computed + attention) / (peak * efficiency.prefill)
    decode = decode_bytes(shape, precision, prompt, waves, kv_bytes) / (gpu.bandwidth * 1e9 * efficiency.bandwidth)
    steps, tokens = sum(max(wave) for wave in waves), sum(sum(wave) for wave in waves)
    return [1, len(waves) - 1, requests - 1, 1e3 * vision, 1e3 * prefill, 1e3 * decode, steps, tokens]


def predicted_latency(
    shape: ModelShape,
    gpu: Gpu,
    precision: str,
    *,
    vision_tokens: float,
    text_tokens: float,
    answer_tokens: float = 0,
    waves: Waves | None = None,
    efficiency: Efficiency = ASSUMED,
    kv_bytes: float = 2,
) -> Latency:
    """One document: `vision_tokens` of all pages, `text_tokens` of the instruction, and `answer_tokens` decoded one by one, or `waves` of
    shards. `kv_bytes` of a key or value: 2 in bf16, 1 in an FP8 cache."""
    e = efficiency
    one, further, requests, vision, prefill, decode, steps, tokens = terms(
        shape,
        gpu,
        precision,
        vision_tokens=vision_tokens,
        text_tokens=text_tokens,
        waves=waves or [[answer_tokens]],
        efficiency=e,
        kv_bytes=kv_bytes,
    )
    return Latency(
        one * e.fixed_ms + further * e.wave_ms + requests * e.request_ms,
        vision * e.prompt_scale,
        prefill * e.prompt_scale,
        decode * e.decode_scale + steps * e.step_ms + tokens * e.token_ms,
    )


def calibrated(
    rows: Sequence[Sequence[float]], milliseconds: Sequence[float], assumed: Efficiency = ASSUMED
) -> Efficiency:
    """The efficiency whose predictions come nearest to measured documents: `rows` of `terms` and their measured times. Non-negative least squares of
    relative errors (scipy.optimize.nnls), so that no cost is negative and long documents do not outvote short ones; what the runs cannot tell apart
    shares the time among the terms."""
    import numpy
    from scipy.optimize import nnls

    table = numpy.array([[r[0], r[1], r[2], r[3] + r[4], *r[5:]] for r in rows], dtype=float)
    wanted = numpy.array(milliseconds, dtype=float)
    fixed, wave, request, prompt, decode, step, token = nnls(table / wanted[:, None], numpy.ones(len(wanted)))[0]
    return replace(
        assumed,
        fixed_ms=float(fixed),
        wave_ms=float(wave),
        request_ms=float(request),
        prompt_scale=float(prompt),
        decode_scale=float(decode),
        step_ms=float(step),
        token_ms=float(token),
    )
