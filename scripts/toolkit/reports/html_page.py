"""HTML pages that carry their data: one file, no server, no network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from toolkit.files import write_text

PART = re.compile(r"/\*([A-Z]+)\*/(?:null)?")


def embedded_json(value: Any) -> str:
    """`value` as JSON that can stand in a script element.

    `</script>` would end the element and `<!--` would start a comment in it, so no `<` of any text is left.
    """
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def write_page(path: Path, template: str, data: Any, **scripts: str) -> None:
    """Write the `template` beside this module with `data` in place of `/*DATA*/null`, and each script file in place of its `/*NAME*/`.

    It is one pass: text of the data that looks like a placeholder stays text.
    """
    folder = Path(__file__).parent
    parts = {name.upper(): (folder / file).read_text(encoding="utf-8") for name, file in scripts.items()}
    parts["DATA"] = embedded_json(data)
    text = (folder / template).read_text(encoding="utf-8")
    write_text(path, PART.sub(lambda match: parts[match[1]], text))
