"""The page on document types does what it says: its files are written and its commands run, in its order."""

import json
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY, png
from fault_server import FaultServer
from test_commands import words_of

from toolkit.schema import normalise
from toolkit.schema.target import TargetSchema

PAGE = REPOSITORY / normalise.PAGE
TEXT = PAGE.read_text(encoding="utf-8")
FILES = re.findall(r"^Save this as `([^`]+)`:\n\n```\w+\n(.*?)^```", TEXT, re.M | re.S)
COMMANDS = [
    line for block in re.findall(r"^```powershell\n(.*?)^```", TEXT, re.M | re.S) for line in block.splitlines()
]
TICKET = '{"ticket_number":"T1","issued_date":null,"fine":20,"offence":"other"}'


def test_the_page_s_files_and_commands_work_in_its_order(run, workspace):
    pytest.importorskip("pydantic")
    for name, text in FILES:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    for number in (1, 2):
        png(workspace / f"data/images/order {number}_page_0001.png")
    assert len(FILES) == 3 and len(COMMANDS) == 6
    with FaultServer(lambda _: None, answer=lambda _: TICKET) as server:
        for line in COMMANDS:
            script, *words = words_of(line.replace("http://127.0.0.1:8000/v1", server.url))
            done = run(Path(script).stem, *words)
            assert done.code == 0, f"{line}: {done.err}"
    (line, _) = Path("data/predictions/zero_shot.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["prediction"] == {"ticket_number": "T1", "fine": 20, "offence": "other"}
    order = TargetSchema.load("schemas/order.schema.json")
    assert {leaf.name for leaf in order.leaves} >= {"order_number", "lines[].amount", "charges[].value"}
    table = TargetSchema.load("data/train.schema.json")
    assert table.lists[0].key.name == "rows[].sku"


def test_every_annotation_that_the_code_reads_is_explained_with_an_example():
    """Every name that the library reads from x-extract is in the page's tables."""
    explained = set(re.findall(r"^\| `(\w+)` \|", TEXT, re.M))
    source = "\n".join(p.read_text(encoding="utf-8") for p in (REPOSITORY / "scripts/toolkit").rglob("*.py"))
    read = set(re.findall(r"extract(?:\[|\.get\(| or \{\}\)\.get\()\"(\w+)\"", source))
    assert len(read) > 8 and read <= explained, read - explained
