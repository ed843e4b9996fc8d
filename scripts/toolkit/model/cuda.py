"""Whether this machine's driver runs a torch that was built for another CUDA, and what makes it run.

Clouds often have older drivers than images expect: Azure ML's hosts 535 (rapidsai/deployment#719, 2026-07-24), AKS's
A10 nodes 550 or 570 (Azure/aks-gpu#154, 2026-05-19). CUDA 13 wants 580. Two ways out: NVIDIA's compatibility libraries,
on data-centre GPUs only (docs.nvidia.com/deploy/cuda-compatibility), or a build for CUDA 12.9. The libraries must come
first only where the driver is older: in front of a newer driver they end every start with error 803 (vllm#32373).
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from toolkit.console import ExitCode, StageError, say
from toolkit.model.gpus import Driver

INSTALLED = Path("/usr/local")
DATA_CENTRE = re.compile(r"\b(T4|V100|A2|A10G?|A16|A30|A40|A100|L4|L40S?|H100|H200|H800|GH200|B200|B300|GB200)\b")
# A slice of a GPU with a GRID driver, such as A10-24Q: NVIDIA's page lists no compatibility libraries for it.
SLICE = re.compile(r"-\d+[A-Z]\b")


def cuda_of(python: Path) -> str | None:
    """The CUDA version that this Python's torch was built with; None for a CPU build."""
    code = "import torch; print(torch.version.cuda or '')"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise StageError(f"{python}: torch cannot be imported there: {last[:200]}", ExitCode.DEPENDENCY)
    return done.stdout.strip() or None


def takes_compatibility_libraries(gpu: str) -> bool:
    """Whether NVIDIA supports the compatibility libraries on this GPU, by its name in nvidia-smi."""
    return bool(DATA_CENTRE.search(gpu)) and not SLICE.search(gpu) and "RTX" not in gpu


def compatibility_libraries(wheel_cuda: str, installed: Path = INSTALLED) -> Path | None:
    """The folder of NVIDIA's compatibility libraries for this CUDA; None where the image has none."""
    folders = (installed / f"cuda-{wheel_cuda}/compat", installed / "cuda/compat")
    return next((folder for folder in folders if any(folder.glob("libcuda.so*"))), None)


def environment_for(driver: Driver | None, wheel_cuda: str | None, installed: Path = INSTALLED) -> dict[str, str]:
    """The variables with which a program built for `wheel_cuda` runs on this driver; none where it runs as it is.

    Raises StageError with one sentence where it cannot run. Within one major version an older driver runs newer
    binaries but not their PTX, which some vision kernels are (vllm#37140): that is said, and the warm-up shows it.
    """
    if wheel_cuda is None:
        return {}
    if driver is None:
        raise StageError(
            "no GPU is visible (nvidia-smi lists none), and this torch is built for CUDA; "
            "start on a GPU machine, or try without one: python scripts/make_environment.py serve-cpu",
            ExitCode.DEPENDENCY,
        )
    wanted = tuple(int(part) for part in wheel_cuda.split(".")[:2])
    if driver.cuda == (0, 0) or driver.cuda >= wanted:
        return {}
    newest = f"{driver.cuda[0]}.{driver.cuda[1]}"
    suited = takes_compatibility_libraries(driver.gpu)
    libraries = compatibility_libraries(wheel_cuda, installed) if suited else None
    if libraries:
        say(f"the driver runs CUDA {newest}, torch is built for {wheel_cuda}: {libraries} comes first")
        before = os.environ.get("LD_LIBRARY_PATH")
        return {"LD_LIBRARY_PATH": f"{libraries}:{before}" if before else str(libraries)}
    if driver.cuda[0] == wanted[0]:
        say(f"the driver runs CUDA {newest}, torch is built for {wheel_cuda}: most kernels run, the warm-up tells")
        return {}
    image = "an image with /usr/local/cuda/compat, " if suited else ""
    raise StageError(
        f"the driver runs CUDA {newest} at most, this torch is built for {wheel_cuda}; "
        f"take a machine with a newer driver, {image}or a build for CUDA 12.9",
        ExitCode.DEPENDENCY,
    )
