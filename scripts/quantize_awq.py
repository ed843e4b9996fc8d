"""Quantize a merged model (AWQ, GPTQ or FP8) and measure what it costs: one folder that vLLM serves, with its contract.

Reads a merged model and your own records for calibration (pages, prompt and answer). Writes --out: quantized weights,
processor, template, extraction_config.json, provenance.json. Vision tower and head stay as they are. With --check
FILE its records are answered before and after; the scores of both are printed, and a fall beyond --max-drop ends in
exit code 1. The backend autoawq is kept for those who standardised on it; AutoAWQ is no longer maintained.

    python scripts/quantize_awq.py --model outputs/bl-8b-merged --out outputs/bl-8b-awq \\
        --calibration data/splits/train.jsonl --check data/splits/val.jsonl
    python scripts/quantize_awq.py --method fp8 --model outputs/bl-8b-merged --out outputs/bl-8b-fp8 \\
        --check data/splits/val.jsonl
"""

from __future__ import annotations

import os
import random
import sys
import time
from decimal import Decimal
from typing import Any

from toolkit import console
from toolkit.console import ExitCode, StageError, say
from toolkit.evaluation.gates import Allowance, threshold
from toolkit.files import argument_path, atomic_folder, shown
from toolkit.model.contract import Contract, load_contract
from toolkit.model.folder import check_model_folder, copy_companions, weight_bytes, write_provenance
from toolkit.options import add_root
from toolkit.records.record import read_records

SCORES = ("micro_f1", "row_f1", "document_exact", "valid")


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--model", type=argument_path, required=True, help="merged model folder (merge_adapter.py)")
    parser.add_argument("--out", type=argument_path, required=True, help="folder to write")
    parser.add_argument(
        "--method",
        choices=["awq", "gptq", "fp8"],
        default="awq",
        help="4 bit with activation-aware scales, 4 bit with error correction, or 8 bit floats (default: awq)",
    )
    parser.add_argument(
        "--backend",
        choices=["llmcompressor", "autoawq"],
        default="llmcompressor",
        help="autoawq writes --method awq only (default: llmcompressor)",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--calibration", type=argument_path, default=None, help="records to calibrate on (not for fp8)")
    data.add_argument(
        "--calibration-records",
        type=int,
        default=None,
        help="how many, drawn by seed (default: 64; 16 with autoawq, which holds the inputs of all layers in memory)",
    )
    data.add_argument("--check", type=argument_path, default=None, help="records to score before and after")
    data.add_argument("--check-records", type=int, default=None, help="only the first N of them")
    data.add_argument(
        "--max-drop",
        type=threshold,
        default=Decimal("0.02"),
        help="fall of micro-F1 that is accepted with --check (default: 0.02)",
    )
    add_root(data)
    data.add_argument("--batch-size", type=int, default=8, help="records answered together (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="which records calibrate (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.backend == "autoawq" and args.method != "awq":
        raise StageError("AutoAWQ writes AWQ only; use --backend llmcompressor for gptq and fp8")
    if args.method != "fp8" and args.calibration is None:
        needed = "records like those to be served, such as the training split"
        raise StageError(f"--method {args.method} needs --calibration FILE: {needed}")
    stored = check_model_folder(args.model)
    if "quantization_config" in stored:
        raise StageError(f"{shown(args.model)}: already quantized; give the merged model in 16 bit")
    contract = load_contract(args.model)
    records = [contract.answer_plan.alone(record, n) for n, record in enumerate(calibration_records(args))]

    began = time.monotonic()
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"  # the quantizers' bars, hundreds of lines in a log
    from toolkit.model import loading as qwen3vl
    from toolkit.model import quantization
    from toolkit.model.devices import say_unused_gpus

    say_unused_gpus("a model is quantized on one")
    config = qwen3vl.load_config(str(args.model))
    quantization.check_divisible(config, args.method)
    processor = qwen3vl.load_processor(str(args.model), contract.image_max_tokens)
    model = qwen3vl.load_model(str(args.model))
    before, answers_before = scored(args, model, contract) if args.check else (None, [])
    size_before = weight_bytes(args.model) / 1e9
    calibrated = f"{args.method} by {args.backend} on {len(records) or 'no'} calibration records"
    say(f"{calibrated}: {shown(args.model)} ({size_before:.2f} GB)")
    with atomic_folder(args.out, overwrite=args.overwrite) as folder:
        if args.backend == "autoawq":
            model = quantization.with_autoawq(model, processor, records, args.root)
        else:
            model = quantization.with_llmcompressor(model, processor, args.method, records, args.root, seed=args.seed)
        if args.backend == "llmcompressor":
            # A CPU calibrates in 32 bit; what is not quantized goes back to what it was stored in, and is scored so.
            model = model.to(qwen3vl.stored_dtype(config))
        after, answers_after = scored(args, model, contract) if args.check else (None, [])
        same = sum(a == b for a, b in zip(answers_before, answers_after, strict=True))
        quantization.save_quantized(model, folder, args.backend)
        processor.save_pretrained(folder)
        copy_companions(args.model, folder)
        facts: dict[str, Any] = {"method": args.method, "backend": args.backend, "calibration_records": len(records)}
        write_provenance(
            folder,
            "quantize_awq.py",
            {"model": args.model},
            quantization=facts,
            scores={"before": before, "after": after},
        )
        check_model_folder(folder)
    size = {"gigabytes_before": weight_bytes(args.model) / 1e9, "gigabytes": weight_bytes(args.out) / 1e9}
    seconds = time.monotonic() - began
    sizes = f"{size['gigabytes_before']:.3f} GB -> {size['gigabytes']:.3f} GB"
    say(f"{sizes} in {seconds:.0f} s -> {shown(args.out)}")
    result = facts | size | {"before": before, "after": after, "out": shown(args.out)}
    if after:
        result["same_answers"] = round(same / len(answers_after), 4)
        say(f"  same answer on {same} of {len(answers_after)} records")
    return console.finish(args, result, verdict(args, before, after))


def calibration_records(args: Any) -> list[dict[str, Any]]:
    """Records drawn by seed, so that a sorted file does not give one template only."""
    if args.method == "fp8" or args.calibration is None:
        return []
    records = list(read_records(args.calibration))
    wanted = args.calibration_records or (16 if args.backend == "autoawq" else 64)
    return random.Random(args.seed).sample(records, min(wanted, len(records)))


def scored(args: Any, model: Any, contract: Contract) -> tuple[dict[str, float], list[str | None]]:
    """Scores and answers of the model in memory on the --check records, with the served prompt, sizes and grammar."""
    from toolkit.evaluation.score_table import ScoreTable
    from toolkit.evaluation.scoring import score_document
    from toolkit.extraction.local_model import LocalModel
    from toolkit.extraction.run import Judge, records_answered
    from toolkit.records.record import gold_of

    schema = contract.target
    records = list(read_records(args.check, args.check_records))
    local = LocalModel(str(args.model), None, contract, loaded=model)
    scores = ScoreTable(schema)
    raw: list[str | None] = []
    for record, line in zip(
        records, records_answered(local, Judge(contract.answer_plan), records, args.root, args.batch_size), strict=True
    ):
        raw.append(line["raw"])
        gold = gold_of(record)
        if gold is None:
            raise StageError(f"record {record['id']!r} of --check has no answer to compare with")
        scores.add(score_document(schema, record["id"], gold, line["prediction"], line["status"]))
    summary = scores.summary()
    return {"records": len(records)} | {name: summary[name] for name in SCORES}, raw


def verdict(args: Any, before: dict[str, float] | None, after: dict[str, float] | None) -> ExitCode:
    if before is None or after is None:
        say("not measured: give --check FILE to see what the quantization costs")
        return ExitCode.OK
    for name in SCORES:
        if before[name] is not None:
            say(f"  {name:16s} {before[name]:9.4f} -> {after[name]:9.4f}  ({after[name] - before[name]:+.4f})")
    broken = Allowance("micro_f1", args.max_drop).broken("the quantized model", after, "the model before", before)
    if broken:
        say(f"{broken}: try --method fp8 or gptq, or more --calibration-records")
        return ExitCode.PROBLEMS
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
