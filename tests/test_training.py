"""Training is right by construction: the loss is what it says, accumulated steps are one batch, resuming is exact."""

import csv
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, free_port

from toolkit.records.record import read_records


def weights(folder: Path):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def arguments(dataset: Path, model: Path, out: Path, *more: object) -> list[str]:
    fixed = [
        "--train",
        dataset / "data/train.jsonl",
        "--root",
        dataset,
        "--schema",
        dataset / "schemas/bill_of_lading.schema.json",
        "--model",
        model,
        "--out",
        out,
        "--image-max-tokens",
        384,
        "--max-length",
        4096,
        "--rank",
        4,
        "--threads",
        1,
        "--log-each",
        1,
    ]
    return [str(word) for word in (*fixed, *more)]


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


def test_batches_hold_every_record_once_within_their_budget():
    from toolkit.training.token_batches import TokenBatches

    draw = random.Random(3)
    lengths = [draw.choice([300, 900, 2500, 6000]) + draw.randrange(200) for _ in range(500)]
    for packed in (False, True):
        batches = TokenBatches(lengths, tokens=8000, packed=packed, seed=1)
        epochs = []
        for epoch in range(2):
            batches.set_epoch(epoch)
            found = list(batches)
            assert len(found) == len(batches)
            assert sorted(index for batch in found for index, _ in batch) == list(range(500))
            for batch in found:
                own = [lengths[index] for index, counts in batch if counts]
                assert len(own) == len(batch) and (
                    len(own) == 1 or (sum(own) if packed else max(own) * len(own)) <= 8000
                )
            epochs.append(found)
        assert epochs[0] != epochs[1] and epochs[0] == list(TokenBatches(lengths, tokens=8000, packed=packed, seed=1))
    assert TokenBatches(lengths, tokens=8000, passes=4).padding() < 0.15
    by_records = TokenBatches(lengths, records=4, passes=8, seed=1)
    assert (
        len(list(by_records)) == len(by_records) == 125
        and sorted(lengths[i] for i in by_records.longest()) == sorted(lengths)[-4:]
    )
    assert by_records.padding() < 0.12 < 0.4 < TokenBatches(lengths, records=4, passes=1, seed=1).padding()


def test_an_optimizer_step_is_a_random_draw_of_the_records():
    """Sorting by length must not decide what meets in a step: mean lengths vary as those of random draws do."""
    from toolkit.training.token_batches import TokenBatches

    draw = random.Random(5)
    lengths = [draw.choice([300, 900, 2500, 6000]) + draw.randrange(200) for _ in range(1600)]
    batches = [[index for index, _ in batch] for batch in TokenBatches(lengths, records=4, passes=4, seed=1)]
    steps = [[index for batch in batches[start : start + 4] for index in batch] for start in range(0, 400, 4)]
    own = statistics.pstdev(statistics.mean(lengths[i] for i in step) for step in steps)
    expected = statistics.pstdev(lengths) / 16**0.5
    assert 0.75 * expected < own < 1.25 * expected
    within = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches]
    assert statistics.mean(within) < 0.6 * statistics.pstdev(lengths)


def test_every_process_gets_as_many_batches_and_no_record_counts_twice():
    from toolkit.training.token_batches import TokenBatches

    lengths = [100 + n for n in range(21)]
    shares = [list(TokenBatches(lengths, records=4, seed=2, rank=rank, world=4)) for rank in range(4)]
    assert {len(share) for share in shares} == {2}
    counted = [index for share in shares for batch in share for index, counts in batch if counts]
    assert sorted(counted) == list(range(21))
    assert sum(not counts for share in shares for batch in share for _, counts in batch) == 2


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


def test_settings_come_from_flags_then_a_file_then_the_preset(tmp_path):
    from toolkit.training.settings import preset_for, resolved

    file = tmp_path / "earlier.json"
    earlier = {"rank": 64, "accumulate": 3, "out": "elsewhere", "train_vision": True, "vision_rate": None}
    file.write_text(json.dumps(earlier), encoding="utf-8")
    settings = resolved({"rank": 8}, preset="48gb", file=file)
    assert (settings.rank, settings.accumulate, settings.tokens_per_batch) == (8, 3, 4096)
    assert settings.train_vision and settings.adapter.vision_rate == pytest.approx(1e-5)
    assert resolved({}, preset="24gb").method == "qlora"
    assert [preset_for(memory) for memory in (None, 22, 44.4, 79.2, 139.8)] == ["none", "24gb", "48gb", "80gb", "141gb"]


def test_what_a_run_wrote_is_a_file_of_settings_and_every_setting_is_a_flag(tmp_path):
    from train_lora import build_parser

    from toolkit.training.settings import known_settings, resolved

    settings = resolved({"rank": 8, "schema": Path("schemas/x.schema.json"), "epochs": 2.5}, preset="80gb")
    file = tmp_path / "training_settings.json"
    file.write_text(json.dumps({"train": "t.jsonl", "json": False} | settings.as_json()), encoding="utf-8")
    assert resolved({}, file=file) == settings
    required = ["--train", "t.jsonl", "--model", "m", "--out", "o"]
    assert not set(vars(build_parser().parse_args(required))) & set(known_settings())
    given = build_parser().parse_args([*required, "--rank", "8", "--train-vision", "--checkpointing", "off"])
    assert (given.rank, given.train_vision, given.checkpointing) == (8, True, "off")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ranks": 1}, "'ranks' is no setting"),
        ({"method": "dora"}, "none of lora, qlora"),
        ({"rank": "many"}, "no value"),
        ({"rank": None}, "no value"),
        ({"rank": [8]}, "no value"),
        ({"rank": 0}, "from 1 on"),
        ({"epochs": 0}, "above 0"),
        ({"warmup": 1.5}, "up to 1"),
        ({"learning_rate": "nan"}, "a number is needed"),
        ({"train_vision": "yes"}, "true or false"),
        ([8], "settings are an object"),
    ],
)
def test_a_file_with_a_wrong_setting_is_refused_by_its_name(tmp_path, wrong, said):
    from toolkit.console import StageError
    from toolkit.training.settings import resolved

    file = tmp_path / "settings.json"
    file.write_text(json.dumps(wrong), encoding="utf-8")
    with pytest.raises(StageError, match=said) as caught:
        resolved({}, file=file)
    assert "settings.json" in str(caught.value) and (isinstance(wrong, list) or next(iter(wrong)) in str(caught.value))


def test_a_flag_out_of_its_range_is_refused_before_anything_is_read(run, tmp_path):
    done = run("train_lora", "--train", "none.jsonl", "--model", "m", "--out", tmp_path / "o", "--accumulate", 0)
    assert done.code == 2 and "--accumulate: a number from 1 on is needed, not 0" in done.err


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
