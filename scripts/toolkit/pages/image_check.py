"""Whether page images are there, are what their names say, and are whole: each is decoded."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path

from toolkit.console import one_line
from toolkit.files import is_machine_failure
from toolkit.pages.pictures import UnreadablePicture, damage, opened_picture
from toolkit.pages.workers import Job, NoWorkers, WorkerDied, WorkerPool, memory_for_pictures

SUFFIXES = {
    "PNG": [".png"],
    "JPEG": [".jpg", ".jpeg"],
    "MPO": [".jpg", ".jpeg"],  # a phone's JPEG with a second view
    "WEBP": [".webp"],
    "TIFF": [".tif", ".tiff"],
    "BMP": [".bmp"],
}
FEW = 200  # images that are looked at in this process
BATCH = 16
TIME_LIMIT = 120.0  # seconds for one batch


@dataclass(frozen=True)
class Checked:
    """One image: what is wrong with it (empty: nothing), and its size in pixels where that is known."""

    path: Path
    problem: str
    size: tuple[int, int] = (0, 0)


class Folders:
    """Which names folders hold: one listing a folder instead of one look an image."""

    def __init__(self) -> None:
        self._names: dict[Path, set[str] | str] = {}

    def problem(self, path: Path) -> str:
        """Why there is no such file; empty where there is one of exactly this name."""
        if path.parent not in self._names:
            try:
                self._names[path.parent] = {entry.name for entry in os.scandir(path.parent)}
            except (FileNotFoundError, NotADirectoryError):
                self._names[path.parent] = set()
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                self._names[path.parent] = f"its folder cannot be listed ({reason})"
        names = self._names[path.parent]
        if isinstance(names, str):
            return names
        if path.name in names:
            return ""
        similar = sorted(name for name in names if name.casefold() == path.name.casefold())
        if similar:
            return f"the file is called {similar[0]!r}; Linux tells upper and lower case apart"
        return "not found"


def checked_images(paths: Iterable[Path], max_decoded_mb: float, workers: int) -> Iterator[Checked]:
    """Every path, in order of the paths. More than a few are decoded in `workers` processes under a memory limit."""
    folders = Folders()
    known = [(path, folders.problem(path)) for path in paths]
    if len(known) <= FEW:
        yield from (Checked(path, problem) if problem else looked_at(path, max_decoded_mb) for path, problem in known)
        return
    pool = WorkerPool(workers, memory_mb=memory_for_pictures(max_decoded_mb))
    try:
        there = (path for path, problem in known if not problem)
        batches = [list(batch) for batch in iter(lambda: list(itertools.islice(there, BATCH)), [])]
        jobs = [pool.schedule(look_at_all, [batch, max_decoded_mb], timeout=TIME_LIMIT) for batch in batches]
        found = itertools.chain.from_iterable(
            results(pool, job, batch, max_decoded_mb) for job, batch in zip(jobs, batches, strict=True)
        )
        for path, problem in known:
            yield Checked(path, problem) if problem else next(found)
    finally:
        pool.stop()


def results(pool: WorkerPool, job: Job, batch: list[Path], max_decoded_mb: float) -> list[Checked]:
    """What a batch gave. Where its worker failed, each of its images is looked at alone, to find the one to blame."""
    try:
        return list(job.result())
    except NoWorkers:
        raise
    except (FutureTimeout, TimeoutError):
        problem = f"not decoded after {TIME_LIMIT:g} s"
    except (WorkerDied, MemoryError):
        problem = "decoding it takes too much memory, or ends the process"
    if len(batch) == 1:
        return [Checked(batch[0], problem)]
    alone = [[path] for path in batch]
    jobs = [pool.schedule(look_at_all, [batch, max_decoded_mb], timeout=TIME_LIMIT) for batch in alone]
    return [
        checked for job, batch in zip(jobs, alone, strict=True) for checked in results(pool, job, batch, max_decoded_mb)
    ]


def look_at_all(paths: list[Path], max_decoded_mb: float) -> list[Checked]:
    """Runs in a worker."""
    return [looked_at(path, max_decoded_mb) for path in paths]


def looked_at(path: Path, max_decoded_mb: float) -> Checked:
    """One image, decoded. Raises MemoryError, and OSError where the machine fails."""
    try:
        with opened_picture(path, max_decoded_mb) as image:
            size = (int(image.width), int(image.height))
            image_format = str(image.format)
            # Turned photos: training and serving would see another page than people do.
            turned = image.getexif().get(0x0112, 1) != 1
            problem = damage(path, image)
    except UnreadablePicture as error:
        return Checked(path, str(error))
    except MemoryError:
        raise
    except Exception as error:
        if is_machine_failure(error):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error, 120)
        return Checked(path, f"cannot be opened ({reason})")
    if not problem and path.suffix.lower() not in SUFFIXES.get(image_format, []):
        problem = f"is a {image_format} file, whatever its name says"
    if not problem and turned:
        problem = "is turned by EXIF; render it with pdf_to_images.py"
    return Checked(path, problem, size)
