"""Which files are documents to render: found in folders, by patterns and by name, and what only looks like one."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from toolkit.console import StageError
from toolkit.files import argument_path, escaped, is_temporary
from toolkit.pages.pictures import file_problem


@dataclass
class Sources:
    """`files`: what can be opened, sorted, each once. `problems`: what has a document's name and cannot, and why."""

    files: list[Path] = field(default_factory=list)
    problems: dict[Path, str] = field(default_factory=dict)


def document_sources(patterns: Iterable[str], suffixes: Iterable[str]) -> Sources:
    """The documents that files, folders (searched below) and patterns name.

    A FIFO, a link that leads nowhere, a folder that cannot be listed, or a file whose whole name is `.pdf` is a problem
    of its own and is not opened. Raises StageError where a pattern matches nothing at all.
    """
    wanted = {suffix.lower() for suffix in suffixes}
    found: dict[Path, None] = {}
    sources = Sources()
    for pattern in patterns:
        path = argument_path(str(pattern))
        if is_folder(path):
            entries = dict(entries_below(path, wanted))
        elif os.path.lexists(path):
            entries = {path: entry_problem(path, wanted)}
        else:
            matches = (Path(name) for name in glob.glob(str(path), recursive=True) if not is_folder(Path(name)))
            entries = {match: entry_problem(match, wanted) for match in matches}
        if not entries:
            raise StageError(
                f"nothing found for {escaped(str(pattern))!r}; "
                f"give a file, a folder that holds {', '.join(sorted(wanted))} files, or a pattern"
            )
        for entry in sorted(entries, key=lambda p: (p.as_posix().casefold(), p.as_posix())):
            if problem := entries[entry]:
                sources.problems[entry] = problem
            else:
                found[entry] = None
    sources.files = list(found)
    return sources


def entries_below(folder: Path, wanted: set[str]) -> Iterator[tuple[Path, str]]:
    """`(path, problem)` of every entry with a wanted suffix, and of what hides entries; an empty problem for a file."""
    unlisted: list[OSError] = []
    for root, folders, names in os.walk(folder, onerror=unlisted.append):
        place = Path(root)
        folders[:] = [name for name in folders if not is_temporary(Path(name))]
        for name in folders:
            if (place / name).is_symlink():
                yield place / name, "it is a link to a folder, which is not followed; name that folder as an input"
        for name in names:
            if Path(name).suffix.lower() in wanted or name.lower() in wanted:
                yield place / name, entry_problem(place / name, wanted)
        for error in unlisted:
            yield Path(os.fsdecode(error.filename)), f"the folder cannot be listed ({error.strerror})"
        unlisted.clear()
    for error in unlisted:
        yield Path(os.fsdecode(error.filename)), f"the folder cannot be listed ({error.strerror})"


def is_folder(path: Path) -> bool:
    """As Path.is_dir; False too where the system does not let us look."""
    try:
        return path.is_dir()
    except OSError:
        return False


def entry_problem(path: Path, wanted: set[str]) -> str:
    """Why this entry is no document that can be opened; empty where it may be one."""
    if path.name.lower() in wanted:
        return f"its whole name is {path.name!r}; give it a name before the dot"
    try:
        return file_problem(path)
    except FileNotFoundError:
        return "it is a link to a file that is not there"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
