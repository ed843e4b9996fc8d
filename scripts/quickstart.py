"""Every stage on this machine: sample documents and labels in, a fine-tuned model out, scored on unseen documents.

Sets up .venv, then runs the stages as you would, script by script, and prints each command before it runs. The
demonstration uses generated bills of lading in an easy layout and a tiny Qwen3-VL on the CPU. After the set-up it takes
under 10 minutes on two cores. Writes data/quickstart and outputs/quickstart.

    python scripts/quickstart.py
    python scripts/quickstart.py --seed 7 --json
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import ExitCode, StageError, say
from toolkit.files import REPOSITORY
from toolkit.project import environments

BASE_MODEL = "examples/reading_base"
TOKENS = "384"
NOTE = (
    "Demonstration: generated bills of lading in large fixed-pitch type (one character per vision token), "
    "which a reading base of 2 million parameters can read on a CPU. "
    "A real Qwen3-VL needs neither this layout nor this base."
)
SCORES = ("micro_f1", "header_macro_f1", "row_f1", "document_exact")


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--documents", type=int, default=600, help="documents to train on and validate (default: 600)")
    parser.add_argument("--held-out", type=int, default=72, help="documents of another seed to score on (default: 72)")
    parser.add_argument("--seed", type=int, default=1, help="of documents and training (default: 1)")
    parser.add_argument("--epochs", type=float, default=4, help="training epochs (default: 4)")
    parser.add_argument("--here", action="store_true", help="use the current environment as it is")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(arguments)
    started = time.monotonic()
    if not args.here:
        environments.make("main")
        if not environments.is_inside("main"):
            return environments.start_inside("main", __file__, arguments)
    os.chdir(REPOSITORY)
    if not Path(BASE_MODEL, "config.json").is_file():
        raise StageError(
            f"{BASE_MODEL} is not in this clone; make it with: python scripts/train_reading_base.py --out {BASE_MODEL}"
        )
    road = Road(args)
    road.data()
    road.training()
    scores = road.evaluation()
    result = road.result(scores, time.monotonic() - started)
    tell(result)
    return console.finish(args, result)


class Road:
    """The stages in order; `seconds` by stage name."""

    def __init__(self, args: Any) -> None:
        self.args = args
        self.seconds: dict[str, float] = {}
        self.data_dir, self.out_dir = Path("data/quickstart"), Path("outputs/quickstart")
        for folder in (self.data_dir, self.out_dir):
            if folder.exists():
                shutil.rmtree(folder)

    def stage(self, name: str, script: str, line: str, *more: str, accept: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """Print and run one script; its --json line is the result. Stops the road where the script fails.

        `line` are arguments without spaces; those that have some are in `more`.
        """
        words = [*line.split(), *more]
        say(f"\n> python scripts/{script} " + " ".join(f'"{word}"' if " " in word else word for word in words))
        began = time.monotonic()
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(
            [sys.executable, f"scripts/{script}", *words, "--json"],
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        try:
            output, _ = process.communicate()
        except KeyboardInterrupt:
            process.wait()
            raise
        self.seconds[name] = round(self.seconds.get(name, 0) + time.monotonic() - began, 1)
        *shown, last = output.strip().splitlines() or [""]
        for text in shown:
            print(text, file=sys.stderr)
        if process.returncode not in accept:
            raise StageError(
                f"the stage '{name}' ended with code {process.returncode}; its message is above", ExitCode.PROBLEMS
            )
        return dict(json.loads(last))

    def data(self) -> None:
        """Stages 1 to 6, for the training documents and for the held-out documents of another seed."""
        for name, documents, seed in (
            ("documents", self.args.documents, self.args.seed),
            ("held_out", self.args.held_out, 1_000_000 + self.args.seed),
        ):
            here = self.data_dir / name
            samples = f"--out-dir {here / 'samples'} --documents {documents} --seed {seed} --layout easy"
            self.stage("sample documents", "make_sample_documents.py", samples)
            zips = f"--zip {here / 'samples/combined.zip'} --zip {here / 'samples/bls_another.zip'}"
            self.stage("extract zips", "extract_combined_zip.py", f"{zips} --out-dir {here / 'raw'}")
            pages = f"--in {here / 'samples/pdfs'} --out-dir {here / 'images'} --image-max-tokens {TOKENS}"
            self.stage("render PDFs", "pdf_to_images.py", pages)
            folders = [f"--images-dir {here / folder}" for folder in ("raw/combined", "raw/bls_another", "images")]
            labels = f"--results {here / 'samples/results.json'} {' '.join(folders)}"
            rest = f"--prompt examples/quickstart/prompt.txt --out {here / 'records.jsonl'} --allow-problems"
            self.stage("build records", "build_jsonl_from_results.py", f"{labels} {rest}")
            self.stage("validate", "validate_jsonl.py", f"{here / 'records.jsonl'}")
            self.stage("verify images", "verify_image_paths.py", f"--in {here / 'records.jsonl'}")
        records = self.data_dir / "documents/records.jsonl"
        self.stage("statistics", "dataset_stats.py", f"--in {records} --model {BASE_MODEL}")
        where = f"--in {records} --out-dir {self.data_dir / 'splits'}"
        self.splits = self.stage("split", "split_jsonl.py", f"{where} --ratios 96/4/0")
        self.held_out = self.data_dir / "held_out/records.jsonl"

    def training(self) -> None:
        """Stage 7. The high rate and few epochs suit 2 million parameters; Qwen3-VL-8B needs 1e-4 (see docs)."""
        files = f"--train {self.data_dir / 'splits/train.jsonl'} --val {self.data_dir / 'splits/val.jsonl'}"
        where = f"--model {BASE_MODEL} {files} --out {self.out_dir / 'adapter'}"
        form = f"--image-max-tokens {TOKENS} --preset none --eval-documents 0"
        steps = f"--epochs {self.args.epochs:g} --learning-rate 5e-3 --batch-size 8 --accumulate 1"
        self.trained = self.stage("train", "train_lora.py", f"{where} {form} {steps} --seed {self.args.seed}")

    def evaluation(self) -> dict[str, Any]:
        """Stages 8 and 9: base and adapter on documents they never saw, and two controls."""
        adapter = self.out_dir / "adapter"
        runs = {
            "adapter": f"--adapter {adapter}",
            "base": f"--contract {adapter}",
            "adapter without grammar": f"--adapter {adapter} --no-grammar",
            "adapter on shuffled pages": f"--adapter {adapter} --shuffle-pages",
        }
        files = {}
        self.calibrate(adapter)
        for name, model in runs.items():
            files[name] = self.data_dir / "predictions" / f"{name.replace(' ', '_')}.jsonl"
            self.extract(name, model, self.held_out, files[name])
        against = [word for name in list(runs)[1:] for word in ("--against", f"{name}={files[name]}")]
        self.report = self.data_dir / "reports/report.html"
        named = f"--pred {files['adapter']} --name adapter"
        gold = f"--gold {self.held_out} --report {self.report} --note"
        return self.stage("evaluate", "evaluate_predictions.py", named, *against, *gold.split(), NOTE)

    def extract(self, name: str, model: str, documents: Path, out: Path) -> None:
        """Predictions of the base with what `model` names beside it; a document without an answer is no failure."""
        files = f"--model {BASE_MODEL} {model} --in {documents} --out {out}"
        self.stage(f"extract: {name}", "extract_documents.py", f"{files} --batch-size 24 --tries 1", accept=(0, 1))

    def calibrate(self, adapter: Path) -> None:
        """Between the two: predictions of the validation documents show how far the model's confidence can be trusted.

        A model that makes hardly any mistake there gives too few to fit; its confidence stays as it is, and the stage
        says so.
        """
        validation, predictions = self.data_dir / "splits/val.jsonl", self.data_dir / "predictions/val.jsonl"
        self.extract("validation", f"--adapter {adapter}", validation, predictions)
        files = f"--pred {predictions} --gold {validation} --contract {adapter}"
        self.stage("calibrate", "calibrate_confidence.py", files, accept=(0, 1))

    def result(self, scores: dict[str, Any], seconds: float) -> dict[str, Any]:
        def of(values: dict[str, Any]) -> dict[str, float]:
            return {key: round(values[key], 4) for key in SCORES}

        return {
            "seconds": round(seconds, 1),
            "stage_seconds": self.seconds,
            "documents": {"train": self.splits["train"], "val": self.splits["val"], "held_out": scores["documents"]},
            "adapter": of(scores),
            "confidence": {key: scores["confidence"][key] for key in ("auroc", "ece", "accuracy_at_80")},
            "base": of(scores["against"]["base"]),
            "without_grammar": of(scores["against"]["adapter without grammar"]),
            "shuffled_pages": of(scores["against"]["adapter on shuffled pages"]),
            "paths": {
                "adapter": self.trained["out"],
                "loss_curve": self.trained["loss_curve"],
                "report": self.report.as_posix(),
                "metrics": self.report.with_suffix(".json").as_posix(),
                "predictions": (self.data_dir / "predictions").as_posix(),
                "data": self.data_dir.as_posix(),
            },
        }


def tell(result: dict[str, Any]) -> None:
    """The table at the end, and the next command."""
    say("\nstage                                seconds")
    for name, seconds in result["stage_seconds"].items():
        say(f"  {name:34s} {seconds:7.1f}")
    say(f"  {'total':34s} {result['seconds']:7.1f}")
    counts = result["documents"]
    held_out = f"{counts['held_out']} held-out documents of another seed"
    say(f"\n{counts['train']} training, {counts['val']} validation, {held_out}")
    say(f"{'':28s}" + "".join(f"{key:>17s}" for key in SCORES))
    for label, key in (
        ("base model", "base"),
        ("fine-tuned adapter", "adapter"),
        ("  without the grammar", "without_grammar"),
        ("  on shuffled pages (control)", "shuffled_pages"),
    ):
        say(f"{label:28s}" + "".join(f"{result[key][score]:17.4f}" for score in SCORES))
    confidence = result["confidence"]
    if confidence["auroc"] is not None:
        surest = f"of the surest 80 %, {confidence['accuracy_at_80']:.3f} are right"
        say(f"\nconfidence of the adapter's values: AUROC {confidence['auroc']:.3f}; {surest}")
    say("\nwhat was made:")
    for name, path in result["paths"].items():
        say(f"  {name:12s} {path}")
    say(f"\nOpen {result['paths']['report']} in a browser. {NOTE}")
    say("\nWith your own documents and a GPU of 24 GB or more, after the data stages (see README):")
    say(
        "  python scripts/train_lora.py --model Qwen/Qwen3-VL-8B-Instruct --train data/splits/train.jsonl "
        "--val data/splits/val.jsonl --out outputs/bl-8b"
    )


if __name__ == "__main__":
    sys.exit(main())
