"""Make a tiny Qwen3-VL with random weights, dense or MoE: the real architecture, processor and chat template, for tests.

python scripts/make_tiny_model.py --out outputs/tiny
python scripts/make_tiny_model.py --out outputs/tiny-moe --moe --seed 1
"""

from __future__ import annotations

import sys

from toolkit import console
from toolkit.console import StageError, say
from toolkit.files import argument_path, shown


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--out", type=argument_path, required=True, help="model folder to write")
    parser.add_argument("--moe", action="store_true", help="mixture of experts (4 experts) instead of dense")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="write although the folder holds a model")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if (args.out / "config.json").is_file() and not args.overwrite:
        raise StageError(f"{shown(args.out)} already holds a model; choose another --out, or --overwrite")
    from toolkit.model.libraries import prepare_model_libraries

    prepare_model_libraries()
    from toolkit.model.tiny import build_config, build_model, build_processor, build_tokenizer

    tokenizer = build_tokenizer()
    model = build_model(build_config(tokenizer, moe=args.moe), seed=args.seed)
    model.save_pretrained(args.out)
    build_processor(tokenizer).save_pretrained(args.out)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say(f"{parameters:,} parameters -> {shown(args.out)}")
    return console.finish(args, {"parameters": parameters, "moe": args.moe, "out": shown(args.out)})


if __name__ == "__main__":
    sys.exit(main())
