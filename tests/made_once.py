"""What is dear to make and that many tests need, made once for all the processes (xdist's workers) of a test run."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

LANE = "PYTEST_XDIST_WORKER"
LANES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of the whole run; a worker's own lies in it."""
    own = factory.getbasetemp()
    return own.parent if LANE in os.environ else own


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """`folder`, filled by `make(folder)` in the first process that asks for it; the others wait for it.

    What failed once fails at once wherever it is asked for again: nobody repeats ten minutes to see the same error.
    """
    done, failed = (folder.with_name(f"{folder.name}.{word}") for word in ("done", "failed"))
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if failed.exists():
            pytest.fail(f"{folder.name} could not be made, see the first test that needed it: {failed.read_text()}")
        if not done.exists():
            folder.mkdir(parents=True, exist_ok=True)
            try:
                make(folder)
            except Exception as error:
                failed.write_text(f"{type(error).__name__}: {error}"[:500], encoding="utf-8")
                raise
            done.touch()
    return folder


def give_each_lane_its_threads() -> None:
    """Torch, OpenMP and vLLM take all cores otherwise, and two that do so are slower than one after the other."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if LANES > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // LANES)))


def free_port() -> int:
    """A port for a server that binds it only later.

    It lies below those that the system hands to whoever connects meanwhile (on Linux, 32768 and above).
    """
    for _ in range(100):
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port between 20000 and 32000")
