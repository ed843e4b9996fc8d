"""The JSON Schema of a Pydantic model (or dataclass, TypedDict) in a Python file, made in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from toolkit.console import ExitCode, StageError, one_line
from toolkit.files import read_json, shown

SECONDS = 120
MODEL = re.compile(r"(.+\.py):([A-Za-z_][\w.]*)")
# It runs in the folder of the file, so that the file can import its neighbours; the schema comes back as a file,
# because the model's own code may print.
PROGRAM = """
import importlib.util, json, sys
path, name, out = sys.argv[1:]
sys.path.insert(0, "")
spec = importlib.util.spec_from_file_location(path.rsplit("/", 1)[-1].removesuffix(".py"), path)
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
found = module
for step in name.split("."):
    if not hasattr(found, step):
        names = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        sys.exit(f"no class {name!r} in it; it has " + ", ".join(names[:8]))
    found = getattr(found, step)
import pydantic
schema = pydantic.TypeAdapter(found).json_schema()
with open(out, "w", encoding="utf-8") as file:
    json.dump(schema, file)
"""


def schema_of_model(source: str) -> dict[str, Any]:
    """The JSON Schema of `file.py:Class`. It executes the file.

    Raises StageError where the file, the class or Pydantic is missing, and with what the file itself says.
    """
    found = MODEL.fullmatch(source)
    if found is None:
        raise StageError(f"{source}: name a class as FILE.py:Class")
    path = Path(found[1])
    if not path.is_file():
        raise StageError(f"file not found: {shown(path)}")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "schema.json"
        words = [sys.executable, "-c", PROGRAM, path.resolve().as_posix(), found[2], str(out)]
        try:
            done = subprocess.run(
                words, cwd=path.resolve().parent, capture_output=True, text=True, timeout=SECONDS, errors="replace"
            )
        except subprocess.TimeoutExpired:
            raise StageError(
                f"{source}: it did not end within {SECONDS} s; take the model out of the program"
            ) from None
        if done.returncode != 0 or not out.is_file():
            last = one_line((done.stderr.strip().splitlines() or ["it ended without a schema"])[-1], 300)
            missing = "No module named 'pydantic'" in last
            remedy = "; install it with: python -m pip install pydantic" if missing else ""
            raise StageError(f"{source}: {last}{remedy}", ExitCode.DEPENDENCY if missing else ExitCode.USAGE)
        return dict(read_json(out))
