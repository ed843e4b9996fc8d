"""Whole runs: the best adapter is kept; stopped, killed or in several processes, the result is that of one run."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, free_port
from training_runs import arguments, weights


@pytest.mark.slow
def test_the_best_adapter_is_kept_and_training_stops_where_nothing_is_gained(run, easy_dataset, tiny_model, tmp_path):
    """A rate that soon undoes what was learned: the kept adapter is the best one, not the last."""
    out = tmp_path / "out"
    common = arguments(
        easy_dataset, tiny_model, out, "--val", easy_dataset / "data/train.jsonl", "--limit", 8, "--eval-documents", 2
    )
    done = run(
        "train_lora",
        *common,
        "--epochs",
        8,
        "--accumulate",
        1,
        "--batch-size",
        4,
        "--learning-rate",
        0.3,
        "--warmup",
        0.3,
        "--eval-each",
        1,
        "--patience",
        3,
        "--json",
    )
    assert done.code == 0, done.err
    rows = list(csv.DictReader((out / "training_log.csv").open(encoding="utf-8")))
    scores = {int(row["step"]): (float(row["val_micro_f1"]), float(row["val_loss"])) for row in rows if row["val_loss"]}
    assert min(scores) == 0 and all(0 <= f1 <= 1 for f1, _ in scores.values())
    assert done.json["steps"] < 16 and "stopped early" in done.err
    best = json.loads((out / "best/complete.json").read_text(encoding="utf-8"))
    assert (
        best["step"]
        == done.json["best_step"]
        == max(scores, key=lambda step: (scores[step][0], -step) if step else (-1, 0))
    )
    assert (out / "best/adapter_model.safetensors").read_bytes() == (out / "adapter_model.safetensors").read_bytes()
    assert (out / "loss_curve.png").stat().st_size > 10_000
    speeds = [row for row in rows if row["tokens_per_second"]]
    assert speeds and all(
        float(row["tokens_per_second"]) > float(row["answer_tokens_per_second"]) > 0
        and 0 <= float(row["padding"]) < 0.5
        for row in speeds
    )


def test_a_checkpoint_that_was_cut_off_is_passed_over(tmp_path):
    from toolkit.training.trainer import newest_checkpoint

    for step, whole in ((3, True), (12, True), (20, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}/complete.json").write_text("{}")
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-12"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals")
def test_a_spot_machine_that_is_taken_back_leaves_a_checkpoint(easy_dataset, tiny_model, tmp_path):
    """SIGTERM in the middle of a run: exit code 130, a complete checkpoint of the step at hand."""
    out = tmp_path / "out"
    command = arguments(easy_dataset, tiny_model, out, "--epochs", 40, "--accumulate", 1, "--limit", 8)
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "scripts/train_lora.py"), *command], stderr=subprocess.PIPE, text=True
    )
    said = []
    for line in process.stderr:
        said.append(line)
        if "step     2" in line:
            process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130, "".join(said)
    (checkpoint,) = out.glob("checkpoint-*")
    assert (
        (checkpoint / "complete.json").is_file()
        and "--resume" in said[-1]
        and not (out / "adapter_model.safetensors").exists()
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of one process")
def test_a_full_disk_is_one_sentence_and_the_earlier_checkpoint_stays(easy_dataset, tiny_model, tmp_path):
    """A limit on file size stands in for the disk's end: the optimizer's file does not fit."""
    out = tmp_path / "out"
    command = arguments(
        easy_dataset, tiny_model, out, "--epochs", 2, "--accumulate", 1, "--limit", 4, "--save-each", 2, "--rank", 32
    )
    code = (
        "import resource, runpy, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 700_000)); "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(REPOSITORY / "scripts/train_lora.py"), *command],
        capture_output=True,
        text=True,
        cwd=REPOSITORY / "scripts",
    )
    assert done.returncode == 1 and "could not be written" in done.stderr and "Traceback" not in done.stderr, (
        done.stderr
    )
    assert not list(out.glob("checkpoint-*"))


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(easy_dataset, tiny_model, tmp_path):
    """Two CPU processes (gloo) against one with the same global batch: 16 records an epoch, the same four a step."""
    curves = {}
    for name, launch, accumulate in (
        ("one", [], 4),
        ("two", ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())], 2),
    ):
        out = tmp_path / name
        command = arguments(
            easy_dataset,
            tiny_model,
            out,
            "--epochs",
            2,
            "--limit",
            16,
            "--accumulate",
            accumulate,
            "--learning-rate",
            1e-3,
        )
        words = [sys.executable, *launch, str(REPOSITORY / "scripts/train_lora.py"), *command]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        rows = csv.DictReader((out / "training_log.csv").open(encoding="utf-8"))
        curves[name] = [float(row["loss"]) for row in rows if row["loss"]]
    assert len(curves["one"]) == len(curves["two"]) == 8
    assert curves["two"] == pytest.approx(curves["one"], rel=2e-3)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert first.keys() == second.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "size"), [("fsdp2", "dense"), ("fsdp2", "moe"), ("zero2", "dense")])
def test_in_shards_it_trains_validates_saves_and_resumes_as_one_process_would(
    easy_dataset, request, tmp_path, kind, size
):
    """Two CPU processes with the settings of scripts/accelerate: FSDP2 by layer; ZeRO-2 if DeepSpeed is installed.

    The losses are those of one process with the same global batch, the adapter is a whole one, and a run that goes on
    from its checkpoint is the run that was never stopped.
    """
    import torch

    if kind == "zero2":
        # Not in the environment `dev`: where it is installed, accelerate imports it in every run that unwraps a model.
        pytest.importorskip("deepspeed")
    model = request.getfixturevalue("tiny_moe" if size == "moe" else "tiny_model")
    told: list[str] = []

    def trained(out: Path, launch: list[str], *more: object) -> list[float]:
        command = arguments(
            easy_dataset, model, out, "--epochs", 2, "--limit", 8, "--learning-rate", 1e-3, "--save-each", 2, *more
        )
        done = subprocess.run([sys.executable, *launch, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        told[:] = [
            line.removeprefix("in shards: ") for line in done.stderr.splitlines() if line.startswith("in shards: ")
        ]
        rows = csv.DictReader((out / "training_log.csv").open(encoding="utf-8"))
        return [float(row["loss"]) for row in rows if row["loss"]]

    script = str(REPOSITORY / "scripts/train_lora.py")
    two = [
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(free_port()),
        str(REPOSITORY / "tests/sharded_on_cpu.py"),
        kind,
    ]
    validation = ("--val", easy_dataset / "data/train.jsonl", "--eval-documents", 1, "--eval-each", 4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    curve = trained(whole, two, "--accumulate", 2, *validation)
    if kind == "fsdp2":
        layers = "Qwen3VLMoeTextDecoderLayer" if size == "moe" else "Qwen3VLTextDecoderLayer"
        depth = json.loads((model / "config.json").read_text(encoding="utf-8"))["text_config"]["num_hidden_layers"]
        assert told.count(layers) == 2 * depth
        assert (whole / "checkpoint-4/pytorch_model_fsdp.bin").is_file()
    else:
        assert told == ["DeepSpeedZeroOptimizer"] * 2
        assert len(list((whole / "checkpoint-4").glob("global_step4/*_optim_states.pt"))) == 2
    assert curve == pytest.approx(trained(tmp_path / "one", [script], "--accumulate", 4), rel=5e-3)
    single = weights(tmp_path / "one")
    assert weights(whole).keys() == single.keys() and all(weights(whole)[n].shape == w.shape for n, w in single.items())
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "checkpoint-4")
    (broken / "adapter_model.safetensors").unlink()
    assert trained(broken, two, "--accumulate", 2, *validation, "--resume") == curve
    first, second = weights(whole), weights(broken)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_resumed_run_is_the_run_that_was_never_stopped(easy_dataset, tiny_model, tmp_path):
    """Killed after its first checkpoint and resumed, with dropout: the same adapter, bit for bit."""
    import torch

    def start(out: Path, *more: str) -> subprocess.Popen:
        command = arguments(
            easy_dataset,
            tiny_model,
            out,
            "--limit",
            12,
            "--epochs",
            2,
            "--accumulate",
            4,
            "--save-each",
            3,
            "--dropout",
            0.1,
            *more,
        )
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        return subprocess.Popen(
            [sys.executable, str(REPOSITORY / "scripts/train_lora.py"), *command],
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    running = start(broken)
    deadline = time.monotonic() + 120
    while not list(broken.glob("checkpoint-3/trainer_state.json")) and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)  # the state is a checkpoint's last file; let it be written to its end
    running.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    running.communicate()
    assert not (broken / "adapter_model.safetensors").exists()
    shutil.rmtree(broken / "checkpoint-6", ignore_errors=True)
    for process in (start(broken, "--resume"), start(whole)):
        _, err = process.communicate(timeout=180)
        assert process.returncode == 0, err
    first, second = weights(whole), weights(broken)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
