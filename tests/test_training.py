"""Training is right by construction: the loss is what it says, accumulated steps are one batch, a resumed run is the same run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

from toolkit.records import read_records


def weights(folder: Path):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def arguments(dataset: Path, model: Path, out: Path, *more: object) -> list[str]:
    fixed = ["--train", dataset / "data/train.jsonl", "--root", dataset, "--schema", dataset / "schemas/bill_of_lading.schema.json",
             "--model", model, "--out", out, "--image-max-tokens", 384, "--max-length", 4096, "--rank", 4, "--threads", 1, "--log-each", 1]  # fmt: skip
    return [str(word) for word in (*fixed, *more)]


def test_the_loss_is_the_mean_over_all_answer_tokens_by_hand(easy_dataset, tiny_model):
    """Two records of different length in one batch: log-softmax, the next token, answers and end marks only."""
    import torch

    from toolkit.batches import IGNORED, collate, encode_record
    from toolkit.qwen3vl import load_model, load_processor

    processor = load_processor(str(tiny_model), 384)
    model = load_model(str(tiny_model)).eval()
    records = sorted(read_records(easy_dataset / "data/train.jsonl"), key=lambda r: len(r["messages"][-1]["content"][0]["text"]))  # fmt: skip
    examples = [encode_record(processor, record, easy_dataset) for record in (records[0], records[-1])]
    batch = collate(examples, processor.tokenizer.pad_token_id)
    with torch.no_grad():
        output = model(**batch)
    logs = torch.log_softmax(output.logits[:, :-1].double(), -1)
    wanted = batch["labels"][:, 1:]
    mask = wanted != IGNORED
    by_hand = -logs.gather(-1, wanted.clamp(min=0)[..., None])[..., 0][mask].mean()
    assert int(mask.sum()) == sum(int((e["labels"] != IGNORED).sum()) for e in examples)
    assert float(output.loss) == pytest.approx(float(by_hand), abs=1e-5)


def test_four_records_at_once_are_four_records_one_after_the_other(run, easy_dataset, tiny_model, tmp_path):
    """Records differ in length, so a mean of means would not be the mean."""
    import torch

    for name, batch, accumulate in (("batch", 4, 1), ("accumulated", 1, 4)):
        common = arguments(easy_dataset, tiny_model, tmp_path / name, "--epochs", 1, "--limit", 8)
        done = run("train_lora", *common, "--batch-size", batch, "--accumulate", accumulate)
        assert done.code == 0, done.err
    first, second = weights(tmp_path / "batch"), weights(tmp_path / "accumulated")
    moved = [name for name, weight in first.items() if "lora_B" in name and weight.abs().max() > 0]
    assert moved and max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-4
    assert not any(torch.isnan(weight).any() for weight in first.values())


@pytest.mark.slow
def test_a_resumed_run_is_the_run_that_was_never_stopped(easy_dataset, tiny_model, tmp_path):
    """Killed after its first checkpoint and resumed, with dropout: the same adapter, bit for bit."""
    import torch

    def start(out: Path, *more: str) -> subprocess.Popen:
        command = arguments(easy_dataset, tiny_model, out, "--limit", 12, "--epochs", 2, "--accumulate", 4, "--save-each", 3, "--dropout", 0.1, *more)  # fmt: skip
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        return subprocess.Popen([sys.executable, str(REPOSITORY / "scripts/train_lora.py"), *command], env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)  # fmt: skip

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
