"""What a JSONL holds, what of it fits, and what it will cost: documents, pages, rows, values, tokens, GPU hours.

With --model the tokens of whole records are counted exactly, with that model's own processor. Without it text tokens
are estimated, and the output says so. Training and serving are predicted for --size on --gpu. --html writes a page
with plots. Memory use is a few numbers per record.

    python scripts/dataset_stats.py --in data/train.jsonl
    python scripts/dataset_stats.py --in data/train.jsonl --model outputs/tiny --html data/reports/dataset.html --json
"""

from __future__ import annotations

import heapq
import sys
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit import console, options
from toolkit.console import say
from toolkit.files import argument_path, shown
from toolkit.latency.predicted import WEIGHT_BYTES, predicted_latency, weight_gib
from toolkit.model.gpus import GPUS, Gpu
from toolkit.model.shapes import SHAPES, ModelShape
from toolkit.model.token_counts import estimated_tokens, exact_tokens, rank, spread, vision_tokens
from toolkit.outputs import check_outputs
from toolkit.pages.images import DEFAULT_MAX_TOKENS
from toolkit.records.record import answer_text, gold_of, images_of, read_records
from toolkit.records.record_schema import schema_of_records
from toolkit.reports.base import PAGE_MARK
from toolkit.reports.dataset_page import write_dataset_page
from toolkit.schema.answer_shape import in_shape
from toolkit.schema.answer_values import values_of
from toolkit.schema.target import TargetSchema, value_at
from toolkit.training.plan import optimizer_steps, training_hours, training_memory

MAX_LENGTHS = (2048, 4096, 8192, 16384, 32768)
DISTINCT = 20_000  # values counted per field; beyond, new ones are only counted together
LONGEST = 10
SPREADS = (
    *("pages_per_document", "rows_per_document", "answer_characters"),
    *("vision_tokens", "prompt_tokens", "answer_tokens", "total_tokens"),
)


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    options.add_input(parser)
    options.add_schema(parser)
    options.add_root(parser)
    options.add_image_max_tokens(parser, DEFAULT_MAX_TOKENS)
    parser.add_argument("--model", type=argument_path, help="model folder whose processor counts the tokens")
    parser.add_argument("--size", choices=list(SHAPES), default="8b", help="model size to predict for (default: 8b)")
    parser.add_argument("--gpu", choices=list(GPUS), default="a6000", help="GPU to predict for (default: a6000)")
    parser.add_argument("--epochs", type=float, default=3, help="passes over the data to predict for (default: 3)")
    parser.add_argument("--html", type=argument_path, help="also write a page with plots here")
    options.add_limit(parser, "records")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    check_outputs([(args.html, PAGE_MARK)], [args.input, args.schema])
    schema = schema_of_records(args.schema, read_records(args.input, 1), shown(args.input))
    counter = exact_tokens(args.model, args.image_max_tokens) if args.model else estimated_tokens
    stats = Statistics(schema, args.root, args.image_max_tokens, counter)
    for record in console.progress(read_records(args.input, args.limit), what="records"):
        stats.add(record)
    result = stats.result(exact=bool(args.model))
    result["predicted"] = predictions(stats, SHAPES[args.size], GPUS[args.gpu], args.epochs)
    tell(args, schema, result)
    if args.html:
        write_dataset_page(args.html, f"{schema.title}: {shown(args.input)}", result, stats.series())
        say(f"page -> {shown(args.html)}")
    return console.finish(args, result)


class Statistics:
    """Counts of a stream of records: numbers per record as arrays, values per field up to a bound."""

    def __init__(
        self, schema: TargetSchema, root: Path, budget: int, tokens: Callable[[dict[str, Any]], tuple[int, int]]
    ) -> None:
        self.schema, self.root, self.budget, self.tokens = schema, root, budget, tokens
        self.pages, self.rows, self.characters = array("I"), array("I"), array("I")
        self.vision, self.prompts, self.answers, self.totals = array("I"), array("I"), array("I"), array("I")
        self.filled: Counter[str] = Counter({leaf.name: 0 for leaf in schema.leaves})
        self.cells: Counter[str] = Counter()
        self.values: dict[str, Counter[str]] = {leaf.name: Counter() for leaf in schema.leaves}
        self.beyond: Counter[str] = Counter()
        self.longest: list[tuple[int, str]] = []
        self.unreadable: list[str] = []

    def add(self, record: dict[str, Any]) -> None:
        gold = in_shape(self.schema.raw, gold_of(record) or {})
        for one in values_of(self.schema, gold):
            self.count(one.leaf.name, one.value)
        for rows in self.schema.lists:
            self.rows.append(len(value_at(gold, rows.path) or []))
        self.pages.append(len(images_of(record)))
        self.characters.append(len(answer_text(record)))
        try:
            vision = sum(vision_tokens(self.root / image, self.budget) for image in images_of(record))
        except Exception:  # Pillow raises of every kind on a damaged picture
            self.unreadable.append(record["id"])
            return
        prompt, answer = self.tokens(record)
        total = vision + prompt + answer
        for numbers, value in ((self.vision, vision), (self.prompts, prompt), (self.answers, answer)):
            numbers.append(value)
        self.totals.append(total)
        heapq.heappush(self.longest, (total, record["id"]))
        if len(self.longest) > LONGEST:
            heapq.heappop(self.longest)

    def count(self, name: str, value: Any) -> None:
        self.cells[name] += 1
        if value is None or value == "":
            return
        self.filled[name] += 1
        text, seen = str(value), self.values[name]
        if text in seen or len(seen) < DISTINCT:
            seen[text] += 1
        else:
            self.beyond[name] += 1

    def result(self, *, exact: bool) -> dict[str, Any]:
        count = len(self.pages)
        return {
            "documents": count,
            "pages": sum(self.pages),
            "pages_per_document": spread(self.pages),
            "rows_per_document": spread(self.rows),
            "answer_characters": spread(self.characters),
            "vision_tokens": spread(self.vision),
            "prompt_tokens": spread(self.prompts),
            "answer_tokens": spread(self.answers),
            "total_tokens": spread(self.totals),
            "tokens_are": "exact" if exact else "estimated (no --model)",
            "fits_max_length": {str(length): sum(t <= length for t in self.totals) for length in MAX_LENGTHS},
            "longest": [{"id": identity, "tokens": tokens} for tokens, identity in sorted(self.longest, reverse=True)],
            "records_with_unreadable_images": len(self.unreadable),
            "unreadable": self.unreadable[:LONGEST],
            "fill_rate": {name: round(self.filled[name] / max(1, self.cells[name]), 4) for name in self.filled},
            "values": {name: self.distribution(name) for name in self.values},
        }

    def distribution(self, name: str) -> dict[str, Any]:
        """Distinct values (`more`: at least so many) and the ten most frequent."""
        seen = self.values[name]
        top = sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:10]
        return {"distinct": len(seen), "more": bool(self.beyond[name]), "top": [list(item) for item in top]}

    def series(self) -> dict[str, list[int]]:
        """The numbers per document that the page draws."""
        named = {"pages": self.pages, "rows": self.rows, "answer tokens": self.answers, "vision tokens": self.vision}
        return {name: list(values) for name, values in {**named, "total tokens": self.totals}.items() if values}


def predictions(stats: Statistics, shape: ModelShape, gpu: Gpu, epochs: float) -> dict[str, Any]:
    """Training memory, steps and hours, and the latency of a median and a long document; all predicted."""
    if not stats.totals:
        return {}
    longest, total = max(stats.totals), sum(stats.totals)
    tokens = {"tokens": total * epochs, "answer_tokens": sum(stats.answers) * epochs}
    tokens["vision_tokens"] = sum(stats.vision) * epochs
    record = {"tokens": longest, "answer_tokens": max(stats.answers)}
    training = {}
    for method in ("lora", "qlora"):
        for checkpointing in (False, True):
            memory = training_memory(shape, method, **record, checkpointing=checkpointing).total
            hours = training_hours(shape, gpu, **tokens, checkpointing=checkpointing)
            name = f"{method}, checkpointing" if checkpointing else method
            fits = memory <= gpu.memory_gib
            training[name] = {"memory_gib": round(memory, 1), "fits": fits, "hours": round(hours, 2)}
    serving = {}
    for precision in WEIGHT_BYTES:
        times = [request_time(stats, shape, gpu, precision, share) for share in (0.5, 0.95)]
        serving[precision] = {
            "weights_gib": round(weight_gib(shape, precision), 1),
            "fits": weight_gib(shape, precision) + 3 <= gpu.memory_gib,
            "p50_ms": round(times[0]),
            "p95_ms": round(times[1]),
        }
    steps = optimizer_steps(len(stats.totals), epochs, 8)
    return {
        "size": shape.name,
        "gpu": gpu.name,
        "epochs": epochs,
        "optimizer_steps": steps,
        "records_a_step": 8,
        "training": training,
        "serving": serving,
    }


def request_time(stats: Statistics, shape: ModelShape, gpu: Gpu, precision: str, share: float) -> float:
    """Milliseconds of a request at this rank of pages, prompt and answer, alone on the GPU, as one JSON answer."""
    vision, prompt, answer = (rank(values, share) for values in (stats.vision, stats.prompts, stats.answers))
    return predicted_latency(
        shape, gpu, precision, vision_tokens=vision, text_tokens=prompt, answer_tokens=answer
    ).total


def tell(args: Any, schema: TargetSchema, result: dict[str, Any]) -> None:
    print(
        f"{shown(args.input)}: {result['documents']} documents, {result['pages']} pages, schema {shown(schema.source)}"
    )
    for label in SPREADS:
        if result[label]:
            note = f"  {result['tokens_are']}" if label.endswith("tokens") and not label.startswith("vision") else ""
            values = "  ".join(f"{k} {v}" for k, v in result[label].items())
            print(f"  {label.replace('_', ' '):20s} {values}{note}")
    print("  filled: " + ", ".join(f"{name} {rate:.0%}" for name, rate in result["fill_rate"].items()))
    fits = ", ".join(f"{length}: {count}" for length, count in result["fits_max_length"].items())
    print(f"  records that fit --max-length {fits}")
    if result["longest"]:
        print("  longest: " + ", ".join(f"{item['id']} ({item['tokens']})" for item in result["longest"][:3]))
    if planned := result["predicted"]:
        tell_predicted(planned)
    if unreadable := result["records_with_unreadable_images"]:
        print(f"  {unreadable} records have images that cannot be read; run verify_image_paths.py")


def tell_predicted(planned: dict[str, Any]) -> None:
    """Print what `predictions` returned."""
    steps = f"{planned['epochs']:g} epochs, {planned['optimizer_steps']} steps of 8 records"
    print(f"  predicted for {planned['size']} on {planned['gpu']}, {steps}:")
    for name, line in planned["training"].items():
        fit = "" if line["fits"] else " (does not fit)"
        print(f"    training {name:22s} {line['memory_gib']:6.1f} GiB{fit}, {line['hours']:g} h")
    for name, line in planned["serving"].items():
        fit = "" if line["fits"] else " (does not fit)"
        weights = f"{line['weights_gib']:6.1f} GiB of weights{fit}"
        print(f"    serving {name:23s} {weights}, p50 {line['p50_ms']} ms, p95 {line['p95_ms']} ms")


if __name__ == "__main__":
    sys.exit(main())
