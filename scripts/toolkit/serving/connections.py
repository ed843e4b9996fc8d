"""The gateway's HTTP server: uvicorn, with connections that cannot be held for nothing.

uvicorn alone waits for the head of a request without end, and once its own limit is reached it answers 503 to all.
Here a connection without a request under way is closed after `idle_seconds`, also if it sends a byte now and then. If
there are too many connections, the longest idle one makes room, so health checks and documents are still answered.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

SPARE_FILES = 256  # file handles for everything but connections
SWEEP_EVERY = 5  # of uvicorn's ticks, which are 0.1 s


@dataclass(frozen=True)
class Connections:
    """Limits: `most` connections at the same time; `idle_seconds` until the head of a request is complete, and between
    two requests; `stalled_seconds` for a client that does not read its answer."""

    most: int = 1000
    idle_seconds: float = 10.0
    stalled_seconds: float = 60.0


class Connection(H11Protocol):
    """One client's connection; `since` is when it was last seen with a request under way."""

    limits = Connections()

    def connection_made(self, transport: Any) -> None:  # type: ignore[override, unused-ignore]
        super().connection_made(transport)
        self.since = time.monotonic()
        self.last_cycle: Any = None
        self.stalled_since: float | None = None
        if len(self.connections) > self.limits.most:
            self._make_room()

    @property
    def busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _make_room(self) -> None:
        """Drop the longest idle connection, first those that never asked anything. If all are busy, refuse this one."""
        open_ones: list[Any] = [c for c in self.connections if not c.transport.is_closing()]
        if len(open_ones) <= self.limits.most:
            return
        idle = [connection for connection in open_ones if connection is not self and not connection.busy]
        if idle:
            min(idle, key=lambda c: (c.cycle is not None, c.since)).transport.abort()
        else:
            self._refuse(503, "Service Unavailable", "too many connections; try again")

    def look(self, now: float) -> None:
        """Close what is idle or stalled."""
        if self.cycle is not self.last_cycle or self.busy:
            self.last_cycle, self.since = self.cycle, now
        if self.busy:
            if not self.flow.write_paused:
                self.stalled_since = None
            elif self.stalled_since is None:
                self.stalled_since = now
            elif now - self.stalled_since > self.limits.stalled_seconds:
                self.transport.abort()
        elif now - self.since > self.limits.idle_seconds:
            if self.transport.is_closing():
                self.transport.abort()  # an answer that nobody reads
            else:
                self.transport.close()
                self.since = now

    def send_400_response(self, msg: str) -> None:
        if self.busy:  # an answer is on its way: nothing can be put into its middle
            self.transport.abort()
            return
        self._refuse(400, "Bad Request", "the request is not valid HTTP")

    def _refuse(self, status: int, phrase: str, sentence: str) -> None:
        body = json.dumps({"error": {"message": sentence, "type": "refused"}}).encode()
        head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"retry-after: 1\r\nconnection: close\r\n\r\n" + body)
        self.transport.close()


class GatewayServer(uvicorn.Server):
    """uvicorn that looks after its connections twice a second."""

    async def on_tick(self, counter: int) -> bool:
        if counter % SWEEP_EVERY == 0:
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.look(now)
        return await super().on_tick(counter)


def server_of(app: Any, host: str, port: int, limits: Connections, *, shutdown_seconds: float) -> GatewayServer:
    """A server for the application; `run` it."""
    most = min(limits.most, max(32, (file_handles(2 * limits.most + SPARE_FILES) - SPARE_FILES) // 2))
    kept = Connections(most, limits.idle_seconds, limits.stalled_seconds)
    protocol = type("Connection", (Connection,), {"limits": kept})
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,  # h11: it refuses heads over 64 KiB
        ws="none",
        access_log=False,
        # It would warn of every request that is not HTTP.
        log_level="error",
        timeout_keep_alive=max(1, int(limits.idle_seconds)),
        timeout_graceful_shutdown=int(shutdown_seconds),
    )
    return GatewayServer(config)


def file_handles(wanted: int) -> int:
    """How many files this process may open, after asking for `wanted`."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft
