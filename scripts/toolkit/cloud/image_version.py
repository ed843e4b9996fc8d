"""The version of a container image by its content, so that a changed image is never mistaken for the old one.

A version of an Azure ML environment that exists is never built again: with a fixed number, a change of the scripts
would go on serving the old image.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from toolkit.console import StageError

DIGITS = 12


def copied_files(repository: Path, dockerfile: Path) -> Iterator[Path]:
    """Every file that the Dockerfile copies, in a fixed order. Raises StageError for one that is not there."""
    text = re.sub(r"\\\n", " ", dockerfile.read_text(encoding="utf-8"))
    for line in re.findall(r"^(?:COPY|ADD) (.+)$", text, re.M):
        words = [word for word in line.split() if not word.startswith("--")]
        if "--from=" in line:
            continue
        for name in words[:-1]:
            path = repository / name
            if not path.exists():
                raise StageError(f"{dockerfile.relative_to(repository).as_posix()}: COPY {name}: it is not there")
            inside = sorted(path.rglob("*")) if path.is_dir() else [path]
            yield from (one for one in inside if one.is_file() and "__pycache__" not in one.parts)


def image_version(repository: Path, dockerfile: Path) -> str:
    """Twelve hexadecimal digits of the Dockerfile and of all that it copies; line ends do not count."""
    digest = hashlib.sha256(dockerfile.read_bytes().replace(b"\r\n", b"\n"))
    for path in copied_files(repository, dockerfile):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.relative_to(repository).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:DIGITS]
