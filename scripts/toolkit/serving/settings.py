"""How a gateway is run: the limits of its requests, the model server behind it, keys and workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolkit.console import StageError

TOO_SMALL = "--max-bytes, --max-pages, --max-seconds, --concurrency and --workers must be over 0"


@dataclass(frozen=True)
class Limits:
    """What requests may cost. Raises StageError for a limit under which nothing can be answered.

    body_bytes: of a request.
    pages: of a document.
    files: of a request.
    seconds: for a whole request, its upload included.
    documents: worked on at the same time.
    queue: documents that may wait for their turn; a client beyond that gets 429.
    """

    body_bytes: int = 32 * 2**20
    pages: int = 50
    files: int = 50
    seconds: float = 60.0
    documents: int = 16
    queue: int = 64

    def __post_init__(self) -> None:
        if min(self.body_bytes, self.pages, self.files, self.documents) < 1 or self.seconds <= 0 or self.queue < 0:
            raise StageError(TOO_SMALL)


@dataclass(frozen=True)
class Settings:
    """The gateway's surroundings. Raises StageError where no worker is wanted.

    url: the vLLM behind it, up to /v1.
    key: what clients must bring as a bearer token; None lets everybody in.
    server_key: vLLM's own key, if it has one.
    render_timeout: seconds to render one file.
    workers: processes that render.
    ready_file: exists while the model is warm; None: only the model server's health counts.
    """

    url: str
    key: str | None = None
    server_key: str | None = None
    render_timeout: float = 30
    workers: int = 2
    ready_file: Path | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise StageError(TOO_SMALL)
