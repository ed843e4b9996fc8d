"""What JPEG pages cost and save: the records' pages encoded anew at the same size, read by the same model, scored against the same labels.

Prints for PNG and each JPEG quality: bytes of a page, field micro-F1 and row F1, answers that are no longer those of the PNG pages. The model was
trained on the pages as they are, so this is what a client risks that sends JPEG to a model trained on PNG. `extract_documents.py` does the reading.

    python benchmarks/jpeg_pages.py --work outputs/jpeg --model examples/reading_base --adapter outputs/quickstart/adapter --in data/quickstart/held_out/records.jsonl
    python benchmarks/jpeg_pages.py --work outputs/jpeg --server http://127.0.0.1:8000/v1 --contract outputs/bl-8b-merged --in data/splits/test.jsonl --quality 60 90
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "scripts"))

from toolkit.evaluation.score_table import ScoreTable  # noqa: E402
from toolkit.evaluation.scoring import score_document  # noqa: E402
from toolkit.model.contract import load_contract  # noqa: E402 - the scripts' folder comes first
from toolkit.records.record import answer_text, images_of, read_records  # noqa: E402


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for pages and predictions")
    parser.add_argument("--in", dest="input", type=Path, required=True, help="JSONL of records with labels")
    parser.add_argument("--quality", nargs="+", type=int, default=[95, 90, 75, 50, 30], help="of the JPEG pages")
    reader = parser.add_mutually_exclusive_group(required=True)
    reader.add_argument("--model", help="model folder or name, read here")
    reader.add_argument("--server", help="or a server, up to /v1")
    parser.add_argument("--adapter", help="adapter on the model")
    parser.add_argument("--contract", type=Path, help="with --server: the model folder that it serves")
    return parser


def encoded(records: list[dict[str, Any]], folder: Path, quality: int | None) -> tuple[Path, float]:
    """A JSONL whose records name pages in `folder`, PNG (quality None) or JPEG in full colour, and the mean bytes of a page."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    sizes: list[int] = []
    lines = []
    for record in records:
        record = copy.deepcopy(record)
        for turn in record["messages"]:
            for part in turn["content"]:
                if part["type"] == "image":
                    path = folder / f"{len(sizes):05d}.{'png' if quality is None else 'jpg'}"
                    with Image.open(part["image"]) as image:
                        page = image.convert("RGB")
                    if quality is None:
                        page.save(path, compress_level=1)
                    else:
                        page.save(path, quality=quality, subsampling=0)
                    sizes.append(path.stat().st_size)
                    part["image"] = str(path.resolve())
        lines.append(json.dumps(record, ensure_ascii=False))
    file = folder / "records.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file, sum(sizes) / len(sizes)


def main() -> None:
    args = build_parser().parse_args()
    records = list(read_records(args.input))
    where = ["--server", args.server, "--contract", args.contract] if args.server else ["--model", args.model]
    where += ["--adapter", args.adapter] if args.adapter else []
    target = load_contract(Path(args.contract or args.adapter or args.model)).target
    before: dict[str, Any] = {}
    print(f"{len(records)} documents, {sum(len(images_of(record)) for record in records)} pages")
    print(f"{'':9s}{'KB a page':>10s}{'micro-F1':>10s}{'row F1':>9s}{'answers changed':>17s}")
    for quality in (None, *args.quality):
        name = "png" if quality is None else f"jpeg {quality}"
        file, size = encoded(records, args.work / name.replace(" ", "-"), quality)
        out = file.with_name("predictions.jsonl")
        words = [
            sys.executable,
            REPOSITORY / "scripts/extract_documents.py",
            *where,
            "--in",
            file,
            "--out",
            out,
            "--overwrite",
            "--tries",
            1,
        ]
        done = subprocess.run([str(word) for word in words], stdout=subprocess.DEVNULL)
        if done.returncode not in (0, 1):
            sys.exit(f"extract_documents.py ended with code {done.returncode}")
        lines = {line["id"]: line for line in map(json.loads, out.read_text(encoding="utf-8").splitlines())}
        table = ScoreTable(target)
        for record in records:
            line = lines[record["id"]]
            table.add(
                score_document(
                    target, record["id"], json.loads(answer_text(record)), line["prediction"], line["status"]
                )
            )
        answers = {identity: line["prediction"] for identity, line in lines.items()}
        before = before or answers
        changed = sum(answers[identity] != before[identity] for identity in answers)
        found = table.summary()
        row = "-" if found["row_f1"] is None else f"{found['row_f1']:.4f}"
        print(f"{name:9s}{size / 1000:10.1f}{found['micro_f1']:10.4f}{row:>9s}{changed:17d}", flush=True)


if __name__ == "__main__":
    main()
