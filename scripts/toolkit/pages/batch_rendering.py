"""Rendering many documents: in processes of this machine, or on a Ray cluster; one function, the same limits.

A document's pages are made in a folder of their own; whoever takes the result moves them all to their places, or
throws them away. Everything that a worker calls stands in this module: workers import it, they do not know the script
that was started.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import Future, as_completed
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.console import say
from toolkit.files import SCRIPTS, is_machine_failure, name_problem
from toolkit.pages.manifest import PageLine
from toolkit.pages.pictures import DEFAULT_MAX_DECODED_MB
from toolkit.pages.workers import NoWorkers, WorkerDied, WorkerPool, memory_for_pictures


@dataclass(frozen=True)
class Rendering:
    """How documents are rendered; `text_layer`: also their words."""

    image_max_tokens: int
    image_format: str
    text_layer: bool = False
    passwords: tuple[str, ...] = ()
    max_decoded_mb: float = DEFAULT_MAX_DECODED_MB


@dataclass(frozen=True)
class Rendered:
    """One document: its manifest lines (their files lie in `folder` yet), or the sentence why it cannot be rendered."""

    source: Path
    folder: Path
    lines: list[PageLine]
    problem: str = ""


def in_processes(
    todo: list[Path], scratch: Path, how: Rendering, *, workers: int, time_limit: float
) -> Iterator[Rendered]:
    """On this machine, as they are finished, each in a folder below `scratch`.

    A worker is killed and replaced when a document takes longer than `time_limit` seconds. A document whose worker was
    killed by something else (the kernel, when memory is short) is tried once more. Raises OSError where no document
    could be rendered (a full disk), NoWorkers where no process can be started.
    """
    memory = memory_for_pictures(how.max_decoded_mb)
    pool = WorkerPool(max(1, min(workers, len(todo))), memory_mb=memory)
    try:
        places: dict[Future[Any], tuple[Path, Path]] = {}
        for number, source in enumerate(todo, 1):
            folder = scratch / f"{number:07d}"
            places[pool.schedule(outcome_of, args=[str(source), str(folder), how], timeout=time_limit)] = source, folder
        for future in as_completed(places):
            lines: list[PageLine] = []
            try:
                lines, sentence = future.result()
            except (FutureTimeout, TimeoutError):
                sentence = f"not finished after {time_limit:g} s (--time-limit); given up"
            except WorkerDied as error:
                sentence = str(error)
            except NoWorkers:
                raise  # no document can be rendered
            except MemoryError:
                sentence = f"it needs more than the {memory:.0f} MB of memory that a worker may use"
            except Exception as error:
                if is_machine_failure(error):
                    raise
                sentence = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            source, folder = places.pop(future)
            yield Rendered(source, folder, lines, sentence)
    finally:
        pool.stop()


def outcome_of(source: str, folder: str, how: Rendering) -> tuple[list[PageLine], str]:
    """`(manifest lines, "")` or `([], sentence)`; runs in a worker. Raises OSError for this machine's failure."""
    from toolkit.pages.rendered_page import UnreadableDocument, said
    from toolkit.pages.rendering import render_document

    if problem := name_problem(source):
        return [], problem
    layer = folder if how.text_layer else None
    try:
        return render_document(
            *(source, folder, how.image_max_tokens, how.image_format, layer, how.passwords),
            max_decoded_mb=how.max_decoded_mb,
        ), ""
    except UnreadableDocument as error:
        return [], str(error)
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise MemoryError from None  # the worker's limit, not the machine's
        if is_machine_failure(error):
            raise  # a full disk concerns every document
        if isinstance(error, OSError) and error.errno is not None:
            return [], f"it cannot be read ({error.strerror})"
        # As a sentence: some of the engines' exceptions cannot be sent to another process.
        return [], f"it cannot be rendered ({type(error).__name__}: {said(error, 160)})"


def on_cluster(
    todo: list[Path], scratch: Path, how: Rendering, *, address: str, time_limit: float
) -> Iterator[Rendered]:
    """On a Ray cluster: shares of documents as tasks. All machines must see the same files at the same paths."""
    import ray

    from toolkit.pages.ray_cluster import join_cluster

    join_cluster(address, {"env_vars": {"PYTHONPATH": str(SCRIPTS)}})
    try:
        cpus = int(ray.cluster_resources().get("CPU", 1))
        say(f"Ray: {len(ray.nodes())} machines, {cpus} CPUs")
        size = max(1, min(50, len(todo) // (2 * cpus) + 1))
        shares = [todo[start : start + size] for start in range(0, len(todo), size)]
        remote = ray.remote(num_cpus=1, max_retries=2)(share_rendered)
        tasks = [
            remote.remote([str(p) for p in share], str(scratch / f"share-{number}"), str(Path.cwd()), how, time_limit)
            for number, share in enumerate(shares)
        ]
        for task in tasks:
            try:
                yield from ray.get(task)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, OSError):
                    raise error.cause from None
                raise
    finally:
        ray.shutdown()


def share_rendered(sources: list[str], scratch: str, folder: str, how: Rendering, time_limit: float) -> list[Rendered]:
    """A Ray task: one share, rendered as on a single machine from the same working directory."""
    os.chdir(folder)
    return list(
        in_processes([Path(source) for source in sources], Path(scratch), how, workers=1, time_limit=time_limit)
    )
