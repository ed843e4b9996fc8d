"""Train the reading base of the quickstart: a tiny Qwen3-VL that reads easy pages but has never seen a bill of lading.

    python scripts/train_reading_base.py --out examples/reading_base
    python scripts/train_reading_base.py --out outputs/reading_base --seed 1 --language-minutes 40

A real project starts from Qwen3-VL-8B and needs none of this. The demonstration has no internet and no GPU, so it
starts from a base of 2 million parameters. This script makes it in about 75 minutes on two cores, in three stages:

1. Language: the language model alone learns to look things up on symbolic pages. A page is a grid of characters; the
   vision token of a cell is the embedding of its character plus a learned row and column vector plus 10 % noise. Tasks,
   several turns on one page: the value behind a label, several values (text, whole numbers, null), all pairs, a line, a
   table, a count.
2. Vision: the vision tower learns to produce exactly those vectors from rendered pages (the language model is frozen).
3. Joint: both together on rendered pages.

Labels and values are random words and codes; no document type of this project is among them. Writes the model folder,
`reading_base.json` (seed, steps, held-out reading score, time) and `training_log.csv`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.files import argument_path, write_json


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--out", type=argument_path, required=True, help="model folder to write")
    parser.add_argument(
        "--start-from", type=argument_path, help="go on from an earlier reading base instead of random weights"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and pages (default: 0)")
    parser.add_argument("--language-minutes", type=float, default=60, help="time for stage 1 (default: 60)")
    parser.add_argument("--vision-minutes", type=float, default=6, help="time for stage 2 (default: 6)")
    parser.add_argument("--joint-minutes", type=float, default=8, help="time for stage 3 (default: 8)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak rate of stage 1 (default: 2e-3)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for torch (default: 2)")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    import torch

    from toolkit.model.libraries import prepare_model_libraries
    from toolkit.model.tiny import build_config, build_model, build_processor, build_tokenizer
    from toolkit.reading_base.drawing import GlyphAtlas
    from toolkit.reading_base.stages import (
        CURRICULUM,
        Log,
        SymbolicPages,
        held_out_score,
        train_joint,
        train_language,
        train_vision,
    )
    from toolkit.reading_base.turns import Turns

    prepare_model_libraries()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    tokenizer = build_tokenizer()
    model = build_model(build_config(tokenizer), seed=args.seed)
    model.train()
    turns = Turns(tokenizer)
    symbols = SymbolicPages(model.config.text_config.hidden_size, *CURRICULUM[-1])
    log = Log(args.out / "training_log.csv", args.start_from)

    steps: dict[str, int] = {}
    atlas = GlyphAtlas()
    first_level = 0
    if args.start_from:
        from transformers import AutoModelForImageTextToText

        model = AutoModelForImageTextToText.from_pretrained(args.start_from, dtype=torch.float32).train()
        symbols.read_from(model, turns, atlas)
        first_level = len(CURRICULUM) - 1
    steps["language"] = train_language(
        model, turns, symbols, args.language_minutes, 1000 + args.seed, args.learning_rate, log, first_level
    )
    steps["vision"] = train_vision(
        model, symbols, turns, atlas, args.vision_minutes, 2000 + args.seed, log, fresh=not args.start_from
    )
    steps["joint"] = train_joint(model, turns, atlas, args.joint_minutes, 3000 + args.seed, log)
    score = held_out_score(model, turns, atlas, 9_000_000 + args.seed, 80)
    model.to(torch.bfloat16).save_pretrained(args.out)
    build_processor(tokenizer).save_pretrained(args.out)
    facts = {
        "what": "Reading base of the quickstart: a random Qwen3-VL in miniature, trained on synthetic pages only.",
        "license": "Apache-2.0 (made by scripts/train_reading_base.py from nothing but this repository)",
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out_reading": {k: round(v, 4) for k, v in score.items()},
        "runs": [
            *earlier_runs(args.start_from),
            {
                "seed": args.seed,
                "learning_rate": args.learning_rate,
                "steps": steps,
                "minutes": round((time.monotonic() - started) / 60, 1),
                "torch": torch.__version__,
            },
        ],
    }
    write_json(args.out / "reading_base.json", facts)
    return console.finish(args, facts)


def earlier_runs(folder: Path | None) -> list[dict[str, Any]]:
    """What the base this run started from says of its own making."""
    if folder is None:
        return []
    return list(json.loads((folder / "reading_base.json").read_text(encoding="utf-8"))["runs"])


if __name__ == "__main__":
    sys.exit(main())
