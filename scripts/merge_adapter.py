"""Merge a LoRA adapter into its base model, and prove it: one folder that any server loads, with its contract.

Reads the adapter (a folder, or a .tgz of one) and the base in 16 bit, never the 4-bit one a QLoRA run trained on.
Every adapter weight must find its place and every target must change, or nothing is written. Writes --out: weights in
the hub's layout, processor, chat template, generation config, extraction_config.json, provenance.json. With --check
FILE the answers of base + adapter and of the merged model are compared on its records.

    python scripts/merge_adapter.py --adapter outputs/bl-8b --out outputs/bl-8b-merged --check data/splits/val.jsonl
    python scripts/merge_adapter.py --adapter bl-8b.tgz --model Qwen/Qwen3-VL-8B-Instruct --out outputs/bl-8b-merged
"""

from __future__ import annotations

import sys
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.evaluation.gates import share, share_reached
from toolkit.files import argument_path, atomic_folder, shown
from toolkit.model.contract import load_contract
from toolkit.model.folder import (
    check_adapter_folder,
    check_model_folder,
    copy_companions,
    model_shapes,
    unpacked_adapter,
    weight_bytes,
    write_provenance,
)
from toolkit.options import add_root


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--adapter", type=argument_path, required=True, help="folder of train_lora.py, or a .tgz of it")
    parser.add_argument("--model", default=None, help="base model (default: the one the adapter's contract names)")
    parser.add_argument("--out", type=argument_path, required=True, help="folder to write")
    parser.add_argument(
        "--dtype",
        choices=["base", "bfloat16", "float32"],
        default="base",
        help="of the weights written (default: base, what the base model is stored in)",
    )
    check = parser.add_argument_group("check")
    check.add_argument("--check", type=argument_path, default=None, metavar="JSONL", help="records to answer both ways")
    check.add_argument("--check-records", type=int, default=16, help="how many of them (default: 16)")
    check.add_argument(
        "--min-agreement",
        type=share,
        default=Decimal("0.9"),
        help="exit 1 where fewer answers agree, as a share (default: 0.9)",
    )
    add_root(check)
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="adapter-") as scratch:
        adapter = unpacked_adapter(args.adapter, Path(scratch))
        contract = load_contract(adapter)
        base = args.model or contract.base_model
        shapes = model_shapes(Path(base)) if Path(base).is_dir() else None
        check_adapter_folder(adapter, shapes)
        with atomic_folder(args.out, overwrite=args.overwrite) as folder:
            result = merged_into(folder, base, adapter, args.dtype)
            contract.save(folder)
            write_provenance(folder, "merge_adapter.py", {"base": base, "adapter": adapter}, merge=result)
            check_model_folder(folder)
            result["gigabytes"] = round(weight_bytes(folder) / 1e9, 3)
        change = f"by {result['smallest_delta']:.1e} to {result['largest_delta']:.1e} of their size"
        say(
            f"{result['targets']} weights changed, {change}; "
            f"{result['gigabytes']} GB in {result['dtype']} -> {shown(args.out)}"
        )
        code = ExitCode.OK
        if args.check:
            result |= agreement(args, base, adapter)
            different, checked = result["different"], result["checked"]
            if not share_reached(checked - len(different), checked, args.min_agreement):
                say(
                    f"the merged model answers differently on {len(different)} of {checked} records "
                    f"({first_few(different)}); do not serve it before you know why"
                )
                code = ExitCode.PROBLEMS
    return console.finish(args, result | {"out": shown(args.out)}, code)


def merged_into(folder: Path, base: str, adapter: Path, dtype: str) -> dict[str, Any]:
    """Write base + adapter to `folder`.

    W' = W + (alpha / r) B A is summed in float32 and rounded once (LoRA, arXiv 2106.09685).
    """
    import torch

    from toolkit.model import loading as qwen3vl

    config = qwen3vl.load_config(base)
    wanted = qwen3vl.stored_dtype(config) if dtype == "base" else getattr(torch, dtype)
    model = qwen3vl.load_adapter(qwen3vl.load_model(base, device="cpu", dtype=wanted), adapter)
    relative = []
    with torch.no_grad():
        for name, module in model.named_modules():
            if not hasattr(module, "lora_A") or not module.lora_A:
                continue
            (key,) = module.lora_A.keys()
            if hasattr(module, "parameter_name"):  # LoRA on a parameter: the fused experts, [experts, out, in]
                weight, delta = module.get_param(), expert_delta(module, key)
            else:
                weight = module.get_base_layer().weight
                delta = module.scaling[key] * (module.lora_B[key].weight.float() @ module.lora_A[key].weight.float())
            if not torch.isfinite(delta).all():
                raise StageError(f"{shown(adapter)}: {name} holds values that are not numbers; the training diverged")
            merged = (weight.float() + delta).to(weight.dtype)
            if torch.equal(merged, weight):
                raise StageError(
                    f"{shown(adapter)}: {name} changes nothing in its weight; the adapter is untrained or did not load"
                )
            relative.append(float(delta.norm() / weight.float().norm()))
            weight.copy_(merged)
    plain = model.unload()
    targets = len(relative)
    if not targets:
        raise StageError(f"{shown(adapter)}: the adapter changes no weight of the base model")
    qwen3vl.set_stored_dtype(plain.config, wanted)
    qwen3vl.save_model(plain, folder)
    # The adapter's own processor: training may have been given another resolution than the base's default.
    qwen3vl.load_processor(str(adapter), load_contract(adapter).image_max_tokens).save_pretrained(folder)
    if Path(base).is_dir():
        copy_companions(Path(base), folder)
    return {
        "base": base,
        "targets": targets,
        "smallest_delta": min(relative),
        "largest_delta": max(relative),
        "dtype": str(wanted).removeprefix("torch."),
    }


def expert_delta(module: Any, key: str) -> Any:
    """`(alpha / r) B A` of each expert, float32 [experts, out, in].

    peft stores the experts' ranks side by side (ParamWrapper.get_delta_weight, 0.21).
    """
    import torch

    low = module.lora_A[key].weight.float()
    high = module.lora_B[key].weight.float()
    low = low.reshape(module.num_experts, -1, low.shape[-1])
    high = high.reshape(high.shape[0], -1, module.num_experts)
    delta = torch.einsum("ore,eri->eoi", high, low) * module.scaling[key]
    return delta if delta.shape == module.get_param().shape else delta.transpose(1, 2)


def agreement(args: Any, base: str, adapter: Path) -> dict[str, Any]:
    """Answer the records with base + adapter and with the merged model; the share of equal answers."""
    from toolkit.extraction.local_model import LocalModel
    from toolkit.extraction.run import Judge, records_answered
    from toolkit.records.record import read_records

    contract = load_contract(adapter)
    records = list(read_records(args.check, args.check_records))
    judge = Judge(contract.answer_plan)
    answers = []
    for model, extra in ((base, adapter), (str(args.out), None)):
        local = LocalModel(model, extra, contract)
        answers.append([line["raw"] for line in records_answered(local, judge, records, args.root, 8)])
        del local
    different = [record["id"] for record, a, b in zip(records, *answers, strict=True) if a != b]
    share = 1 - len(different) / len(records)
    say(f"base + adapter and the merged model give the same answer on {share:.1%} of {len(records)} records")
    return {"checked": len(records), "agreement": round(share, 4), "different": different}


if __name__ == "__main__":
    sys.exit(main())
