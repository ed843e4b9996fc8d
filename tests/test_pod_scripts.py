"""The training pod's start script, with recorders: however it ends, results are packed and sent and the pod stops."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import REPOSITORY
from recorded_cloud import RecordedCloud

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pods run Linux")

# Stands for the environment's Python: notes the script, leaves what a training leaves, fails where it is told to.
PYTHON = """#!/bin/bash
name=$(basename "$1" .py)
echo "$name" >> "$STEPS"
if [ "$name" = train_lora ]; then
  mkdir -p outputs/try/checkpoint-5
  echo log > outputs/try/log.jsonl
  echo state > outputs/try/checkpoint-5/state
fi
if [ "$name" = "${FAIL_AT:-}" ]; then exit 7; fi
if [ "$name" = train_lora ]; then echo adapter > outputs/try/adapter_model.safetensors; fi
if [ "$name" = evaluate_predictions ]; then echo '{}' > data/reports/try.json; fi
"""


@pytest.fixture
def pod(tmp_path, monkeypatch):
    """`pod(**variables)` runs the training's start script; `.cloud` holds what was asked of runpodctl and curl."""
    cloud = RecordedCloud(tmp_path, monkeypatch, ("runpodctl", "curl"))
    volume, python = tmp_path / "volume", tmp_path / "python"
    (volume / "data/splits").mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)

    def start(**variables: str) -> subprocess.CompletedProcess:
        given = {"VOLUME": str(volume), "RUN": "try", "PYTHON": str(python), "STEPS": str(tmp_path / "steps")}
        given |= {"RUNPOD_POD_ID": "pod1", **variables}
        words = ["bash", str(REPOSITORY / "runpod/train/start.sh")]
        return subprocess.run(words, env=os.environ | given, capture_output=True, text=True)

    start.cloud, start.volume, start.steps = cloud, volume, tmp_path / "steps"
    return start


def packed(volume: Path) -> set[str]:
    with tarfile.open(volume / "results/try.tgz") as archive:
        return set(archive.getnames())


def test_a_training_that_crashes_is_packed_and_sent_and_the_pod_stops(pod):
    done = pod(FAIL_AT="train_lora", STOP_POD="1", UPLOAD_URL="https://store.example/x?sig=secret")
    assert done.returncode == 7
    names = packed(pod.volume)
    assert "outputs/try/log.jsonl" in names and not any("checkpoint-" in name for name in names)
    assert [call[0] for call in pod.cloud.calls] == ["curl", "runpodctl"]  # sent before it stops
    assert pod.cloud.calls[-1] == ["runpodctl", "stop", "pod", "pod1"]
    assert not any("secret" in word for call in pod.cloud.calls for word in call)


def test_results_are_offered_for_fetching_before_the_pod_stops(pod):
    done = pod(STOP_POD="1", SEND="1")
    assert done.returncode == 0, done.stderr
    assert [call[1] for call in pod.cloud.calls] == ["send", "stop"]
    assert "outputs/try/adapter_model.safetensors" in packed(pod.volume)


def test_the_gpu_is_checked_before_anything_else(pod):
    pod()
    steps = pod.steps.read_text().split()
    assert steps[0] == "check_gpu" and steps.index("train_lora") > steps.index("validate_jsonl")


def test_without_stop_pod_nothing_is_stopped_and_the_code_is_the_steps_own(pod):
    done = pod(FAIL_AT="evaluate_predictions")
    assert done.returncode == 7 and pod.cloud.calls == [] and (pod.volume / "results/try.tgz").is_file()


def test_a_failed_upload_is_an_error_and_the_pod_still_stops(pod):
    pod.cloud.answer((["curl"], 22, "", "curl: (22) 403\n"))
    done = pod(STOP_POD="1", UPLOAD_URL="https://store.example/x")
    assert done.returncode == 1 and "the upload failed" in done.stderr
    assert pod.cloud.calls[-1][:2] == ["runpodctl", "stop"]


def test_a_pod_without_data_keeps_running_for_whoever_forgot_it(pod, tmp_path):
    done = pod(VOLUME=str(tmp_path), STOP_POD="1")
    assert done.returncode == 2 and "data/splits is missing" in done.stderr and pod.cloud.calls == []
