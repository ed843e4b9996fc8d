"""Older drivers than torch was built for: what makes it run, and what is said where nothing does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from toolkit.console import ExitCode, StageError
from toolkit.model.cuda import environment_for, takes_compatibility_libraries
from toolkit.model.gpus import Driver


def driver(gpu: str, *cuda: int) -> Driver:
    return Driver(gpu, 80.0, 79.0, (cuda[0], cuda[1]))


@pytest.fixture
def image(tmp_path) -> Path:
    """What stands under /usr/local in an image with the compatibility libraries."""
    (tmp_path / "cuda-13.0/compat").mkdir(parents=True)
    (tmp_path / "cuda-13.0/compat/libcuda.so.1").touch()
    return tmp_path


def test_the_compatibility_libraries_come_first_where_the_driver_is_older(image, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    given = environment_for(driver("NVIDIA A100 80GB PCIe", 12, 2), "13.0", image)
    assert given == {"LD_LIBRARY_PATH": f"{image}/cuda-13.0/compat:/opt/lib"}
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert environment_for(driver("NVIDIA H100 NVL", 12, 4), "13.0", image)["LD_LIBRARY_PATH"].endswith("compat")


@pytest.mark.parametrize("cuda", [(13, 0), (13, 1), (0, 0)])
def test_a_driver_that_is_new_enough_gets_no_libraries_in_front(image, cuda):
    assert environment_for(driver("NVIDIA A100 80GB PCIe", *cuda), "13.0", image) == {}


@pytest.mark.parametrize("gpu", ["NVIDIA RTX A6000", "NVIDIA GeForce RTX 4090", "NVIDIA A10-24Q"])
def test_a_gpu_that_takes_no_libraries_is_refused_with_the_way_out(image, gpu):
    assert not takes_compatibility_libraries(gpu)
    with pytest.raises(StageError, match=r"newer driver, or a build for CUDA 12\.9") as refused:
        environment_for(driver(gpu, 12, 2), "13.0", image)
    assert refused.value.code == ExitCode.DEPENDENCY


def test_an_image_without_the_libraries_is_refused(tmp_path):
    with pytest.raises(StageError, match=r"an image with /usr/local/cuda/compat, or a build for CUDA 12\.9"):
        environment_for(driver("NVIDIA A100 80GB PCIe", 12, 2), "13.0", tmp_path)


def test_a_build_for_cuda_12_9_starts_on_a_570_driver_and_says_what_may_fail(tmp_path, capsys):
    assert environment_for(driver("NVIDIA A10-24Q", 12, 8), "12.9", tmp_path) == {}
    assert "most kernels run, the warm-up tells" in capsys.readouterr().err


def test_no_gpu_for_a_cuda_build_is_said(tmp_path):
    with pytest.raises(StageError, match="no GPU is visible"):
        environment_for(None, "13.0", tmp_path)
    assert environment_for(None, None, tmp_path) == {}


def check_gpu(*words: str, visible: str | None = "") -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    command = [sys.executable, "scripts/check_gpu.py", *words]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)


def test_the_smoke_job_computes_and_then_becomes_the_command():
    done = check_gpu("--", sys.executable, "-c", "print('trained'); raise SystemExit(7)")
    assert done.returncode == 7 and done.stdout == "trained\n"
    assert "the CPU is used on purpose" in done.stderr and "the result is right" in done.stderr


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
def test_the_smoke_job_fails_where_no_gpu_works_and_starts_nothing():
    done = check_gpu("--", sys.executable, "-c", "print('trained')", visible=None)
    assert done.returncode == 3 and done.stdout == "" and "error: " in done.stderr
