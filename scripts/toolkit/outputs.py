"""Outputs that belong together appear together, and none replaces what it is no newer version of."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from toolkit.console import StageError
from toolkit.files import JOURNAL, TEXT_OPTIONS, TOGETHER, moves_of, opened, replace, shown, umask, write_text


@contextlib.contextmanager
def atomic_group(folder: Path, names: Sequence[str]) -> Iterator[list[IO[str]]]:
    """Open a temporary text file for each of the names; on success all are moved into place, as one step.

    A journal in the folder lists the moves. Where a run is killed between two of them, no reader here takes the mixture
    (see opened), and `finish_group` does the rest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finish_group(folder)
    parts: list[str] = []
    try:
        with contextlib.ExitStack() as stack:
            files = []
            for name in names:
                handle, part = tempfile.mkstemp(prefix=f".{name[:80]}.", suffix=".part", dir=folder)
                parts.append(part)
                files.append(stack.enter_context(os.fdopen(handle, "w", **TEXT_OPTIONS)))
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        for part in parts:
            os.chmod(part, 0o666 & ~umask())
        moves = [[Path(part).name, name] for part, name in zip(parts, names, strict=True)]
        write_text(folder / JOURNAL, json.dumps(moves) + "\n")
    except BaseException:
        for part in parts:
            with contextlib.suppress(OSError):
                os.unlink(part)
        raise
    finish_group(folder)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Files that `files.atomic` writes inside are moved into place at the end, those of a folder as one step (see
    atomic_group); on any failure all are left as they were."""
    waiting: list[tuple[Path, Path]] = []
    token = TOGETHER.set(waiting)
    try:
        yield
    except BaseException:
        for part, _ in waiting:
            part.unlink(missing_ok=True)
        raise
    finally:
        TOGETHER.reset(token)
    folders: dict[Path, list[list[str]]] = {}
    for part, path in waiting:
        folders.setdefault(path.parent, []).append([part.name, path.name])
    for folder, moves in folders.items():
        finish_group(folder)
        write_text(folder / JOURNAL, json.dumps(moves) + "\n")
    for folder in folders:
        finish_group(folder)


def finish_group(folder: Path) -> None:
    """Do the moves that an interrupted run has left in the folder's journal."""
    for part, name in moves_of(folder):
        if (folder / part).exists():
            replace(folder / part, folder / name)
    (folder / JOURNAL).unlink(missing_ok=True)


def check_outputs(outputs: Iterable[tuple[Path | None, str]], inputs: Iterable[Path | str | None]) -> None:
    """Raise StageError where writing the outputs would replace an input, each other, or a file of another kind.

    Outputs come as `(path, mark)`: a file that exists is ours to replace where its beginning holds the mark.
    """
    taken = {os.path.realpath(path): f"{shown(path)} is an input" for path in inputs if path is not None}
    for path, mark in outputs:
        if path is None:
            continue
        place = os.path.realpath(path)
        if place in taken:
            raise StageError(f"{taken[place]}; choose another name for what is written")
        taken[place] = f"{shown(path)} is named for two outputs"
        if path.is_file() and path.stat().st_size and mark.encode() not in read_start(path):
            raise StageError(f"{shown(path)} exists and is another kind of file; choose another name, or remove it")


def read_start(path: Path) -> bytes:
    """The first 64 KiB of a file."""
    with opened(path) as file:
        return file.read(65536)
