"""The documents to extract: from a JSONL, or from PDFs and images that are rendered at the contract's size when their turn
comes, in worker processes with a time limit."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.console import StageError, first_few
from toolkit.evidence import TextLayers, read_layer
from toolkit.files import escaped, expand_inputs, is_machine_failure, name_problem
from toolkit.pdf_pages import SOURCE_SUFFIXES
from toolkit.records import images_of, read_records


@dataclass(frozen=True)
class Document:
    """One document: its id, its page images (`pages`) or the file to render them from (`source`), its text layer."""

    identity: str
    pages: tuple[Path, ...] = ()
    source: Path | None = None
    text_layer: Path | None = None


class Unreadable(Exception):
    """The document has no page image; the message is one sentence."""


def documents_of_jsonl(
    path: Path, root: Path, *, limit: int | None, shuffle_pages: bool, layers: TextLayers | None = None
) -> list[Document]:
    """The records' images and text layers; their answers are not looked at. With `shuffle_pages` each gets another one's pages."""
    records = list(read_records(path, limit))
    pages = [tuple(root / image for image in images_of(record)) for record in records]
    if shuffle_pages:
        if len(records) < 2:
            raise StageError("--shuffle-pages needs at least two documents")
        # A rotation: every document gets another one's pages, the same ones in every run.
        pages = pages[len(pages) // 2 :] + pages[: len(pages) // 2]
    return [
        Document(record["id"], images, text_layer=layers.path_of(record) if layers else None)
        for record, images in zip(records, pages, strict=True)
    ]


def documents_of_files(inputs: list[Path], *, limit: int | None) -> list[Document]:
    """PDFs and images of files, folders and patterns; a document's id is its file name."""
    documents = [
        Document(escaped(source.name), source=source) for source in expand_inputs(inputs, SOURCE_SUFFIXES)[:limit]
    ]
    names = Counter(document.identity for document in documents)
    if twice := [name for name, count in names.items() if count > 1]:
        raise StageError(
            f"several inputs are called {first_few(twice)}; a document's id is its file name, extract them into different --out files"
        )
    return documents


def arriving(folders: list[Path], *, seconds: float | None, pause: float = 1.0) -> Iterator[Document | None]:
    """Documents as they appear in the folders, each once, when its size stands still; None while there is nothing new.

    Ends after `seconds`, or never.
    """
    for folder in folders:
        if not folder.is_dir():
            raise StageError(f"--watch needs folders; {folder.as_posix()} is none")
    began = time.monotonic()
    seen: dict[str, Path] = {}
    sizes: dict[Path, tuple[int, int]] = {}
    while seconds is None or time.monotonic() - began < seconds:
        found = False
        for folder in folders:
            for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SOURCE_SUFFIXES and p.is_file()):
                # A second file of the same name, in another folder, is another document.
                taken = seen.get(escaped(path.name), path) != path
                identity = escaped(path.relative_to(folder).as_posix() if taken else path.name)
                if identity in seen:
                    continue
                try:
                    now = path.stat()
                except OSError:
                    continue
                state = (now.st_size, now.st_mtime_ns)
                if sizes.get(path) == state and now.st_size:
                    seen[identity] = path
                    found = True
                    yield Document(identity, source=path)
                sizes[path] = state
        if not found:
            yield None
            time.sleep(pause)


class PageRenderer:
    """Renders documents in worker processes: one file that hangs or crashes its engine stops nothing else.

    `pages_of` starts a document and returns a future of its page files; `release` removes them. Use as a context.
    """

    def __init__(
        self, image_max_tokens: int, *, workers: int = 2, time_limit: float = 120, max_pages: int | None = None
    ) -> None:
        self.max_pages = max_pages
        self.image_max_tokens, self.workers, self.time_limit = image_max_tokens, workers, time_limit
        self._pool: Any = None

    def __enter__(self) -> PageRenderer:
        self._scratch = tempfile.TemporaryDirectory(prefix="pages-")
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
        self._scratch.cleanup()

    def pages_of(self, document: Document) -> Future[list[Path]]:
        if document.source is None:
            ready: Future[list[Path]] = Future()
            ready.set_result(list(document.pages))
            return ready
        if self._pool is None:
            import multiprocessing

            from pebble import ProcessPool

            # Spawned, not forked: the parent runs an event loop and perhaps CUDA.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPool(max_workers=self.workers, context=context)
        folder = tempfile.mkdtemp(dir=self._scratch.name)
        started = self._pool.schedule(
            rendered, (str(document.source), folder, self.image_max_tokens, self.max_pages), timeout=self.time_limit
        )
        result: Future[list[Path]] = Future()
        started.add_done_callback(lambda done: self._settle(done, result))
        return result

    def _settle(self, done: Any, result: Future[list[Path]]) -> None:
        try:
            paths, sentence = done.result()
        except TimeoutError:
            paths, sentence = [], f"rendering took longer than {self.time_limit:g} s"
        except Exception as error:  # a worker that an engine killed
            if is_machine_failure(error):
                result.set_exception(error)
                return
            paths, sentence = [], f"rendering failed ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        except BaseException as error:
            result.set_exception(error)
            return
        if sentence:
            result.set_exception(Unreadable(sentence))
        else:
            result.set_result([Path(path) for path in paths])

    @staticmethod
    def layer_of(document: Document, pages: list[Path]) -> list[dict[str, Any]] | None:
        """The pages of the document's text layer, or of the one that was rendered beside its pages; None for a scan."""
        layer = document.text_layer
        if document.source is not None and pages:
            layer = next(pages[0].parent.glob("*.json"), None)
        found = read_layer(layer) if layer else None
        return found if found and any(page["words"] for page in found) else None

    @staticmethod
    def release(document: Document, pages: list[Path]) -> None:
        """Remove rendered pages; files that the user gave stay."""
        if document.source is not None and pages:
            shutil.rmtree(pages[0].parent, ignore_errors=True)


def rendered(source: str, folder: str, image_max_tokens: int, max_pages: int | None = None) -> tuple[list[str], str]:
    """Runs in a worker: `(pages, "")` or `([], sentence)`. Raises OSError where this machine fails (a full disk)."""
    from toolkit.pdf_pages import UnreadableDocument, render_document, said

    if problem := name_problem(source):
        return [], problem
    try:
        lines = render_document(source, folder, image_max_tokens, "png", folder, max_pages=max_pages)
    except UnreadableDocument as error:
        return [], str(error)
    except FileNotFoundError:
        return [], "the file is gone"
    except Exception as error:
        if is_machine_failure(error):
            raise
        # Whatever a hostile file provokes in an engine is that file's failure, not the run's.
        return [], f"{type(error).__name__}: {said(error)}"
    return [str(Path(line["image"]).resolve()) for line in lines], ""
