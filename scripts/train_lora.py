"""Fine-tune Qwen3-VL with LoRA or QLoRA on a training JSONL; writes an adapter that carries its contract.

Reads train and validation JSONL (one schema and one prompt for all records) and a base model. Writes to --out:

- the adapter that did best on the validation documents;
- extraction_config.json: schema, prompt, vision-token budget;
- training_log.csv, loss_curve.png, training_settings.json;
- checkpoints, from which a second run with --resume goes on.

Only the answer's tokens are supervised. Nothing is truncated: records longer than --max-length are listed, and the run
stops unless --on-too-long skip. For several GPUs use accelerate launch with a configuration from scripts/accelerate.

    python scripts/train_lora.py --model Qwen/Qwen3-VL-8B-Instruct --out outputs/bl-8b \\
        --train data/splits/train.jsonl --val data/splits/val.jsonl
    python scripts/train_lora.py --method qlora --model Qwen/Qwen3-VL-8B-Instruct --out outputs/bl-8b \\
        --train data/splits/train.jsonl
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.answers.row_shards import AnswerPlan
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.files import argument_path, shown, write_json, write_jsonl
from toolkit.model.contract import Contract, package_versions
from toolkit.model.devices import Process, join_processes, least_memory, say_unused_gpus
from toolkit.options import add_limit, add_root
from toolkit.records.prompt import Prompt
from toolkit.records.record import images_of, prompt_of, read_records
from toolkit.records.record_schema import schema_of_all_records
from toolkit.schema.target import TargetSchema
from toolkit.training.settings import FILE_NAME as SETTINGS_FILE
from toolkit.training.settings import (
    PRESETS,
    Run,
    TrainingSettings,
    flag_of,
    known_settings,
    preset_for,
    resolved,
    types_of_settings,
)


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    data, model, run = (parser.add_argument_group(name) for name in ("data", "model", "run"))
    data.add_argument("--train", type=argument_path, required=True, help="training JSONL")
    data.add_argument(
        "--val",
        type=argument_path,
        default=None,
        help="validation JSONL: its loss and field scores choose the best adapter",
    )
    add_root(data)
    add_limit(data, "training records")
    model.add_argument(
        "--model", required=True, help="base model: a folder or a hub name such as Qwen/Qwen3-VL-8B-Instruct"
    )
    model.add_argument("--out", type=argument_path, required=True, help="folder to write")
    run.add_argument(
        "--preset",
        choices=["auto", "none", *PRESETS],
        default="auto",
        help="settings by GPU memory (default: auto, by the GPU at hand)",
    )
    run.add_argument(
        "--settings",
        type=argument_path,
        default=None,
        metavar="FILE",
        help=f"settings to start from: an earlier run's {SETTINGS_FILE}, or your own; flags win",
    )
    add_settings({"data": data, "model": model, "run": run})
    run.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    run.add_argument("--overwrite", action="store_true", help="train although --out already holds an adapter")
    return parser


def add_settings(groups: Mapping[str, Any]) -> None:
    """A flag for each training setting. One that is not given is not in the parsed arguments: the file, the preset or
    the default decides it."""
    kinds = types_of_settings()
    for name, known in known_settings().items():
        kind = kinds[name][0]
        how: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": known.help}
        if kind is bool:
            how["action"] = "store_true"
        else:
            how |= {"type": argument_path if kind is Path else kind, "metavar": known.metavar}
            how |= {"choices": known.choices} if known.choices else {}
        groups[known.group].add_argument(flag_of(name), **how)


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.preset == "auto":
        args.preset = preset_for(gpu_memory())
    given = {name: value for name, value in vars(args).items() if name in known_settings()}
    settings = resolved(given, preset=args.preset, file=args.settings)
    run = Run(args.model, args.out, args.resume)
    process = join_processes()  # before anything is loaded; a GPU that cannot be used is said here too
    if (run.out / "adapter_config.json").is_file() and not (args.overwrite or run.resume):
        raise StageError(f"{shown(run.out)} already holds an adapter; choose another --out, or --overwrite")
    records = list(read_records(args.train, args.limit))
    validation = list(read_records(args.val)) if args.val else []
    schema, prompt = common_contract(records + validation, settings.schema)
    plan = AnswerPlan(schema, settings.wire, settings.rows_per_shard, settings.fields_per_shard)
    records, validation = [plan.written(r) for r in records], [plan.written(r) for r in validation]

    started = time.monotonic()
    import torch

    from toolkit.model import loading
    from toolkit.training.log import curve_picture
    from toolkit.training.run import TrainingData, measured_training

    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.method == "qlora" and loading.is_moe(loading.load_config(run.model)):
        raise StageError(
            "QLoRA saves almost nothing on a MoE model: its experts are fused and stay in 16 bit; use --method lora"
        )
    processor = loading.load_processor(run.model, settings.image_max_tokens)
    records, lengths, too_long = keep_short(records, processor, settings, args.root, run.out)
    contract = contract_of(run.model, settings, schema, prompt, processor, records + validation)
    say_settings(run.model, settings, args.preset)
    say_data(len(records), len(validation), contract)
    if is_first_process():
        say_how_to_use_all_gpus(process, sys.argv[1:] if argv is None else argv)
        own = {key: value.as_posix() if isinstance(value, Path) else value for key, value in vars(args).items()}
        write_json(run.out / SETTINGS_FILE, own | settings.as_json())
    data = TrainingData(records, lengths, validation, args.root)
    result = measured_training(run, settings, processor, contract, data)
    if not is_first_process():
        return ExitCode.OK
    contract.save(run.out)
    curve_picture(run.out / "training_log.csv", run.out / "loss_curve.png")
    result |= {
        "records": len(records),
        "too_long": len(too_long),
        "seconds": round(time.monotonic() - started, 1),
        "out": shown(run.out),
        "loss_curve": shown(run.out / "loss_curve.png"),
    }
    loss = "no step was left to do" if result["train_loss"] is None else f"loss {result['train_loss']:.4f}"
    say(f"adapter -> {shown(run.out)} ({result['seconds']:.0f} s, {loss})")
    return console.finish(args, result, ExitCode.PROBLEMS if too_long else ExitCode.OK)


def common_contract(records: list[dict[str, Any]], named: Path | None) -> tuple[TargetSchema, Prompt]:
    """The one target schema and the one prompt of all records. Raises StageError where they differ."""
    prompts = {prompt_of(record): record["id"] for record in records}
    if len(prompts) > 1:
        raise StageError(
            f"the records have {len(prompts)} different prompts (for example "
            f"{first_few(map(repr, prompts.values()), 2)}); build train and val with one schema and one --prompt"
        )
    return schema_of_all_records(named, records, "the training data"), next(iter(prompts))


def contract_of(
    model: str,
    settings: TrainingSettings,
    schema: TargetSchema,
    prompt: Prompt,
    processor: Any,
    records: list[dict[str, Any]],
) -> Contract:
    """How the trained model must be asked; `records`: all that it is trained and validated on, as it writes them."""
    from toolkit.model.lengths import answer_lengths, prompt_length

    return Contract(
        schema=schema.raw,
        schema_source=schema.source,
        system=prompt.system,
        question=prompt.question,
        image_max_tokens=settings.image_max_tokens,
        wire=settings.wire,
        rows_per_shard=settings.rows_per_shard,
        fields_per_shard=settings.fields_per_shard,
        max_shards=max(len(record.get("parts", [1])) for record in records),
        max_answer_tokens=-(-int(1.5 * max(answer_lengths(processor, records)) + 32) // 64) * 64,
        base_model=model,
        max_pages=max(len(images_of(record)) for record in records),
        prompt_tokens=max(prompt_length(processor, prompt.asking(line)) for line in shard_lines(records)),
        versions=package_versions("torch", "transformers", "peft", "accelerate"),
    )


def shard_lines(records: list[dict[str, Any]]) -> set[str]:
    """Every last line of a prompt; only the empty one where answers are not cut."""
    return {line for record in records for line, _ in record.get("parts", [("", "")])}


def gpu_memory() -> float | None:
    """GiB of the smallest GPU of the run, None without one. Raises StageError for a GPU that this torch cannot use."""
    return least_memory(join_processes())


def say_how_to_use_all_gpus(process: Process, words: list[str]) -> None:
    """Where GPUs of this machine are left over: the command that trains on all of them."""
    import torch

    if sys.platform == "win32":
        how = "training on several needs Linux (NCCL)"
    elif process.count > 1:
        how = "start one process a GPU: --num_processes counts those of all machines"
    else:
        file = shown(Path(__file__).resolve().parent / "accelerate/ddp.yaml")
        launch = ["accelerate", "launch", "--config_file", file, "--num_processes", str(torch.cuda.device_count())]
        command = shlex.join([*launch, shown(__file__), *words])
        how = f"to train on all: {command} (fsdp2.yaml where one GPU does not hold the model)"
    say_unused_gpus(how, used=int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if process.count > 1 else 1)


def is_first_process() -> bool:
    """Under `accelerate launch` one process writes what all share."""
    return os.environ.get("RANK", "0") == "0"


def keep_short(
    records: list[dict[str, Any]], processor: Any, settings: TrainingSettings, root: Path, out: Path
) -> tuple[list[dict[str, Any]], list[int], list[dict[str, Any]]]:
    """Records within --max-length, their lengths, and the others as too_long.jsonl lists them; nothing is truncated."""
    from toolkit.model.lengths import record_length

    kept, lengths, too_long = [], [], []
    for record in console.progress(records, total=len(records), what="records counted"):
        length = record_length(processor, record, root, settings.image_max_tokens)
        if length > settings.max_length:
            too_long.append({"id": record["id"], "tokens": length})
        else:
            kept.append(record)
            lengths.append(length)
    if too_long:
        write_jsonl(out / "too_long.jsonl", too_long)
        named = first_few(f"{item['id']} ({item['tokens']} tokens)" for item in too_long)
        if settings.on_too_long == "fail" or not kept:
            raise StageError(
                f"{len(too_long)} records are longer than --max-length {settings.max_length}: {named}; "
                "raise it, lower --image-max-tokens, or --on-too-long skip",
                ExitCode.PROBLEMS,
            )
        say(
            f"{len(too_long)} records left out as longer than {settings.max_length} tokens: {named}; "
            f"all in {shown(out / 'too_long.jsonl')}"
        )
    return kept, lengths, too_long


def say_settings(model: str, settings: TrainingSettings, preset: str) -> None:
    """The resolved settings, before anything is spent."""
    per_pass = f"{settings.tokens_per_batch} tokens" if settings.tokens_per_batch else f"{settings.batch_size} records"
    say(
        f"{settings.method} on {model}: rank {settings.rank}, alpha {settings.alpha}, dropout {settings.dropout:g}, "
        f"rate {settings.learning_rate:g}, {settings.epochs:g} epochs, {per_pass} a pass, "
        f"{settings.accumulate} passes a step, packing {settings.packing}, attention {settings.attention}, "
        f"checkpointing {settings.checkpointing}, {settings.loader_workers} loader workers, preset {preset}"
    )


def say_data(records: int, validation: int, contract: Contract) -> None:
    form = contract.wire + (f" in shards of {contract.rows_per_shard} rows" if contract.rows_per_shard else "")
    say(
        f"{records} training records, {validation} validation records, answers as {form}, "
        f"pages of at most {contract.image_max_tokens} vision tokens, "
        f"answers of at most {contract.max_answer_tokens} tokens"
    )


if __name__ == "__main__":
    sys.exit(main())
