"""The whole road, for real: it must learn to read documents it never saw."""

import json
import subprocess
import sys

import pytest
from conftest import REPOSITORY


@pytest.mark.slow
def test_the_quickstart_learns_to_read_documents_it_never_saw():
    words = [sys.executable, "scripts/quickstart.py", "--here", "--json", "--seed", "11"]
    done = subprocess.run(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["documents"]["held_out"] >= 60
    # The bar of the project is 0.95; the gate leaves room for the noise of seeds and machines.
    assert result["adapter"]["micro_f1"] >= 0.85, result
    assert result["base"]["micro_f1"] < 0.10, result
    assert result["shuffled_pages"]["micro_f1"] < 0.25, result
    for path in result["paths"].values():
        assert (REPOSITORY / path).exists(), path
    seen = (REPOSITORY / "data/quickstart/splits/train.jsonl").read_text(encoding="utf-8")
    for line in (REPOSITORY / "data/quickstart/held_out/records.jsonl").read_text(encoding="utf-8").splitlines():
        gold = json.loads(json.loads(line)["messages"][2]["content"][0]["text"])
        assert gold["bl_number"] not in seen
        assert all(row["container_number"] not in seen for row in gold["containers"])


@pytest.mark.slow
def test_the_reading_base_can_be_made_anew_and_continued(run, tmp_path):
    """A few seconds of each stage: the files are complete and the loss falls; the full run takes over an hour."""
    from transformers import AutoConfig

    minutes = ["--language-minutes", 0.5, "--vision-minutes", 0.1, "--joint-minutes", 0.1]
    first = run("train_reading_base", "--out", tmp_path / "a", *minutes, "--json").json
    again = run("train_reading_base", "--out", tmp_path / "b", "--start-from", tmp_path / "a", *minutes, "--json").json
    assert len(first["runs"]) == 1 and len(again["runs"]) == 2
    assert AutoConfig.from_pretrained(tmp_path / "b").model_type == "qwen3_vl"
    losses = [
        float(line.split(",")[4])
        for line in (tmp_path / "b/training_log.csv").read_text().splitlines()
        if "language" in line
    ]
    assert losses[-1] < 6.3  # a guess among the vocabulary costs 6.56
