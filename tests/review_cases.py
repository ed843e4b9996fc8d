"""Schemas and answers that are hard to carry through the review page, and the page's script run without the page."""

from __future__ import annotations

import html
import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

from browser import CHROMIUM, FLAGS
from conftest import REPOSITORY

from toolkit.schema.target import TargetSchema

SCRIPT = REPOSITORY / "scripts/toolkit/reports/review_answers.js"
NODE = shutil.which("node")
NO_SCRIPT_ENGINE = None if NODE or CHROMIUM else "needs node or chromium"
ODD_NAMES = ["a.b", "a/b", 'say "x"', "it's", "__proto__", "constructor", "toString", "10", "Größe 重量", "[0]"]
ODD_NAMES += ["<!--", "</script>"]
ODD_TEXTS = ["", " spaces ", "a\nb\r\nc", '"quoted" \\', "</script><!--<script>", "ünï 重量 \u2028 😀", "null"]
ODD_TEXTS += ["12.50", "/*DATA*/null", "x" * 90]


def text(length: int = 200) -> dict[str, Any]:
    return {"type": ["string", "null"], "maxLength": length}


def closed(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": fields}


def many(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "maxItems": 20, "items": items}


def nested_schema() -> TargetSchema:
    """Nested objects whose values share names, lists of every kind, and field names that scripts stumble over."""
    line = closed(item=closed(name=text()), maker=closed(name=text()), amount={"type": ["number", "null"]})
    raw = closed(
        seller=closed(name=text(), address=closed(city=text(), zip=text(10))),
        buyer=closed(name=text(), address=closed(city=text(), zip=text(10))),
        paid={"type": ["boolean", "null"]},
        total={"type": ["number", "null"]},
        count={"type": ["integer", "null"]},
        status={"enum": ["open", "closed", 1, "1", None]},
        either={"type": ["string", "number", "null"], "maxLength": 20},
        party=many(text()),
        codes=many({"type": ["integer", "null"]}),
        kinds=many({"enum": ["A", "B", None]}),
        goods=closed(lines=many(line)),
        odd=closed(**{name: text() for name in ODD_NAMES}),
        rows=many(closed(**{name: text() for name in ODD_NAMES})),
    )
    return TargetSchema.parse(raw | {"title": "nested </title>"}, "nested.schema.json")


def any_answer(schema: dict[str, Any], rng: random.Random) -> Any:
    """An answer that has every field of `schema`."""
    if "properties" in schema:
        return {name: any_answer(child, rng) for name, child in schema["properties"].items()}
    if "items" in schema:
        return [any_answer(schema["items"], rng) for _ in range(rng.randint(0, 3))]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    values: dict[str, list[Any]] = {
        "string": ODD_TEXTS,
        "integer": [0, -7, 12345678901234567890],
        "number": [0.1, 12.0, -3, 1e-9, 12345678901234567890, 0.30000000000000004],
        "boolean": [True, False],
        "null": [None],
    }
    return rng.choice(values[rng.choice(kinds)])


def page_data(page: Path) -> dict[str, Any]:
    return json.loads(page.read_text(encoding="utf-8").split('id="data">', 1)[1].split("</script>")[0])


def in_page_script(folder: Path, body: str, argument: Any) -> Any:
    """The value that `body`, a function's body, returns of `argument` beside the functions of review_answers.js."""
    script = f"{SCRIPT.read_text(encoding='utf-8')}\nconst seen = ((argument) => {{ {body} }})({json.dumps(argument)});"
    if NODE:
        path = folder / "script.js"
        path.write_text(script + "\nconsole.log(JSON.stringify(seen));", encoding="utf-8")
        done = subprocess.run([NODE, str(path)], capture_output=True, text=True, encoding="utf-8", timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    page = folder / "script.html"
    script = script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    show = "document.body.textContent = JSON.stringify(seen);"
    page.write_text(f"<meta charset=utf-8><body><script>{script}\n{show}</script>", encoding="utf-8")
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60)
    return json.loads(html.unescape(done.stdout.split("<body>", 1)[1].split("</body>")[0]))
