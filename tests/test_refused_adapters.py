"""Adapters that a merge or a live server must not take: values that are no numbers, DoRA, one that changes nothing."""

# ruff: noqa: F811 - imported fixtures are arguments by their name

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, free_port
from test_serving import adapter, made_adapter, program  # noqa: F401

from toolkit.files import write_json
from toolkit.model.contract import load_contract


def changed(adapter: Path, folder: Path, change) -> Path:
    """A copy of the adapter whose weights `change(name, tensor)` has replaced."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    weights = {name: change(name, tensor.clone()) for name, tensor in weights.items()}
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_with_a_value_that_is_no_number_is_not_merged(run, adapter, tmp_path, value):
    """One value in one of many weights is enough."""

    def diverged(name, tensor):
        if "layers.3.mlp.up_proj" in name and "lora_B" in name:
            tensor[0, 0] = value
        return tensor

    bad = changed(adapter, tmp_path / "bad", diverged)
    done = run("merge_adapter", "--adapter", bad, "--out", tmp_path / "m")
    assert done.code == 2 and "layers.3.mlp.up_proj" in done.err and "not numbers" in done.err
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("stage", ["merge_adapter", "serve_vllm"])
def test_a_dora_adapter_is_refused_by_its_name(run, tiny_model, tmp_path, stage):
    """DoRA's magnitudes are lost in a merge, and vLLM does not load them."""
    import torch
    from peft import LoraConfig, get_peft_model

    from toolkit.model import loading as qwen3vl

    torch.manual_seed(7)
    plain = made_adapter(tiny_model, tmp_path / "a")
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=qwen3vl.LORA_TARGETS, init_lora_weights=False, use_dora=True)
    get_peft_model(qwen3vl.load_model(str(tiny_model)), lora).save_pretrained(plain)
    words = {
        "merge_adapter": ["--adapter", plain, "--out", tmp_path / "m"],
        "serve_vllm": [tiny_model, "--adapter", plain, "--dry-run"],
    }
    done = run(stage, *words[stage])
    assert done.code == 2 and "a DoRA adapter" in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "m").exists()


def test_an_adapter_that_leaves_one_weight_as_it_was_is_not_merged(run, adapter, tmp_path):
    def untrained(name, tensor):
        return tensor.zero_() if "layers.2.self_attn.v_proj" in name and "lora_B" in name else tensor

    partly = changed(adapter, tmp_path / "partly", untrained)
    done = run("merge_adapter", "--adapter", partly, "--out", tmp_path / "m")
    assert done.code == 2 and "layers.2.self_attn.v_proj" in done.err and "changes nothing" in done.err


@pytest.mark.parametrize(
    "change",
    [{"format_version": 2}, {"format_version": None}, {"format_version": "1"}, {"a_field_of_next_year": 1}],
    ids=str,
)
def test_a_contract_of_another_version_is_refused(run, adapter, tmp_path, change):
    other = shutil.copytree(adapter, tmp_path / "other")
    contract = json.loads((other / "extraction_config.json").read_text(encoding="utf-8"))
    assert load_contract(other).format_version == 1
    write_json(other / "extraction_config.json", contract | change)
    done = run("merge_adapter", "--adapter", other, "--out", tmp_path / "m")
    assert done.code == 2 and "another version of this project" in done.err and done.err.count("\n") == 1


# --- a live adapter -------------------------------------------------------------------------------------------------

STAND_IN = """
import json, sys, time
sys.path.insert(0, {tests!r})
from fault_server import FaultServer

port, applied = int(sys.argv[sys.argv.index("--port") + 1]), {applied}

def answer(body):
    first = -0.25 if applied and body["model"] == "bl" else -0.5
    tokens = [{{"token": "{{", "logprob": first}}, {{"token": "}}", "logprob": -0.5}}]
    return {{"message": {{"content": "{{}}"}}, "finish_reason": "length", "logprobs": {{"content": tokens}}}}

with FaultServer(lambda _: None, answer=answer, port=port) as server:
    ends = time.monotonic() + 20
    while len(server.requests) < {requests} and time.monotonic() < ends:
        time.sleep(0.02)
    time.sleep(0.3)
"""


def started(run, base, adapter, folder, *, applied: bool):
    """serve_vllm.py with a stand-in for vLLM that ends after warm-up and two comparisons."""
    code = STAND_IN.format(tests=str(REPOSITORY / "tests"), applied=applied, requests=1 + 2)
    (folder / "stand_in.py").write_text(code, encoding="utf-8")
    body = f'[ "$1" = -c ] && exit 0\nexec "{sys.executable}" "{folder / "stand_in.py"}" "$@"'
    words = ["--python", program(folder / "python", body), "--port", free_port(), "--log", folder / "vllm.log"]
    return run("serve_vllm", base, "--adapter", f"bl={adapter}", *words, "--warm-up", 1, "--start-timeout", 30)


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for vLLM")
def test_a_live_adapter_that_answers_as_its_base_stops_the_start(run, tiny_model, adapter, tmp_path):
    done = started(run, tiny_model, adapter, tmp_path, applied=False)
    assert done.code == 1 and "'bl' answers exactly as its base model does" in done.err.splitlines()[-1]
    assert "ready:" not in done.err


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for vLLM")
def test_a_live_adapter_that_answers_otherwise_is_served(run, tiny_model, adapter, tmp_path):
    done = started(run, tiny_model, adapter, tmp_path, applied=True)
    assert "ready:" in done.err and "bl" in done.err, done.err
