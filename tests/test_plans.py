"""Plans before a GPU is rented: model sizes, memory and time against published numbers and hand calculations."""

import json
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from toolkit.latency.predicted import predicted_latency, weight_gib
from toolkit.model.gpus import GPUS
from toolkit.model.shapes import SHAPES
from toolkit.training.plan import optimizer_steps, training_hours, training_memory


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
    """The real layers, adapter, loss, backward and step of a 2B on tensors without values; the script allows 15 %."""
    words = [sys.executable, "benchmarks/training_memory.py", "--shapes", "2b", "--tokens", "1500", "4000"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^2b ", done.stdout, re.M)) == 4


def test_memory_of_each_part_is_the_figure_computed_by_hand():
    """8B, 1,000 tokens of which 300 are supervised, rank 16. Figures in GiB, from the published widths.

    Weights: 8.766e9 of 2 bytes. Adapter: 36 layers x 16 x 75,776 widths, 16 bytes each (weight, gradient, moments).
    Activations: 188,416 bytes a token and layer (4,096 wide x 20, keys and values 1,024 x 8, 12,288 inner x 8).
    Recomputed: one layer of them, and 8,192 bytes a token for each of the 36 layers. Logits: 151,936 x 12 bytes.
    """
    kept = training_memory(SHAPES["8b"], "lora", tokens=1000, answer_tokens=300)
    assert kept.weights == pytest.approx(16.33, abs=0.01)
    assert kept.adapter == pytest.approx(0.650, abs=0.001)
    assert kept.activations == pytest.approx(6.317, abs=0.001)
    assert kept.logits == pytest.approx(0.509, abs=0.001)
    again = training_memory(SHAPES["8b"], "lora", tokens=1000, answer_tokens=300, checkpointing=True)
    assert again.activations == pytest.approx(0.450, abs=0.001)
    assert (again.weights, again.adapter, again.logits) == (kept.weights, kept.adapter, kept.logits)
    assert kept.total == pytest.approx(16.33 + 0.65 + 6.317 + 0.509 + 1.5, abs=0.01)


def test_four_bit_shrinks_the_language_models_linear_layers_and_nothing_else():
    """6.946e9 of the 8B's weights: 4.127 bits each instead of 16. A mixture's fused experts stay in 16 bit."""
    plain, four = (training_memory(SHAPES["8b"], how, tokens=1000, answer_tokens=300) for how in ("lora", "qlora"))
    assert plain.weights - four.weights == pytest.approx(6.946e9 * (16 - 4.127) / 8 / 2**30, rel=0.001)
    assert (four.adapter, four.activations, four.logits) == (plain.adapter, plain.activations, plain.logits)
    moe = [training_memory(SHAPES["30b-a3b"], how, tokens=1000, answer_tokens=300) for how in ("lora", "qlora")]
    assert moe[0].weights == moe[1].weights


def test_memory_grows_with_what_is_longer():
    def memory(tokens=1000, answer_tokens=300, **more):
        return training_memory(SHAPES["8b"], "lora", tokens=tokens, answer_tokens=answer_tokens, **more)

    assert memory(tokens=2000).activations == 2 * memory().activations and memory(tokens=2000).logits == memory().logits
    assert memory(answer_tokens=600).logits == 2 * memory().logits
    assert memory(rank=32).adapter == 2 * memory().adapter
    moe = training_memory(SHAPES["30b-a3b"], "lora", tokens=1000, answer_tokens=300)
    # 110,592 bytes a token and layer, 48 layers; 8 of the experts work on a token.
    assert moe.activations == pytest.approx(4.944, abs=0.001)


def test_time_is_the_figure_computed_by_hand():
    """8B on an H100 (989 TFLOPS) at half of its peak: a million tokens, 0.2 of them answers, 0.5 from pages.

    Language model 4 x 6.946e9 x 1e6, head 4 x 0.622e9 x 2e5, vision tower 2 x 0.576e9 x 2e6 patches: 3.06e16
    operations in 61.8 seconds.
    """

    def seconds(**more):
        work = {"tokens": 1e6, "answer_tokens": 2e5, "vision_tokens": 5e5, "mfu": 0.5} | more
        return 3600 * training_hours(SHAPES["8b"], GPUS["h100"], **work)

    assert seconds() == pytest.approx(61.8, abs=0.1)
    assert seconds(mfu=0.25) == pytest.approx(2 * seconds())
    # Recomputed activations cost another 2 operations a weight and token, in the language model only.
    assert seconds(checkpointing=True) - seconds() == pytest.approx(
        (2 * 6.946e15 + 2 * 0.622e9 * 2e5) / 4.945e14, rel=0.001
    )


@pytest.mark.parametrize(
    ("records", "epochs", "batch", "steps"),
    [(100, 3, 8, 39), (7, 1, 8, 1), (8, 1, 8, 1), (9, 1, 8, 2), (16, 0.5, 8, 1)],
)
def test_the_last_step_of_an_epoch_may_be_a_smaller_one(records, epochs, batch, steps):
    assert optimizer_steps(records, epochs, batch) == steps


def test_decoding_takes_the_time_to_read_the_weights():
    """8B on an A6000 (768 GB/s, three quarters of it): 4-bit weights 3.608e9 bytes and the head 1.245e9 in 8.43 ms.

    Issue texts of the field give at most about 155 tokens a second at the full bandwidth.
    """
    shape, gpu = SHAPES["8b"], GPUS["a6000"]
    one = predicted_latency(shape, gpu, "w4a16", vision_tokens=0, text_tokens=1, answer_tokens=1)
    assert one.decode == pytest.approx(8.43, abs=0.01)
    ten = predicted_latency(shape, gpu, "w4a16", vision_tokens=0, text_tokens=1, answer_tokens=10)
    assert ten.decode == pytest.approx(84.3, abs=0.1)  # the keys and values of ten tokens are next to nothing
    bf16 = predicted_latency(shape, gpu, "bf16", vision_tokens=0, text_tokens=1, answer_tokens=1)
    assert bf16.decode == pytest.approx(2 * (6.946e9 + 0.622e9) / 576e9 * 1000, rel=0.001)


def test_long_prompts_cost_reading_their_keys_and_values_for_each_token():
    """10,000 tokens of 147,456 bytes: 1.47e9 bytes more for each token, 2.56 ms on an A6000."""
    shape, gpu = SHAPES["8b"], GPUS["a6000"]
    short, long = (
        predicted_latency(shape, gpu, "bf16", vision_tokens=0, text_tokens=t, answer_tokens=100) for t in (0, 10_000)
    )
    assert long.decode - short.decode == pytest.approx(100 * 2.56, rel=0.01)


def test_reading_a_page_takes_the_figures_computed_by_hand():
    """8B in bf16 on an A6000 (155 TFLOPS), a page of 1,280 tokens and 400 of text; all in milliseconds.

    Vision tower 2 x 0.576e9 x 5,120 patches at 0.35 of the peak. Language model 2 x 6.946e9 x 1,680 tokens, and its
    attention 2 x 1,680 x 1,680 x 4,096 in 36 layers, at half of the peak. FP8 has no arithmetic of its own there.
    """
    page = {"vision_tokens": 1280, "text_tokens": 400, "answer_tokens": 150}
    found = predicted_latency(SHAPES["8b"], GPUS["a6000"], "bf16", **page)
    assert found.vision == pytest.approx(108.7, abs=0.1) and found.prefill == pytest.approx(311.9, abs=0.1)
    assert predicted_latency(SHAPES["8b"], GPUS["a6000"], "fp8", **page).prefill == pytest.approx(found.prefill)
    h100 = [predicted_latency(SHAPES["8b"], GPUS["h100"], how, **page).prefill for how in ("bf16", "fp8")]
    assert h100[0] / h100[1] == pytest.approx(1979 / 989) and h100[0] == pytest.approx(311.9 * 155 / 989, rel=0.001)


def test_an_answer_in_shards_costs_a_line_of_prompt_a_request_and_what_is_assumed_for_waves_and_requests():
    """Two requests in one further wave: 10 ms, 2 x 1 ms, and 2 x 8 tokens of prompt."""
    words = {"vision_tokens": 1280, "text_tokens": 400}
    one = predicted_latency(SHAPES["8b"], GPUS["a6000"], "bf16", **words, waves=[[100]])
    more = predicted_latency(SHAPES["8b"], GPUS["a6000"], "bf16", **words, waves=[[4], [50, 50]])
    assert (one.fixed, more.fixed) == (45.0, 57.0)
    assert more.prefill - one.prefill == pytest.approx(2 * 6.946e9 * 16 / 77.5e12 * 1000, rel=0.001)
    assert more.decode == pytest.approx(one.decode * 54 / 100, rel=0.05)


def test_better_gpus_are_faster_and_the_first_token_comes_before_the_last():
    slow, fast = (
        predicted_latency(SHAPES["8b"], GPUS[g], "bf16", vision_tokens=1280, text_tokens=400, answer_tokens=150)
        for g in ("l4", "h200")
    )
    assert slow.total > 5 * fast.total and fast.first_token < fast.total
    assert slow.total == pytest.approx(slow.fixed + slow.vision + slow.prefill + slow.decode)


def test_weights_take_the_bytes_of_their_precision():
    """Linear layers of 6.946e9 weights; embedding, head and vision tower (1.821e9) stay in 16 bit."""
    found = [weight_gib(SHAPES["8b"], precision) for precision in ("bf16", "fp8", "w4a16")]
    assert found == pytest.approx([16.33, 9.86, 6.75], abs=0.01)


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
