"""Predict latency and cost of a document before you rent a server: by GPU, precision, form of the answer, and rows.

Reads documents (--in: a JSONL with answers) for their pages, prompts and answers. Each document is assumed to have the
GPU to itself. Figures come from the model's published shape and the GPU's data sheet, with assumed shares of its peaks.
--calibrate takes these shares from measured runs: a file of benchmark_latency.py, of the same GPU and precision.
--p95 SECONDS lists what meets a target. --rows-per-shard (repeat it to compare) cuts answers into shards as
train_lora.py does. --month DOCUMENTS adds what one document costs on a machine that is always on, on a serverless
worker and in a nightly batch, for each GPU with a --price.

    python scripts/estimate_latency.py --in data/splits/test.jsonl
    python scripts/estimate_latency.py --in data/splits/test.jsonl --size 4b --gpu h100 --p95 1.0 --price h100=2.99
    python scripts/estimate_latency.py --in data/splits/test.jsonl --wire positional --rows-per-shard 4 --gpu a6000
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.answers.row_shards import AnswerPlan
from toolkit.answers.wire_format import WIRES
from toolkit.console import StageError, say
from toolkit.evaluation.score_table import row_bucket
from toolkit.files import argument_path, read_json, shown
from toolkit.latency.cost import Load, costs
from toolkit.latency.predicted import (
    ASSUMED,
    WEIGHT_BYTES,
    Efficiency,
    calibrated,
    predicted_latency,
    terms,
    weight_gib,
)
from toolkit.model.gpus import CPU, GPUS, Gpu
from toolkit.model.shapes import SHAPES, ModelShape, shape_of_config
from toolkit.model.token_counts import estimated_tokens, exact_tokens, page_tokens, rank
from toolkit.options import add_image_max_tokens, add_input, add_root, add_schema
from toolkit.pages.images import DEFAULT_MAX_TOKENS
from toolkit.records.record import gold_of, read_records
from toolkit.records.record_schema import schema_of_records
from toolkit.schema.target import TargetSchema, value_at


@dataclass(frozen=True)
class Request:
    """One document: tokens of its pages, of the instruction, of its answer's parts wave by wave; its rows."""

    vision: int
    text: int
    waves: list[list[int]]
    rows: int


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    add_input(parser, "JSONL of documents with answers")
    parser.add_argument("--size", choices=list(SHAPES), default="8b", help="model size (default: 8b)")
    parser.add_argument(
        "--shape",
        type=argument_path,
        default=None,
        metavar="FOLDER",
        help="another model: the shape of its config.json",
    )
    parser.add_argument(
        "--gpu",
        choices=[*GPUS, "cpu"],
        action="append",
        default=[],
        help="GPU; repeat (default: all); cpu with --calibrate only",
    )
    parser.add_argument(
        "--precision", choices=list(WEIGHT_BYTES), action="append", default=[], help="precision; repeat (default: all)"
    )
    parser.add_argument("--fp8-cache", action="store_true", help="keys and values in 8 bit")
    parser.add_argument(
        "--wire", choices=WIRES, default="json", help="form of the answer: compact JSON, or positions (default: json)"
    )
    parser.add_argument(
        "--rows-per-shard",
        type=int,
        action="append",
        default=[],
        metavar="ROWS",
        help="answers in shards of so many rows, 0: in one piece; repeat (default: 0)",
    )
    parser.add_argument(
        "--fields-per-shard",
        type=int,
        default=0,
        metavar="FIELDS",
        help="with shards: header fields of one (default: all)",
    )
    parser.add_argument(
        "--calibrate",
        type=argument_path,
        default=None,
        metavar="FILE",
        help="measured runs that benchmark_latency.py wrote",
    )
    parser.add_argument("--p95", type=float, default=None, metavar="SECONDS", help="name what meets this")
    parser.add_argument(
        "--price", action="append", default=[], metavar="GPU=PRICE", help="of an hour, for the cost of 1,000 documents"
    )
    parser.add_argument(
        "--month", type=float, default=None, metavar="DOCUMENTS", help="documents a month, for the cost of each option"
    )
    parser.add_argument(
        "--serverless", action="append", default=[], metavar="GPU=PRICE", help="of an hour (default: --price)"
    )
    parser.add_argument(
        "--spot", action="append", default=[], metavar="GPU=PRICE", help="of an hour (default: --price)"
    )
    parser.add_argument("--burst", type=float, default=20, help="serverless: documents between pauses (default: 20)")
    add_image_max_tokens(parser, DEFAULT_MAX_TOKENS)
    parser.add_argument(
        "--model",
        type=argument_path,
        default=None,
        help="model folder whose processor counts the text (default: estimated)",
    )
    add_schema(parser)
    add_root(parser)
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    prices = dict(priced(text) for text in args.price)
    if args.month is not None and (args.month <= 0 or args.burst < 1 or not prices):
        raise StageError("--month takes documents over 0, --burst 1 or more, and at least one --price GPU=PRICE")
    forms = list(dict.fromkeys(args.rows_per_shard or [0]))
    if min(forms) < 0 or args.fields_per_shard < 0:
        raise StageError("--rows-per-shard and --fields-per-shard take whole numbers from 0 on")
    if "cpu" in args.gpu and not args.calibrate:
        raise StageError("--gpu cpu has no data sheet; it needs --calibrate FILE")
    if args.calibrate and (len(args.gpu) != 1 or len(args.precision) != 1):
        names = "name them: --gpu NAME --precision NAME"
        raise StageError(f"--calibrate belongs to the one GPU and precision that were measured; {names}")
    shape = custom_shape(args.shape) if args.shape else SHAPES[args.size]
    efficiency = ASSUMED
    if args.calibrate:
        efficiency = calibration(args, shape)
    by_form = requests_of(args, forms)
    lines = [
        estimate(shape, name, precision, form, by_form[form], prices.get(name), efficiency, 1 if args.fp8_cache else 2)
        for name in args.gpu or GPUS
        for precision in args.precision or WEIGHT_BYTES
        for form in forms
    ]
    requests = by_form[forms[0]]
    buckets = list(dict.fromkeys(row_bucket(r.rows) for r in sorted(requests, key=lambda r: r.rows)))
    assumption = f"calibrated by {shown(args.calibrate)}" if args.calibrate else "shares of the peaks assumed"
    counted = "counted" if args.model else "estimated"
    about = f"{len(requests)} documents, {shape.name}, answers as {args.wire}, text {counted}"
    print(f"{shown(args.input)}: {about}; predicted seconds, one document alone on the GPU, {assumption}")
    print(
        f"  {'GPU':6s} {'precision':9s} {'shard':>7s} {'GiB':>6s} {'p50':>7s} {'p95':>7s}   p95 by rows: "
        + "".join(f"{name:>8s}" for name in buckets)
        + ("   per 1,000" if prices else "")
    )
    for line in lines:
        by_rows = "".join(f"{line['rows'][name]['p95']:8.2f}" for name in buckets)
        cost = f"   {line['cost_per_1000']:9.2f}" if line["cost_per_1000"] is not None else ""
        fits = "" if line["fits"] else "  does not fit"
        shard = f"{line['rows_per_shard']} rows" if line["rows_per_shard"] else "whole"
        figures = f"{line['weights_gib']:6.1f} {line['p50']:7.2f} {line['p95']:7.2f}"
        print(f"  {line['gpu']:6s} {line['precision']:9s} {shard:>7s} {figures}{' ' * 16}{by_rows}{cost}{fits}")
    result: dict[str, Any] = {
        "documents": len(requests),
        "size": args.size,
        "wire": args.wire,
        "efficiency": dataclasses.asdict(efficiency),
        "calibrated": args.calibrate is not None,
        "estimates": lines,
    }
    if args.month is not None:
        result["costs"] = options(args, lines, prices)
    if args.p95 is not None:
        meeting = [
            f"{line['gpu']} {line['precision']}"
            + (f" in shards of {line['rows_per_shard']}" if line["rows_per_shard"] else "")
            for line in lines
            if line["fits"] and line["p95"] <= args.p95
        ]
        result["meets_p95"] = meeting
        say(
            f"p95 of {args.p95:g} s: "
            + (", ".join(meeting) if meeting else "nothing of this meets it; see docs/LATENCY_UNDER_1S.md")
        )
    return console.finish(args, result)


def options(args: Any, lines: list[dict[str, Any]], prices: dict[str, float]) -> list[dict[str, Any]]:
    """Print and return the cost of a document by GPU and way of renting it; of each GPU, the form that is quickest."""
    serverless, spot = (prices | dict(priced(text) for text in given) for given in (args.serverless, args.spot))
    load = Load(args.month, burst=args.burst)
    found: list[dict[str, Any]] = []
    print(f"  {args.month:g} documents a month; a document, a month, by your prices (predicted):")
    for gpu in prices:
        fitting = [line for line in lines if line["gpu"] == gpu and line["fits"]]
        if not fitting:
            say(f"{gpu}: no precision of this model fits, so it has no cost")
            continue
        line = min(fitting, key=lambda one: one["mean"])
        for cost in costs(line["mean"], load, prices[gpu], serverless[gpu], spot[gpu]):
            machines = f"{cost.machines} machines" if cost.machines > 1 else ""
            figures = f"{cost.a_document:10.5f} {cost.a_month:12.2f}"
            print(f"  {gpu:6s} {line['precision']:9s} {cost.option:14s} {figures}  {machines}".rstrip())
            found.append({"gpu": gpu, "precision": line["precision"]} | dataclasses.asdict(cost))
    return found


def custom_shape(folder: Path) -> ModelShape:
    try:
        return shape_of_config(dict(read_json(folder / "config.json")), folder.name)
    except (KeyError, TypeError, ValueError):
        raise StageError(f"{shown(folder)}: its config.json is not that of a Qwen3-VL") from None


def calibration(args: Any, shape: ModelShape) -> Efficiency:
    """The efficiency fitted to the documents of benchmark_latency.py that had the server to themselves."""
    found = read_json(args.calibrate)
    measured = (
        [
            one
            for run in found.get("runs", [])
            if run.get("concurrency") == 1
            for one in run.get("documents", [])
            if one.get("status") == "ok" and not one.get("cold")
        ]
        if isinstance(found, dict)
        else []
    )
    if len(measured) < 8:
        raise StageError(
            f"{shown(args.calibrate)}: {len(measured)} documents measured at --concurrency 1; at least 8 are needed"
        )
    gpu = gpu_named(args.gpu[0])
    rows = [
        terms(
            shape,
            gpu,
            args.precision[0],
            vision_tokens=one["vision_tokens"],
            text_tokens=one["text_tokens"],
            waves=one["waves"],
            kv_bytes=1 if args.fp8_cache else 2,
        )
        for one in measured
    ]
    return calibrated(rows, [1000 * one["seconds"] for one in measured])


def gpu_named(name: str) -> Gpu:
    return CPU if name == "cpu" else GPUS[name]


def priced(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        price = float(value)
    except ValueError:
        price = -1.0
    if name not in GPUS or price < 0:
        raise StageError(f"--price {text!r}: give GPU=PRICE, for example a6000=0.79")
    return name, price


def requests_of(args: Any, forms: list[int]) -> dict[int, list[Request]]:
    """Tokens and rows of every document, by rows of a shard (0: whole)."""
    counter = exact_tokens(args.model, args.image_max_tokens) if args.model else estimated_tokens
    plans: dict[int, AnswerPlan] = {}
    schema: TargetSchema | None = None
    found: dict[int, list[Request]] = {form: [] for form in forms}
    for record in console.progress(read_records(args.input), what="records"):
        if schema is None:
            schema = schema_of_records(args.schema, [record], "the first record")
            plans = {form: AnswerPlan(schema, args.wire, form, args.fields_per_shard if form else 0) for form in forms}
        gold = gold_of(record)
        if gold is None:
            raise StageError(f"record {record['id']!r} has no answer; its length is what latency depends on")
        vision = page_tokens(record, args.root, args.image_max_tokens)
        rows = max((len(value_at(gold, rows.path) or []) for rows in schema.lists), default=0)
        for form, plan in plans.items():
            if not plan.sharded:
                text, answer = counter(plan.written(record))
                found[form].append(Request(vision, text, [[answer]], rows))
                continue
            asked = plan.shards_for(plan.counts(schema.ordered(gold)))
            answers = [counter(one) for one in plan.requests(record, [plan.first, *asked])]
            waves = [[answers[0][1]], [answer for _, answer in answers[1:]]]
            found[form].append(Request(vision, answers[0][0], waves, rows))
    return found


def estimate(
    shape: ModelShape,
    gpu_name: str,
    precision: str,
    form: int,
    requests: list[Request],
    price: float | None,
    efficiency: Efficiency,
    kv_bytes: float,
) -> dict[str, Any]:
    """Seconds (quantiles) over all documents and by row bucket, and the cost of the GPU's time for 1,000 documents.

    The documents are computed one after another.
    """
    gpu = gpu_named(gpu_name)
    timed: list[tuple[float, str]] = []
    for request in requests:
        latency = predicted_latency(
            shape,
            gpu,
            precision,
            vision_tokens=request.vision,
            text_tokens=request.text,
            waves=request.waves,
            efficiency=efficiency,
            kv_bytes=kv_bytes,
        )
        timed.append((latency.total / 1000, row_bucket(request.rows)))
    by_rows = {name: [seconds for seconds, bucket in timed if bucket == name] for name in {b for _, b in timed}}
    weights = weight_gib(shape, precision)
    mean = sum(seconds for seconds, _ in timed) / len(timed)
    return {
        "gpu": gpu_name,
        "precision": precision,
        "rows_per_shard": form,
        "weights_gib": round(weights, 1),
        "fits": weights + 3 <= gpu.memory_gib,
        **spread_of([seconds for seconds, _ in timed]),
        "mean": round(mean, 3),
        "rows": {name: {"documents": len(values), **spread_of(values)} for name, values in by_rows.items()},
        "cost_per_1000": None if price is None else round(1000 * mean * price / 3600, 2),
    }


def spread_of(seconds: list[float]) -> dict[str, float]:
    return {"p50": round(rank(seconds, 0.5), 3), "p95": round(rank(seconds, 0.95), 3)}


if __name__ == "__main__":
    sys.exit(main())
