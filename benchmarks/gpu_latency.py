"""Latency on one GPU: a random-weight Qwen3-VL of true shape reads a page and writes 50 containers, whole or in shards.

Needs nothing but torch, transformers and accelerate. The page (1,260 vision tokens) goes through transformers' own vision tower and language
model. Decoding is a small loop of our own for measuring only: fused projections, keys and values in place, one CUDA graph a batch size, no
sampling; attention runs over the whole cache that is set aside, so it is an upper bound. Every shard reads a copy of the page's keys and
values of its own, as vLLM without cascade attention does. Token counts are those of benchmarks/wire_tokens.py for a bill of lading with 50
containers. FP8 is torch's scaled matrix product with a scale a tensor (GPUs of capability 8.9 on). Prints milliseconds of vision, prefill, a
step, and seconds of the whole answer in each form, p50 and p95 over --repeats; what HTTP, rendering and scheduling add is not in them.

    python benchmarks/gpu_latency.py --shape 8b
    python benchmarks/gpu_latency.py --shape toy --repeats 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from toolkit.latency.predicted import predicted_latency
from toolkit.model.gpus import GPUS
from toolkit.model.shapes import IMAGE_TOKEN, SHAPES, ModelShape, config_of

TOY = ModelShape("toy", 128, 2, 4, 2, 256, 64, 3, 128, tied=True, head_width=32)
GRID = (84, 60)  # patches of an A4 page at the default resolution: 1,260 vision tokens
TEXT = 180  # tokens of the instruction
COUNT, HEADER, ROW, SHARD_MARKS = 4, 55, 15.8, 4  # positional tokens (benchmarks/wire_tokens.py)
VERBOSE, COMPACT, POSITIONAL = 1654, 1337, 844
ROWS = 50


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["toy", *(n for n, s in SHAPES.items() if not s.experts)], default="8b")
    parser.add_argument("--repeats", type=int, default=20, help="of everything that is timed (default: 20)")
    parser.add_argument("--seconds", type=float, default=450, help="time for everything (default: 450)")
    parser.add_argument("--rows-per-shard", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--out", type=Path, default=None, help="JSON to write")
    return parser


def shard_tokens(rows: int) -> list[int]:
    """Tokens of the shards that are decoded together: the header, and as many row shards as 50 rows take, the last one closing."""
    found, left = [HEADER], ROWS
    for _ in range(ROWS // rows + 1):
        found.append(round(min(rows, left) * ROW) + SHARD_MARKS)
        left = max(0, left - rows)
    return found


class Decoder:
    """The language model's layers as one decoding step over `batch` sequences of `length` cached tokens."""

    def __init__(
        self, shape: ModelShape, batch: int, length: int, precision: str, device: str, weights: dict[str, Any]
    ) -> None:
        import torch

        self.shape, self.batch, self.length, self.precision, self.weights = shape, batch, length, precision, weights
        dtype = torch.bfloat16
        self.cache = torch.zeros(
            shape.layers, 2, batch, shape.kv_heads, length, shape.head_width, device=device, dtype=dtype
        )
        self.hidden = torch.randn(batch, shape.hidden, device=device, dtype=dtype)
        self.position = torch.tensor([length - 1], device=device)
        self.angles = torch.randn(shape.head_width // 2, device=device, dtype=torch.float32)

    def product(self, x: Any, name: str, layer: int) -> Any:
        import torch

        weight = self.weights[name][layer]
        if self.precision == "bf16":
            return x @ weight
        # A tensor's product in FP8 wants at least 16 rows.
        rows = x.shape[0]
        if rows < 16:
            x = torch.nn.functional.pad(x, (0, 0, 0, 16 - rows))
        one = self.weights["one"]
        return torch._scaled_mm(x.to(torch.float8_e4m3fn), weight, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)[
            :rows
        ]

    def rotated(self, x: Any) -> Any:
        import torch

        turn = self.angles * self.position
        cos, sin = turn.cos().to(x.dtype), turn.sin().to(x.dtype)
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def step(self) -> Any:
        """One token for each sequence: [batch, vocabulary] logits and their arg max."""
        import torch

        s, functional = self.shape, torch.nn.functional
        q_width, kv_width = s.heads * s.head_width, s.kv_heads * s.head_width
        hidden = self.hidden
        for layer in range(s.layers):
            normed = functional.rms_norm(hidden, (s.hidden,))
            q, k, v = self.product(normed, "qkv", layer).split([q_width, kv_width, kv_width], -1)
            q = self.rotated(functional.rms_norm(q.view(self.batch, s.heads, s.head_width), (s.head_width,)))
            k = self.rotated(functional.rms_norm(k.view(self.batch, s.kv_heads, s.head_width), (s.head_width,)))
            keys, values = self.cache[layer, 0], self.cache[layer, 1]
            keys.index_copy_(2, self.position, k[:, :, None])
            values.index_copy_(2, self.position, v.view(self.batch, s.kv_heads, 1, s.head_width))
            seen = functional.scaled_dot_product_attention(q[:, :, None], keys, values, enable_gqa=True)
            hidden = hidden + self.product(seen.reshape(self.batch, q_width), "out", layer)
            gate, up = self.product(functional.rms_norm(hidden, (s.hidden,)), "gate_up", layer).chunk(2, -1)
            hidden = hidden + self.product(functional.silu(gate) * up, "down", layer)
        return (functional.rms_norm(hidden, (s.hidden,)) @ self.weights["head"]).argmax(-1)


def random_weights(shape: ModelShape, precision: str, device: str) -> dict[str, Any]:
    """Weights of all layers, [input, output] as the products take them; FP8 ones lie column by column."""
    import torch

    q, kv = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    sizes = {
        "qkv": (shape.hidden, q + 2 * kv),
        "out": (q, shape.hidden),
        "gate_up": (shape.hidden, 2 * shape.intermediate),
        "down": (shape.intermediate, shape.hidden),
    }

    def made(size: tuple[int, int]) -> Any:
        weight = torch.randn(size[1], size[0], device=device, dtype=torch.bfloat16) * size[0] ** -0.5
        return weight.to(torch.float8_e4m3fn).t() if precision == "fp8" else weight.t()

    found: dict[str, Any] = {name: [made(size) for _ in range(shape.layers)] for name, size in sizes.items()}
    found["head"] = torch.randn(shape.vocabulary, shape.hidden, device=device, dtype=torch.bfloat16).t()
    found["one"] = torch.ones((), device=device)
    return found


def timed(work: Callable[[], Any], repeats: int) -> list[float]:
    """Milliseconds of each repeat, after one to warm up."""
    import torch

    gpu = torch.cuda.is_available()
    work()
    found = []
    for _ in range(repeats):
        if gpu:
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if gpu:
            torch.cuda.synchronize()
        found.append(1000 * (time.perf_counter() - began))
    return found


def page_times(shape: ModelShape, repeats: int, device: str) -> dict[str, list[float]]:
    """Vision tower and prefill of one page with its instruction, by transformers' own model."""
    import torch
    import transformers

    config = config_of(shape)
    config._attn_implementation = "sdpa"
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        model = transformers.Qwen3VLForConditionalGeneration(config).eval()
        torch.set_default_dtype(torch.float32)
    tokens = GRID[0] * GRID[1] // 4
    ids = torch.tensor(
        [[1] * (TEXT // 2) + [151652] + [IMAGE_TOKEN] * tokens + [151653] + [1] * (TEXT // 2)], device=device
    )
    inputs = {
        "input_ids": ids,
        "mm_token_type_ids": (ids == IMAGE_TOKEN).int(),
        "image_grid_thw": torch.tensor([[1, *GRID]], device=device),
        "pixel_values": torch.rand(GRID[0] * GRID[1], 1536, device=device, dtype=torch.bfloat16),
    }
    with torch.inference_mode():
        vision = timed(lambda: model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]), repeats)
        whole = timed(lambda: model(**inputs, logits_to_keep=1, use_cache=True), repeats)
    return {"vision": vision, "page": whole}


def step_time(
    shape: ModelShape, batch: int, length: int, precision: str, device: str, weights: dict[str, Any], repeats: int
) -> list[float]:
    """Milliseconds of one decoding step, from a CUDA graph where there is a GPU."""
    import torch

    decoder = Decoder(shape, batch, length, precision, device, weights)
    with torch.inference_mode():
        if device == "cpu":
            return timed(decoder.step, repeats)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                decoder.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            decoder.step()

        def ten() -> None:
            for _ in range(10):
                graph.replay()

        return [value / 10 for value in timed(ten, repeats)]


def main() -> None:
    args = build_parser().parse_args()
    import torch

    from toolkit.model.libraries import prepare_model_libraries

    prepare_model_libraries()
    started = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    shape = TOY if args.shape == "toy" else SHAPES[args.shape]
    torch.manual_seed(0)
    print(
        f"{shape.name} on {name}; torch {torch.__version__}; a page of {GRID[0] * GRID[1] // 4} vision tokens, {TEXT} of text, {ROWS} containers"
    )
    page = page_times(shape, args.repeats, device)
    if device == "cuda":
        torch.cuda.empty_cache()
    vision, prefill = statistics.median(page["vision"]), statistics.median(page["page"])
    print(f"vision {vision:.1f} ms, vision and prefill {prefill:.1f} ms (p50 of {args.repeats})")
    prompt = GRID[0] * GRID[1] // 4 + TEXT + 2
    precisions = ["bf16", "fp8"] if device == "cuda" and torch.cuda.get_device_capability() >= (8, 9) else ["bf16"]
    lines: list[dict[str, Any]] = []
    gpu = next((g for key, g in GPUS.items() if key in name.lower()), None)
    print(
        f"{'':24s}{'precision':>10s}{'requests':>10s}{'ms a step':>11s}{'steps':>7s}{'p50 s':>9s}{'p95 s':>9s}{'predicted':>11s}"
    )
    for precision in precisions:
        weights = random_weights(shape, precision, device)
        forms: list[tuple[str, list[list[int]]]] = [
            ("json.dumps, whole", [[VERBOSE]]),
            ("compact JSON, whole", [[COMPACT]]),
            ("positional, whole", [[POSITIONAL]]),
        ]
        forms += [(f"positional, shards of {r}", [[COUNT], shard_tokens(r)]) for r in args.rows_per_shard]
        for label, waves in forms:
            if time.monotonic() - started > args.seconds:
                print(f"{label:24s}{precision:>10s}   not reached within {args.seconds:g} s")
                continue
            total = list(page["page"])
            steps_ms: list[float] = []
            for wave in waves:
                steps_ms = step_time(shape, len(wave), prompt + max(wave), precision, device, weights, args.repeats)
                total = [a + b * max(wave) for a, b in zip(total, steps_ms, strict=True)]
            ordered = sorted(total)
            p50, p95 = (
                ordered[len(ordered) // 2] / 1000,
                ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))] / 1000,
            )
            said = (
                predicted_latency(shape, gpu, precision, vision_tokens=prompt - TEXT, text_tokens=TEXT, waves=waves)
                if gpu
                else None
            )
            guess = (said.total - said.fixed) / 1000 if said else None
            line = {
                "form": label,
                "precision": precision,
                "requests": sum(map(len, waves)),
                "step_ms": round(statistics.median(steps_ms), 3),
                "steps": sum(map(max, waves)),
                "p50": round(p50, 4),
                "p95": round(p95, 4),
                "predicted": guess,
            }
            lines.append(line)
            print(
                f"{label:24s}{precision:>10s}{line['requests']:10d}{line['step_ms']:11.2f}{line['steps']:7d}{p50:9.3f}{p95:9.3f}{f'{guess:.3f}' if guess else '-':>11s}"
            )
        del weights
        if device == "cuda":
            torch.cuda.empty_cache()
    if args.out:
        args.out.write_text(
            json.dumps(
                {
                    "shape": shape.name,
                    "device": name,
                    "torch": torch.__version__,
                    "vision_ms": vision,
                    "page_ms": prefill,
                    "lines": lines,
                },
                indent=1,
            )
            + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
