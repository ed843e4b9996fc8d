"""From adapter to server, as far as no server is needed: merging, model folders, settings, checks before a start."""

import io
import json
import os
import shutil
import socket
import struct
import tarfile
from pathlib import Path

import pytest

from toolkit.files import write_json
from toolkit.model.contract import Contract
from toolkit.model.folder import model_shapes
from toolkit.schema.target import TargetSchema
from toolkit.serving.vllm_plan import kv_bytes_per_token

SCHEMA = TargetSchema.load(Path(__file__).parents[1] / "schemas/receipt.schema.json")


def made_adapter(base: Path, folder: Path, *, untrained: bool = False, targets: str | None = None) -> Path:
    """An adapter with random weights, as training would leave it: weights, config, processor, contract."""
    import torch
    from peft import LoraConfig, get_peft_model

    from toolkit.model import loading as qwen3vl

    torch.manual_seed(7)
    config = qwen3vl.load_config(str(base))
    wanted = targets or (qwen3vl.LORA_TARGETS_ATTENTION if qwen3vl.is_moe(config) else qwen3vl.LORA_TARGETS)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=wanted, init_lora_weights=untrained)
    model = get_peft_model(qwen3vl.load_model(str(base)), lora)
    model.save_pretrained(folder)
    qwen3vl.load_processor(str(base), 64).save_pretrained(folder)
    Contract(
        SCHEMA.raw, SCHEMA.source, "read", "json", 64, 64, base_model=str(base), max_pages=2, prompt_tokens=30
    ).save(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory) -> Path:
    return made_adapter(tiny_model, tmp_path_factory.mktemp("adapters") / "a")


@pytest.fixture(scope="module")
def merged(adapter, tmp_path_factory) -> Path:
    import merge_adapter

    out = tmp_path_factory.mktemp("merged") / "m"
    assert merge_adapter.main(["--adapter", str(adapter), "--out", str(out), "--dtype", "float32"]) == 0
    return out


def logits(model, base: Path):
    import torch
    from PIL import Image

    from toolkit.model.encoding import collate, encode_prompt
    from toolkit.model.loading import load_processor
    from toolkit.records.prompt import Prompt

    inputs = encode_prompt(load_processor(str(base), 64), Prompt("read", "json"), [Image.new("RGB", (128, 96), "gray")])
    with torch.no_grad():
        return model.eval()(**collate([inputs], 0)).logits


def test_the_merged_model_is_base_plus_adapter(tiny_model, adapter, merged):
    from toolkit.model import loading as qwen3vl

    base = qwen3vl.load_model(str(tiny_model))
    before = logits(base, tiny_model)
    with_adapter = logits(qwen3vl.load_adapter(base, adapter), tiny_model)
    after = logits(qwen3vl.load_model(str(merged)), merged)
    assert (after - with_adapter).abs().max() < 1e-4 < (after - before).abs().max()
    assert set(model_shapes(merged)) == set(model_shapes(tiny_model))


def test_the_merged_model_gives_the_same_answers(run, adapter, easy_dataset, tmp_path):
    done = run(
        "merge_adapter",
        "--adapter",
        adapter,
        "--out",
        tmp_path / "m",
        "--dtype",
        "float32",
        "--json",
        "--check",
        easy_dataset / "data/train.jsonl",
        "--root",
        easy_dataset,
        "--check-records",
        3,
    )
    assert done.code == 0 and done.json["agreement"] == 1.0 and done.json["targets"] == 35


def test_a_merge_carries_everything_that_a_server_needs(adapter, merged):
    names = {path.name for path in merged.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "extraction_config.json",
        "provenance.json",
        "generation_config.json",
    } <= names
    provenance = json.loads((merged / "provenance.json").read_text())
    assert len(provenance["sources"]["adapter"]["sha256"]["adapter_model.safetensors"]) == 64
    assert provenance["sources"]["base"]["sha256"] and provenance["versions"]["transformers"]
    assert (merged / "extraction_config.json").read_text() == (adapter / "extraction_config.json").read_text()


def test_a_moe_is_merged_into_the_hub_s_layout(run, tiny_moe, tmp_path):
    """Servers read [experts, hidden, 2 x inner]; transformers 5 holds and would write the transposed form."""
    from toolkit.model import loading as qwen3vl

    moe = made_adapter(tiny_moe, tmp_path / "a")
    assert run("merge_adapter", "--adapter", moe, "--out", tmp_path / "m", "--dtype", "float32").code == 0
    shapes = model_shapes(tmp_path / "m")
    assert shapes["model.language_model.layers.0.mlp.experts.gate_up_proj"] == (4, 128, 384)
    assert shapes["model.language_model.layers.0.mlp.experts.down_proj"] == (4, 192, 128)
    wanted = logits(qwen3vl.load_adapter(qwen3vl.load_model(str(tiny_moe)), moe), tiny_moe)
    found = logits(qwen3vl.load_model(str(tmp_path / "m")), tmp_path / "m")
    assert (found - wanted).abs().max() < 1e-4


def test_an_adapter_that_changes_nothing_is_not_merged(run, tiny_model, tmp_path):
    untrained = made_adapter(tiny_model, tmp_path / "a", untrained=True)
    done = run("merge_adapter", "--adapter", untrained, "--out", tmp_path / "m")
    assert done.code == 2 and "changes nothing" in done.err and not (tmp_path / "m").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"], "nothing half-written stays"


def test_an_adapter_of_another_base_is_not_merged_nor_served(run, adapter, tiny_moe, tiny_model, tmp_path):
    """A base of other widths, and a base without the weights that the adapter changes."""
    moe = run("merge_adapter", "--adapter", adapter, "--model", tiny_moe, "--out", tmp_path / "m")
    assert moe.code == 2 and "does not fit this base model" in moe.err
    other = copied(tiny_model, tmp_path / "other")
    shapes = model_shapes(other)
    wider = {
        name: (shape[0], 2 * shape[-1]) if name.endswith("q_proj.weight") else shape for name, shape in shapes.items()
    }
    empty_weights(other / "model.safetensors", wider)
    done = run("serve_vllm", other, "--adapter", adapter, "--dry-run")
    assert done.code == 2 and "of another base model" in done.err and done.err.count("\n") == 1


def test_an_archive_of_an_adapter_is_unpacked_safely(run, adapter, tmp_path):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        archive.add(adapter, arcname="run-7/bl")
    done = run("merge_adapter", "--adapter", tmp_path / "a.tgz", "--out", tmp_path / "m", "--json")
    assert done.code == 0 and done.json["targets"] == 35
    with tarfile.open(tmp_path / "evil.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("../../escaped")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"bad"))
    evil = run("merge_adapter", "--adapter", tmp_path / "evil.tgz", "--out", tmp_path / "n")
    assert evil.code == 2 and "not an adapter archive" in evil.err and not (tmp_path.parent / "escaped").exists()
    (tmp_path / "cut.tgz").write_bytes((tmp_path / "a.tgz").read_bytes()[:3000])
    assert run("merge_adapter", "--adapter", tmp_path / "cut.tgz", "--out", tmp_path / "n").code == 2


def test_a_merge_does_not_write_over_what_is_there(run, adapter, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/precious").write_text("mine")
    done = run("merge_adapter", "--adapter", adapter, "--out", tmp_path / "m")
    assert done.code == 2 and "--overwrite" in done.err and (tmp_path / "m/precious").read_text() == "mine"


def test_quantization_refuses_what_it_cannot_do(run, merged, adapter, tmp_path):
    out = ["--out", tmp_path / "q"]
    assert "needs --calibration" in run("quantize_awq", "--model", merged, *out).err
    assert (
        "writes AWQ only" in run("quantize_awq", "--model", merged, *out, "--method", "fp8", "--backend", "autoawq").err
    )
    twice = copied(merged, tmp_path / "twice")
    write_json(twice / "config.json", json.loads((twice / "config.json").read_text()) | {"quantization_config": {}})
    assert "already quantized" in run("quantize_awq", "--model", twice, *out, "--method", "fp8").err
    assert "this is an adapter" in run("quantize_awq", "--model", adapter, *out, "--method", "fp8").err


# --- the server's settings and its checks before a start --------------------------------------------------------------


def copied(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    return folder


def empty_weights(path: Path, shapes: dict[str, tuple[int, ...]], gigabytes: float = 0) -> None:
    """A valid safetensors file of these shapes whose data is a hole: as large as wanted, and no disk is used."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    if gigabytes:
        size = int(gigabytes * 2**30)
        header["filler"] = {"dtype": "U8", "shape": [size], "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)


@pytest.fixture
def cpu(tmp_path) -> list[object]:
    return ["--python", program(tmp_path / "cpu-python", "exit 0"), "--dry-run", "--json"]


def program(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_every_setting_comes_from_the_contract_and_has_its_reason(run, merged, cpu):
    done = run("serve_vllm", merged, *cpu, "--", "--enable-scale-out")
    assert done.code == 0, done.err
    words = done.json["arguments"]
    value = {flag: words[words.index(flag) + 1] for flag in words if flag.startswith("--") and flag != words[-1]}
    assert value["--max-model-len"] == "256"  # 30 + 2 x (64 + 2) + 64 = 226, in steps of 128
    assert json.loads(value["--limit-mm-per-prompt"]) == {"image": 2, "video": 0}
    assert json.loads(value["--mm-processor-kwargs"])["size"]["longest_edge"] == 64 * 32 * 32
    grammar = json.loads(value["--structured-outputs-config"])
    assert grammar == {"backend": "xgrammar", "disable_any_whitespace": True}
    assert value["--allowed-media-domains"] == "nothing.invalid" and "--allowed-local-media-path" not in words
    assert done.json["environment"]["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    assert value["--generation-config"] == "vllm" and words[-1] == "--enable-scale-out"
    told = [line for line in done.err.splitlines() if line.startswith("  --")]
    assert len(told) > 12 and all(len(line.split("  ")) > 2 or "--port" in line or "scale-out" in line for line in told)


def test_the_cache_of_an_8b_is_147_kb_a_token():
    text = {"num_hidden_layers": 36, "num_key_value_heads": 8, "head_dim": 128}
    assert kv_bytes_per_token({"text_config": text}) == 147_456


def test_profiles_and_gpus_change_the_plan(run, merged, tmp_path):
    large = copied(merged, tmp_path / "large")
    empty_weights(large / "model.safetensors", model_shapes(large), gigabytes=16.3)
    config = json.loads((large / "config.json").read_text())
    config["text_config"] |= {"num_hidden_layers": 36, "num_key_value_heads": 8, "head_dim": 128}
    write_json(large / "config.json", config)
    contract = json.loads((large / "extraction_config.json").read_text())
    write_json(large / "extraction_config.json", contract | {"image_max_tokens": 1280, "max_answer_tokens": 2048})
    python = ["--python", program(tmp_path / "cpu-python", "exit 0"), "--dry-run", "--json"]
    plans = {
        (gpu, profile): run("serve_vllm", large, *python, "--gpu", gpu, "--profile", profile).json
        for gpu in ("a6000", "h200")
        for profile in ("latency", "throughput")
    }
    assert plans["a6000", "latency"]["sequences"] == 8
    assert 8 < plans["a6000", "throughput"]["sequences"] < plans["h200", "throughput"]["sequences"]
    assert abs(plans["a6000", "latency"]["weights_gib"] - 16.3) < 0.1
    small = run("serve_vllm", large, *python, "--gpu", "l4", "--max-pages", 60)
    assert small.code == 3 and "too little memory" in small.err.splitlines()[-1]


def test_live_adapters_need_no_merge_and_bring_their_contract(run, tiny_model, adapter, cpu):
    done = run("serve_vllm", tiny_model, "--adapter", f"bl={adapter}", "--adapter", f"other={adapter}", *cpu)
    assert done.code == 0, done.err
    words = done.json["arguments"]
    at = words.index("--lora-modules")
    assert words[at + 1].startswith("bl=/") and words[at + 2].startswith("other=/")
    assert words[words.index("--max-lora-rank") + 1] == "8" and words[words.index("--max-loras") + 1] == "2"
    assert done.json["models"] == [tiny_model.name, "bl", "other"]
    twice = run("serve_vllm", tiny_model, "--adapter", adapter, "--adapter", adapter, *cpu)
    assert twice.code == 2 and "two adapters are called" in twice.err


def bad_folders(merged: Path, adapter: Path, folder: Path):
    """`(model, further arguments, what the sentence says)`"""
    yield folder / "nowhere", [], "model folder not found"
    yield adapter, [], "this is an adapter"
    for name, sentence in (
        ("extraction_config.json", "no extraction_config.json here"),
        ("model.safetensors", "the copy of the model is not complete"),
        ("tokenizer.json", "no tokenizer.json"),
        ("chat_template.jinja", "no chat template"),
        ("processor_config.json", "no processor"),
    ):
        made = copied(merged, folder / name)
        (made / name).unlink()
        yield made, [], sentence
    cut = copied(merged, folder / "cut")
    with (cut / "model.safetensors").open("r+b") as file:
        file.truncate(1_000_000)
    yield cut, [], "cut off or damaged"
    sharded = copied(merged, folder / "sharded")
    (sharded / "model.safetensors").unlink()
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    write_json(sharded / "model.safetensors.index.json", {"weight_map": names})
    empty_weights(sharded / names["a"], {"a": (2, 2)})
    yield sharded, [], "1 of 2 weight files are missing (model-00002-of-00002.safetensors)"
    text_only = copied(adapter, folder / "text-only")
    empty_weights(
        text_only / "adapter_model.safetensors",
        {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (4, 128)},
    )
    yield merged, ["--adapter", text_only], "a text-only adapter"
    experts = copied(adapter, folder / "experts")
    lora = json.loads((experts / "adapter_config.json").read_text())
    write_json(experts / "adapter_config.json", lora | {"target_parameters": ["mlp.experts.gate_up_proj"]})
    yield merged, ["--adapter", experts], "cannot be served live"


def test_a_bad_model_folder_is_one_sentence(run, merged, adapter, tmp_path):
    for model, more, sentence in bad_folders(merged, adapter, tmp_path):
        done = run("serve_vllm", model, *more, "--dry-run")
        assert done.code == 2 and done.err.count("\n") == 1 and sentence in done.err, (model.name, done.err)


def test_a_port_in_use_is_one_sentence(run, merged, cpu):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("serve_vllm", merged, *cpu, "--port", taken.getsockname()[1])
    assert done.code == 2 and "is not free" in done.err.splitlines()[-1]


@pytest.mark.skipif(os.name == "nt", reason="shell scripts stand in for programs")
def test_the_gpu_and_its_driver_are_checked_before_anything_is_loaded(run, merged, tmp_path, monkeypatch):
    cuda = ["--python", program(tmp_path / "python", "echo 13.0"), "--dry-run", "--json"]
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    none = run("serve_vllm", merged, *cuda)
    assert none.code == 3 and "no GPU is visible" in none.err and "serve-cpu" in none.err
    versions = "| Driver Version: 535.1  CUDA Version: 12.2 |"
    smi = f'if [ -n "$1" ]; then echo "NVIDIA RTX A6000, 49140, 48000"; else echo "{versions}"; fi'
    program(tmp_path / "bin/nvidia-smi", smi)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    old = run("serve_vllm", merged, *cuda)
    assert old.code == 3 and "the driver runs CUDA 12.2 at most, this torch is built for 13.0" in old.err
    program(tmp_path / "bin/nvidia-smi", smi.replace("12.2", "13.0"))
    good = run("serve_vllm", merged, *cuda)
    assert good.code == 0 and "NVIDIA RTX A6000" in good.err
    program(tmp_path / "bin/nvidia-smi", smi.replace("12.2", "13.0").replace("48000", "900"))
    full = run("serve_vllm", merged, *cuda)
    assert full.code == 3 and "too little memory" in full.err and "0.9 GiB" in full.err


def test_a_bounded_id_and_a_free_text_are_served_as_the_grammar_can_keep_them():
    """xgrammar itself judges: quotes and back slashes in texts, none in ids, no control characters anywhere."""
    import xgrammar
    from xgrammar.testing import _is_grammar_accept_string as accepts

    schema = TargetSchema.parse(
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "name": {"type": "string", "maxLength": 5},
                "number": {"type": ["string", "null"], "maxLength": 4, "x-extract": {"compare": "id"}},
            },
        },
        "s",
    )
    grammar = xgrammar.Grammar.from_json_schema(
        json.dumps(schema.grammar()), any_whitespace=False, separators=(",", ":"), strict_mode=True
    )
    for name, number, wanted in (
        ("abc", '"AB12"', True),
        ('12\\" x \\\\', '"AB12"', True),
        ("Zürich 日本", "null", True),
        ("a\\nb", '"1"', True),
        ("a\nb", '"1"', False),
        ("a\x01b", '"1"', False),
        ("a", '"AB123"', False),
        ("a", '"A\x01"', False),
        ("a", '"A\\"B"', False),
    ):
        assert accepts(grammar, f'{{"name":"{name}","number":{number}}}') == wanted, (name, number)
