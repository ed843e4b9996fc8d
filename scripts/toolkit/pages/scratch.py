"""Temporary folders of this process. What a killed process left behind is removed by the next one that starts.

Beside each folder lies a lock file that its owner holds locked while it lives. The kernel lets go of the lock when the
process ends, however it ends, so a lock that can be taken means that nobody uses the folder any more.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO, Any

PREFIX = "document-pages-"


class ScratchFolder:
    """A folder for pages and uploads that only this user can read; use as a context.

    First removes what killed processes left.
    """

    def __enter__(self) -> Path:
        remove_abandoned()
        while True:
            handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=".lock")
            self._lock: IO[Any] = os.fdopen(handle, "wb")
            # Another process that is cleaning up may have taken it in between.
            if locked(self._lock) and Path(name).exists():
                break
            self._lock.close()
        self._lock_path = Path(name)
        self.path = self._lock_path.with_suffix("")
        self.path.mkdir(mode=0o700)
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()
        with contextlib.suppress(OSError):
            self._lock_path.unlink()


def remove_abandoned() -> None:
    """Remove the scratch folders of this user whose processes ended without doing so."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*.lock"):
        with contextlib.suppress(OSError):
            if path.is_symlink() or not _is_ours(path):
                continue
            with path.open("r+b") as lock:
                if locked(lock):
                    folder = path.with_suffix("")
                    if not folder.is_symlink() and folder.is_dir() and _is_ours(folder):
                        shutil.rmtree(folder, ignore_errors=True)
                    path.unlink()


def _is_ours(path: Path) -> bool:
    return not hasattr(os, "getuid") or path.lstat().st_uid == os.getuid()


def locked(file: IO[Any]) -> bool:
    """Lock the open file for this process; False where another one holds it."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
