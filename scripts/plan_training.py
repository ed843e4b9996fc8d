"""What a training run will need, before anyone rents a GPU: memory, steps, hours and cost by model size and method.

Reads the training JSONL: its longest record decides the memory, all records the time. Every figure is predicted from
the model's published shape and the GPU's data sheet; nothing is measured here. benchmarks/training_memory.py compares
the predicted memory with the real model, without a GPU. Memory is for one record a forward pass, with activations
kept, or recomputed if they do not fit (--checkpointing of train_lora.py).

    python scripts/plan_training.py --in data/splits/train.jsonl --gpu a6000
    python scripts/plan_training.py --in data/splits/train.jsonl --gpu h100 --size 32b --epochs 2 --price 2.99
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from toolkit import console
from toolkit.console import StageError, say
from toolkit.files import argument_path, shown
from toolkit.model.gpus import GPUS, Gpu
from toolkit.model.shapes import SHAPES, ModelShape
from toolkit.model.token_counts import estimated_tokens, exact_tokens, page_tokens
from toolkit.options import add_image_max_tokens, add_input, add_root
from toolkit.pages.images import DEFAULT_MAX_TOKENS
from toolkit.records.record import read_records
from toolkit.training.plan import ASSUMED_MFU, optimizer_steps, training_hours, training_memory


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    add_input(parser, "the training JSONL")
    parser.add_argument("--gpu", choices=list(GPUS), default="a6000", help="GPU to plan for (default: a6000)")
    parser.add_argument("--size", choices=list(SHAPES), default=None, help="only this model size (default: all)")
    parser.add_argument("--epochs", type=float, default=3, help="passes over the data (default: 3)")
    parser.add_argument("--batch", type=int, default=8, help="records an optimizer step (default: 8)")
    parser.add_argument("--rank", type=int, default=16, help="LoRA rank (default: 16)")
    parser.add_argument("--price", type=float, default=None, help="of the GPU an hour, in any currency")
    parser.add_argument(
        "--mfu",
        type=float,
        default=ASSUMED_MFU,
        help=f"share of the peak that training reaches (default: {ASSUMED_MFU}, assumed)",
    )
    add_image_max_tokens(parser, DEFAULT_MAX_TOKENS)
    parser.add_argument(
        "--model",
        type=argument_path,
        default=None,
        help="model folder whose processor counts the text (default: estimated)",
    )
    add_root(parser)
    return parser


@dataclass(frozen=True)
class Planned:
    """What is planned: passes over the data, LoRA rank, assumed share of the peak, the GPU's price an hour."""

    epochs: float
    rank: int
    mfu: float
    price: float | None


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.batch < 1 or args.rank < 1 or args.epochs <= 0 or args.mfu <= 0:
        raise StageError("--batch, --rank, --epochs and --mfu must be above 0")
    counter = exact_tokens(args.model, args.image_max_tokens) if args.model else estimated_tokens
    records = longest = longest_answer = total = answers = vision = 0
    for record in console.progress(read_records(args.input), what="records"):
        pages = page_tokens(record, args.root, args.image_max_tokens)
        prompt, answer = counter(record)
        length = pages + prompt + answer
        records, longest, total, vision = records + 1, max(longest, length), total + length, vision + pages
        longest_answer, answers = max(longest_answer, answer), answers + answer
    gpu = GPUS[args.gpu]
    steps = optimizer_steps(records, args.epochs, args.batch)
    sizes = [args.size] if args.size else list(SHAPES)
    what = Planned(args.epochs, args.rank, args.mfu, args.price)
    lines = [
        line
        for size in sizes
        for line in plans(what, size, SHAPES[size], gpu, (longest, longest_answer), (total, answers, vision))
    ]
    print(
        f"{shown(args.input)}: {records} records, the longest {longest} tokens, {total} in all "
        f"({'exact' if args.model else 'text estimated'}); {args.epochs:g} epochs are {steps} steps of "
        f"{args.batch} records"
    )
    print(f"predicted for one {gpu.name} with {gpu.memory_gib:g} GiB:")
    for line in lines:
        print("  " + sentence(line))
    result = {
        "records": records,
        "longest_tokens": longest,
        "tokens": total,
        "steps": steps,
        "gpu": gpu.name,
        "plans": lines,
    }
    if not any(line["fits"] for line in lines):
        say(f"nothing of this fits one {gpu.name}: a smaller model, a larger GPU, or --image-max-tokens lower")
    return console.finish(args, result)


def plans(
    what: Planned, size: str, shape: ModelShape, gpu: Gpu, longest: tuple[int, int], totals: tuple[int, int, int]
) -> list[dict[str, Any]]:
    """One line a method: the cheaper way of keeping activations that fits, or the smaller one if none does.

    `longest`: tokens of the longest record and of the longest answer; `totals`: all tokens, answer tokens, vision
    tokens.
    """
    lines: list[dict[str, Any]] = []
    total, answers, vision = (count * what.epochs for count in totals)
    for method in ("lora", "qlora"):
        if method == "qlora" and shape.experts:
            lines.append(
                {"size": size, "method": method, "fits": False, "why": "its experts are fused and stay in 16 bit"}
            )
            continue
        for checkpointing in (False, True):
            memory = training_memory(
                shape, method, tokens=longest[0], answer_tokens=longest[1], rank=what.rank, checkpointing=checkpointing
            )
            if memory.total <= gpu.memory_gib or checkpointing:
                break
        hours = training_hours(
            shape,
            gpu,
            tokens=total,
            answer_tokens=answers,
            vision_tokens=vision,
            checkpointing=checkpointing,
            mfu=what.mfu,
        )
        parts = {name: round(getattr(memory, name), 1) for name in ("weights", "adapter", "activations", "logits")}
        lines.append(
            {
                "size": size,
                "method": method,
                "fits": memory.total <= gpu.memory_gib,
                "checkpointing": checkpointing,
                "memory_gib": round(memory.total, 1),
                **parts,
                "hours": round(hours, 2),
                "cost": None if what.price is None else round(hours * what.price, 2),
            }
        )
    return lines


def sentence(line: dict[str, Any]) -> str:
    head = f"{line['size']:8s} {line['method']:6s}"
    if "why" in line:
        return f"{head} not offered: {line['why']}"
    parts = f"{line['memory_gib']:6.1f} GiB (weights {line['weights']}, adapter {line['adapter']}, "
    parts += f"activations {line['activations']}, logits {line['logits']})"
    how = ", with --checkpointing on" if line["checkpointing"] else ""
    if not line["fits"]:
        return f"{head} {parts}{how}: does not fit"
    cost = "" if line["cost"] is None else f", costs {line['cost']:g}"
    return f"{head} {parts}{how}: {line['hours']:g} h{cost}"


if __name__ == "__main__":
    sys.exit(main())
