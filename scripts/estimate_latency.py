"""Predicted latency and cost of a request before a server is rented: every GPU and precision, by number of rows.

Reads documents (--in: a JSONL with answers) for their pages, prompts and answers. One request has the GPU to itself and is answered
as one JSON text, token after token; every figure is predicted from the model's published shape and the GPU's data sheet with assumed
shares of the peaks, not measured. --p95 SECONDS names what meets a target; --wire positional counts the answers without their names,
which training and serving do not write yet.

    python scripts/estimate_latency.py --in data/splits/test.jsonl
    python scripts/estimate_latency.py --in data/splits/test.jsonl --size 4b --gpu h100 --p95 1.0 --price h100=2.99
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import StageError, say
from toolkit.files import argument_path, shown
from toolkit.gpus import GPUS, Gpu
from toolkit.latency_model import ASSUMED, WEIGHT_BYTES, predicted_latency, weight_gib
from toolkit.model_shapes import SHAPES, ModelShape
from toolkit.page_images import DEFAULT_MAX_TOKENS
from toolkit.records import gold_of, read_records
from toolkit.score_table import row_bucket
from toolkit.target_schema import TargetSchema, value_at
from toolkit.token_counts import estimated_tokens, exact_tokens, page_tokens, rank
from toolkit.wire_format import WIRES, WireFormat

Request = tuple[int, int, int, int]  # vision, prompt and answer tokens, rows


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--in", dest="input", type=argument_path, required=True, help="JSONL of documents with answers")
    parser.add_argument("--size", choices=list(SHAPES), default="8b", help="model size (default: 8b)")
    parser.add_argument("--gpu", choices=list(GPUS), action="append", default=[], help="GPU; repeat (default: all)")
    parser.add_argument(
        "--precision", choices=list(WEIGHT_BYTES), action="append", default=[], help="precision; repeat (default: all)"
    )
    parser.add_argument(
        "--wire", choices=WIRES, default="json", help="form of the answer: compact JSON, or positions (default: json)"
    )
    parser.add_argument("--p95", type=float, default=None, metavar="SECONDS", help="name what meets this")
    parser.add_argument(
        "--price", action="append", default=[], metavar="GPU=PRICE", help="of an hour, for the cost of 1,000 documents"
    )
    parser.add_argument(
        "--image-max-tokens",
        type=int,
        default=DEFAULT_MAX_TOKENS,
        help="vision tokens of a page at most (default: 1280)",
    )
    parser.add_argument(
        "--model",
        type=argument_path,
        default=None,
        help="model folder whose processor counts the text (default: estimated)",
    )
    parser.add_argument(
        "--schema", type=argument_path, default=None, help="target schema (default: the records' meta.schema)"
    )
    parser.add_argument("--root", type=argument_path, default=Path(), help="folder that image paths are relative to")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    prices = dict(priced(text) for text in args.price)
    requests = requests_of(args)
    shape = SHAPES[args.size]
    lines = [
        estimate(shape, name, precision, requests, prices.get(name))
        for name in args.gpu or GPUS
        for precision in args.precision or WEIGHT_BYTES
    ]
    buckets = list(dict.fromkeys(row_bucket(rows) for *_, rows in sorted(requests, key=lambda r: r[3])))
    print(f"{shown(args.input)}: {len(requests)} documents, {shape.name}, answers as {args.wire}, text {'counted' if args.model else 'estimated'}; predicted seconds, one request alone on the GPU")  # fmt: skip
    print(f"  {'GPU':6s} {'precision':9s} {'GiB':>6s} {'p50':>7s} {'p95':>7s}   p95 by rows: " + "".join(f"{name:>8s}" for name in buckets) + ("   per 1,000" if prices else ""))  # fmt: skip
    for line in lines:
        by_rows = "".join(f"{line['rows'][name]['p95']:8.2f}" for name in buckets)
        cost = f"   {line['cost_per_1000']:9.2f}" if line["cost_per_1000"] is not None else ""
        fits = "" if line["fits"] else "  does not fit"
        print(f"  {line['gpu']:6s} {line['precision']:9s} {line['weights_gib']:6.1f} {line['p50']:7.2f} {line['p95']:7.2f}                " + by_rows + cost + fits)  # fmt: skip
    result: dict[str, Any] = {"documents": len(requests), "size": args.size, "wire": args.wire, "efficiency": vars(ASSUMED), "estimates": lines}  # fmt: skip
    if args.p95 is not None:
        meeting = [f"{line['gpu']} {line['precision']}" for line in lines if line["fits"] and line["p95"] <= args.p95]
        result["meets_p95"] = meeting
        say(f"p95 of {args.p95:g} s: " + (", ".join(meeting) if meeting else "nothing of this meets it; see docs/LATENCY_UNDER_1S.md"))  # fmt: skip
    return console.finish(args, result)


def priced(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        price = float(value)
    except ValueError:
        price = -1.0
    if name not in GPUS or price < 0:
        raise StageError(f"--price {text!r}: give GPU=PRICE, for example a6000=0.79")
    return name, price


def requests_of(args: Any) -> list[Request]:
    """Tokens and rows of every document."""
    counter = exact_tokens(args.model, args.image_max_tokens) if args.model else estimated_tokens
    schema: TargetSchema | None = None
    found: list[Request] = []
    for record in console.progress(read_records(args.input), what="records"):
        if schema is None:
            name = args.schema or record.get("meta", {}).get("schema")
            if name is None:
                raise StageError("the records name no schema in meta.schema; give --schema FILE")
            schema = TargetSchema.load(Path(name))
        gold = gold_of(record)
        if gold is None:
            raise StageError(f"record {record['id']!r} has no answer; its length is what latency depends on")
        try:
            answer = WireFormat(schema, args.wire).encoded(gold)
        except ValueError as error:
            raise StageError(f"record {record['id']!r}: {error}; run validate_jsonl.py") from None
        record["messages"][-1]["content"] = [{"type": "text", "text": answer}]
        vision = page_tokens(record, args.root, args.image_max_tokens)
        rows = max((len(value_at(gold, rows.path) or []) for rows in schema.lists), default=0)
        found.append((vision, *counter(record), rows))
    return found


def estimate(
    shape: ModelShape, gpu_name: str, precision: str, requests: list[Request], price: float | None
) -> dict[str, Any]:
    """Seconds by rank over all documents and by row bucket; the cost is that of the GPU's time for 1,000, one after another."""
    gpu: Gpu = GPUS[gpu_name]
    timed: list[tuple[float, str]] = []
    for vision, prompt, answer, rows in requests:
        latency = predicted_latency(
            shape, gpu, precision, vision_tokens=vision, text_tokens=prompt, answer_tokens=answer
        )
        timed.append((latency.total / 1000, row_bucket(rows)))
    by_rows = {name: [seconds for seconds, bucket in timed if bucket == name] for name in {b for _, b in timed}}
    weights = weight_gib(shape, precision)
    mean = sum(seconds for seconds, _ in timed) / len(timed)
    return {
        "gpu": gpu_name,
        "precision": precision,
        "weights_gib": round(weights, 1),
        "fits": weights + 3 <= gpu.memory_gib,
        **spread_of([seconds for seconds, _ in timed]),
        "rows": {name: {"documents": len(values), **spread_of(values)} for name, values in by_rows.items()},
        "cost_per_1000": None if price is None else round(1000 * mean * price / 3600, 2),
    }


def spread_of(seconds: list[float]) -> dict[str, float]:
    return {"p50": round(rank(seconds, 0.5), 3), "p95": round(rank(seconds, 0.95), 3)}


if __name__ == "__main__":
    sys.exit(main())
