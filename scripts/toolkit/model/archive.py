"""A model that has to be found first: in a mounted folder, or fetched as an archive over HTTPS and proved by its SHA-256."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from toolkit.console import ExitCode, StageError, say
from toolkit.files import sha256_of, shown
from toolkit.model.folder import MAX_ARCHIVE_BYTES, unpack

MODEL_CONFIG = "config.json"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
DEPTH = 3  # Azure ML mounts <name>/<version>/<folder>


def model_folder_in(folder: Path, origin: str) -> Path:
    """`folder` itself where it is a model, else the only model folder at most three levels below. Raises StageError."""
    if (folder / MODEL_CONFIG).is_file() or not folder.is_dir():
        return folder
    found: list[Path] = []
    for depth in range(1, DEPTH + 1):
        found = sorted(path.parent for path in folder.glob("*/" * depth + MODEL_CONFIG))
        if found:
            break
    if len(found) != 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in found[:3]) or "none"
        raise StageError(f"{origin} {shown(folder)}: {len(found)} model folders inside ({names}); it must hold one")
    return found[0]


def fetched_model(archive: str, sha256: str, cache: Path) -> Path:
    """The model folder of `archive` (an https:// address or a file), unpacked below `cache` under its digest; fetched only once.

    The folder is complete or absent. Raises StageError where the address, the download, the digest or the archive is wrong.
    """
    digest = sha256.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise StageError("--sha256 must be the archive's 64 hexadecimal digits; print them with: sha256sum FILE")
    kept = cache / digest[:16]
    if kept.is_dir():
        return model_folder_in(kept, "--cache")
    cache.mkdir(parents=True, exist_ok=True)
    # On the same volume as the cache, so that the move at the end is one.
    scratch = Path(tempfile.mkdtemp(prefix=".fetching-", dir=cache))
    try:
        local = Path(archive)
        if "://" in archive:
            local = scratch / "archive"
            download(archive, local)
        elif not local.is_file():
            raise StageError(f"--archive: not found: {archive}")
        found = sha256_of(local)
        if found != digest:
            raise StageError(f"--archive: its SHA-256 is {found}, not the one given; nothing of it was unpacked")
        unpacked = scratch / "model"
        unpacked.mkdir()
        unpack(local, unpacked, "a model")
        model_folder_in(unpacked, "--archive")
        try:
            unpacked.rename(kept)
        except OSError:
            if not kept.is_dir():  # another container on the same volume was quicker
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return model_folder_in(kept, "--cache")


def download(url: str, target: Path) -> None:
    """Stream `url` to `target`; HTTPS only (and this machine). The address is not printed: signed ones are keys."""
    import httpx

    def check(address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            raise StageError("--archive: an https:// address or a file is needed")

    check(url)
    host = urlsplit(url).hostname
    say(f"fetching the model from {host}")
    try:
        with httpx.Client(follow_redirects=False, timeout=httpx.Timeout(60, connect=20)) as client:
            for _ in range(5):
                with client.stream("GET", url) as answer:
                    if answer.is_redirect:
                        url = str(answer.next_request.url) if answer.next_request else ""
                        check(url)
                        continue
                    if answer.status_code != 200:
                        raise StageError(
                            f"--archive: {host} answers {answer.status_code}; is the address still valid?",
                            ExitCode.PROBLEMS,
                        )
                    received = 0
                    with target.open("wb") as file:
                        for chunk in answer.iter_bytes(1 << 20):
                            received += len(chunk)
                            if received > MAX_ARCHIVE_BYTES:
                                raise StageError(f"--archive: more than {MAX_ARCHIVE_BYTES >> 30} GB")
                            file.write(chunk)
                        os.fsync(file.fileno())
                    return
            raise StageError(f"--archive: {host} redirects without end", ExitCode.PROBLEMS)
    except httpx.TransportError as error:
        raise StageError(
            f"--archive: the download from {host} failed ({type(error).__name__}); start again", ExitCode.PROBLEMS
        ) from None
