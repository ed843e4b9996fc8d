"""The template files: reading them, and what a check reports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.console import one_line


@dataclass(frozen=True)
class Problem:
    """What is wrong in which file; `where` is relative to the repository."""

    where: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.where}: {self.sentence}"


FOLDERS = ("azureml", "runpod", ".runpod")


def in_templates(repository: Path, pattern: str = "*") -> list[Path]:
    """Every file of the templates' folders whose name fits, sorted."""
    return sorted(path for top in FOLDERS for path in (repository / top).rglob(pattern) if path.is_file())


def yaml_of(path: Path) -> list[Any]:
    """The documents of a YAML file. Raises ValueError with one sentence."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, compiled
    try:
        text = path.read_text(encoding="utf-8")
        return [document for document in yaml.load_all(text, Loader=loader) if document is not None]
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(one_line(error)) from None


def azure_files(repository: Path) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """`(path, kind, content)` of each Azure ML file: those with a $schema."""
    for path in sorted((repository / "azureml").rglob("*.yml")):
        content = yaml_of(path)[0]
        yield path, str(content.get("$schema", "")).rsplit("/", 1)[-1].split(".")[0], content


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """`(key, text)` of every text below `value`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, key)
    elif isinstance(value, str):
        yield key, value


def words_of_container(repository: Path, dockerfile: str) -> list[str]:
    """The ENTRYPOINT and CMD words of a Dockerfile."""
    text = (repository / dockerfile).read_text(encoding="utf-8")
    return [str(w) for match in re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", text, re.M) for w in json.loads(match)]
