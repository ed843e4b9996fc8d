"""From records to answers with a real Qwen3-VL in miniature: masking, training, adapters, constrained decoding."""

import json
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from made_once import made_once

from toolkit.records.record import answer_text, images_of, read_records


@pytest.fixture(scope="module")
def records(easy_dataset):
    return list(read_records(easy_dataset / "data/train.jsonl"))


@pytest.fixture(scope="module")
def processor(tiny_model):
    from toolkit.model.loading import load_processor

    return load_processor(str(tiny_model), 384)


def encoded(records, processor, root):
    from toolkit.model.encoding import encode_record

    return [encode_record(processor, record, root) for record in records]


def two_page_record(records):
    record = json.loads(json.dumps(records[0]))
    record["messages"][1]["content"].insert(1, {"type": "image", "image": images_of(records[1])[0]})
    return record


def test_only_the_answer_and_its_end_are_supervised(records, processor, easy_dataset):
    for record in (records[0], two_page_record(records)):
        example = encoded([record], processor, easy_dataset)[0]
        supervised = example["labels"][example["labels"] != -100]
        assert processor.tokenizer.decode(supervised) == answer_text(record) + "<|im_end|>"
        assert (example["labels"] != -100).nonzero()[0] == len(example["labels"]) - len(supervised)


def test_the_prompt_and_answer_together_are_the_chat_template_s_text(records, processor, easy_dataset):
    example = encoded([records[0]], processor, easy_dataset)[0]
    whole = processor.apply_chat_template(records[0]["messages"], tokenize=False)
    text = processor.tokenizer.decode(example["input_ids"])
    collapsed = text.replace("<|image_pad|>" * 384, "<|image_pad|>")
    assert collapsed + "\n" == whole


def test_an_answer_that_talks_about_assistants_is_not_misread(records, processor, easy_dataset):
    record = json.loads(json.dumps(records[0]))
    record["messages"][0]["content"][0]["text"] = "assistant\nassistant you are an assistant\n"
    example = encoded([record], processor, easy_dataset)[0]
    assert (
        processor.tokenizer.decode(example["labels"][example["labels"] != -100]) == answer_text(record) + "<|im_end|>"
    )


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|im_end|>", "<|vision_start|>"])
@pytest.mark.parametrize("turn", [0, 2])
def test_control_tokens_in_texts_are_refused(records, processor, easy_dataset, token, turn):
    from toolkit.console import StageError

    record = json.loads(json.dumps(records[0]))
    record["messages"][turn]["content"][0]["text"] += token
    with pytest.raises(StageError, match=r"control token"):
        encoded([record], processor, easy_dataset)


def test_pages_rendered_to_the_budget_are_not_resized_by_the_processor(records, processor, easy_dataset):
    example = encoded([two_page_record(records)], processor, easy_dataset)[0]
    assert example["image_grid_thw"].tolist() == [[1, 32, 48], [1, 32, 48]]


def test_padding_changes_no_loss(records, processor, easy_dataset, tiny_model):
    import torch

    from toolkit.model.encoding import collate
    from toolkit.model.loading import load_model

    model = load_model(str(tiny_model)).eval()
    examples = encoded(records[:3], processor, easy_dataset)
    pad = processor.tokenizer.pad_token_id

    def token_losses(batch):
        logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits[:, :-1].float()
        labels = batch["labels"][:, 1:]
        return torch.nn.functional.cross_entropy(logits[labels != -100], labels[labels != -100], reduction="none")

    with torch.no_grad():
        together = token_losses(collate(examples, pad))
        alone = torch.cat([token_losses(collate([example], pad)) for example in examples])
        left = token_losses(collate(examples, pad, left=True))
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.allclose(left, alone, atol=1e-4)


def test_lengths_are_counted_without_decoding_the_images(records, processor, easy_dataset):
    from toolkit.model.lengths import record_length

    for record in (records[0], two_page_record(records)):
        assert record_length(processor, record, easy_dataset, 384) == len(
            encoded([record], processor, easy_dataset)[0]["input_ids"]
        )


def data_words(folder) -> list[object]:
    """train_lora's arguments that name the data set in `folder`."""
    train, schema = folder / "data/train.jsonl", folder / "data/train.schema.json"
    return ["--train", train, "--root", folder, "--schema", schema]


@pytest.fixture(scope="module")
def adapter(easy_dataset, tiny_model, shared):
    """A short real training run on the random tiny model."""
    return made_once(shared / "adapter", lambda out: train_a_little(easy_dataset, tiny_model, out))


def train_a_little(easy_dataset: Path, tiny_model: Path, out: Path) -> None:
    import train_lora

    validation = easy_dataset / "data/validation_of_two.jsonl"
    lines = (easy_dataset / "data/train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    validation.write_text("".join(lines[:2]), encoding="utf-8")
    arguments = [
        *("--model", tiny_model),
        *data_words(easy_dataset),
        *("--val", validation, "--out", out),
        *"--image-max-tokens 384 --limit 4 --batch-size 2 --accumulate 1 --epochs 2 --learning-rate 5e-3".split(),
        *"--log-each 1 --eval-documents 1 --eval-each 4".split(),
    ]
    assert train_lora.main([str(a) for a in arguments]) == 0


def test_training_lowers_the_loss_and_leaves_everything_an_extraction_needs(adapter):
    import csv

    names = {p.name for p in adapter.iterdir()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "extraction_config.json",
        "training_log.csv",
        "loss_curve.png",
        "tokenizer.json",
    } <= names
    with (adapter / "training_log.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    assert losses[-1] < losses[0]


def test_lora_touches_every_target_of_the_language_model_and_nothing_else(adapter):
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
        # Every B matrix started at zero; a target that stayed there was never trained.
        assert all(file.get_tensor(name).abs().sum() > 0 for name in names)
    assert len(names) == 5 * 7 * 2
    assert all(".language_model.layers." in name and "visual" not in name for name in names)


def extract(run, easy_dataset, tiny_model, adapter, out, *more):
    words = ["--model", tiny_model, "--adapter", adapter, "--root", easy_dataset, "--out", out]
    return run("extract_documents", *words, *more, "--json")


def test_even_an_untrained_model_answers_valid_json_under_the_grammar(run, easy_dataset, tiny_model, adapter, tmp_path):
    out = tmp_path / "p.jsonl"
    done = extract(run, easy_dataset, tiny_model, adapter, out, "--in", easy_dataset / "data/train.jsonl", "--limit", 3)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 3 and {line["status"] for line in lines} <= {"ok", "truncated"}, done.err
    for line in lines:
        if line["status"] == "ok":
            assert next(iter(line["prediction"])) == "consignee_name"
            assert json.dumps(line["prediction"], ensure_ascii=False, separators=(",", ":")) == line["raw"]


def test_a_second_run_answers_only_what_is_missing(run, easy_dataset, tiny_model, adapter, tmp_path):
    out = tmp_path / "p.jsonl"
    inputs = ["--in", easy_dataset / "data/train.jsonl"]
    extract(run, easy_dataset, tiny_model, adapter, out, *inputs, "--limit", 1)
    whole = out.read_bytes()
    with out.open("ab") as file:
        file.write(b'{"id": "cut off in the mid')
    again = extract(run, easy_dataset, tiny_model, adapter, out, *inputs, "--limit", 2)
    assert again.json["documents"] == 1 and out.read_bytes().startswith(whole)
    assert len(out.read_text(encoding="utf-8").splitlines()) == 2


def test_a_page_that_cannot_be_read_stops_nothing_else(run, easy_dataset, tiny_model, adapter, records, tmp_path):
    broken = json.loads(json.dumps(records[0]))
    broken["messages"][1]["content"][0]["image"] = "gone.png"
    broken["id"] = "broken"
    (tmp_path / "in.jsonl").write_text(json.dumps(broken) + "\n" + json.dumps(records[1]) + "\n")
    done = extract(run, easy_dataset, tiny_model, adapter, tmp_path / "p.jsonl", "--in", tmp_path / "in.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()]
    assert done.code == 1 and [line["id"] for line in lines] == ["broken", records[1]["id"]]
    assert lines[0]["status"] == "unreadable" and "gone.png" in lines[0]["error"] and lines[1]["status"] != "unreadable"


def test_pdfs_go_in_directly_and_bad_ones_are_named(run, easy_dataset, tiny_model, adapter, tmp_path):
    source = sorted((easy_dataset / "data/samples/pdfs").iterdir())[0]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / source.name).write_bytes(source.read_bytes())
    (tmp_path / "in/broken.pdf").write_text("no pdf")
    done = extract(run, easy_dataset, tiny_model, adapter, tmp_path / "p.jsonl", "--in", tmp_path / "in")
    lines = {
        json.loads(line)["id"]: json.loads(line)["status"] for line in (tmp_path / "p.jsonl").read_text().splitlines()
    }
    assert done.code == 1 and lines["broken.pdf"] == "unreadable" and set(lines) == {source.name, "broken.pdf"}


def test_an_adapter_of_another_base_is_refused(run, easy_dataset, tiny_moe, adapter, tmp_path):
    done = extract(
        run,
        easy_dataset,
        tiny_moe,
        adapter,
        tmp_path / "p.jsonl",
        "--in",
        easy_dataset / "data/train.jsonl",
        "--limit",
        1,
    )
    assert done.code == 2 and "does not fit this base model" in done.err and "Traceback" not in done.err


def test_a_model_without_a_contract_is_one_sentence(run, easy_dataset, tiny_model, tmp_path):
    words = ["--model", tiny_model, "--in", easy_dataset / "data/train.jsonl", "--out", tmp_path / "p.jsonl"]
    done = run("extract_documents", *words)
    assert done.code == 2 and "no extraction_config.json here" in done.err


def test_the_moe_model_trains_with_lora_and_refuses_qlora(run, easy_dataset, tiny_moe, tmp_path):
    common = [
        *("--model", tiny_moe),
        *data_words(easy_dataset),
        *"--image-max-tokens 384 --limit 2 --batch-size 2 --accumulate 1 --epochs 1".split(),
        *("--out", tmp_path / "moe"),
    ]
    refused = run("train_lora", *common, "--method", "qlora")
    assert refused.code == 2 and "QLoRA saves almost nothing on a MoE model" in refused.err
    assert run("train_lora", *common).code == 0
    assert "experts" not in (tmp_path / "moe/adapter_config.json").read_text()


@pytest.mark.slow
def test_lora_on_a_mixtures_experts_is_merged_exactly(run, easy_dataset, tiny_moe, tmp_path):
    """Two fused weights a layer, told apart by size; the merged model has the adapter's logits, not the base's."""
    import torch

    from toolkit.model.encoding import encode_record
    from toolkit.model.loading import load_adapter, load_model, load_processor
    from toolkit.records.record import read_records

    out, merged = tmp_path / "experts", tmp_path / "merged"
    done = run(
        "train_lora",
        *("--model", tiny_moe),
        *data_words(easy_dataset),
        *"--image-max-tokens 384 --limit 3 --batch-size 1 --accumulate 1".split(),
        *"--epochs 1 --learning-rate 1e-2 --train-experts".split(),
        *("--out", out),
    )
    assert done.code == 0, done.err
    done = run("merge_adapter", "--adapter", out, "--model", tiny_moe, "--out", merged, "--dtype", "float32", "--json")
    assert done.code == 0 and done.json["targets"] == 5 * (4 + 2), done.err
    models = {
        "adapter": load_adapter(load_model(str(tiny_moe), dtype=torch.float32), out),
        "merged": load_model(str(merged), dtype=torch.float32),
        "base": load_model(str(tiny_moe), dtype=torch.float32),
    }
    record = next(iter(read_records(easy_dataset / "data/train.jsonl")))
    example = encode_record(load_processor(str(merged), 384), record, easy_dataset)
    inputs = {k: v[None] if k in ("input_ids", "mm_token_type_ids") else v for k, v in example.items() if k != "labels"}
    with torch.no_grad():
        logits = {name: model.eval()(**inputs).logits for name, model in models.items()}
    assert float((logits["adapter"] - logits["merged"]).abs().max()) < 1e-4
    assert float((logits["base"] - logits["merged"]).abs().max()) > 0.1
    other = tmp_path / "other"
    assert run("make_tiny_model", "--out", other).code == 0
    done = run("merge_adapter", "--adapter", out, "--model", other, "--out", tmp_path / "x")
    assert done.code == 2 and "does not fit this base model" in done.err


def test_qlora_trains_in_four_bit_with_vision_and_head_left_alone(easy_dataset, tiny_model, run, tmp_path):
    from toolkit.model.loading import load_model

    model = load_model(str(tiny_model), nf4=True)
    kinds = {name: type(module).__name__ for name, module in model.named_modules() if "Linear" in type(module).__name__}
    assert all((kind == "Linear4bit") == (".language_model." in name) for name, kind in kinds.items())
    done = run(
        "train_lora",
        *("--method", "qlora"),
        *("--model", tiny_model),
        *data_words(easy_dataset),
        *"--image-max-tokens 384 --limit 2 --batch-size 2 --accumulate 1 --epochs 1".split(),
        *("--out", tmp_path / "q"),
    )
    assert done.code == 0, done.err


def test_records_that_are_too_long_are_listed_and_never_cut(run, easy_dataset, tiny_model, tmp_path):
    common = [
        *("--model", tiny_model),
        *data_words(easy_dataset),
        *("--out", tmp_path / "o"),
        *"--image-max-tokens 384 --limit 6 --max-length 450".split(),
    ]
    done = run("train_lora", *common)
    assert done.code == 1 and "longer than --max-length 450" in done.err
    listed = [json.loads(line) for line in (tmp_path / "o/too_long.jsonl").read_text().splitlines()]
    assert listed and all(item["tokens"] > 450 for item in listed)
    assert not (tmp_path / "o/adapter_model.safetensors").exists()


def test_records_that_are_too_long_can_be_left_out_and_are_named(run, easy_dataset, tiny_model, tmp_path, records):
    """Training goes on with the others; none is cut, and nothing is left out silently."""
    from toolkit.model.lengths import record_length
    from toolkit.model.loading import load_processor

    processor = load_processor(str(tiny_model), 384)
    lengths = {r["id"]: record_length(processor, r, easy_dataset, 384) for r in records[:4]}
    longest = sorted(lengths.values())[1]  # two records fit
    done = run(
        "train_lora",
        *("--model", tiny_model),
        *data_words(easy_dataset),
        *("--out", tmp_path / "o", "--max-length", longest),
        *"--image-max-tokens 384 --limit 4 --batch-size 2 --accumulate 1 --epochs 1 --on-too-long skip --json".split(),
    )
    assert done.code == 1, done.err
    listed = [json.loads(line) for line in (tmp_path / "o/too_long.jsonl").read_text().splitlines()]
    assert {one["id"]: one["tokens"] for one in listed} == {i: n for i, n in lengths.items() if n > longest}
    assert len(listed) == 2 and all(one["id"] in done.err for one in listed)
    assert done.json["steps"] == 1 and (tmp_path / "o/adapter_model.safetensors").is_file()


MLFLOW = """
import json
from types import SimpleNamespace

__version__ = "3.0.0"
utils = SimpleNamespace(validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100))
ActiveRun = SimpleNamespace

def active_run():
    return SimpleNamespace(info=SimpleNamespace(run_id="r"))

def log_metrics(metrics, step, **_):
    with open({file!r}, "a") as file:
        file.write(json.dumps(metrics | {{"step": step}}) + "\\n")

def __getattr__(name):
    return lambda *_, **__: None
"""


@pytest.fixture
def training_with_mlflow(run, easy_dataset, tiny_model, tmp_path, monkeypatch):
    """Two steps of training where MLFLOW_TRACKING_URI is set, as on Azure ML."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    words = ["--model", tiny_model, *data_words(easy_dataset), "--out", tmp_path / "o"]
    words += "--image-max-tokens 384 --limit 2 --batch-size 1 --accumulate 1 --epochs 1 --log-each 1".split()
    yield lambda: run("train_lora", *words)
    sys.modules.pop("mlflow", None)  # the stand-in of the first test


def test_training_reports_its_loss_to_mlflow_where_its_address_is_set(training_with_mlflow, tmp_path, monkeypatch):
    """The client library is a stand-in that writes the metrics to a file."""
    (tmp_path / "mlflow.py").write_text(MLFLOW.format(file=str(tmp_path / "metrics.jsonl")))
    monkeypatch.syspath_prepend(tmp_path)
    done = training_with_mlflow()
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert set(losses) == {1, 2} and all(loss > 0 for loss in losses.values())


def test_mlflow_that_is_asked_for_and_not_installed_stops_training_with_one_sentence(training_with_mlflow, tmp_path):
    """A run whose curves would go nowhere is not begun."""
    done = training_with_mlflow()
    assert done.code == 3 and "mlflow is not installed" in done.err.splitlines()[-1]
    assert not (tmp_path / "o/adapter_model.safetensors").exists()


def test_the_shipped_reading_base_says_where_it_comes_from():
    folder = REPOSITORY / "examples/reading_base"
    facts = json.loads((folder / "reading_base.json").read_text())
    assert (
        facts["held_out_reading"]["token_accuracy"] > 0.97
        and all("seed" in one for one in facts["runs"])
        and "license" in facts
    )
    assert sum(p.stat().st_size for p in folder.iterdir()) < 20_000_000
    text = (folder / "tokenizer.json").read_text() + (
        Path(REPOSITORY) / "scripts/toolkit/reading_base/pages.py"
    ).read_text()
    assert "CONSIGNEE" not in text
