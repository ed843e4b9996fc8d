"""Every start of one of the project's scripts in a template: the script is there and knows its flags."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.cloud.templates import Problem, in_templates, words_of_container, yaml_of

# What stands behind its -- is a command of its own.
CHECK_GPU = "scripts/check_gpu.py"


def command_lines(repository: Path) -> Iterator[tuple[Path, list[str]]]:
    """`(file, words)` of every start of one of the project's scripts in a template: words from the script's name on."""
    for path in in_templates(repository):
        if path.suffix in (".yml", ".yaml"):
            for document in yaml_of(path):
                for texts in commands_in(document):
                    yield from ((path, words) for words in starts(texts))
        elif path.name == "Dockerfile":
            words = words_of_container(repository, path.relative_to(repository).as_posix())
            yield from ((path, start) for start in starts(words))
        elif path.suffix == ".service":
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.startswith("ExecStart="):
                    yield from ((path, start) for start in starts(shlex.split(line.partition("=")[2])))
        elif path.suffix == ".sh":
            text = (
                path.read_text(encoding="utf-8")
                .replace("\\\n", " ")
                .replace("$here/", "")
                .replace("$scripts/", "scripts/")
            )
            for line in text.splitlines():
                if re.search(r"scripts/\w+\.py", line) and not line.lstrip().startswith("#"):
                    yield from ((path, start) for start in starts(shlex.split(line, comments=True)))


def commands_in(value: Any) -> Iterator[list[str]]:
    """The words of each command of a YAML document.

    `command` and `args` belong together; `program_arguments` stand behind their entry script.
    """
    if isinstance(value, list):
        for inner in value:
            yield from commands_in(inner)
    if not isinstance(value, dict):
        return
    words: list[str] = []
    for key in ("entrypoint", "command", "args"):
        part = value.get(key)
        words += (
            shlex.split(part)
            if isinstance(part, str)
            else [str(w) for w in part or [] if not isinstance(w, dict | list)]
        )
    if words:
        yield words
    if "entry_script" in value:
        yield [f"scripts/{value['entry_script']}", *shlex.split(value.get("program_arguments", ""))]
    for inner in value.values():
        yield from commands_in(inner)


def starts(words: list[str]) -> Iterator[list[str]]:
    """The words of each start of a script in `words`, up to what ends a command."""
    current: list[str] | None = None
    for word in words:
        if re.fullmatch(r"(?:\S*/)?(?:scripts|azureml/pipeline)/\w+\.py", word) and current is None:
            current = [word[re.search(r"(?:scripts|azureml/pipeline)/\w+\.py$", word).start() :]]  # type: ignore[union-attr]
        elif word in ("&&", "||", ";", "&", "|") or (word == "--" and current and current[0] == CHECK_GPU):
            if current:
                yield current
            current = None
        elif current is not None:
            current.append(word)
    if current:
        yield current


@functools.cache
def flags_of(script: Path) -> frozenset[str]:
    """The flags that a script's help names; asked once a script."""
    words = [sys.executable, str(script), "--help"]
    shown = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    return frozenset(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", shown))


def commands_can_be_parsed(repository: Path) -> list[Problem]:
    """Every script that a template starts is there and knows every flag that it is given."""
    found = []
    for path, (script, *words) in command_lines(repository):
        where = path.relative_to(repository).as_posix()
        if not (repository / script).is_file():
            found.append(Problem(where, f"{script} is not there"))
            continue
        known = flags_of(repository / script)
        for word in words:
            flag = word.partition("=")[0]
            if re.fullmatch(r"--[a-z][a-z0-9-]*", flag) and flag not in known:
                found.append(Problem(where, f"{script} has no {flag}"))
    return found
