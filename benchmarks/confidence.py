"""What the confidence is worth: a tiny model of chosen strength, calibrated on its validation split, judged on documents of another seed.

For each layout: sample documents, training for --epochs (few, so that it still makes errors), extraction of the validation split and of
held-out documents, calibrate_confidence.py, evaluate_predictions.py. Prints AUROC, calibration error and accuracy at 80 % coverage of
the bare token probabilities and of the calibrated confidence.

    python benchmarks/confidence.py --work outputs/confidence --layout easy --epochs 1.5
    python benchmarks/confidence.py --work outputs/confidence --layout realistic --epochs 4
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "scripts"))

from toolkit.answers.confidence import raw_confidence  # noqa: E402 - the scripts' folder comes first
from toolkit.records.record import answer_text  # noqa: E402

BASE = "examples/reading_base"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--layout", default="easy", help="layout of the sample documents (default: easy)")
    parser.add_argument("--epochs", default="1.5", help="training epochs (default: 1.5)")
    parser.add_argument("--documents", type=int, default=600, help="to train and calibrate on (default: 600)")
    parser.add_argument("--held-out", type=int, default=150, help="to judge on (default: 150)")
    parser.add_argument("--tokens", default="384", help="vision tokens of a page (default: 384)")
    parser.add_argument(
        "--longest", type=int, default=900, help="characters of an answer; documents of longer ones are left out"
    )
    parser.add_argument("--seed", type=int, default=11)
    return parser


def stage(script: str, *arguments: object, accept: tuple[int, ...] = (0,)) -> dict[str, Any]:
    command = [sys.executable, f"scripts/{script}", *map(str, arguments), "--json"]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    if done.returncode not in accept:
        sys.exit(f"{script} ended with code {done.returncode}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def records(here: Path, count: int, seed: int, args: Any) -> Path:
    """Sample documents taken through the data stages."""
    stage(
        "make_sample_documents.py",
        "--out-dir",
        here / "samples",
        "--documents",
        count,
        "--seed",
        seed,
        "--layout",
        args.layout,
        "--no-mess",
    )
    zips = [word for name in ("combined", "bls_another") for word in ("--zip", here / f"samples/{name}.zip")]
    stage("extract_combined_zip.py", *zips, "--out-dir", here / "raw")
    stage(
        "pdf_to_images.py",
        "--in",
        here / "samples/pdfs",
        "--out-dir",
        here / "images",
        "--image-max-tokens",
        args.tokens,
        "--text-layer",
        "--text-layer-dir",
        here / "ocr",
    )
    stage(
        "build_jsonl_from_results.py",
        "--results",
        here / "samples/results.json",
        "--images-dir",
        here / "raw",
        "--images-dir",
        here / "images",
        "--prompt",
        "examples/quickstart/prompt.txt",
        "--out",
        here / "records.jsonl",
    )
    lines = (here / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    short = [line for line in lines if len(answer_text(json.loads(line))) <= args.longest]
    (here / "records.jsonl").write_text("".join(short), encoding="utf-8")
    return here / "records.jsonl"


def main() -> None:
    args = build_parser().parse_args()
    work = args.work.resolve() / args.layout
    shutil.rmtree(work, ignore_errors=True)
    training = records(work / "documents", args.documents, args.seed, args)
    held_out = records(work / "held_out", args.held_out, 1_000_000 + args.seed, args)
    stage("split_jsonl.py", "--in", training, "--out-dir", work / "splits", "--ratios", "85/15/0")
    stage(
        "train_lora.py",
        "--model",
        BASE,
        "--train",
        work / "splits/train.jsonl",
        "--out",
        work / "adapter",
        "--image-max-tokens",
        args.tokens,
        "--epochs",
        args.epochs,
        "--learning-rate",
        "5e-3",
        "--batch-size",
        8,
        "--accumulate",
        1,
    )

    def extract(jsonl: Path, ocr: Path, out: str) -> Path:
        stage(
            "extract_documents.py",
            "--model",
            BASE,
            "--adapter",
            work / "adapter",
            "--in",
            jsonl,
            "--out",
            work / out,
            "--batch-size",
            24,
            "--tries",
            1,
            "--text-layer-dir",
            ocr,
            accept=(0, 1),
        )
        return work / out

    validation = extract(work / "splits/val.jsonl", work / "documents/ocr", "validation.jsonl")
    fitted = stage(
        "calibrate_confidence.py",
        "--pred",
        validation,
        "--gold",
        work / "splits/val.jsonl",
        "--contract",
        work / "adapter",
    )
    calibrated = extract(held_out, work / "held_out/ocr", "calibrated.jsonl")
    # The same answers with the probabilities of their tokens alone.
    lines = [json.loads(line) for line in calibrated.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["confidence"] = {
            name: raw_confidence(known) for name, known in (line.get("features") or {}).items()
        } or None
    bare = work / "bare.jsonl"
    bare.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    scores = stage(
        "evaluate_predictions.py",
        "--pred",
        calibrated,
        "--against",
        f"bare={bare}",
        "--gold",
        held_out,
        "--report",
        work / "report.html",
    )
    print(
        f"layout {args.layout}, {args.epochs} epochs: micro-F1 {scores['micro_f1']:.3f}, calibrated on {fitted['documents']} documents with {fitted['wrong']} wrong values, "
        f"judged on {scores['documents']}"
    )
    for label, found in (("bare", scores["against"]["bare"]["confidence"]), ("calibrated", scores["confidence"])):
        print(
            f"  {label:12s} {found['values']} values, {found['accuracy']:.3f} right: AUROC {found['auroc']:.3f}, calibration error {found['ece']:.3f}, "
            f"accuracy at 80 % coverage {found['accuracy_at_80']:.3f}"
        )
    print("  weights " + ", ".join(f"{name} {value:.2f}" for name, value in fitted["weights"].items()))


if __name__ == "__main__":
    main()
