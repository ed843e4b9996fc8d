"""Rendering many documents: in processes of this machine, or on a Ray cluster; one function, the same limits.

A result is `(source, manifest lines, "")`, or `(source, [], sentence)` for a document that cannot be rendered. Everything that a
worker calls stands in this module: workers import it, they do not know the script that was started.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

from toolkit.console import say, sentence_of
from toolkit.page_workers import NoWorkers, WorkerDied, WorkerPool

Result = tuple[Path, list[dict[str, Any]], str]
How = tuple[int, str, str | None, tuple[str, ...]]  # vision tokens a page, format, text-layer folder, passwords


def in_processes(todo: list[Path], out_dir: Path, how: How, *, workers: int, time_limit: float) -> Iterator[Result]:
    """On this machine, in input order: a worker is killed and replaced when a document takes longer than `time_limit` seconds.

    A document whose worker is killed by something else (the kernel, when memory is short) is tried once more."""
    pool = WorkerPool(max(1, min(workers, len(todo))))
    try:
        futures = [
            pool.schedule(outcome_of, args=[str(source), str(out_dir), *how], timeout=time_limit) for source in todo
        ]
        for source, future in zip(todo, futures, strict=True):
            try:
                lines, sentence = future.result()
            except (FutureTimeout, TimeoutError):
                lines, sentence = [], f"not finished after {time_limit:g} s (--time-limit); given up"
            except WorkerDied as error:
                lines, sentence = [], str(error)
            except NoWorkers:
                raise  # no document can be rendered
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EACCES):
                    raise
                lines, sentence = [], sentence_of(error)
            except Exception as error:
                lines, sentence = [], f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            yield source, lines, sentence
    finally:
        pool.stop()


def outcome_of(source: str, out_dir: str, *how: Any) -> tuple[list[dict[str, Any]], str]:
    """`(manifest lines, "")` or `([], sentence)`; runs in a worker."""
    from toolkit.pdf_pages import UnreadableDocument, render_document

    try:
        return render_document(source, out_dir, *how), ""
    except UnreadableDocument as error:
        return [], str(error)
    except OSError:
        raise  # a full disk concerns every document
    except Exception as error:
        # As a sentence: some of the engines' exceptions cannot be sent to another process.
        return [], f"it cannot be rendered ({type(error).__name__}: {' '.join(str(error).split())[:160]})"


def on_cluster(todo: list[Path], out_dir: Path, how: How, *, address: str, time_limit: float) -> Iterator[Result]:
    """On a Ray cluster, in input order: shares of documents as tasks. All machines must see the same files at the same paths."""
    import ray

    from toolkit.ray_batch import join_cluster

    join_cluster(address, {"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}})
    try:
        cpus = int(ray.cluster_resources().get("CPU", 1))
        say(f"Ray: {len(ray.nodes())} machines, {cpus} CPUs")
        size = max(1, min(50, len(todo) // (2 * cpus) + 1))
        shares = [todo[start : start + size] for start in range(0, len(todo), size)]
        remote = ray.remote(num_cpus=1, max_retries=2)(share_rendered)
        tasks = [
            remote.remote([str(p) for p in share], str(out_dir), str(Path.cwd()), how, time_limit) for share in shares
        ]
        for share, task in zip(shares, tasks, strict=True):
            for source, (lines, sentence) in zip(share, ray.get(task), strict=True):
                yield source, lines, sentence
    finally:
        ray.shutdown()


def share_rendered(
    sources: list[str], out_dir: str, folder: str, how: How, time_limit: float
) -> list[tuple[list[dict[str, Any]], str]]:
    """A Ray task: one share, rendered as on a single machine from the same working directory."""
    os.chdir(folder)
    results = in_processes([Path(source) for source in sources], Path(out_dir), how, workers=1, time_limit=time_limit)
    return [(lines, sentence) for _, lines, sentence in results]
