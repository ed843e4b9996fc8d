"""Plans before a GPU is rented: sizes of the models, memory, time; held against published numbers and hand calculations."""

import json
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from toolkit.latency.predicted import predicted_latency, weight_gib
from toolkit.model.gpus import GPUS
from toolkit.model.shapes import SHAPES
from toolkit.training.plan import NF4_BYTES, optimizer_steps, training_hours, training_memory


@pytest.mark.parametrize(
    ("size", "billions"), [("2b", 2.13), ("4b", 4.44), ("8b", 8.77), ("32b", 33.4), ("30b-a3b", 31.1)]
)
def test_parameters_are_the_published_ones(size, billions):
    """The hub's pages say 2.1, 4.4, 8.8, 33.4 and 31.1 thousand million."""
    assert SHAPES[size].parameters / 1e9 == pytest.approx(billions, rel=0.01)


def test_keys_and_values_of_a_token_on_the_8b():
    assert SHAPES["8b"].kv_bytes() == 147_456


def test_shapes_count_as_transformers_does():
    """A miniature of the same architecture: the formulas against the model itself."""
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    from toolkit.model.libraries import prepare_model_libraries
    from toolkit.model.shapes import VOCABULARY, ModelShape

    prepare_model_libraries()
    shape = ModelShape("mini", 256, 3, 4, 2, 512, 128, 4, 320, head_width=64)
    text = {
        "hidden_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 512,
        "head_dim": 64,
        "vocab_size": VOCABULARY,
        "rope_scaling": {"mrope_section": [12, 10, 10], "rope_type": "default"},
    }
    vision = {
        "hidden_size": 128,
        "depth": 4,
        "intermediate_size": 320,
        "out_hidden_size": 256,
        "num_heads": 4,
        "deepstack_visual_indexes": [0, 1, 2],
        "num_position_embeddings": 2304,
    }
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(
            Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
        )
    linear = sum(
        m.weight.numel() for n, m in model.model.language_model.named_modules() if isinstance(m, torch.nn.Linear)
    )
    assert linear == shape.linear
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(shape.parameters, rel=0.002)  # norms and biases


@pytest.mark.slow
def test_the_memory_plan_is_held_to_the_real_model_at_its_published_size():
    """The real layers, adapter, loss, backward and step of a 2B on tensors without values; the script's own bar is 15 %."""
    words = [sys.executable, "benchmarks/training_memory.py", "--shapes", "2b", "--tokens", "1500", "4000"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^2b ", done.stdout, re.M)) == 4


def test_memory_adds_up_by_hand():
    """8B, 1,000 tokens, rank 16, recomputed: weights 2 bytes each; 16 bytes an adapter weight; 12 bytes a logit."""
    shape = SHAPES["8b"]
    memory = training_memory(shape, "lora", tokens=1000, answer_tokens=300, checkpointing=True)
    assert memory.weights == pytest.approx(2 * shape.parameters / 2**30)
    adapter = 36 * 16 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 12288))
    assert memory.adapter == pytest.approx(16 * adapter / 2**30)
    assert memory.logits == pytest.approx(300 * 151_936 * 12 / 2**30)
    assert pytest.approx(0.516, abs=0.001) == NF4_BYTES
    assert training_memory(shape, "qlora", tokens=1000, answer_tokens=300).weights < 0.5 * memory.weights
    # Fused experts stay in 16 bit.
    moe = SHAPES["30b-a3b"]
    assert (
        training_memory(moe, "qlora", tokens=1000, answer_tokens=300).weights
        == training_memory(moe, "lora", tokens=1000, answer_tokens=300).weights
    )


def test_time_and_steps_by_hand():
    shape, gpu = SHAPES["8b"], GPUS["h100"]
    work = 4 * (shape.active * 1e6 + shape.head * 2e5) + 2 * shape.vision * 4 * 5e5
    assert training_hours(shape, gpu, tokens=1e6, answer_tokens=2e5, vision_tokens=5e5, mfu=0.5) == pytest.approx(
        work / (989e12 * 0.5) / 3600
    )
    assert (optimizer_steps(100, 3, 8), optimizer_steps(7, 1, 8), optimizer_steps(16, 0.5, 8)) == (39, 1, 1)


def test_decoding_is_bound_by_reading_the_weights():
    """An A6000 reads the 8B's 4-bit weights at most about 155 times a second (issue texts of the field; 768 GB/s)."""
    shape, gpu = SHAPES["8b"], GPUS["a6000"]
    one = predicted_latency(shape, gpu, "w4a16", vision_tokens=0, text_tokens=1, answer_tokens=1)
    assert 100 < 0.75 * 1000 / one.decode / 0.75 < 160
    slow, fast = (
        predicted_latency(shape, GPUS[g], "bf16", vision_tokens=1280, text_tokens=400, answer_tokens=150)
        for g in ("l4", "h200")
    )
    assert slow.total > 5 * fast.total and fast.first_token < fast.total
    assert weight_gib(shape, "w4a16") < weight_gib(shape, "fp8") < weight_gib(shape, "bf16")


def test_the_plan_names_what_fits_and_what_is_not_offered(run, easy_dataset, monkeypatch):
    monkeypatch.chdir(easy_dataset)
    outcome = run("plan_training", "--in", "data/train.jsonl", "--gpu", "a10", "--price", "2", "--json")
    plans = {(line["size"], line["method"]): line for line in outcome.json["plans"]}
    assert len(plans) == 10 and outcome.json["records"] == 24 and outcome.json["steps"] == 9
    assert not plans["30b-a3b", "qlora"]["fits"] and "fused" in plans["30b-a3b", "qlora"]["why"]
    assert plans["2b", "lora"]["fits"] and not plans["32b", "lora"]["fits"] and plans["8b", "qlora"]["fits"]
    assert plans["8b", "qlora"]["cost"] == pytest.approx(2 * plans["8b", "qlora"]["hours"], abs=0.02)
    assert "does not fit" in outcome.out and "not offered" in outcome.out
    none = run("plan_training", "--in", "data/train.jsonl", "--gpu", "a10", "--size", "32b")
    assert none.code == 0 and "nothing of this fits one A10" in none.err
    assert json.dumps(outcome.json)


def test_the_estimate_grows_with_rows_and_falls_with_better_gpus(run, easy_dataset, monkeypatch):
    monkeypatch.chdir(easy_dataset)
    outcome = run("estimate_latency", "--in", "data/train.jsonl", "--p95", "0.6", "--price", "h200=3.5", "--json")
    lines = {(line["gpu"], line["precision"]): line for line in outcome.json["estimates"]}
    assert len(lines) == 21 and outcome.json["documents"] == 24
    assert all(line["p50"] <= line["p95"] for line in lines.values())
    assert lines["h200", "w4a16"]["p95"] < lines["a10", "w4a16"]["p95"] < lines["a10", "bf16"]["p95"]
    rows = lines["a6000", "fp8"]["rows"]
    assert rows["0"]["p95"] < rows["1-5"]["p95"] and sum(bucket["documents"] for bucket in rows.values()) == 24
    assert lines["h200", "fp8"]["cost_per_1000"] > 0 and lines["a10", "fp8"]["cost_per_1000"] is None
    meets = {tuple(name.split(" ")) for name in outcome.json["meets_p95"]}
    assert meets == {key for key, line in lines.items() if line["fits"] and line["p95"] <= 0.6} and meets
    short = run("estimate_latency", "--in", "data/train.jsonl", "--wire", "positional", "--gpu", "a6000", "--json").json
    assert all(line["p95"] < 0.7 * lines[line["gpu"], line["precision"]]["p95"] for line in short["estimates"])
    assert "nothing of this meets it" in run("estimate_latency", "--in", "data/train.jsonl", "--p95", "0.01").err
    assert "give GPU=PRICE" in run("estimate_latency", "--in", "data/train.jsonl", "--price", "b200=1").err
