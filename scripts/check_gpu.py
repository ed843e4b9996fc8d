"""Check that this machine's GPU works with this Python's torch, before a job pays for more.

Prints nvidia-smi, puts CUDA's compatibility libraries first where the driver is older than torch wants (data-centre
GPUs), and runs a matrix product and a page's patch embedding. Exit code 3 and one sentence where that fails. A command
after -- is started with the same settings once the check has passed. To use the CPU on purpose, set
CUDA_VISIBLE_DEVICES to nothing.

    python scripts/check_gpu.py
    python scripts/check_gpu.py -- python scripts/train_lora.py --model models/base --train data/splits/train.jsonl
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import ExitCode, StageError, one_line, say
from toolkit.model.cuda import cuda_of, environment_for
from toolkit.model.gpus import installed_driver

# Against the same product on the CPU; in a process of its own, because libraries are chosen when a process starts.
PRODUCT = """
import json, sys, time, torch
device = sys.argv[1]
torch.manual_seed(0)
a, b = torch.randn(512, 512), torch.randn(512, 512)
began = time.monotonic()
made = (a.to(device) @ b.to(device)).cpu()
page = torch.nn.functional.conv2d(torch.randn(1, 3, 64, 64).to(device), torch.randn(8, 3, 16, 16).to(device), stride=16)
difference = float((made - a @ b).abs().max())
seconds = time.monotonic() - began
print(json.dumps({"difference": difference, "cells": page.numel(), "seconds": round(seconds, 3)}))
"""
MOST_DIFFERENCE = 1.0  # TF32 products of 512 terms differ by some hundredths


def build_parser() -> console.Parser:
    return console.Parser(__doc__)


@console.script
def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    cut = words.index("--") if "--" in words else len(words)
    args = build_parser().parse_args(words[:cut])
    show_nvidia_smi()
    driver, wheel_cuda = installed_driver(), cuda_of(Path(sys.executable))
    on_purpose = not os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip()
    if on_purpose:
        say("CUDA_VISIBLE_DEVICES is empty: the CPU is used on purpose")
    elif wheel_cuda is None:
        raise StageError(
            "this torch is a CPU build; install one built for CUDA, or set CUDA_VISIBLE_DEVICES to nothing "
            "to use the CPU on purpose",
            ExitCode.DEPENDENCY,
        )
    variables = {} if on_purpose else environment_for(driver, wheel_cuda)
    result = product("cpu" if on_purpose else "cuda", variables)
    result |= {"gpu": driver.gpu if driver and not on_purpose else "CPU", "torch_cuda": wheel_cuda} | variables
    say(f"{result['gpu']}: a matrix product and a patch embedding took {result['seconds']:g} s, the result is right")
    if cut + 1 < len(words):
        return start(words[cut + 1 :], variables)
    return console.finish(args, result)


def show_nvidia_smi() -> None:
    program = shutil.which("nvidia-smi")
    if program:
        subprocess.run([program], stdout=sys.stderr, check=False)
    else:
        say("nvidia-smi is not on this machine")


def product(device: str, variables: dict[str, str]) -> dict[str, Any]:
    """What the two operations gave. Raises StageError where they fail or give another result than the CPU."""
    done = subprocess.run(
        [sys.executable, "-c", PRODUCT, device],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise StageError(f"the GPU does not work with this torch: {one_line(last, 300)}", ExitCode.DEPENDENCY)
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if not made["difference"] < MOST_DIFFERENCE:
        raise StageError(
            f"the GPU computes another matrix product than the CPU (difference {made['difference']:g}); "
            "take another machine",
            ExitCode.DEPENDENCY,
        )
    return made


def start(words: list[str], variables: dict[str, str]) -> int:
    """Become the command (on Windows: run it and return its exit code)."""
    program = shutil.which(words[0])
    if program is None:
        raise StageError(f"not found: {words[0]}")
    environment = {**os.environ, **variables}
    if os.name == "nt":
        return subprocess.run([program, *words[1:]], env=environment, check=False).returncode
    sys.stdout.flush()
    sys.stderr.flush()
    return os.execve(program, words, environment)


if __name__ == "__main__":
    sys.exit(main())
