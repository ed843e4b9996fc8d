"""Records of receipts, as the tests of validation, images and splits write them."""

import json
from pathlib import Path


def record(answer='{"company":"A","date":null,"address":null,"total":"1"}', **change):
    value = {
        "id": "r",
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "json"}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ],
        "meta": {"schema": "schemas/receipt.schema.json"},
    }
    return value | change


def write_records(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
