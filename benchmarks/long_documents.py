"""Documents of up to 50 rows, read by trained models on a real vLLM: one answer in verbose JSON beside positional row shards.

Generates seal lists (a header, numbered rows of item and seal, two a line; the size of letter that examples/reading_base reads), builds records through
the data stages, trains the base twice on the same records and steps, as compact JSON whole and in positional shards, merges, serves each and reads
documents that neither saw: 50 rows, 0 to 5 rows, and those between. Prints scores with their paired interval, and seconds by bucket.

    python benchmarks/long_documents.py --work outputs/long --python .venv-serve-cpu/bin/python
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "scripts"))
BASE = "examples/reading_base"
ROWS, COLUMNS, CELL = 28, 24, 24.0  # the page's grid of characters, one a vision token; the cell in points
TOKENS = ROWS * COLUMNS
MOST = 50
PROMPT = "read the list and answer with one json object"
ARMS = {"whole": ["--wire", "json"], "shards": ["--wire", "positional"]}
PORT = 8791
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "seal list",
    "x-extract": {"document_column": ["file"]},
    "type": "object",
    "additionalProperties": False,
    "required": ["code", "name", "seals"],
    "properties": {
        "code": {
            "type": ["string", "null"],
            "maxLength": 20,
            "x-extract": {"column": "code", "compare": "id", "key": True},
        },
        "name": {"type": ["string", "null"], "maxLength": 20, "x-extract": {"column": "name", "compare": "text"}},
        "seals": {
            "type": "array",
            "maxItems": 60,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["number", "seal"],
                "properties": {
                    "number": {
                        "type": ["integer", "null"],
                        "minimum": 1,
                        "maximum": 99,
                        "x-extract": {"column": "number"},
                    },
                    "seal": {
                        "type": ["string", "null"],
                        "maxLength": 8,
                        "x-extract": {"column": "seal", "compare": "id", "key": True},
                    },
                },
            },
        },
    },
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for everything that is made; what is there is kept"
    )
    parser.add_argument("--python", type=Path, required=True, help="Python of an environment with vLLM")
    parser.add_argument("--documents", type=int, default=600, help="documents to train on (default: 600)")
    parser.add_argument(
        "--held-out",
        type=int,
        default=60,
        help="documents to read: a third each of 50, of 0 to 5 rows, and between (default: 60)",
    )
    parser.add_argument(
        "--timed", type=int, default=30, help="of them, how many are timed one after the other (default: 30)"
    )
    parser.add_argument("--epochs", type=float, default=4, help="of both trainings (default: 4)")
    parser.add_argument("--rows-per-shard", type=int, default=4, help="rows of a shard (default: 4)")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--until", choices=["training", "serving"], default="serving", help="stop behind this")
    return parser


def run(script: str, *arguments: object, accept: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """One script of the project; its --json line."""
    words = [sys.executable, str(REPOSITORY / f"scripts/{script}.py"), *map(str, arguments), "--json"]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, env=environment, cwd=REPOSITORY)
    if done.returncode not in accept:
        sys.exit(f"{script}.py ended with code {done.returncode}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def seal_list(rng: random.Random, rows: int) -> tuple[dict[str, Any], list[str]]:
    """A gold answer and the page's lines."""
    letters = "ABCDEFGHJKLMNPRSTUVWXYZ"
    seals = ["".join(rng.choice(letters) for _ in range(5)) for _ in range(rows)]
    gold: dict[str, Any] = {
        "code": "".join(rng.choice(letters) for _ in range(3)) + str(rng.randint(10_000, 99_999)),
        "name": "".join(rng.choice("BCDFGLMNPRST" if place % 2 == 0 else "AEIOU") for place in range(6)).title(),
        "seals": [{"number": number, "seal": seal} for number, seal in enumerate(seals, start=1)],
    }
    cells = [f"{number:>2d} {seal}" for number, seal in enumerate(seals, start=1)]
    header = [f"CODE {gold['code']}", f"NAME {gold['name'].upper()}"]
    rng.shuffle(header)
    gap = " " * rng.randint(2, 4)
    lines = [*header, *(gap.join(cells[start : start + 2]) for start in range(0, rows, 2))]
    assert len(lines) <= ROWS and max(map(len, lines)) <= COLUMNS
    return gold, lines


def pdf_of(lines: list[str], rng: random.Random) -> bytes:
    import pymupdf

    document = pymupdf.open()
    page = document.new_page(width=COLUMNS * CELL, height=ROWS * CELL)
    font, size = rng.choice(["cour", "cobo"]), rng.choice([19.5, 21.0, 22.5])
    width = pymupdf.get_text_length("M", fontname=font, fontsize=size)
    shape = page.new_shape()
    for row, line in enumerate(lines):
        for column, character in enumerate(line):
            if character != " ":
                shape.insert_text(
                    (column * CELL + (CELL - width) / 2, row * CELL + 18), character, fontname=font, fontsize=size
                )
    shape.commit()
    data: bytes = document.tobytes(deflate=True)
    return data


def rows_of(rng: random.Random, kind: str, number: int) -> int:
    if kind == "train":
        return rng.randint(0, MOST)
    return (MOST, rng.randint(0, 5), rng.randint(6, MOST - 1))[number % 3]


def records_of(work: Path, kind: str, documents: int) -> Path:
    """PDFs and labels of seal lists, through the data stages; the records' file."""
    here = work / kind
    records = here / "records.jsonl"
    if records.is_file():
        return records
    (here / "pdfs").mkdir(parents=True, exist_ok=True)
    table = []
    for number in range(documents):
        rng = random.Random(f"{kind}/{number}")
        gold, lines = seal_list(rng, rows_of(rng, kind, number))
        name = f"{kind} {number:04d}.pdf"
        (here / "pdfs" / name).write_bytes(pdf_of(lines, rng))
        head = {"file": name, "code": gold["code"], "name": gold["name"]}
        table += [{**head, **row} for row in gold["seals"] or [{"number": None, "seal": None}]]
    (here / "results.json").write_text(json.dumps(table), encoding="utf-8")
    (here / "seals.schema.json").write_text(json.dumps(SCHEMA, indent=1), encoding="utf-8")
    (here / "prompt.txt").write_text(PROMPT + "\n", encoding="utf-8")
    run("pdf_to_images", "--in", here / "pdfs", "--out-dir", here / "images", "--image-max-tokens", TOKENS)
    run(
        "build_jsonl_from_results",
        "--results",
        here / "results.json",
        "--images-dir",
        here / "images",
        "--schema",
        here / "seals.schema.json",
        "--prompt",
        here / "prompt.txt",
        "--out",
        records,
    )
    run("validate_jsonl", records)
    return records


def trained(args: Any, arm: str, records: Path) -> Path:
    """The merged model of one arm."""
    adapter, merged = args.work / f"{arm}-adapter", args.work / f"{arm}-merged"
    if not (merged / "extraction_config.json").is_file():
        shards = ["--rows-per-shard", args.rows_per_shard] if arm == "shards" else []
        resume = ["--resume"] if list(adapter.glob("checkpoint-*")) else ["--overwrite"]
        done = run(
            "train_lora",
            "--model",
            BASE,
            "--train",
            records,
            "--out",
            adapter,
            "--image-max-tokens",
            TOKENS,
            "--preset",
            "none",
            "--epochs",
            args.epochs,
            "--learning-rate",
            "5e-3",
            "--batch-size",
            4,
            "--accumulate",
            2,
            *resume,
            *ARMS[arm],
            *shards,
        )
        print(f"{arm}: trained, {json.dumps(done)}", flush=True)
        run("merge_adapter", "--adapter", adapter, "--model", BASE, "--out", merged)
    return merged


@contextlib.contextmanager
def serving(python: Path, model: Path) -> Iterator[str]:
    words = [sys.executable, "scripts/serve_vllm.py", str(model), "--port", str(PORT), "--python", str(python)]
    process = subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("ready: "):
                break
        else:
            sys.exit("".join(said[-20:]))
        yield f"http://127.0.0.1:{PORT}/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def rows_of_records(records: Path) -> dict[str, int]:
    from toolkit.records.record import answer_text, read_records

    return {record["id"]: len(json.loads(answer_text(record))["seals"]) for record in read_records(records)}


def main() -> None:
    args = build_parser().parse_args()
    os.chdir(REPOSITORY)
    records = records_of(args.work, "train", args.documents)
    held_out = records_of(args.work, "held-out", args.held_out)
    models = {arm: trained(args, arm, records) for arm in args.arms}
    if args.until == "training":
        return
    rows = rows_of_records(held_out)
    seconds: dict[str, dict[str, float]] = {}
    for arm, model in models.items():
        said, timed = args.work / f"{arm}.jsonl", args.work / f"{arm}-latency.json"
        with serving(args.python, model) as url:
            where = ["--server", url, "--contract", model, "--in", held_out]
            run("extract_documents", *where, "--out", said, "--tries", 1, "--overwrite", accept=(0, 1))
            run("benchmark_latency", *where, "--limit", args.timed, "--out", timed, "--overwrite")
        measured = json.loads(timed.read_text(encoding="utf-8"))["runs"][0]["documents"]
        seconds[arm] = {one["id"]: one["seconds"] for one in measured if not one.get("cold")}
    print(f"{'rows':8s}{'documents':>11s}" + "".join(f"{arm + ' p50, s':>15s}" for arm in args.arms))
    for name, low, high in (("0-5", 0, 5), ("6-49", 6, 49), ("50", 50, 50)):
        of = [[s for identity, s in seconds[arm].items() if low <= rows[identity] <= high] for arm in args.arms]
        print(f"{name:8s}{len(of[0]):11d}" + "".join(f"{statistics.median(part):15.2f}" for part in of if part))
    *others, last = args.arms
    against = [word for arm in others for word in ("--against", f"{arm}={args.work / f'{arm}.jsonl'}")]
    found = run(
        "evaluate_predictions",
        "--pred",
        args.work / f"{last}.jsonl",
        "--name",
        last,
        *against,
        "--gold",
        held_out,
        accept=(0, 1),
    )
    for score in ("micro_f1", "header_macro_f1", "row_f1", "row_set_exact", "valid"):
        line = (
            f"{score:18s}"
            + "".join(f"{arm}: {found['against'][arm][score]:.4g}  " for arm in others)
            + f"{last}: {found[score]:.4g}"
        )
        for arm in others:
            paired = found["against"][arm]["difference"].get(score)
            if paired:
                low, high = paired["interval"]
                line += (
                    f"  {last} less {arm}: {paired['difference']:+.4f} ({low:+.4f} to {high:+.4f}), {paired['verdict']}"
                )
        print(line)


if __name__ == "__main__":
    main()
