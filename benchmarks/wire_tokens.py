"""Tokens of a bill of lading in each form of its answer, counted with Qwen's real merges, for 0 to 100 containers.

The merge table comes from a package on the index and is used for measuring only:

    python -m pip install tiktoken
    python -m pip install --no-deps dashscope
    python benchmarks/wire_tokens.py
    python benchmarks/wire_tokens.py --merges qwen.tiktoken
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import random
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from toolkit.answers.wire_format import WireFormat  # noqa: E402
from toolkit.model.token_counts import estimated_tokens  # noqa: E402
from toolkit.records.prompt import generated_prompt  # noqa: E402
from toolkit.records.record import make_record  # noqa: E402
from toolkit.samples.values import container_number  # noqa: E402
from toolkit.schema.target import TargetSchema  # noqa: E402

SCHEMA = TargetSchema.load(SCRIPTS.parent / "schemas/bill_of_lading.schema.json")
# How Qwen2 and later split a text before merging; each digit stands alone (their tokenizer's own configuration).
SPLIT = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


def encoding(merges: Path):
    """A tiktoken encoding of Qwen's merges."""
    import tiktoken

    ranks = {}
    for line in merges.read_bytes().splitlines():
        if line:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
    return tiktoken.Encoding("qwen", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={})


def bill(containers: int, draw: random.Random) -> dict:
    rows = [
        {
            "container_number": container_number(draw),
            "container_size": draw.choice(("20", "40")),
            "container_type": draw.choice(("GP", "HC")),
        }
        for _ in range(containers)
    ]
    return SCHEMA.ordered(
        {
            "consignee_name": "SUNRISE TRADING SDN BHD",
            "bl_number": "SGNS25093550",
            "vessel_name": "SITC INCHON V.2524N",
            "port_of_loading": "HO CHI MINH",
            "port_of_discharge": "Port Klang",
            "detention_free_days": 7,
            "demurrage_free_days": 14,
            "combined_free_days": None,
            "container_summary": f"{containers} X 40HC" if containers else None,
            "containers": rows,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--merges", type=Path, default=None, help="qwen.tiktoken (default: that of the package dashscope)"
    )
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    found = importlib.util.find_spec("dashscope") if args.merges is None else None
    merges = args.merges or (Path(found.origin).parent / "resources/qwen.tiktoken" if found and found.origin else None)
    if merges is None or not merges.is_file():
        raise SystemExit("no merge table: python -m pip install --no-deps dashscope, or give --merges FILE")
    tokens = encoding(merges)
    print(
        f"{'containers':>10s} {'json.dumps':>11s} {'compact':>9s} {'positional':>11s} {'of dumps':>9s} {'estimated':>10s}"
    )
    for containers in (0, 5, 20, 50, 100):
        answer = bill(containers, random.Random(args.seed))
        forms = {"dumps": json.dumps(answer)} | {
            kind: WireFormat(SCHEMA, kind).encoded(answer) for kind in ("json", "positional")
        }
        counts = {name: len(tokens.encode(text)) for name, text in forms.items()}
        estimate = estimated_tokens(make_record("x", [], generated_prompt(SCHEMA), forms["json"], {}))[1]
        print(
            f"{containers:10d} {counts['dumps']:11d} {counts['json']:9d} {counts['positional']:11d} {counts['positional'] / counts['dumps']:9.1%} {estimate:10d}"
        )


if __name__ == "__main__":
    main()
