"""What the tests of hostile records and hostile predictions share."""

import json
import time

from conftest import png
from receipt_records import record

LIMIT = 20  # seconds; each takes a fraction of one
SCHEMA = "schemas/receipt.schema.json"
PAGE, QUESTION = {"type": "image", "image": "img/a.png"}, {"type": "text", "text": "json"}
GOOD = json.dumps(record(id="good", messages=[{"role": "user", "content": [PAGE, QUESTION]}, record()["messages"][1]]))


def nested(depth, opening="[", closing="]"):
    return opening * depth + closing * depth


def line(value):
    return value if isinstance(value, str) else json.dumps(value)


def hostile_place(workspace):
    """A workspace with two page images, two text layers and one prediction."""
    png(workspace / "img/a.png")
    png(workspace / "a.png", shade=90)
    (workspace / "ocr").mkdir()
    words = {"pages": [{"page": 1, "width": 64, "height": 64, "words": [[1, 1, 20, 9, "A"]]}]}
    for name in ("good", "r"):
        (workspace / f"ocr/{name}.json").write_text(json.dumps(words))
    (workspace / "p.jsonl").write_text('{"id": "good", "status": "ok", "prediction": {"company": "A"}}\n')
    return workspace


def alive(run, *words):
    """Run a script; it ends in time, without a traceback, and what it refuses it refuses in one sentence."""
    started = time.monotonic()
    done = run(*words)
    assert "Traceback" not in done.err and time.monotonic() - started < LIMIT, (words, done.err)
    assert done.code in (0, 1, 2), done.err
    if done.code == 2:
        assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    return done


ANSWER = {"company": "A", "date": None, "address": None, "total": "1"}


def said(**change):
    return {"id": "good", "status": "ok", "prediction": ANSWER} | change
