"""The manifest of rendered pages: which documents a folder of page images holds, complete and up to date.

`manifest.jsonl` (or one `manifest.shard-0001-of-0004.jsonl` a share) has a line a page. While a run is under way, what
changes stands in the journal beside it (`manifest.journal`): a document is announced there before its files are
touched, and confirmed afterwards. So a run that was killed loses the documents under way only, and the next run knows
which files they left.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypedDict, cast

from toolkit.console import StageError
from toolkit.files import (
    is_temporary,
    json_line,
    move_file,
    open_to_append,
    read_json,
    read_jsonl,
    sha256_of,
    shown,
    write_jsonl,
)
from toolkit.json_text import strict_json
from toolkit.pages.images import DocumentImages

VERSION = 1  # of a manifest line
MANIFEST_NAME = re.compile(r"(manifest(?:\.shard-\d{4}-of-\d{4})?)\.(?:jsonl|journal)")


class PageLine(TypedDict):
    """One line of a manifest, and one page image.

    `page` counts from 1; sizes in pixels; `engine` is pymupdf, pypdfium2 or pillow; `text_layer`: the document's words.
    """

    document: str
    source: str
    source_sha256: str
    page: int
    pages: int
    image: str
    width: int
    height: int
    tokens: int
    blank: bool
    engine: str
    image_max_tokens: int
    warnings: list[str]
    text_layer: str | None  # not in manifests of older versions
    version: int  # of this form; lines of before there was one have none


class JournalEntry(TypedDict):
    """One line of the journal: `source` gets these pages (none: it is refused); first announced, then done."""

    state: Literal["announced", "done"]
    source: str
    pages: list[PageLine]


@dataclass(frozen=True)
class ManifestState:
    """`documents`: complete ones by source. `unfinished`: every page that a cut-off change may have touched."""

    documents: dict[str, list[PageLine]]
    unfinished: dict[str, list[PageLine]]


def read_manifest(path: Path) -> ManifestState:
    """A manifest with its journal, where there is one. Raises StageError where a line is none of a manifest."""
    state = ManifestState({}, {})
    if path.is_file():
        for number, value in read_jsonl(path):
            line = page_line(value, f"{shown(path)}:{number}")
            state.documents.setdefault(line["source"], []).append(line)
    for entry in journal_entries(path.with_suffix(".journal")):
        source, pages = entry["source"], entry["pages"]
        if entry["state"] == "announced":
            state.unfinished[source] = [*state.documents.pop(source, []), *pages]
        else:
            state.unfinished.pop(source, None)
            if pages:
                state.documents[source] = pages
    return state


def page_line(value: object, where: str) -> PageLine:
    """The value as a manifest line. Raises StageError where it lacks what a page needs, or is of a later version."""
    if not isinstance(value, dict) or any(
        not isinstance(value.get(name), kind)
        for name, kind in (("document", str), ("source", str), ("image", str), ("page", int), ("pages", int))
    ):
        raise StageError(f"{where}: no manifest line; it needs document, source, image, page and pages")
    if (version := value.get("version", VERSION)) != VERSION:
        remedy = "update the program, or render into another folder"
        raise StageError(f"{where}: it has version {version!r}, this program reads {VERSION}; {remedy}")
    return cast(PageLine, value)


def journal_entries(path: Path) -> Iterator[JournalEntry]:
    """The journal's entries; a last line that a kill cut off counts as not written."""
    if not path.is_file():
        return
    data = path.read_bytes()
    for number, raw in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        where = f"{shown(path)}:{number}"
        try:
            entry = strict_json(raw.decode())
            pages = [page_line(line, where) for line in entry["pages"]]
            yield {"state": entry["state"], "source": str(entry["source"]), "pages": pages}
        except (ValueError, KeyError, TypeError):
            raise StageError(f"{where}: no journal entry; remove the file and render again") from None


class PageManifest:
    """The manifest of one folder, kept true while documents are rendered; use as a context.

    `documents` are the complete ones by source. Leftovers of a run that was killed are removed on entering.
    """

    def __init__(self, folder: Path, tag: str = "") -> None:
        self.folder, self.path = folder, folder / f"manifest{tag}.jsonl"
        self.journal_path = self.path.with_suffix(".journal")
        self.removed = 0  # stale files
        self._journal: IO[str] | None = None
        self.documents: dict[str, list[PageLine]] = {}

    def __enter__(self) -> PageManifest:
        state = read_manifest(self.path)
        self.documents = state.documents
        for source, lines in state.unfinished.items():
            self._remove(source, lines, keep=())
        if self.journal_path.is_file():
            self._compact()
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            with contextlib.suppress(OSError):  # each entry was flushed; what the disk refused was told then
                self._journal.close()
            self._compact()

    def _compact(self) -> None:
        write_jsonl(self.path, (line for source in sorted(self.documents) for line in self.documents[source]))
        self.journal_path.unlink(missing_ok=True)

    def _write(self, state: Literal["announced", "done"], source: str, pages: list[PageLine]) -> None:
        if self._journal is None:
            self._journal = open_to_append(self.journal_path)
        entry: JournalEntry = {"state": state, "source": source, "pages": pages}
        self._journal.write(json_line(entry))
        self._journal.flush()

    def place(self, source: str, lines: list[PageLine], made: Path) -> None:
        """Move a document's files from the folder `made` to their places; remove what is left of its last rendering."""
        old = self.documents.get(source, [])
        for line in lines:
            if old and line["text_layer"] is None and line["source_sha256"] == old[0]["source_sha256"]:
                line["text_layer"] = old[0].get("text_layer")
        self._write("announced", source, lines)
        self.documents.pop(source, None)
        try:
            move_pages(lines, made, self.folder)
        except BaseException:
            self._remove(source, [*old, *lines], keep=())
            raise
        self._remove(source, old, keep=lines)
        self._write("done", source, lines)
        self.documents[source] = lines

    def refuse(self, source: str) -> None:
        """The document cannot be rendered (any more), or gives its place up: its pages and text layer are removed."""
        old = self.documents.get(source)
        if not old:
            return
        self._write("announced", source, [])
        del self.documents[source]
        self._remove(source, old, keep=())
        self._write("done", source, [])

    def _remove(self, source: str, lines: Iterable[PageLine], keep: Iterable[PageLine]) -> None:
        """Remove the files of these lines but those of `keep`; whatever a manifest says, only files that we wrote."""
        kept = {Path(line["image"]).name for line in keep}
        same = {line["source_sha256"] for line in keep}
        layers: set[str] = set()
        for line in lines:
            name = Path(line["image"]).name
            if name not in kept and re.fullmatch(re.escape(line["document"]) + r"_page_\d{4,}\.(?:png|jpg)", name):
                self.removed += remove_file(self.folder / name)
            # The words of an unchanged source stay true, whatever becomes of its images.
            if (layer := line.get("text_layer")) and line["source_sha256"] not in same:
                layers.add(layer)
        for layer in layers - {line.get("text_layer") for line in keep}:
            if is_text_layer_of(Path(layer), source):
                self.removed += remove_file(Path(layer))


def move_pages(lines: list[PageLine], made: Path, folder: Path) -> None:
    """A rendered document's pages, and its text layer, from the folder they were made in to where its lines say."""
    for line in lines:
        move_file(made / Path(line["image"]).name, folder / Path(line["image"]).name)
    layer = lines[0]["text_layer"]
    if layer is not None and (made / Path(layer).name).is_file():
        move_file(made / Path(layer).name, Path(layer))
    shutil.rmtree(made, ignore_errors=True)


def remove_file(path: Path) -> bool:
    """Remove a file; False where there was none."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def is_text_layer_of(path: Path, source: str) -> bool:
    """Whether the file is a text layer that was made from `source`."""
    if path.suffix != ".json" or not path.is_file():
        return False
    with contextlib.suppress(StageError):
        value = read_json(path)
        return isinstance(value, dict) and value.get("source") == source and "pages" in value
    return False


# --- reading: what the build needs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ListedDocument:
    """A document that a manifest knows: its page images in order, as paths for records.

    Not `finished` where a run was cut off.
    """

    name: str
    source: str
    manifest: str
    images: tuple[str, ...]
    pages: int
    finished: bool = True


class PageCatalog:
    """What the manifests of some image folders know, by page image."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.by_image: dict[str, ListedDocument] = {}
        for folder in folders:
            for path in manifests_below(folder):
                for document in listed_documents(path):
                    self.by_image |= dict.fromkeys(document.images, document)

    def settle(self, images: DocumentImages) -> tuple[list[str], list[str]]:
        """Leave a document exactly the pages that a manifest lists; as they are where no manifest knows it.

        Returns its other page images, which are not to be used (copies of a listed page and its own source do not
        count), and its problems.
        """
        numbers = images.kinds["pages"]
        paths = [path for found in numbers.values() for path in found]
        owners = sorted({self.by_image[path] for path in paths if path in self.by_image}, key=lambda d: d.images)
        if not owners:
            return [], []
        owner, problems = owners[0], []
        if not owner.finished:
            problems.append(f"rendering it was cut off ({owner.manifest}); run pdf_to_images.py again")
        missing = [path for path in owner.images if not Path(path).is_file()]
        if owner.finished and (missing or len(owner.images) != owner.pages):
            gone = missing[0] if missing else f"page {len(owner.images) + 1}"
            problems.append(f"{gone} is missing although {owner.manifest} lists it; run pdf_to_images.py again")
        prints = [sha256_of(path) for path in owner.images if path not in missing]
        for other in owners[1:]:
            same = (
                all(Path(path).is_file() for path in other.images)
                and [sha256_of(path) for path in other.images] == prints
            )
            if not same:
                problems.append(
                    f"its pages are listed twice and differ: {owner.images[0]} ({owner.manifest}) "
                    f"and {other.images[0]} ({other.manifest})"
                )
        listed = {path for document in owners for path in document.images}
        others = [path for path in paths if path not in listed and path != owner.source]
        leftover = [path for path in others if sha256_of(path) not in prints]
        images.kinds["pages"] = {number: [path] for number, path in enumerate(owner.images, 1)}
        return leftover, problems


def manifests_below(folder: Path) -> list[Path]:
    """The manifests in and below a folder, sorted; also one whose journal alone is there yet."""
    found = set()
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_temporary(Path(name))]
        found |= {Path(root, f"{match[1]}.jsonl") for name in names if (match := MANIFEST_NAME.fullmatch(name))}
    return sorted(found)


def listed_documents(path: Path) -> Iterator[ListedDocument]:
    """The documents of one manifest. Their images lie beside it, wherever the folder was when they were rendered."""
    state = read_manifest(path)
    for finished, documents in ((True, state.documents), (False, state.unfinished)):
        for source, lines in documents.items():
            ordered = sorted(lines, key=lambda line: line["page"])
            names = dict.fromkeys(Path(line["image"]).name for line in ordered)
            images = tuple(path_in_records(path.parent / name) for name in names)
            if images:
                document = ordered[0]["document"]
                yield ListedDocument(document, source, shown(path), images, ordered[0]["pages"], finished)


def path_in_records(path: Path) -> str:
    """A file's path as records name it: POSIX, relative to the working directory where it was given so."""
    return shown(path) if path.is_absolute() else Path(os.path.relpath(path)).as_posix()
