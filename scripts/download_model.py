"""Fetch a base model from its hub into a folder, once; a run that was interrupted goes on. Model code is never fetched.

The training and serving scripts then need no hub: give them the folder. In Azure ML azureml/train/import-base.yml runs
this in the cloud, so that 16 GB need not pass through your own line.

    python scripts/download_model.py --model Qwen/Qwen3-VL-8B-Instruct --out models/Qwen3-VL-8B-Instruct
"""

from __future__ import annotations

import os
import sys
from typing import Any

from toolkit import console
from toolkit.console import ExitCode, StageError, one_line, say
from toolkit.files import argument_path, shown

# Weights and what belongs to them; no pickles, no code.
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.md", "LICENSE*")


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--model", required=True, metavar="OWNER/NAME", help="the model's name on the hub")
    parser.add_argument("--revision", default="main", help="commit, tag or branch (default: main)")
    parser.add_argument("--out", type=argument_path, required=True, help="folder to fill")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise StageError("HF_HUB_OFFLINE forbids the hub; unset it for this command")
    commit = fetched(args)
    files = sorted(path for path in args.out.rglob("*") if path.is_file() and ".cache" not in path.parts)
    gib = sum(path.stat().st_size for path in files) / 2**30
    if not (args.out / "config.json").is_file() or not any(path.suffix == ".safetensors" for path in files):
        raise StageError(f"{args.model}: it has no config.json with safetensors weights; is it a model?")
    say(f"{shown(args.out)}: {args.model} at {commit}, {len(files)} files, {gib:.1f} GiB")
    say(f"next: python scripts/train_lora.py --model {shown(args.out)} --train data/splits/train.jsonl")
    return console.finish(args, {"folder": shown(args.out), "commit": commit, "gib": round(gib, 2)})


def fetched(args: Any) -> str:
    """Fill the folder; returns the commit. Raises StageError with one sentence."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        commit = HfApi().model_info(args.model, revision=args.revision, timeout=30).sha
        snapshot_download(args.model, revision=commit, local_dir=args.out, allow_patterns=list(WANTED))
    except HFValidationError:
        raise StageError(f"--model {args.model}: OWNER/NAME is needed, as on the hub") from None
    except Exception as error:  # the client raises its own kinds and its HTTP library's
        sentence = f"{args.model}: the hub cannot be read ({type(error).__name__}: {one_line(error)})"
        raise StageError(f"{sentence}; run the same command again, it goes on", ExitCode.USAGE) from None
    return str(commit)


if __name__ == "__main__":
    sys.exit(main())
