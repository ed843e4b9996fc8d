"""Programs of the clouds as recorders: they write down how they were called and give recorded answers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

# Answers: a list of [words that the call must hold, exit code, stdout, stderr]; the first that fits is given.
PROGRAM = """#!{python}
import json, os, sys
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps([name, *words]) + "\\n")
for wanted, code, out, err in json.load(open({answers!r})):
    if all(word in [name, *words] for word in wanted):
        sys.stdout.write(out)
        sys.stderr.write(err)
        sys.exit(code)
"""


class RecordedCloud:
    """`az`, `docker`, `runpodctl` on PATH; `calls` is what was asked of them."""

    def __init__(self, folder: Path, monkeypatch, programs: tuple[str, ...] = ("az",)) -> None:
        self.log, self.answers = folder / "calls.jsonl", folder / "answers.json"
        place = folder / "programs"
        place.mkdir()
        self.answer()
        for name in programs:
            text = PROGRAM.format(python=sys.executable, log=str(self.log), answers=str(self.answers))
            (place / name).write_text(text)
            (place / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}{os.pathsep}/usr/bin{os.pathsep}/bin")

    def answer(self, *answers: tuple[list[str], int, str, str]) -> None:
        self.answers.write_text(json.dumps(answers))

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def said(self, *words: str) -> bool:
        """Whether one call holds all these words."""
        return any(set(words) <= set(call) for call in self.calls)
