"""Build, split and statistics at growing sizes: CPU seconds and memory of the scripts themselves, each its own process.

Build joins N documents with 3 N page images (files of one tiny picture) from a table of rows. Split and statistics read N generated
records of about 1.5 KB whose images are all there by name only (--compare-images names) or one shared file.

    python benchmarks/data_stages_at_scale.py
    python benchmarks/data_stages_at_scale.py --build 1000 10000 --split 10000
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from validate_records import record_lines  # noqa: E402

from toolkit.samples.values import container_number  # noqa: E402

MEASURE = "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=sys.stderr).returncode; used = resource.getrusage(resource.RUSAGE_CHILDREN); print(code, used.ru_utime + used.ru_stime, used.ru_maxrss)"


def measured(folder: Path, script: str, *arguments: object) -> tuple[float, float]:
    """`(CPU seconds, MiB at most)` of one script. Raises where it fails."""
    command = [sys.executable, "-c", MEASURE, sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    code, seconds, memory = done.stdout.split()
    if code != "0":
        raise SystemExit(f"{script} ended with {code}: {done.stderr[-400:]}")
    return float(seconds), int(memory) / 1024


def build(folder: Path, documents: int) -> tuple[float, float]:
    draw = random.Random(documents)
    (folder / "img").mkdir()
    from PIL import Image

    rows = []
    for number in range(documents):
        if number % 10_000 == 0:  # file systems bound the names of one file
            picture = folder / f"page{number}.png"
            Image.new("RGB", (32, 32)).save(picture)
        name = f"BL {number:07d}"
        for _ in range(draw.randint(1, 4)):
            rows.append(
                {
                    "Filename": f"{name}.pdf",
                    "bl_number": f"B{number}",
                    "consignee_name": f"C {number % 997}",
                    "Container_Number": container_number(draw),
                    "Container_Size": "40",
                    "Container_Type": "HC",
                }
            )
        for page in (1, 2, 3):
            os.link(picture, folder / f"img/BL_{number:07d}_page_{page:04d}.png")
    (folder / "results.json").write_text(json.dumps(rows))
    return measured(
        folder,
        "build_jsonl_from_results.py",
        "--images-dir",
        "img",
        "--schema",
        SCRIPTS.parent / "schemas/bill_of_lading.schema.json",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--split", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    args = parser.parse_args()
    for documents in args.build:
        with tempfile.TemporaryDirectory() as temporary:
            seconds, memory = build(Path(temporary), documents)
            print(
                f"build {documents:8d} documents, {3 * documents} images: {seconds:7.2f} s CPU, {1e6 * seconds / documents:6.0f} us a document, {memory:.0f} MiB",
                flush=True,
            )
    for records in args.split:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            with (folder / "d.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(line + "\n" for line in record_lines(records, 1))
            for what, arguments in (
                ("split_jsonl.py", ["--in", "d.jsonl", "--compare-images", "names"]),
                ("dataset_stats.py", ["--in", "d.jsonl"]),
            ):
                seconds, memory = measured(folder, what, *arguments)
                print(
                    f"{what:17s} {records:8d} records: {seconds:7.1f} s CPU, {1e6 * seconds / records:6.0f} us a record, {memory:.0f} MiB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
