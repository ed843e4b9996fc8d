"""Every reader of the data stages on mutated files, and runs that are killed: no traceback, no hang, no half file."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, png
from hostile_tables import csv_of, json_of, row, workbook
from receipt_records import record

LIMIT = 20  # seconds a file
TOKENS = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\\", b"\0", b"\xff", b"null", b"NaN", b"1e999", b"-0"]
TOKENS += [b"\\ud800", b"&", b"<", b">", b"=", b"\xef\xbb\xbf", b"\xff\xfe", b"0" * 50, b"[" * 200, b'{"a":' * 50]
RECEIPT = ["--schema", "schemas/receipt.schema.json"]
BUILD = ["build_jsonl_from_results", "--images-dir", "img", "--overwrite", "--out", "out.jsonl"]
RECORDS = "".join(json.dumps(record(id=f"r{n}")) + "\n" for n in range(3)).encode()
LINES = [
    {"id": f"r{n}", "status": "ok", "prediction": {"company": "A"}, "confidence": {"company": 0.5}} for n in range(3)
]
PREDICTIONS = "".join(json.dumps(line) + "\n" for line in LINES).encode()
MAPPING = json.dumps({"document": "Filename", "columns": {"company": ["company", "Firm"], "total": "total"}}).encode()
SETTINGS = json.dumps({"rank": 16, "epochs": 2, "seed": 3, "preset": None, "learning_rate": 1e-4}).encode()


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The file with a few bytes changed, cut, doubled, moved or replaced by what parsers trip over."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 4, 12])):
        at = draw.randrange(len(changed) + 1)
        end = min(len(changed), at + draw.choice([1, 1, 2, 8, 64]))
        how = draw.randrange(6)
        if how == 0 and at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
        elif how == 1:
            del changed[at:end]
        elif how == 2:
            changed[at:at] = changed[at:end] * draw.choice([1, 3, 50])
        elif how == 3:
            changed[at:end] = draw.choice(TOKENS)
        elif how == 4:
            changed[at:at] = draw.choice(TOKENS)
        else:
            changed[at:end] = bytes(draw.randrange(256) for _ in range(end - at))
    return bytes(changed[: draw.randrange(1, len(changed) + 1)] if changed and draw.random() < 0.1 else changed)


def mutated_parts(data: bytes, draw: random.Random) -> bytes:
    """The workbook with its bytes, or what is packed in it, mutated."""
    import zipfile
    from io import BytesIO

    from hostile_tables import with_part

    if draw.random() < 0.3:
        return mutated(data, draw)
    name = draw.choice(zipfile.ZipFile(BytesIO(data)).namelist())
    return with_part(data, name, lambda part: mutated(part, draw))


READERS = {
    "csv": ("t.csv", csv_of("bad.pdf,B,,,1"), [[*BUILD, *RECEIPT, "--results"]]),
    "json": ("t.json", json_of(row(), row(x=[1, {"a": None}])), [[*BUILD, *RECEIPT, "--results"]]),
    "excel": ("t.xlsx", None, [[*BUILD, *RECEIPT, "--results"]]),
    "schema": (
        "s.json",
        (REPOSITORY / "schemas/receipt.schema.json").read_bytes(),
        [[*BUILD, "--results", "good.csv", "--schema"], ["dataset_stats", "--in", "good.jsonl", "--schema"]],
    ),
    "mapping": ("m.json", MAPPING, [[*BUILD, *RECEIPT, "--results", "good.csv", "--mapping"]]),
    "records": (
        "r.jsonl",
        RECORDS,
        [
            ["validate_jsonl"],
            ["split_jsonl", "--out-dir", "splits", "--overwrite", "--compare-images", "names", "--in"],
            ["dataset_stats", "--in"],
            ["evaluate_predictions", "--pred", "good_p.jsonl", "--gold"],
            ["review_predictions", "--pred", "good_p.jsonl", *RECEIPT, "--out", "r.html", "--records"],
        ],
    ),
    "predictions": (
        "p.jsonl",
        PREDICTIONS,
        [
            ["evaluate_predictions", "--gold", "good.jsonl", "--report", "e.html", "--pred"],
            ["review_predictions", "--records", "good.jsonl", "--out", "r.html", "--review-below", "0.9", "--pred"],
            ["import_predictions", "--gold", "good.jsonl", "--out", "o.jsonl", "--overwrite", "--in"],
        ],
    ),
}
SIZES = [8, pytest.param(600, marks=pytest.mark.soak)]


@pytest.fixture
def place(workspace):
    for name in ("good", "bad", "a"):
        png(workspace / f"img/{name}.png", shade=len(name) * 20)
    png(workspace / "a.png")
    (workspace / "good.csv").write_bytes(csv_of("bad.pdf,B,,,1"))
    (workspace / "good.jsonl").write_bytes(RECORDS)
    (workspace / "good_p.jsonl").write_bytes(PREDICTIONS)
    return workspace


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("kind", READERS)
def test_no_mutated_file_breaks_its_reader(run, place, kind, count):
    name, good, commands = READERS[kind]
    good, change = (workbook(["bad.pdf", "=A1", 5, None, 1.5]), mutated_parts) if good is None else (good, mutated)
    slowest, codes = 0.0, dict.fromkeys((0, 1, 2), 0)
    for seed in range(count):
        (place / name).write_bytes(change(good, random.Random(f"{kind} {seed}")))
        for words in commands:
            started = time.monotonic()
            done = run(*words, name)
            slowest = max(slowest, time.monotonic() - started)
            assert slowest < LIMIT and done.code in codes and "Traceback" not in done.err, (seed, words, done.err)
            assert done.code != 2 or (done.err.startswith(("error: ", "note: ")) and "error: " in done.err), (
                seed,
                done.err,
            )
            codes[done.code] += 1
    print(f"{kind}: {sum(codes.values())} runs on {count} mutated files, exit codes {codes}, slowest {slowest:.2f} s")


@pytest.mark.parametrize("count", SIZES)
def test_no_mutated_settings_break_their_reader(place, count):

    from toolkit.console import StageError
    from toolkit.training.settings import values_of_file

    for seed in range(count):
        (place / "settings.json").write_bytes(mutated(SETTINGS, random.Random(f"settings {seed}")))
        try:
            assert isinstance(values_of_file(place / "settings.json"), dict)
        except StageError as error:
            assert "settings.json" in str(error)


# --- kill -9 ----------------------------------------------------------------------------------------------------------


def write_inputs(place: Path, documents: int, version: str) -> None:
    rows = [{"Filename": f"d{n}.pdf", "company": f"{version} {n}", "total": str(n)} for n in range(documents)]
    if version == "new":
        rows = [one | {"address": "Street"} for one in rows]  # so the dataset's schema changes too
    (place / "t.json").write_text(json.dumps(rows))
    lines = [{"id": f"d{n}.pdf", "status": "ok", "prediction": {"company": f"{version} {n}"}} for n in range(documents)]
    (place / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


STAGES = {
    "build": ["build_jsonl_from_results", "--results", "t.json", "--images-dir", "img", *RECEIPT],
    "split": [
        "split_jsonl",
        "--in",
        "data/train.jsonl",
        "--out-dir",
        "splits",
        "--compare-images",
        "names",
        "--reassign",
    ],
    "evaluate": [
        "evaluate_predictions",
        "--pred",
        "p.jsonl",
        "--gold",
        "data/train.jsonl",
        "--report",
        "e.html",
        "--csv",
        "e.csv",
    ],
}
OUTPUTS = {
    "build": ["data/train.jsonl", "data/train.schema.json"],
    "split": ["splits/train.jsonl", "splits/val.jsonl", "splits/test.jsonl"],
    "evaluate": ["e.html", "e.json", "e.csv"],
}
TOGETHER = {"build": "data", "split": "splits", "evaluate": "."}  # where the files of a stage change as one


def started(stage: str, place: Path) -> subprocess.Popen:
    name, *words = STAGES[stage]
    words = [*words, "--seed", "9"] if stage == "split" and (place / "again").exists() else words
    command = [sys.executable, str(REPOSITORY / "scripts" / f"{name}.py"), *words]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def outputs(stage: str, place: Path) -> list[bytes]:
    return [(place / name).read_bytes() for name in OUTPUTS[stage]]


@pytest.mark.soak
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_leaves_its_old_output_or_its_new_one(place, stage):
    """At twelve random moments; what is half moved is refused by every reader, and the next run finishes it."""
    draw = random.Random(stage)
    documents = 600
    for number in range(documents):
        os.link(place / "img/good.png", place / f"img/d{number}.png")
    for version in ("old", "new"):
        write_inputs(place, documents, version)
        if version == "new":
            (place / "again").touch()  # the split takes another seed
        if stage != "build" and version == "old":
            assert started("build", place).wait() in (0, 1)
        began = time.monotonic()
        assert started(stage, place).wait() in (0, 1)
        took = time.monotonic() - began
        whole = {**(whole if version == "new" else {}), version: outputs(stage, place)}  # noqa: F821
    assert whole["old"] != whole["new"]
    seen = {"old": 0, "new": 0, "refused": 0}
    for _ in range(12):
        (place / "again").unlink(missing_ok=True)
        write_inputs(place, documents, "old")
        assert started(stage, place).wait() in (0, 1)
        assert outputs(stage, place) == whole["old"]
        write_inputs(place, documents, "new")
        (place / "again").touch()
        running = started(stage, place)
        time.sleep(draw.uniform(0.2, 1.5) * took)
        running.send_signal(signal.SIGKILL)
        running.wait()
        now = outputs(stage, place)
        assert all(file in pair for file, *pair in zip(now, whole["old"], whole["new"], strict=True)), "half a file"
        state = next((name for name, files in whole.items() if now == files), "mixed")
        if state == "mixed":
            assert (place / TOGETHER[stage] / ".files_in_transit.json").is_file()
            state = "refused"
        seen[state] += 1
        assert started(stage, place).wait() in (0, 1)
        assert outputs(stage, place) == whole["new"], "the next run gives what an uninterrupted one does"
    print(f"{stage}: 12 runs of {took:.1f} s killed: {seen}")
    assert seen["old"] and seen["new"] + seen["refused"], "the moments lay before the end and behind it"
