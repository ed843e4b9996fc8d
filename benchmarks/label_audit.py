"""The label audit on generated documents: which of 5 % injected label errors it finds, and what it calls wrong that is right.

Makes documents with exact labels, changes, empties or leaves out 5 % of all values, runs scripts/audit_labels.py, and compares.

    python benchmarks/label_audit.py --documents 300 --layout realistic --seed 1
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
CHOICES = {"container_size": ["20", "40", "45"], "container_type": ["GP", "HC", "RF", "OT"]}


def misread(text: str, draw: random.Random) -> str:
    """One letter or digit is another one."""
    at = draw.choice([i for i, c in enumerate(text) if c.isalnum()])
    pool = "0123456789" if text[at].isdigit() else "ABCDEFGHKLMNPRSTUVWXYZ"
    return text[:at] + draw.choice([c for c in pool if c != text[at].upper()]) + text[at + 1 :]


def with_errors(path: Path, seed: int) -> list[tuple[str, str, int | None, str]]:
    """Change 5 % of all values of a bill-of-lading JSONL in place; `(document, field, row, kind)` of each error.

    Header values become another document's, a misread one, or nothing; rows are left out (at most one a document); cells
    become another choice, container numbers are misread.
    """
    draw = random.Random(seed)
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    golds: list[dict[str, Any]] = [json.loads(record["messages"][-1]["content"][0]["text"]) for record in records]
    originals: list[dict[str, Any]] = json.loads(json.dumps(golds))
    truth: list[tuple[str, str, int | None, str]] = []
    for record, gold in zip(records, golds, strict=True):
        for name, value in gold.items():
            if name == "containers" or value is None or draw.random() >= 0.05:
                continue
            others = [g[name] for g in originals if g[name] not in (None, value)]
            kind = draw.choice(["misread", "other", "empty"])
            if kind == "misread" and not (isinstance(value, str) and name != "port_of_discharge"):
                kind = "other"
            if kind == "misread":
                gold[name] = misread(value, draw)
            else:
                gold[name] = draw.choice(others) if kind == "other" else None
            truth.append((record["id"], name, None, kind))
        left_out = next(
            (i for i in range(len(gold["containers"])) if len(gold["containers"]) > 1 and draw.random() < 0.05), None
        )
        if left_out is not None:
            gold["containers"].pop(left_out)
            truth.append((record["id"], "containers[].container_number", None, "row left out"))
        for number, row in enumerate(gold["containers"]):
            for name, value in row.items():
                if value is not None and draw.random() < 0.05:
                    row[name] = (
                        draw.choice([c for c in CHOICES[name] if c != value])
                        if name in CHOICES
                        else misread(value, draw)
                    )
                    truth.append((record["id"], f"containers[].{name}", number, name))
        record["messages"][-1]["content"][0]["text"] = json.dumps(gold, ensure_ascii=False, separators=(",", ":"))
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return truth


def outcome(
    truth: list[tuple[str, str, int | None, str]], findings: list[dict[str, Any]]
) -> tuple[Counter[str], Counter[str], int]:
    """Errors found and errors made by kind, and suspicious values whose document and field hold no error at all."""
    suspicious = [finding for finding in findings if finding["suspicion"] >= 0.5]
    found: Counter[str] = Counter()
    for document, name, row, kind in truth:
        found[kind] += any(
            s["document"] == document and s["field"] == name and (row is None or s["row"] in (row, None))
            for s in suspicious
        )
    wrong = {(document, name) for document, name, _, _ in truth}
    false = sum((s["document"], s["field"]) not in wrong for s in suspicious)
    return found, Counter(kind for *_, kind in truth), false


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=300, help="a third of them are PDFs, which have a text layer")
    parser.add_argument("--layout", choices=["easy", "realistic"], default="realistic")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stages = (
            [
                "make_sample_documents",
                "--out-dir",
                "s",
                "--documents",
                args.documents,
                "--layout",
                args.layout,
                "--no-mess",
            ],
            ["pdf_to_images", "--in", "s/pdfs", "--text-layer"],
            [
                "build_jsonl_from_results",
                "--results",
                "s/results.json",
                "--images-dir",
                "data/images",
                "--allow-problems",
                "--schema",
                REPOSITORY / "schemas/bill_of_lading.schema.json",
            ],
        )
        for name, *words in stages:
            subprocess.run(
                [sys.executable, REPOSITORY / f"scripts/{name}.py", *map(str, words)],
                cwd=folder,
                check=True,
                capture_output=True,
            )
        truth = with_errors(Path(folder, "data/train.jsonl"), args.seed)
        done = subprocess.run(
            [sys.executable, REPOSITORY / "scripts/audit_labels.py", "--in", "data/train.jsonl", "--json"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        summary = json.loads(done.stdout.splitlines()[-1])
        lines = Path(folder, "data/reports/audit/findings.jsonl").read_text(encoding="utf-8").splitlines()
    found, made, false = outcome(truth, [json.loads(line) for line in lines])
    total = sum(made.values())
    print(
        f"{args.layout}, seed {args.seed}: {summary['documents']} documents, {summary['values']} values, {total} errors injected"
    )
    print(
        f"found {sum(found.values())} ({sum(found.values()) / total:.1%}); false alarms {false} ({false / summary['values']:.2%} of the values)"
    )
    print(", ".join(f"{kind} {found[kind]}/{count}" for kind, count in made.most_common()))


if __name__ == "__main__":
    main()
