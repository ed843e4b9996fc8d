"""Training is right by construction: the loss is what it says, accumulated steps are one batch, resuming is exact."""

import json

import pytest
from conftest import REPOSITORY
from training_runs import arguments, weights

from toolkit.records.record import read_records


def test_the_loss_is_the_mean_over_all_answer_tokens_by_hand(easy_dataset, tiny_model):
    """Two records of different length in one batch: log-softmax, the next token, answers and end marks only."""
    import torch

    from toolkit.model.encoding import IGNORED, collate, encode_record
    from toolkit.model.loading import load_model, load_processor

    processor = load_processor(str(tiny_model), 384)
    model = load_model(str(tiny_model)).eval()
    records = sorted(
        read_records(easy_dataset / "data/train.jsonl"), key=lambda r: len(r["messages"][-1]["content"][0]["text"])
    )
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


def batches_of(records, processor, root):
    """The three ways in which records meet the model: one by one, padded on the left, packed."""
    from toolkit.model.encoding import Collator, RecordDataset

    dataset = RecordDataset(records, processor, root)
    examples = [dataset[index] for index in range(len(records))]
    pad = processor.tokenizer.pad_token_id
    yield "single", [Collator(pad)([example]) for example in examples]
    yield "padded", [Collator(pad)(examples)]
    yield "packed", [Collator(pad, pack=True)(examples)]


def test_packed_padded_and_single_records_have_the_same_loss_and_gradients(easy_dataset, tiny_model, tmp_path):
    """Records of one page and of two, of different length; the head runs over the supervised positions only."""
    import torch

    from toolkit.model.adapters import AdapterSettings, lora_model
    from toolkit.model.encoding import encode_record
    from toolkit.model.loading import load_model, load_processor
    from toolkit.training.loss import summed_loss

    processor = load_processor(str(tiny_model), 384)
    records = sorted(
        read_records(easy_dataset / "data/train.jsonl"), key=lambda r: len(r["messages"][-1]["content"][0]["text"])
    )
    two_pages = json.loads(json.dumps(records[5])) | {"id": "two pages"}
    content = two_pages["messages"][1]["content"]
    content.insert(0, next(part for part in records[9]["messages"][1]["content"] if part["type"] == "image"))
    records = [records[0], two_pages, records[-1]]
    torch.manual_seed(0)
    model = lora_model(load_model(str(tiny_model)), AdapterSettings(4, 8, 0.0, 1e-3))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    losses, gradients, whole = {}, {}, 0.0
    for record in records:  # transformers' own loss, over the whole sequence, as the reference
        example = encode_record(processor, record, easy_dataset)
        inputs = {
            name: value[None] if name in ("input_ids", "mm_token_type_ids", "labels") else value
            for name, value in example.items()
        }
        supervised = int((example["labels"] != -100).sum())
        whole += float(model(**inputs).loss) * supervised
    for way, batches in batches_of(records, processor, easy_dataset):
        model.zero_grad()
        losses[way] = 0.0
        for batch in batches:
            assert batch.pop("ids")
            labels = batch.pop("labels")
            assert ("attention_mask" in batch) == (way == "padded")
            loss = summed_loss(model, batch, labels)
            loss.backward()
            losses[way] += float(loss)
        gradients[way] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    for way in ("padded", "packed"):
        assert losses[way] == pytest.approx(losses["single"], rel=1e-5)
        scale = float(gradients["single"].abs().max())
        assert float((gradients[way] - gradients["single"]).abs().max()) < 1e-4 * scale
    assert losses["single"] == pytest.approx(whole, rel=1e-5)


def test_shards_over_shared_pages_have_the_loss_and_gradients_of_shards_alone(easy_dataset, tiny_model):
    """Shards that share one reading of the pages, another record behind them, against each shard by itself."""
    import torch

    from toolkit.answers.row_shards import AnswerPlan
    from toolkit.model.adapters import AdapterSettings, lora_model
    from toolkit.model.encoding import IGNORED, Collator, RecordDataset
    from toolkit.model.lengths import record_length
    from toolkit.model.loading import load_model, load_processor
    from toolkit.schema.target import TargetSchema
    from toolkit.training.loss import summed_loss

    processor = load_processor(str(tiny_model), 384)
    plan = AnswerPlan(TargetSchema.load(REPOSITORY / "schemas/bill_of_lading.schema.json"), "positional", 2, 5)
    plain = list(read_records(easy_dataset / "data/train.jsonl"))[4:6]
    made = [plan.written(record) for record in plain]
    alone = [
        plan.alone(record, n) for record, parts in zip(plain, made, strict=True) for n in range(len(parts["parts"]))
    ]
    assert len(alone) > len(plain) * 4
    torch.manual_seed(3)
    model = lora_model(load_model(str(tiny_model)), AdapterSettings(4, 8, 0.0, 1e-4))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    collator = Collator(processor.tokenizer.pad_token_id)
    losses, gradients, texts = {}, {}, {}
    for way, records, together in (("shared", made, True), ("alone", alone, False)):
        dataset = RecordDataset(records, processor, easy_dataset)
        examples = [dataset[index] for index in range(len(records))]
        texts[way] = "".join(processor.tokenizer.decode(e["labels"][e["labels"] != IGNORED]) for e in examples)
        model.zero_grad()
        losses[way] = 0.0
        for batch in [collator(examples)] if together else [collator([example]) for example in examples]:
            batch.pop("ids")
            labels = batch.pop("labels")
            loss = summed_loss(model, batch, labels)
            loss.backward()
            losses[way] += float(loss)
        gradients[way] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        if together:
            counted = [record_length(processor, record, easy_dataset, 384) for record in records]
            assert counted == [len(example["input_ids"]) for example in examples]
    assert texts["shared"] == texts["alone"]
    assert losses["shared"] == pytest.approx(losses["alone"], rel=1e-5)
    assert float((gradients["shared"] - gradients["alone"]).abs().max()) < 1e-4 * float(gradients["alone"].abs().max())


def test_positions_are_the_models_own(easy_dataset, tiny_model):
    import torch

    from toolkit.model.encoding import encode_prompt, rope_positions
    from toolkit.model.loading import load_model, load_processor
    from toolkit.pages.opening import open_page
    from toolkit.records.prompt import Prompt
    from toolkit.records.record import images_of

    processor, model = load_processor(str(tiny_model), 384), load_model(str(tiny_model))
    pages = [
        open_page(easy_dataset / image)
        for record in list(read_records(easy_dataset / "data/train.jsonl"))[:3]
        for image in images_of(record)
    ]
    inputs = encode_prompt(
        processor, Prompt("a system turn", "a question"), [pages[0], pages[1].resize((320, 96)), pages[2]]
    )
    wanted, _ = model.model.get_rope_index(
        inputs["input_ids"][None], inputs["mm_token_type_ids"][None], inputs["image_grid_thw"]
    )
    assert torch.equal(rope_positions(inputs["mm_token_type_ids"], inputs["image_grid_thw"]), wanted[:, 0])


def test_four_records_at_once_are_four_records_one_after_the_other(
    run, easy_dataset, tiny_model, tmp_path, monkeypatch
):
    """One step each epoch, of the same four records: they differ in length, so a mean of means would not be the mean.

    In float32, because Adam makes a whole step of what bfloat16 rounds.
    """
    import torch
    import transformers

    from toolkit.training import run as training_run

    settings = transformers.TrainingArguments
    monkeypatch.setattr(training_run, "TrainingArguments", lambda **named: settings(**named | {"bf16": False}))

    for name, batch, accumulate in (("batch", 4, 1), ("accumulated", 1, 4)):
        common = arguments(easy_dataset, tiny_model, tmp_path / name, "--epochs", 2, "--limit", 4)
        done = run("train_lora", *common, "--batch-size", batch, "--accumulate", accumulate)
        assert done.code == 0, done.err
    first, second = weights(tmp_path / "batch"), weights(tmp_path / "accumulated")
    moved = [name for name, weight in first.items() if "lora_B" in name and weight.abs().max() > 0]
    assert moved and max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-4
    assert not any(torch.isnan(weight).any() for weight in first.values())


def test_a_loss_that_is_no_number_stops_with_the_records(run, easy_dataset, tiny_model, tmp_path):
    done = run(
        "train_lora",
        *arguments(
            easy_dataset,
            tiny_model,
            tmp_path / "out",
            "--limit",
            4,
            "--learning-rate",
            1e30,
            "--warmup",
            0,
            "--accumulate",
            1,
            "--epochs",
            3,
        ),
    )
    assert done.code == 1 and "not a number at step" in done.err and ".pdf" in done.err.lower()
    assert not (tmp_path / "out/adapter_model.safetensors").exists()


def test_a_batch_that_fits_no_memory_is_told_before_training(easy_dataset, tiny_model, tmp_path, run, monkeypatch):
    """The trial step meets a GPU that is full: first activations are recomputed, then one sentence names the batch."""
    import torch

    from toolkit.training import memory_trial

    calls = []

    def full(trainer, batch):
        calls.append(len(batch["ids"]))
        return fits and len(calls) == 2

    monkeypatch.setattr(memory_trial, "fits_without_checkpointing", full)
    common = arguments(
        easy_dataset, tiny_model, tmp_path / "a", "--limit", 8, "--epochs", 1, "--tokens-per-batch", 1200
    )
    for fits, mode in ((True, "on"), (False, "on")):
        calls.clear()
        if fits:
            calls.append(0)  # `on` makes one trial only
        done = run("train_lora", *common, "--checkpointing", mode, "--overwrite", "--json")
        if fits:
            assert done.code == 0 and done.json["recomputed"] and "needs activations recomputed" in done.err
        else:
            assert done.code == 1 and "does not fit into memory" in done.err and "--tokens-per-batch" in done.err
    assert torch.is_grad_enabled()


def test_the_trial_step_leaves_no_trace(easy_dataset, tiny_model):
    import torch

    from toolkit.model.encoding import Collator, RecordDataset
    from toolkit.model.loading import load_model, load_processor
    from toolkit.training.memory_trial import fits_without_checkpointing

    processor, model = load_processor(str(tiny_model), 384), load_model(str(tiny_model))
    dataset = RecordDataset(list(read_records(easy_dataset / "data/train.jsonl", 2)), processor, easy_dataset)
    batch = Collator(processor.tokenizer.pad_token_id)([dataset[0], dataset[1]])

    class Holder:
        args = type("Args", (), {"device": torch.device("cpu")})()

    Holder.model, Holder._prepare_inputs = model, staticmethod(lambda inputs: inputs)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert fits_without_checkpointing(Holder(), batch)
    assert torch.equal(before, torch.get_rng_state()) and all(p.grad is None for p in model.parameters())
    monster = type(
        "Full", (torch.nn.Module,), {"forward": lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("full"))}
    )()
    Holder.model = monster
    assert not fits_without_checkpointing(Holder(), batch)


def test_vision_and_merger_train_only_when_asked_and_at_their_own_rate(tiny_model, tiny_moe):
    from toolkit.console import StageError
    from toolkit.model.adapters import AdapterSettings, lora_model, parameter_groups
    from toolkit.model.loading import load_model

    plain = lora_model(load_model(str(tiny_model)), AdapterSettings(4, 8, 0.0, 1e-4))
    assert not any(".visual." in name for name, p in plain.named_parameters() if p.requires_grad)
    settings = AdapterSettings(4, 8, 0.0, 1e-4, vision_rate=2e-5, merger_rate=3e-5)
    model = lora_model(load_model(str(tiny_model)), settings)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {group["lr"]: {names[id(p)] for p in group["params"]} for group in parameter_groups(model, settings)}
    assert set(rates) == {1e-4, 2e-5, 3e-5}
    assert all(".visual.blocks." in name for name in rates[2e-5]) and all("merger" in name for name in rates[3e-5])
    assert all(".language_model." in name for name in rates[1e-4])
    moe = lora_model(load_model(str(tiny_moe)), AdapterSettings(4, 8, 0.0, 1e-4, experts=True))
    assert any(".experts." in name for name, p in moe.named_parameters() if p.requires_grad)
    assert not any(
        ".experts." in n
        for n, p in lora_model(load_model(str(tiny_moe)), AdapterSettings(4, 8, 0.0, 1e-4)).named_parameters()
        if p.requires_grad
    )
    with pytest.raises(StageError, match="dense"):
        lora_model(load_model(str(tiny_model)), AdapterSettings(4, 8, 0.0, 1e-4, experts=True))


def test_four_bit_reaches_the_language_model_and_nothing_else(tiny_model):
    from toolkit.console import StageError
    from toolkit.model.adapters import check_nf4, weight_bytes
    from toolkit.model.loading import load_model

    model = load_model(str(tiny_model), nf4=True)
    assert "in 4 bit" in check_nf4(model)
    parts = weight_bytes(model)
    assert parts["vision tower"][0] == 0 and parts["embeddings and head"][0] == 0 and parts["language model"][0] > 0
    with pytest.raises(StageError, match="not in 4 bit after loading"):
        check_nf4(load_model(str(tiny_model)))


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2"])
def test_the_launch_configurations_are_read_by_accelerate(name):
    """accelerate refuses keys that it does not know."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(REPOSITORY / f"scripts/accelerate/{name}.yaml"))
    assert config.mixed_precision == "bf16"


@pytest.mark.slow
def test_the_short_form_is_trained_and_answered(run, easy_dataset, tiny_model, tmp_path):
    """The answer that is supervised is the wire text; extraction under its grammar gives public JSON."""
    from toolkit.model.contract import load_contract

    out = tmp_path / "out"
    done = run(
        "train_lora", *arguments(easy_dataset, tiny_model, out, "--limit", 4, "--epochs", 1, "--wire", "positional")
    )
    assert done.code == 0, done.err
    contract = load_contract(out)
    record = next(iter(read_records(easy_dataset / "data/train.jsonl")))
    gold = json.loads(record["messages"][-1]["content"][0]["text"])
    assert contract.wire == "positional" and "supervised text of the first record: [" in done.err
    supervised = contract.answer_plan.wire_of(contract.answer_plan.whole).encoded(gold)
    assert f"supervised text of the first record: {supervised[:60]}" in done.err
    said = tmp_path / "said.jsonl"
    done = run(
        "extract_documents",
        "--model",
        tiny_model,
        "--adapter",
        out,
        "--in",
        easy_dataset / "data/train.jsonl",
        "--root",
        easy_dataset,
        "--limit",
        2,
        "--tries",
        1,
        "--out",
        said,
    )
    assert done.code in (0, 1), done.err
    for line in map(json.loads, said.read_text(encoding="utf-8").splitlines()):
        assert line["raw"].startswith("[") and line["status"] in ("ok", "truncated", "schema_error")
        assert line["status"] != "ok" or set(line["prediction"]) == set(gold)
