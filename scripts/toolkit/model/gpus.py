"""GPUs that the plans know, by their vendors' data sheets, and the GPU of this machine.

Peak arithmetic is for dense matrices, without sparsity.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from toolkit.console import ExitCode, StageError


@dataclass(frozen=True)
class Gpu:
    """One GPU model.

    `memory_gib` is what the driver reports, `capability` the CUDA compute capability, `bandwidth` in GB/s, `bf16` and
    `fp8` the peaks in TFLOPS. `fp8` is 0 for a GPU without FP8 units.
    """

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


@dataclass(frozen=True)
class Driver:
    """What nvidia-smi says: GPU, memory in GiB, the newest CUDA version that the driver runs."""

    gpu: str
    memory_gib: float
    free_gib: float
    cuda: tuple[int, int]


def visible_gpu() -> str | None:
    """nvidia-smi's option for the first GPU in CUDA_VISIBLE_DEVICES; None where that is no number or UUID of a GPU."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    return f"--id={first}" if first.isdecimal() or first.startswith("GPU-") else None


def installed_driver() -> Driver | None:
    """The first GPU of this machine that a process here would use, or None where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    chosen = visible_gpu()
    query += [chosen] if chosen else []
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
        banner = subprocess.run([program], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    rows = [line.split(",") for line in listed.stdout.splitlines() if line.count(",") == 2]
    version = re.search(r"CUDA(?: UMD)? Version:\s*(\d+)\.(\d+)", banner.stdout)
    if listed.returncode or not rows:
        return None
    name, total, free = (part.strip() for part in rows[0])
    cuda = (int(version[1]), int(version[2])) if version else (0, 0)
    return Driver(name, float(total) / 1024, float(free) / 1024, cuda)


def known_gpu(driver: Driver) -> Gpu:
    """The detected GPU as a `Gpu`, with the memory that the driver reports."""
    for key, gpu in sorted(GPUS.items(), key=lambda item: -len(item[0])):
        if re.search(rf"\b{key}\b", driver.gpu.lower()):
            return Gpu(driver.gpu, driver.memory_gib, gpu.capability)
    return Gpu(driver.gpu, driver.memory_gib, 0.0)


def check_torch_sees(driver: Driver | None, torch_version: str, wheel_cuda: str | None) -> None:
    """Raises StageError where the machine has a GPU that torch cannot use: on the CPU the run would take weeks.

    Nothing is checked where CUDA_VISIBLE_DEVICES is set: it may hide the GPUs on purpose.
    """
    if driver is None or "CUDA_VISIBLE_DEVICES" in os.environ:
        return
    newest = f"{driver.cuda[0]}.{driver.cuda[1]}"
    if wheel_cuda and driver.cuda < tuple(int(part) for part in wheel_cuda.split(".")[:2]):
        why = (
            f"is built for CUDA {wheel_cuda}, the driver runs {newest} at most; "
            "update the driver, or install a torch built for it"
        )
    else:
        why = "cannot start CUDA" if wheel_cuda else "is a CPU build"
        why += f"; install one built for CUDA {newest} or older"
    on_purpose = "to use the CPU on purpose, set CUDA_VISIBLE_DEVICES to nothing"
    raise StageError(f"an {driver.gpu} is here, but torch {torch_version} {why} ({on_purpose})", ExitCode.DEPENDENCY)
