"""What a request may cost: the size of its body, the time to send it, and no work for a client that has left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TextIO

import fastapi
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from toolkit.serving.settings import Limits

UNEXPECTED = "an unexpected error in the gateway; its log says where"


class TooLarge(Exception):
    """The body is longer than allowed."""


class TooSlow(Exception):
    """The body did not come in time."""


class ClientLeft(Exception):
    """The client closed its connection before it had its answer."""


def place_of(error: BaseException) -> str:
    """The kind of an unexpected error and where it was raised. Its message is left out: it may quote a document."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


class Body:
    """The body of one request as it comes in. Raises TooLarge and TooSlow to whoever reads it."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self.receive, self.limits = receive, limits
        self.began, self.bytes, self.complete = time.monotonic(), 0, False

    async def next_message(self) -> Message:
        """The next ASGI message; the time limit counts only until the body is complete."""
        if self.complete:
            message = await self.receive()
        else:
            left = self.limits.seconds - (time.monotonic() - self.began)
            try:
                message = await asyncio.wait_for(self.receive(), max(0.01, left))
            except TimeoutError:
                raise TooSlow from None
        self.bytes += len(message.get("body", b""))
        if self.bytes > self.limits.body_bytes:
            raise TooLarge
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.complete = True
        return message


class RequestLimits:
    """ASGI middleware that keeps the limits of a body: 413 if it is too long, 408 if it takes too long.

    A body whose declared length is over the limit is refused before it is read. An unexpected error of the application
    becomes a 500 of the gateway's usual form.
    """

    def __init__(self, app: ASGIApp, limits: Limits, log: TextIO) -> None:
        self.app, self.limits, self.log = app, limits, log
        self.too_large = f"a body may have {limits.body_bytes} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.limits.body_bytes:
            await refuse(send, 413 if declared.isdigit() else 400, self.too_large)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, Body(receive, self.limits).next_message, watched_send)
        except ClientDisconnect:
            pass  # in the middle of its body
        except Exception as error:
            refusal = self._refusal_of(error)
            if not started:
                await refuse(send, *refusal)
            # Else the answer ends unfinished, and uvicorn closes the connection: the client sees that it is not whole.

    def _refusal_of(self, error: Exception) -> tuple[int, str, str]:
        """Status code, sentence and kind for an error of the application; one that is unexpected is logged."""
        if isinstance(error, TooLarge):
            return 413, self.too_large, "refused"
        if isinstance(error, TooSlow):
            return 408, f"the request did not come within {self.limits.seconds:g} s", "refused"
        print(json.dumps({"status": "error", "error": place_of(error)}), file=self.log, flush=True)
        return 500, UNEXPECTED, "error"


async def refuse(send: Send, status: int, sentence: str, kind: str = "refused") -> None:
    """Answer with an error of the gateway's form and close the connection."""
    body = json.dumps({"error": {"message": sentence, "type": kind}}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def until_client_leaves(request: fastapi.Request) -> AsyncIterator[None]:
    """A block that ends with ClientLeft when the client closes its connection. Read the request's body before it."""
    task = asyncio.current_task()
    assert task is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if left and task.uncancel() <= 0:
            raise ClientLeft from None
        raise
    finally:
        watcher.cancel()
