"""Training speed on one GPU: a random Qwen3-VL of true shape, LoRA on generated pages, with and without each lever.

Needs nothing but torch, transformers, peft and accelerate. The documents are pages of 1,260 vision tokens (an A4 page
at the default resolution) and of 2,145 (150 dpi), one or two of them, with answers of 60 to 833 tokens; pixels are
random, because speed does not depend on them. Every variant runs the project's own batches, loss and adapter, a step
to warm up and then --steps timed ones. Prints tokens a second, MFU (recomputed work not counted), peak memory and
padding. Everything ends within --seconds; variants that were not reached are named.

    python benchmarks/gpu_training.py --shape 8b
    python benchmarks/gpu_training.py --shape toy --steps 1 --tokens-per-batch 4096
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from toolkit.model.adapters import AdapterSettings, lora_model, parameter_groups, without_casts
from toolkit.model.encoding import IGNORED, collate, packed
from toolkit.model.shapes import IMAGE_TOKEN, SHAPES, VOCABULARY, ModelShape, config_of
from toolkit.training.log import peak_flops, work_per_token
from toolkit.training.loss import summed_loss
from toolkit.training.token_batches import TokenBatches

TOY = ModelShape("toy", 128, 2, 4, 2, 256, 64, 3, 128, tied=True, head_width=32)
GRIDS = {1260: (84, 60), 2145: (110, 78)}  # patches high and wide of a page, by its vision tokens
PROMPT = 120  # text tokens before the answer


@dataclass(frozen=True)
class Variant:
    """One way to train; the default is what train_lora.py does."""

    name: str
    attention: str = "sdpa"
    pack: bool = False
    grouped: bool = True
    single: bool = False
    all_logits: bool = False
    recompute: bool = False
    fused: bool = True
    casts: bool = False


VARIANTS = [
    Variant("as train_lora.py does it"),
    Variant("one record a pass", single=True),
    Variant("records in random order, padded", grouped=False),
    Variant("logits of every token", all_logits=True),
    Variant("packed", pack=True),
    Variant("optimizer not fused", fused=False),
    Variant("LoRA's inputs turned to float32", casts=True),
    Variant("activations recomputed", recompute=True),
    Variant("all levers off", grouped=False, all_logits=True, recompute=True, fused=False, casts=True),
]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shape", choices=["toy", *(name for name, s in SHAPES.items() if not s.experts)], default="8b"
    )
    parser.add_argument("--tokens-per-batch", type=int, default=16384, help="of a forward pass (default: 16384)")
    parser.add_argument("--documents", type=int, default=48, help="that the batches are made of (default: 48)")
    parser.add_argument("--steps", type=int, default=3, help="timed forward and backward passes a variant (default: 3)")
    parser.add_argument("--seconds", type=float, default=450, help="time for everything (default: 450)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--out", type=Path, default=None, help="JSON to write")
    return parser


def document(draw: random.Random) -> dict[str, Any]:
    """One record's model inputs, as `encode_record` gives them; its pixels are made when it is used."""
    import torch

    pages = [draw.choice(list(GRIDS)) for _ in range(draw.choice([1, 1, 2]))]
    answer = draw.choice([60, 150, 300, 833])
    text = [draw.randrange(1000) for _ in range(PROMPT + answer)]
    middle = [token for page in pages for token in [151652, *[IMAGE_TOKEN] * page, 151653]]
    ids = text[:20] + middle + text[20:]
    labels = [IGNORED] * (len(ids) - answer) + text[-answer:]
    return {
        "input_ids": torch.tensor(ids),
        "mm_token_type_ids": torch.tensor([int(token == IMAGE_TOKEN) for token in ids]),
        "labels": torch.tensor(labels),
        "image_grid_thw": torch.tensor([[1, *GRIDS[page]] for page in pages]),
    }


def batch_of(examples: list[dict[str, Any]], pack: bool, device: str, dtype: Any) -> dict[str, Any]:
    import torch

    whole = [
        example | {"pixel_values": torch.rand(int(example["image_grid_thw"].prod(-1).sum()), 1536) * 2 - 1}
        for example in examples
    ]
    batch = packed(whole) if pack else collate(whole, 0, left=True)
    if not pack and bool(batch["attention_mask"].all()):
        del batch["attention_mask"]
    batch["pixel_values"] = batch["pixel_values"].to(dtype)
    return {name: value.to(device) for name, value in batch.items()}


def whole_loss(model: Any, inputs: dict[str, Any], labels: Any) -> Any:
    """The loss with logits of every token, as transformers' own forward does it."""
    import torch

    logits = model(**inputs, use_cache=False).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def measured(
    model: Any, adapter: AdapterSettings, variant: Variant, documents: list[Any], args: Any, device: str
) -> dict[str, Any]:
    """Forward, backward and optimizer step over the variant's first batches; "error" if memory does not hold them."""
    import torch

    on_gpu = device == "cuda"
    base = model.get_base_model()
    base.gradient_checkpointing_enable(
        {"use_reentrant": False}
    ) if variant.recompute else base.gradient_checkpointing_disable()
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, adapter), fused=variant.fused, foreach=False)
    lengths = [len(example["input_ids"]) for example in documents]
    grouped = [
        [index for index, _ in batch]
        for batch in TokenBatches(lengths, tokens=args.tokens_per_batch, packed=variant.pack, passes=4)
    ]
    if variant.single:  # no padding and no mask, but smaller products; the same tokens in all
        grouped = [[index] for index in range(len(documents))]
    if not variant.grouped:  # as many records a pass, in random order
        size = max(1, round(len(documents) / len(grouped)))
        order = random.Random(1).sample(range(len(documents)), len(documents))
        grouped = [order[start : start + size] for start in range(0, len(order), size)]
    draw = random.Random(2)
    chosen = [draw.choice(grouped) for _ in range(args.steps * (6 if variant.single else 1) + 1)]
    text, head, vision = work_per_token(base)
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    tokens = spent = answers = pages = 0
    began = 0.0
    try:
        for number, indexes in enumerate(chosen):
            batch = batch_of([documents[i] for i in indexes], variant.pack, device, base.dtype)
            labels = batch.pop("labels")
            if on_gpu:
                torch.cuda.synchronize()
            if number == 1:
                began = time.monotonic()
            with torch.autocast(device, torch.bfloat16), nullcontext() if variant.casts else without_casts(model):
                loss = (whole_loss if variant.all_logits else summed_loss)(model, batch, labels)
            (loss / int((labels != IGNORED).sum())).backward()
            optimizer.step()
            optimizer.zero_grad()
            if number:
                tokens += sum(lengths[i] for i in indexes)
                spent += labels.numel()
                answers += int((labels != IGNORED).sum())
                pages += int(batch["image_grid_thw"].prod(-1).sum()) // 4
        if on_gpu:
            torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        model.zero_grad(set_to_none=True)
        return {"variant": variant.name, "error": "out of memory"}
    seconds = time.monotonic() - began
    peak = peak_flops(torch.cuda.get_device_name()) if on_gpu else None
    work = text * tokens + head * answers + vision * pages
    return {
        "variant": variant.name,
        "tokens_per_second": round(tokens / seconds, 1),
        "padding": round(1 - tokens / spent, 4),
        "seconds": round(seconds, 2),
        "mfu": round(work / seconds / peak, 4) if peak else None,
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if on_gpu else None,
    }


def main() -> None:
    args = build_parser().parse_args()
    started = time.monotonic()
    import peft
    import torch
    import transformers
    from transformers.utils import is_flash_attn_2_available

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = TOY if args.shape == "toy" else SHAPES[args.shape]
    config = config_of(shape)
    if args.shape == "toy":
        config.text_config.vocab_size = VOCABULARY
    adapter = AdapterSettings(args.rank, 2 * args.rank, 0.0, 1e-4)
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForImageTextToText.from_config(
            config, dtype=torch.bfloat16 if device == "cuda" else torch.float32
        )
    model = lora_model(model, adapter)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    head = f"{shape.name}, {name}, {versions}, {args.tokens_per_batch} tokens a pass"
    print(f"{time.strftime('%Y-%m-%d')}: {head}; model made in {time.monotonic() - started:.0f} s", flush=True)
    draw = random.Random(0)
    documents = [document(draw) for _ in range(args.documents)]
    variants = list(VARIANTS)
    if is_flash_attn_2_available():
        variants.insert(
            1, replace(VARIANTS[0], name="packed, FlashAttention", pack=True, attention="flash_attention_2")
        )
    results = []
    print(f"{'':34s}{'tokens/s':>10s}{'MFU':>8s}{'GiB':>8s}{'padding':>9s}")
    for variant in variants:
        if time.monotonic() - started > args.seconds * 0.85:
            results.append({"variant": variant.name, "error": "not reached in time"})
        else:
            model.get_base_model().set_attn_implementation(variant.attention)
            results.append(measured(model, adapter, variant, documents, args, device))
        found = results[-1]
        if "error" in found:
            print(f"{variant.name:34s}{found['error']:>18s}", flush=True)
            continue
        mfu = "-" if found["mfu"] is None else f"{found['mfu']:.1%}"
        memory = "-" if found["peak_gib"] is None else f"{found['peak_gib']:.1f}"
        print(
            f"{variant.name:34s}{found['tokens_per_second']:10,.0f}{mfu:>8s}{memory:>8s}{found['padding']:9.1%}",
            flush=True,
        )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"what": head, "results": results}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
