"""Several (pretended) GPUs in one machine: each process uses its own, a plain run uses one and says how to use all."""

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.training.settings import PRESETS

REPOSITORY = Path(__file__).resolve().parents[1]


def started(
    dataset: Path, model: Path, out: Path, *more: str, gib: str = "80,80", kind: str = "ddp", processes: int = 2
):
    """train_lora.py on pretended GPUs: the reports at the wrapped model by rank, what was said, the exit codes."""
    words = [
        sys.executable,
        str(REPOSITORY / "tests/gpus_on_paper.py"),
        gib,
        kind,
        *training_words(dataset, model, out),
        *more,
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"OMP_NUM_THREADS": "1"}
    if processes > 1:
        shared |= {
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    running = [
        subprocess.Popen(
            words,
            env=shared | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        ended = [process.communicate(timeout=240) for process in running]
    finally:
        for process in running:
            process.kill()
    said = "\n".join(err for _, err in ended)
    reports = [
        json.loads(line.removeprefix("REPORT "))
        for out_, _ in ended
        for line in out_.splitlines()
        if line.startswith("REPORT ")
    ]
    return sorted(reports, key=lambda report: report["rank"]), said, [process.returncode for process in running]


def training_words(dataset: Path, model: Path, out: Path) -> list[str]:
    fixed = [
        "--train",
        dataset / "data/train.jsonl",
        "--root",
        dataset,
        "--schema",
        dataset / "schemas/bill_of_lading.schema.json",
        "--model",
        model,
        "--out",
        out,
        "--image-max-tokens",
        384,
        "--rank",
        4,
        "--limit",
        4,
        "--checkpointing",
        "off",
        "--loader-workers",
        0,
    ]
    return [str(word) for word in fixed]


@pytest.fixture
def visible_gpus(monkeypatch):
    """`visible_gpus(4)`: torch sees four GPUs in this process until the test ends."""
    import gpus_on_paper  # torch, which the other tests of a data stage do without

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return lambda count: gpus_on_paper.pretend_gpus(count, replace=monkeypatch.setattr)


@pytest.fixture
def second_of_two_gpus(monkeypatch, visible_gpus):
    """This process as a launcher starts the second one on a machine with two GPUs."""
    from toolkit.model.libraries import prepare_model_libraries

    prepare_model_libraries()
    import bitsandbytes  # noqa: F401 - looks for its CUDA library when it is imported
    from transformers.integrations import validate_bnb_backend_availability  # noqa: F401 - so does this

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
    visible_gpus(2)


@pytest.mark.parametrize("nf4", [False, True], ids=["16 bit", "4 bit"])
def test_a_model_is_loaded_onto_the_gpu_of_its_process(second_of_two_gpus, tiny_model, nf4):
    from gpus_on_paper import PaperGpus

    from toolkit.model.loading import load_model

    with PaperGpus() as gpus:
        model = load_model(str(tiny_model), nf4=nf4)
    assert set(gpus.used) == {"cuda:1"}
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_model_that_will_be_cut_into_shards_stays_off_the_gpu_in_16_bit(second_of_two_gpus, tiny_model):
    import torch
    from gpus_on_paper import PaperGpus

    from toolkit.model.loading import load_model

    with PaperGpus() as gpus:
        model = load_model(str(tiny_model), fsdp=True)
    assert not gpus.used
    assert {(parameter.device.type, parameter.dtype) for parameter in model.parameters()} == {("cpu", torch.bfloat16)}


@pytest.mark.parametrize(
    ("variables", "device"),
    [
        ({}, "cuda:0"),
        ({"LOCAL_RANK": "0"}, "cuda:0"),
        ({"LOCAL_RANK": "1", "RANK": "5"}, "cuda:1"),
        ({"LOCAL_RANK": "-1"}, "cuda:0"),
    ],
)
def test_the_number_of_a_process_on_its_machine_is_that_of_its_gpu(monkeypatch, visible_gpus, variables, device):
    from toolkit.model.devices import own_device

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    visible_gpus(2)
    assert own_device() == device


def test_more_processes_than_gpus_are_refused(monkeypatch, visible_gpus):
    """accelerate would count round and put two processes onto one GPU."""
    from toolkit.console import StageError
    from toolkit.model.devices import own_device

    monkeypatch.setenv("LOCAL_RANK", "2")
    visible_gpus(2)
    with pytest.raises(
        StageError, match=r"process 3 of this machine has no GPU of its own, 2 visible here; .*--num_processes 2"
    ):
        own_device()


@pytest.mark.parametrize(
    ("visible", "used", "said"),
    [(1, 1, ""), (2, 2, ""), (4, 1, "1 of 4 GPUs is used; do this\n"), (4, 2, "2 of 4 GPUs are used; do this\n")],
)
def test_gpus_that_are_left_over_are_said(visible_gpus, capsys, visible, used, said):
    from toolkit.model.devices import say_unused_gpus

    visible_gpus(visible)
    say_unused_gpus("do this", used=used)
    assert capsys.readouterr().err == said


def test_two_visible_gpus_leave_the_model_of_a_plain_run_whole(easy_dataset, tiny_model, tmp_path):
    """transformers would wrap the model in DataParallel, which cuts `pixel_values` by patches, not by records."""
    reports, said, codes = started(easy_dataset, tiny_model, tmp_path / "my out", kind="plain", processes=1)
    assert codes == [0], said[-3000:]
    (report,) = reports
    assert report["wrapped"] == "PeftModelForCausalLM"
    assert (report["used"], report["device"], report["records a pass"]) == (["cuda:0"], "cuda:0", 1)
    sentence = next(line for line in said.splitlines() if line.startswith("1 of 2 GPUs is used; "))
    command = sentence.partition("to train on all: ")[2].rpartition(" (fsdp2.yaml")[0]
    from accelerate.commands.launch import launch_command_parser

    launched = launch_command_parser().parse_args(shlex.split(command)[2:])
    assert (REPOSITORY / launched.config_file).resolve() == REPOSITORY / "scripts/accelerate/ddp.yaml"
    assert (REPOSITORY / launched.training_script).resolve() == REPOSITORY / "scripts/train_lora.py"
    assert launched.num_processes == 2
    assert launched.training_script_args == training_words(easy_dataset, tiny_model, tmp_path / "my out")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for nvidia-smi")
@pytest.mark.parametrize(
    ("visible", "free_gib"),
    [(None, 2.0), ("1", 60.0), ("1,0", 60.0), ("GPU-b", 60.0), ("0,1", 2.0), ("MIG-x", 2.0)],
)
def test_the_plan_looks_at_the_first_gpu_that_is_visible(monkeypatch, tmp_path, visible, free_gib):
    """A busy first GPU that CUDA_VISIBLE_DEVICES hides says nothing about the one that will be used."""
    from toolkit.model.gpus import installed_driver

    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\ncase "$*" in *--id=1*|*--id=GPU-b*) echo "NVIDIA A100, 81920, 61440";;\n'
        '*query*) echo "NVIDIA A100, 81920, 2048"; echo "NVIDIA A100, 81920, 61440";;\n'
        '*) echo "CUDA Version: 13.0";; esac\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    driver = installed_driver()
    assert driver is not None and driver.free_gib == free_gib


@pytest.mark.slow
def test_two_visible_gpus_do_not_change_the_loss_of_a_plain_run_in_4_bit(easy_dataset, tiny_model, tmp_path):
    """transformers wraps no model in 4 bit, yet multiplies batch and loss by the number of GPUs that it counts."""
    reports, said, codes = started(
        easy_dataset, tiny_model, tmp_path / "out", "--method", "qlora", kind="plain", processes=1
    )
    assert codes == [0], said[-3000:]
    assert (reports[0]["used"], reports[0]["records a pass"]) == (["cuda:0"], 1)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_each_launched_process_touches_its_own_gpu_only(easy_dataset, tiny_model, tmp_path, method):
    """From the start of train_lora.py until the model is wrapped; both take the preset of the smaller GPU."""
    reports, said, codes = started(easy_dataset, tiny_model, tmp_path / "out", "--method", method, gib="80,48")
    assert codes == [0, 0], said[-3000:]
    assert [report["used"] for report in reports] == [["cuda:0"], ["cuda:1"]]
    assert [report["device"] for report in reports] == ["cuda:0", "cuda:1"]
    assert [report["tokens a pass"] for report in reports] == [PRESETS["48gb"]["tokens_per_batch"]] * 2
    assert all(report["parameters"] == ["GPU"] for report in reports)
    assert "GPUs" not in said


@pytest.mark.slow
def test_under_fsdp_no_weight_reaches_a_gpu_before_it_is_cut(easy_dataset, tiny_model, tmp_path):
    """The first process has read the weights into main memory in 16 bit; the second waits for its shards with zeros."""
    reports, said, codes = started(easy_dataset, tiny_model, tmp_path / "out", kind="fsdp2")
    assert codes == [0, 0], said[-3000:]
    assert [report["used"] for report in reports] == [[], []]
    assert [report["all zero"] for report in reports] == [False, True]
    assert all(report["parameters"] == ["cpu"] and report["dtypes"] == ["torch.bfloat16"] for report in reports)


@pytest.mark.slow
def test_gpus_without_a_process_are_said_under_a_launcher(easy_dataset, tiny_model, tmp_path):
    _, said, codes = started(easy_dataset, tiny_model, tmp_path / "out", gib="80,80,80,80")
    assert codes == [0, 0], said[-3000:]
    assert said.count("2 of 4 GPUs are used; start one process a GPU") == 1
