"""Which inputs made an output: a small file beside it, so that outputs of other inputs are replaced only on request.

The output itself is not changed. The note holds the path and content hash of each source, and the content hash of the
output. An output that was changed since is of unknown origin.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from toolkit.console import StageError
from toolkit.files import read_json, sha256_of, shown, write_json

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Source:
    """One input: `path` (POSIX, empty if not known), `sheet` of a workbook, and the SHA-256 of its content."""

    path: str
    sha256: str
    sheet: str | None = None

    @classmethod
    def of(cls, path: Path, sheet: str | None = None) -> Source:
        """Of a file, or of all files below a folder."""
        if not path.is_dir():
            return cls(shown(path), sha256_of(path), sheet)
        digest = hashlib.sha256()
        for file in sorted(below for below in path.rglob("*") if below.is_file()):
            digest.update(
                f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\n".encode("utf-8", "surrogateescape")
            )
        return cls(shown(path), digest.hexdigest(), sheet)

    @property
    def name(self) -> str:
        return (self.path or "a file of unknown origin") + (f" (sheet {self.sheet})" if self.sheet else "")

    def is_same(self, other: Source) -> bool:
        """The same file, corrected or not, or the same content elsewhere."""
        same_content = self.sha256 == other.sha256
        return self.sheet == other.sheet and (same_content or (bool(self.path) and self.path == other.path))


@dataclass(frozen=True)
class Origin:
    """What is known of an output that exists: its `sources`, none where nobody noted them; was it `changed` since."""

    sources: tuple[Source, ...] = ()
    changed: bool = False


def note_path(out: Path) -> Path:
    """The file beside `out` that says what it was made from."""
    return out.with_suffix(".source.json")


def origin_of(out: Path) -> Origin | None:
    """The origin of an output; None where there is no output, or an empty one, which nothing can be lost of."""
    if not out.is_file() or out.stat().st_size == 0:
        return None
    if not note_path(out).is_file():
        return Origin()
    note = read_json(note_path(out))
    try:
        sources = tuple(Source(**source) for source in note["sources"])
        known = note["output_sha256"]
    except (TypeError, KeyError):
        raise StageError(f"{shown(note_path(out))}: not a note of sources; remove it if it is yours") from None
    return Origin(sources, changed=known is not None and known != sha256_of(out))


def why_not_replace(origin: Origin, source: Source) -> str:
    """Why `source` may not replace the output of this origin, as the rest of a sentence; empty where it may."""
    if not origin.sources:
        return "exists, and which table it came from is not known"
    if origin.changed:
        return f"was changed since it was built from {origin.sources[0].name}"
    if others := [known.name for known in origin.sources if not known.is_same(source)]:
        return f"holds records of {' and '.join(others)}"
    return ""


def refuse_to_replace(out: Path, sources: Sequence[Source]) -> None:
    """Raise StageError where `out` exists and was made from other files than `sources`, or by hand."""
    origin = origin_of(out)
    if origin is None:
        return
    if not origin.sources:
        reason = "exists, and which file it came from is not known"
    elif origin.changed:
        reason = f"was changed since it was made from {origin.sources[0].name}"
    else:
        others = [known.name for known in origin.sources if not any(known.is_same(source) for source in sources)]
        reason = f"was made from {' and '.join(others)}" if others else ""
    if reason:
        raise StageError(f"{shown(out)} {reason}; choose another name, or replace it with --overwrite")


@contextlib.contextmanager
def noted(out: Path, sources: Iterable[Source]) -> Iterator[None]:
    """Note the sources of an output that is written inside.

    Meanwhile the note names no hash, so a run that is killed leaves old or new output of known origin.
    """
    note = {"version": FORMAT_VERSION, "sources": [asdict(source) for source in sources], "output_sha256": None}
    path = note_path(out)
    before = path.read_bytes() if path.is_file() else None
    write_json(path, note)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if before is not None:
                path.write_bytes(before)
            elif out.exists():
                path.unlink()  # what is there is still of unknown origin
        raise
    write_json(path, note | {"output_sha256": sha256_of(out)})


def merged_sources(origin: Origin | None, out: Path, source: Source) -> list[Source]:
    """The sources of an output after an update from `source`."""
    known = [] if origin is None else list(origin.sources)
    if origin is not None and (origin.changed or not known):
        known = [*(s for s in known if s.path), Source("", sha256_of(out))]
    return [*(s for s in known if not s.is_same(source)), source]
