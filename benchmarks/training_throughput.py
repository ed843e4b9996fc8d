"""Training speed beside TRL's SFTTrainer and a plain transformers Trainer.

All have the same model, adapter, records, steps and precision.

The model is a Qwen3-VL of 30 million parameters. Layers, attention and head have about the shares of the work that
they have in the 8B, so the time is in the model and not in Python. The documents are generated bills of lading of one
to several pages and 0 to 60 containers. Every arm trains the same LoRA on the answers alone for the same number of
optimizer steps, in a process of its own; in the end all are judged by the same loss over the same records.

TRL gets its vision collator and prompt-completion records, which is its way to the answer-only loss. It stands in the
table twice, with the same global batch of 8: as it comes (its defaults: 8 records a pass, activations recomputed),
and set by hand as the other arms are (2 records a pass, nothing recomputed).

    pip install trl "pyarrow<22"
    python benchmarks/training_throughput.py --work outputs/throughput
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "scripts"))
ARMS = ("ours", "trl", "trl-by-hand", "plain")
BATCH, ACCUMULATE, RATE = 2, 4, 1e-3
TRL_DEFAULTS = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "gradient_checkpointing": True}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128, help="vision tokens of a page (default: 128)")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the record order and the adapter (default: 0)")
    parser.add_argument("--repeats", type=int, default=2, help="rounds over all arms (default: 2)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--arm", choices=ARMS, default=None, help="internal: run this one here")
    return parser


def prepare(work: Path, documents: int, tokens: int) -> None:
    """Records through the data stages, and the model."""
    os.chdir(REPOSITORY)

    def stage(script: str, *words: object) -> None:
        if importlib.import_module(script).main([str(word) for word in words]) not in (0, 1):
            sys.exit(f"{script} failed")

    if not (work / "train.jsonl").is_file():
        stage(
            "make_sample_documents",
            "--out-dir",
            work / "samples",
            "--documents",
            documents,
            "--seed",
            4,
            "--layout",
            "realistic",
            "--no-mess",
        )
        zips = [word for name in ("combined", "bls_another") for word in ("--zip", work / f"samples/{name}.zip")]
        stage("extract_combined_zip", *zips, "--out-dir", work / "raw")
        stage(
            "pdf_to_images", "--in", work / "samples/pdfs", "--out-dir", work / "images", "--image-max-tokens", tokens
        )
        stage(
            "build_jsonl_from_results",
            "--results",
            work / "samples/results.json",
            "--images-dir",
            work / "raw",
            "--images-dir",
            work / "images",
            "--out",
            work / "train.jsonl",
        )
    if not (work / "model/config.json").is_file():
        from toolkit.model.libraries import prepare_model_libraries
        from toolkit.model.tiny import build_config, build_model, build_processor, build_tokenizer

        prepare_model_libraries()
        tokenizer = build_tokenizer()
        config = build_config(tokenizer)
        text, vision = config.text_config, config.vision_config
        text.hidden_size, text.intermediate_size, text.num_hidden_layers, text.num_attention_heads = 768, 2304, 4, 12
        text.num_key_value_heads, text.head_dim, text.vocab_size = 4, 64, 3392
        text.rope_parameters["mrope_section"] = [12, 10, 10]
        vision.hidden_size, vision.intermediate_size, vision.depth, vision.out_hidden_size = 192, 512, 4, 768
        build_model(config, seed=0).save_pretrained(work / "model")
        build_processor(tokenizer).save_pretrained(work / "model")


def settings_of(args: Any) -> Any:
    from toolkit.training.settings import TrainingSettings

    return TrainingSettings(
        image_max_tokens=args.tokens,
        epochs=args.epochs,
        batch_size=BATCH,
        accumulate=ACCUMULATE,
        learning_rate=RATE,
        log_each=1000,
        seed=args.seed,
    )


def run_arm(args: Any) -> dict[str, Any]:
    """Train one arm here; supervised tokens a second of the training itself, final loss, peak memory."""
    import torch

    from toolkit.model.adapters import lora_model
    from toolkit.model.lengths import answer_lengths, record_length
    from toolkit.model.loading import load_model, load_processor
    from toolkit.records.record import read_records
    from toolkit.training.run import TrainingData, measured_training
    from toolkit.training.settings import Run
    from toolkit.training.validation import Validation

    os.chdir(REPOSITORY)
    work, out = args.work, args.work / f"out-{args.arm}"
    settings, base = settings_of(args), str(work / "model")
    processor = load_processor(base, args.tokens)
    records = list(read_records(work / "train.jsonl"))
    answers = sum(answer_lengths(processor, records)) * args.epochs
    cpu = time.process_time()
    if args.arm == "ours":
        from transformers import Trainer

        kept: dict[str, Any] = {}
        train = Trainer.train
        Trainer.train = lambda self, *a, **k: kept.setdefault(
            "outcome", train(kept.setdefault("trainer", self), *a, **k)
        )  # type: ignore[method-assign]
        contract = contract_of(records, args)
        lengths = [record_length(processor, record, Path(), args.tokens) for record in records]
        measured_training(Run(base, out), settings, processor, contract, TrainingData(records, lengths, [], Path()))
        model, seconds = kept["trainer"].model, kept["outcome"].metrics["train_runtime"]
    else:
        torch.manual_seed(args.seed)
        model = lora_model(load_model(base), settings.adapter)
        model.get_base_model().accepts_loss_kwargs = True
        seconds = (plain_arm if args.arm == "plain" else trl_arm)(model, processor, records, args, out)
    cpu = time.process_time() - cpu
    validation = Validation(processor, contract_of(records, args), records, Path(), model=base, documents=0)
    model.eval()
    judged = validation.loss(model)
    return {
        "arm": args.arm,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 1),
        "answer_tokens_per_second": round(answers / seconds, 2),
        "final_loss": judged,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def contract_of(records: list[dict[str, Any]], args: Any) -> Any:
    from toolkit.model.contract import Contract
    from toolkit.records.record import prompt_of
    from toolkit.schema.target import TargetSchema

    schema, prompt = TargetSchema.load("schemas/bill_of_lading.schema.json"), prompt_of(records[0])
    return Contract(schema.raw, schema.source, prompt.system, prompt.question, args.tokens, 64)


def common(args: Any, out: Path) -> dict[str, Any]:
    return {
        "output_dir": str(out),
        "num_train_epochs": args.epochs,
        "learning_rate": RATE,
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": ACCUMULATE,
        "warmup_steps": 0.05,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": True,
        "use_cpu": not on_gpu(),
        "logging_steps": 1000,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": args.seed,
        "data_seed": args.seed,
        "remove_unused_columns": False,
        "gradient_checkpointing": False,
    }


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def trl_arm(model: Any, processor: Any, records: list[dict[str, Any]], args: Any, out: Path) -> float:
    """TRL's SFTTrainer as its documentation has it for prompt-completion records with images; nothing truncated."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature
    from trl import SFTConfig, SFTTrainer

    from toolkit.model.devices import one_gpu
    from toolkit.records.record import answer_text, images_of, prompt_of

    def turns(record: dict[str, Any]) -> dict[str, Any]:
        prompt, pages = prompt_of(record), images_of(record)
        user = [{"type": "image", "text": None}] * len(pages) + [{"type": "text", "text": prompt.question}]
        return {
            "images": pages,
            "prompt": [
                {"role": "system", "content": [{"type": "text", "text": prompt.system}]},
                {"role": "user", "content": user},
            ],
            "completion": [{"role": "assistant", "content": [{"type": "text", "text": answer_text(record)}]}],
        }

    turn = {"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})}
    features = Features({"images": List(ImageFeature()), "prompt": List(turn), "completion": List(turn)})
    dataset = Dataset.from_list([turns(record) for record in records], features=features)
    own = TRL_DEFAULTS if args.arm == "trl" else {}
    config = SFTConfig(**(common(args, out) | own), max_length=None, completion_only_loss=True)
    trainer = SFTTrainer(model=model, args=one_gpu(config), train_dataset=dataset, processing_class=processor)
    return float(trainer.train().metrics["train_runtime"])


def plain_arm(model: Any, processor: Any, records: list[dict[str, Any]], args: Any, out: Path) -> float:
    """transformers' Trainer with right padding, records in random order, logits and loss over the whole sequence."""
    from transformers import Trainer, TrainingArguments

    from toolkit.model.devices import one_gpu
    from toolkit.model.encoding import RecordDataset, collate

    def padded(examples: list[dict[str, Any]]) -> dict[str, Any]:
        return collate(examples, processor.tokenizer.pad_token_id)

    trainer = Trainer(
        model=model,
        args=one_gpu(TrainingArguments(**common(args, out), label_names=["labels"])),
        train_dataset=RecordDataset(records, processor, Path()),
        data_collator=padded,
    )
    return float(trainer.train().metrics["train_runtime"])


def main() -> None:
    args = build_parser().parse_args()
    args.work = args.work.resolve()
    if args.arm:
        print(json.dumps(run_arm(args)))
        return
    prepare(args.work, args.documents, args.tokens)
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in args.arms}
    words = [
        sys.executable,
        __file__,
        "--work",
        args.work,
        "--tokens",
        args.tokens,
        "--epochs",
        args.epochs,
        "--seed",
        args.seed,
    ]
    for _ in range(args.repeats):
        for arm in args.arms:
            environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
            done = subprocess.run([*map(str, words), "--arm", arm], stdout=subprocess.PIPE, text=True, env=environment)
            if done.returncode:
                sys.exit(f"{arm} ended with code {done.returncode}")
            found[arm].append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(json.dumps(found[arm][-1]), file=sys.stderr)
    best = {arm: max(runs, key=lambda run: run["answer_tokens_per_second"]) for arm, runs in found.items()}
    from importlib.metadata import version

    print(
        "best of each arm's rounds; "
        + ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl"))
    )
    print(f"{'':12s}{'answer tokens/s':>17s}{'CPU s':>9s}{'peak MiB':>10s}{'final loss':>12s}{'against ours':>14s}")
    for arm, run in best.items():
        ratio = best[args.arms[0]]["answer_tokens_per_second"] / run["answer_tokens_per_second"]
        print(
            f"{arm:12s}{run['answer_tokens_per_second']:17.1f}{run['cpu_seconds']:9.0f}{run['peak_mib']:10d}"
            f"{run['final_loss']:12.4f}{ratio:13.2f}x"
        )


if __name__ == "__main__":
    main()
