"""The documents to extract: from a JSONL, or from PDFs and images.

PDFs and images are rendered at the contract's page size when their turn comes, in worker processes with a time limit.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.console import StageError, first_few
from toolkit.files import escaped, expand_inputs, is_machine_failure, name_problem
from toolkit.pages.evidence import TextLayers, read_layer
from toolkit.pages.pictures import DEFAULT_MAX_DECODED_MB
from toolkit.pages.rendering import SOURCE_SUFFIXES
from toolkit.pages.scratch import ScratchFolder
from toolkit.pages.workers import Job, NoWorkers, WorkerDied, WorkerPool, memory_for_pictures
from toolkit.records.record import images_of, read_records


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
    """The images and text layers of training records; their answers are not read.

    With `shuffle_pages` each document gets the pages of another one. Raises StageError if there are fewer than two.
    """
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
    """PDFs and images from files, folders and patterns; a document's id is its file name.

    Raises StageError if two files have the same name.
    """
    sources = expand_inputs(inputs, SOURCE_SUFFIXES)[:limit]
    documents = [Document(escaped(source.name), source=source) for source in sources]
    names = Counter(document.identity for document in documents)
    if twice := [name for name, count in names.items() if count > 1]:
        advice = "a document's id is its file name, extract them into different --out files"
        raise StageError(f"several inputs are called {first_few(twice)}; {advice}")
    return documents


def arriving(folders: list[Path], *, seconds: float | None, pause: float = 1.0) -> Iterator[Document | None]:
    """Documents that appear in the folders, each once, when its size no longer changes; None while there is nothing
    new.

    Ends after `seconds` (None: never) and looks every `pause` seconds. Raises StageError if an input is not a folder.
    """
    for folder in folders:
        if not folder.is_dir():
            raise StageError(f"--watch needs folders; {folder.as_posix()} is none")
    began = time.monotonic()
    seen: dict[str, Path] = {}
    sizes: dict[Path, tuple[int, int]] = {}
    while seconds is None or time.monotonic() - began < seconds:
        new = False
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
                    new = True
                    yield Document(identity, source=path)
                sizes[path] = state
        if not new:
            yield None
            time.sleep(pause)


class Pages(Future[list[Path]]):
    """A future of one document's page files. `cancel` also stops a running rendering and removes its files."""

    def __init__(self, job: Job | None = None) -> None:
        super().__init__()
        self.job = job

    def cancel(self) -> bool:
        if self.job is not None:
            self.job.cancel()
        return super().cancel()


class PageRenderer:
    """Renders documents in worker processes, so that a file that hangs or crashes its engine stops nothing else.

    `pages_of` starts a document and returns a future of its page files; `release` removes them. The files of a
    document that fails, is cancelled or finishes too late are removed here. Use as a context.
    """

    def __init__(
        self, image_max_tokens: int, *, workers: int = 2, time_limit: float = 120, max_pages: int | None = None
    ) -> None:
        self.max_pages = max_pages
        self.image_max_tokens, self.workers, self.time_limit = image_max_tokens, workers, time_limit
        self._pool: WorkerPool | None = None

    def __enter__(self) -> PageRenderer:
        self._scratch = ScratchFolder()
        self.folder = self._scratch.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.stop()
        self._scratch.__exit__()

    def trouble(self) -> str:
        """Why nothing can be rendered now, in one sentence; empty if documents can be rendered."""
        return self._pool.trouble() if self._pool is not None else ""

    def process_ids(self) -> list[int]:
        """The process ids of the workers that are running."""
        return self._pool.process_ids() if self._pool is not None else []

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Workspace]:
        """A folder for one request and the pages rendered for it. It is removed however the block ends."""
        work = Workspace(self, Path(tempfile.mkdtemp(dir=self.folder)))
        try:
            yield work
        finally:
            work.close()

    def pages_of(self, document: Document, folder: Path | None = None) -> Pages:
        """A future of the document's page files. It raises Unreadable, NoWorkers, or an error of this machine.

        The document's own folder is made in `folder` (default: the renderer's folder).
        """
        if document.source is None:
            ready = Pages()
            ready.set_result(list(document.pages))
            return ready
        if self._pool is None:
            self._pool = WorkerPool(
                self.workers, prepare=engines_loaded, memory_mb=memory_for_pictures(DEFAULT_MAX_DECODED_MB)
            )
        place = tempfile.mkdtemp(dir=folder or self.folder)
        arguments = (str(document.source), place, self.image_max_tokens, self.max_pages)
        started = self._pool.schedule(rendered_pages, arguments, timeout=self.time_limit)
        result = Pages(started)
        started.add_done_callback(lambda done: self._settle(done, result, place))
        return result

    def _settle(self, done: Any, result: Pages, place: str) -> None:
        """Pass the worker's result on to `result`; `place` is the document's folder, removed if its pages are not
        used.
        """
        wanted = result.set_running_or_notify_cancel()
        try:
            paths, sentence = done.result()
        except TimeoutError:
            paths, sentence = [], f"rendering took longer than {self.time_limit:g} s"
        except WorkerDied as error:
            paths, sentence = [], f"rendering failed ({error}); it may need more memory than there is"
        except MemoryError:
            paths, sentence = [], "rendering failed; it needs more memory than a worker may use"
        except (NoWorkers, CancelledError) as error:
            shutil.rmtree(place, ignore_errors=True)
            if wanted:
                result.set_exception(error)
            return
        except Exception as error:
            if is_machine_failure(error):
                shutil.rmtree(place, ignore_errors=True)
                if wanted:
                    result.set_exception(error)
                return
            reason = " ".join(str(error).split())[:120]
            paths, sentence = [], f"rendering failed ({type(error).__name__}: {reason})"
        if sentence or not wanted:
            shutil.rmtree(place, ignore_errors=True)
        if not wanted:
            return
        if sentence:
            result.set_exception(Unreadable(sentence))
        else:
            result.set_result([Path(path) for path in paths])

    @staticmethod
    def layer_of(document: Document, pages: list[Path]) -> list[dict[str, Any]] | None:
        """The pages of the document's text layer, its own or the one written beside its rendered pages; None for a
        scan.
        """
        layer = document.text_layer
        if document.source is not None and pages:
            layer = next(pages[0].parent.glob("*.json"), None)
        layer_pages = read_layer(layer) if layer else None
        return layer_pages if layer_pages and any(page["words"] for page in layer_pages) else None

    @staticmethod
    def release(document: Document, pages: list[Path]) -> None:
        """Remove rendered pages; files that the user gave stay."""
        if document.source is not None and pages:
            shutil.rmtree(pages[0].parent, ignore_errors=True)


class Workspace:
    """Owns the files of one request: the sent file and its pages. `close` removes them, and those that finish later."""

    def __init__(self, renderer: PageRenderer, folder: Path) -> None:
        self.renderer, self.folder = renderer, folder
        self._begun: list[Pages] = []

    def pages_of(self, document: Document) -> Pages:
        """As PageRenderer.pages_of, with the files in this workspace."""
        pages = self.renderer.pages_of(document, self.folder)
        self._begun.append(pages)
        return pages

    def close(self) -> None:
        """Cancel what is being rendered and remove all files."""
        for pages in self._begun:
            pages.cancel()
        self._remove()
        for pages in self._begun:
            if pages.job is not None and not pages.job.done():
                # Its worker may still write for up to a second.
                pages.job.add_done_callback(lambda _: self._remove())

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def engines_loaded() -> None:
    """Runs in a worker process when it starts, so that the first document does not wait for imports."""
    import PIL.Image
    import pymupdf

    import toolkit.pages.rendering  # noqa: F401

    pymupdf.TOOLS.mupdf_warnings()
    PIL.Image.preinit()


def rendered_pages(
    source: str, folder: str, image_max_tokens: int, max_pages: int | None = None
) -> tuple[list[str], str]:
    """Runs in a worker process: `(pages, "")` or `([], sentence)`.

    Raises OSError if the machine fails (a full disk).
    """
    from toolkit.pages.rendered_page import UnreadableDocument, said
    from toolkit.pages.rendering import render_document

    if problem := name_problem(source):
        return [], problem
    try:
        lines = render_document(source, folder, image_max_tokens, "png", folder, max_pages=max_pages)
    except UnreadableDocument as error:
        return [], str(error)
    except FileNotFoundError:
        return [], "the file is gone"
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise MemoryError from None  # the worker's limit, not the machine's
        if is_machine_failure(error):
            raise
        # Whatever a hostile file causes in an engine is that document's failure, not the run's.
        return [], f"{type(error).__name__}: {said(error)}"
    return [str(Path(line["image"]).resolve()) for line in lines], ""
