"""The GPUs that the plans know: memory, bandwidth and peak arithmetic, of the vendors' data sheets (dense, without sparsity)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """`memory_gib` as the driver reports it, `capability` of CUDA, `bandwidth` in GB/s, peaks in TFLOPS (`fp8` 0: no such units)."""

    name: str
    memory_gib: float
    capability: float
    bandwidth: float = 0.0
    bf16: float = 0.0
    fp8: float = 0.0


# No data sheet: only the scale that `estimate_latency.py --calibrate` measures against.
CPU = Gpu("CPU", 16.0, 0.0, 20, 0.1)

GPUS = {
    "a10": Gpu("A10", 22.5, 8.6, 600, 125),
    "l4": Gpu("L4", 22.5, 8.9, 300, 121, 242),
    "a6000": Gpu("RTX A6000", 48.0, 8.6, 768, 155),
    "l40s": Gpu("L40S", 45.0, 8.9, 864, 362, 733),
    "a100": Gpu("A100 80GB", 80.0, 8.0, 2039, 312),
    "h100": Gpu("H100", 80.0, 9.0, 3350, 989, 1979),
    "h200": Gpu("H200", 140.0, 9.0, 4800, 989, 1979),
}
