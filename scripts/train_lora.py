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

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.answers.row_shards import AnswerPlan
from toolkit.answers.wire_format import WIRES
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.files import argument_path, shown, write_json, write_jsonl
from toolkit.model.contract import Contract, package_versions
from toolkit.model.devices import Process, join_processes, least_memory, say_unused_gpus
from toolkit.pages.images import DEFAULT_MAX_TOKENS
from toolkit.records.record import images_of, prompt_of, read_records
from toolkit.schema.target import TargetSchema
from toolkit.training.settings import FILE_NAME as SETTINGS_FILE
from toolkit.training.settings import PRESETS, parsed


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    data = parser.add_argument_group("data")
    data.add_argument("--train", type=argument_path, required=True, help="training JSONL")
    data.add_argument(
        "--val",
        type=argument_path,
        default=None,
        help="validation JSONL: its loss and field scores choose the best adapter",
    )
    data.add_argument("--root", type=argument_path, default=Path(), help="folder that image paths are relative to")
    data.add_argument(
        "--schema", type=argument_path, default=None, help="target schema (default: the records' meta.schema)"
    )
    data.add_argument(
        "--image-max-tokens",
        type=int,
        default=DEFAULT_MAX_TOKENS,
        help="vision tokens of a page at most, 32x32 px each; serving uses the same (default: 1280)",
    )
    data.add_argument("--max-length", type=int, default=8192, help="tokens of a record at most (default: 8192)")
    data.add_argument(
        "--on-too-long",
        choices=["fail", "skip"],
        default="fail",
        help="records over --max-length: stop, or leave them out and list them (default: fail)",
    )
    data.add_argument("--limit", type=int, default=None, help="only the first N training records")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", required=True, help="base model: a folder or a hub name such as Qwen/Qwen3-VL-8B-Instruct"
    )
    model.add_argument(
        "--method",
        choices=["lora", "qlora"],
        default="lora",
        help="qlora keeps the base in 4 bit (default: lora, or the preset's)",
    )
    model.add_argument(
        "--wire",
        choices=WIRES,
        default="json",
        help="what the model writes: the public JSON, or its short positional form (default: json)",
    )
    model.add_argument(
        "--rows-per-shard",
        type=int,
        default=0,
        metavar="ROWS",
        help="answer in shards of so many rows, decoded together over the same pages; 0: one answer (default: 0)",
    )
    model.add_argument(
        "--fields-per-shard",
        type=int,
        default=0,
        metavar="FIELDS",
        help="with it: header fields of a shard; 0: all (default: 0)",
    )
    model.add_argument("--rank", type=int, default=16, help="LoRA rank (default: 16)")
    model.add_argument("--alpha", type=int, default=32, help="LoRA alpha (default: 32)")
    model.add_argument("--dropout", type=float, default=0.0, help="LoRA dropout (default: 0)")
    model.add_argument(
        "--train-vision",
        action="store_true",
        help="LoRA on the vision tower too; such an adapter must be merged to be served",
    )
    model.add_argument(
        "--train-merger", action="store_true", help="LoRA on the vision mergers too; must be merged to be served"
    )
    model.add_argument(
        "--train-experts", action="store_true", help="MoE: LoRA on the experts too; must be merged to be served"
    )
    model.add_argument("--out", type=argument_path, required=True, help="folder to write")
    run = parser.add_argument_group("run")
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
    run.add_argument("--epochs", type=float, default=3, help="passes over the data (default: 3)")
    run.add_argument(
        "--max-steps", type=int, default=0, help="end after so many optimizer steps (default: by --epochs)"
    )
    run.add_argument("--learning-rate", type=float, default=1e-4, help="peak rate (default: 1e-4)")
    run.add_argument(
        "--vision-rate", type=float, default=None, help="with --train-vision (default: a tenth of --learning-rate)"
    )
    run.add_argument(
        "--merger-rate", type=float, default=None, help="with --train-merger (default: a tenth of --learning-rate)"
    )
    run.add_argument(
        "--batch-size", type=int, default=1, help="records a forward pass, without --tokens-per-batch (default: 1)"
    )
    run.add_argument(
        "--tokens-per-batch",
        type=int,
        default=0,
        metavar="TOKENS",
        help="as many records a forward pass as fit into this (default: 0, count records; or the preset's)",
    )
    run.add_argument(
        "--accumulate", type=int, default=8, help="forward passes an optimizer step (default: 8, or the preset's)"
    )
    run.add_argument(
        "--packing",
        choices=["auto", "on", "off"],
        default="auto",
        help="records one behind the other instead of padded (default: auto, with FlashAttention)",
    )
    run.add_argument(
        "--attention",
        choices=["auto", "sdpa", "flash_attention_2"],
        default="auto",
        help="attention kernels (default: auto, FlashAttention where it is installed)",
    )
    run.add_argument(
        "--liger", action="store_true", help="Liger's fused norms and MLP (pip install liger-kernel; a GPU)"
    )
    run.add_argument(
        "--checkpointing",
        choices=["auto", "on", "off"],
        default="auto",
        help="recompute activations: less memory, slower (default: auto, by a trial of the longest batch)",
    )
    run.add_argument(
        "--warmup", type=float, default=0.05, help="share of the steps that the rate rises over (default: 0.05)"
    )
    run.add_argument(
        "--loader-workers", type=int, default=0, help="processes that decode images (default: 0, or the preset's)"
    )
    run.add_argument(
        "--eval-each", type=int, default=0, metavar="STEPS", help="evaluate each N steps (default: each epoch)"
    )
    run.add_argument(
        "--eval-documents",
        type=int,
        default=16,
        metavar="N",
        help="validation documents answered each time for field scores; 0: loss only (default: 16)",
    )
    run.add_argument(
        "--patience",
        type=int,
        default=0,
        metavar="N",
        help="stop after N evaluations without a better score; 0: never (default: 0)",
    )
    run.add_argument(
        "--save-each", type=int, default=0, metavar="STEPS", help="checkpoint each N steps (default: each epoch)"
    )
    run.add_argument("--log-each", type=int, default=10, metavar="STEPS", help="log each N steps (default: 10)")
    run.add_argument("--seed", type=int, default=0, help="order of the records and initial adapter (default: 0)")
    run.add_argument("--threads", type=int, default=0, help="CPU threads for torch; 0: its own choice (default: 0)")
    run.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    run.add_argument("--overwrite", action="store_true", help="train although --out already holds an adapter")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = parsed(build_parser(), argv, gpu_memory)
    process = join_processes()  # before anything is loaded; a GPU that cannot be used is said here too
    if (args.out / "adapter_config.json").is_file() and not (args.overwrite or args.resume):
        raise StageError(f"{shown(args.out)} already holds an adapter; choose another --out, or --overwrite")
    records = list(read_records(args.train, args.limit))
    validation = list(read_records(args.val)) if args.val else []
    schema, prompt = common_contract(records + validation, args.schema)
    if args.rows_per_shard < 0 or args.fields_per_shard < 0:
        raise StageError("--rows-per-shard and --fields-per-shard take whole numbers from 0 on")
    plan = AnswerPlan(schema, args.wire, args.rows_per_shard, args.fields_per_shard)
    records, validation = [plan.written(r) for r in records], [plan.written(r) for r in validation]

    started = time.monotonic()
    import torch

    from toolkit.model import loading as qwen3vl
    from toolkit.model.lengths import answer_lengths, prompt_length
    from toolkit.training.log import curve_picture
    from toolkit.training.run import measured_training

    if args.threads:
        torch.set_num_threads(args.threads)
    config = qwen3vl.load_config(args.model)
    if args.method == "qlora" and qwen3vl.is_moe(config):
        raise StageError(
            "QLoRA saves almost nothing on a MoE model: its experts are fused and stay in 16 bit; use --method lora"
        )
    processor = qwen3vl.load_processor(args.model, args.image_max_tokens)
    records, lengths, too_long = keep_short(records, processor, args)
    contract = Contract(
        schema=schema.raw,
        schema_source=schema.source,
        system=prompt.system,
        question=prompt.question,
        image_max_tokens=args.image_max_tokens,
        wire=args.wire,
        rows_per_shard=args.rows_per_shard,
        fields_per_shard=args.fields_per_shard,
        max_shards=max(len(r.get("parts", [1])) for r in records + validation),
        max_answer_tokens=-(-int(1.5 * max(answer_lengths(processor, records + validation)) + 32) // 64) * 64,
        base_model=args.model,
        max_pages=max(len(images_of(record)) for record in records + validation),
        prompt_tokens=max(prompt_length(processor, prompt.asking(line)) for line in shard_lines(records + validation)),
        versions=package_versions("torch", "transformers", "peft", "accelerate"),
    )
    say_settings(args, records, validation, contract, too_long)
    if is_first_process():
        say_how_to_use_all_gpus(process, sys.argv[1:] if argv is None else argv)
    settings = {key: value.as_posix() if isinstance(value, Path) else value for key, value in vars(args).items()}
    if is_first_process():
        write_json(args.out / SETTINGS_FILE, settings)
    result = measured_training(args, config, processor, contract, records, lengths, validation)
    if not is_first_process():
        return ExitCode.OK
    contract.save(args.out)
    curve_picture(args.out / "training_log.csv", args.out / "loss_curve.png")
    result |= {
        "records": len(records),
        "too_long": len(too_long),
        "seconds": round(time.monotonic() - started, 1),
        "out": shown(args.out),
        "loss_curve": shown(args.out / "loss_curve.png"),
    }
    loss = "no step was left to do" if result["train_loss"] is None else f"loss {result['train_loss']:.4f}"
    say(f"adapter -> {shown(args.out)} ({result['seconds']:.0f} s, {loss})")
    return console.finish(args, result, ExitCode.PROBLEMS if too_long else ExitCode.OK)


def common_contract(records: list[dict[str, Any]], schema: Path | None) -> tuple[TargetSchema, Any]:
    """The one target schema and the one prompt of all records. Raises StageError where they differ."""
    prompts = {prompt_of(record): record["id"] for record in records}
    if len(prompts) > 1:
        raise StageError(
            f"the records have {len(prompts)} different prompts (for example "
            f"{first_few(map(repr, prompts.values()), 2)}); build train and val with one schema and one --prompt"
        )
    names = {record.get("meta", {}).get("schema") for record in records}
    if schema is None:
        if names == {None}:
            raise StageError("the records name no schema in meta.schema; give --schema FILE")
        loaded = [TargetSchema.load(Path(str(name))) for name in sorted(str(n) for n in names)]
        if any(other.raw != loaded[0].raw for other in loaded):
            raise StageError(
                f"the records follow different schemas ({first_few(sorted(map(str, names)))}); "
                "train one document type at a time"
            )
        return loaded[0], next(iter(prompts))
    return TargetSchema.load(schema), next(iter(prompts))


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
    records: list[dict[str, Any]], processor: Any, args: Any
) -> tuple[list[dict[str, Any]], list[int], list[dict[str, Any]]]:
    """Records within --max-length, their lengths, and the others as too_long.jsonl lists them; nothing is truncated."""
    from toolkit.model.lengths import record_length

    kept, lengths, too_long = [], [], []
    for record in console.progress(records, total=len(records), what="records counted"):
        length = record_length(processor, record, args.root, args.image_max_tokens)
        if length > args.max_length:
            too_long.append({"id": record["id"], "tokens": length})
        else:
            kept.append(record)
            lengths.append(length)
    if too_long:
        write_jsonl(args.out / "too_long.jsonl", too_long)
        named = first_few(f"{item['id']} ({item['tokens']} tokens)" for item in too_long)
        if args.on_too_long == "fail" or not kept:
            raise StageError(
                f"{len(too_long)} records are longer than --max-length {args.max_length}: {named}; "
                "raise it, lower --image-max-tokens, or --on-too-long skip",
                ExitCode.PROBLEMS,
            )
        say(
            f"{len(too_long)} records left out as longer than {args.max_length} tokens: {named}; "
            f"all in {shown(args.out / 'too_long.jsonl')}"
        )
    return kept, lengths, too_long


def say_settings(args: Any, records: list[Any], validation: list[Any], contract: Contract, too_long: list[Any]) -> None:
    """The resolved settings, before anything is spent."""
    form = contract.wire + (f" in shards of {contract.rows_per_shard} rows" if contract.rows_per_shard else "")
    batch = f"{args.tokens_per_batch} tokens" if args.tokens_per_batch else f"{args.batch_size} records"
    say(
        f"{args.method} on {args.model}: rank {args.rank}, alpha {args.alpha}, dropout {args.dropout:g}, "
        f"rate {args.learning_rate:g}, {args.epochs:g} epochs, {batch} a pass, {args.accumulate} passes a step, "
        f"packing {args.packing}, attention {args.attention}, checkpointing {args.checkpointing}, "
        f"{args.loader_workers} loader workers, preset {args.preset}"
    )
    say(
        f"{len(records)} training records, {len(validation)} validation records, answers as {form}, "
        f"pages of at most {contract.image_max_tokens} vision tokens, "
        f"answers of at most {contract.max_answer_tokens} tokens"
    )


if __name__ == "__main__":
    sys.exit(main())
