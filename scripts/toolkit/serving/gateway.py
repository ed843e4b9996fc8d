"""The gateway: a PDF or page images in, strict JSON with confidence out, in front of a vLLM in the same container.

It renders at the contract's size in worker processes, asks as extract_documents.py does (windows, shards, wire form),
and answers with the public JSON. Nothing of a document is logged or kept: uploads and pages lie in one temporary folder
per request, which is removed when the request ends, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import sys
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, TextIO

import fastapi
import httpx
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from toolkit.answers.row_shards import Shard
from toolkit.console import StageError
from toolkit.extraction.chat_request import headers
from toolkit.extraction.documents import Document, PageRenderer, Unreadable, Workspace
from toolkit.extraction.run import Judge, OnPart, prediction_of
from toolkit.extraction.server_client import ServerModel
from toolkit.model.contract import Contract
from toolkit.pages.evidence import DocumentWords
from toolkit.pages.workers import NoWorkers
from toolkit.serving.media_urls import refusal_of
from toolkit.serving.metrics import Metrics
from toolkit.serving.openapi import ENDPOINTS, LINES
from toolkit.serving.request_limits import (
    UNEXPECTED,
    ClientLeft,
    RequestLimits,
    TooLarge,
    TooSlow,
    place_of,
    until_client_leaves,
)
from toolkit.serving.routes import ROUTES
from toolkit.serving.settings import Limits, Settings
from toolkit.serving.uploads import stored_uploads

# What a prediction's status is in HTTP: the document's own fault, the model's, the server's.
STATUS_CODES = {
    "ok": 200,
    "unreadable": 422,
    "refused": 422,
    "not_json": 502,
    "schema_error": 502,
    "truncated": 502,
    "http_error": 503,
    "unavailable": 503,  # this machine's fault: no worker, no room on the disk
    "time-out": 504,
    "left": 499,  # no client receives it
    "error": 500,
}
ANSWER_FIELDS = "prediction confidence evidence checks warnings pages windows shards usage seconds".split()
HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "keep-alive", "server", "date"}
NOT_CHAT = "a JSON object with messages is needed"
SERVER_SILENT = "the model server does not answer"
# Errors that already have their own answer: an HTTP status, the middleware's refusal, a client that is gone.
ANSWERED_ELSEWHERE = (fastapi.HTTPException, TooLarge, TooSlow, ClientDisconnect)


@dataclass
class DocumentRequest:
    """One request for a document and what is known of it: its prediction line, and seconds by part."""

    request: fastapi.Request
    on_part: OnPart | None  # told of each shard's values as they come
    deadline: float  # of the event loop's clock
    identity: str = field(default_factory=lambda: uuid.uuid4().hex)
    began: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)
    line: dict[str, Any] = field(default_factory=lambda: {"status": "cancelled"})

    def log_line(self) -> str:
        """What is logged: times and status, nothing of the document."""
        entry = {
            "id": self.identity,
            "status": self.line["status"],
            "pages": self.line.get("pages", 0),
            "seconds": {part: round(seconds, 4) for part, seconds in self.seconds.items()},
        }
        return json.dumps(entry | ({"error": self.line["place"]} if "place" in self.line else {}))


class Gateway:
    """The endpoints of routes.py and the steps of a request; `application` is what an HTTP server runs."""

    # They live as long as the application runs.
    renderer: PageRenderer
    http: httpx.AsyncClient
    probe: httpx.AsyncClient

    def __init__(self, contract: Contract, settings: Settings, limits: Limits, log: TextIO = sys.stderr) -> None:
        self.contract, self.settings, self.limits, self.log = contract, settings, limits, log
        self.judge = Judge(contract.answer_plan, contract.confidence)
        self.metrics_of_requests = Metrics()
        self.turn, self.opening = asyncio.Semaphore(limits.documents), asyncio.Lock()
        self.waiting = 0  # documents that are worked on or wait for their turn
        self.model: ServerModel | None = None

    def application(self) -> fastapi.FastAPI:
        """The ASGI application."""
        title = f"Extraction: {self.contract.target.title}"
        # With a key: the description wants it too, and the page for browsers, which send none, is off.
        pages: dict[str, Any] = {} if self.settings.key is None else {"docs_url": None, "openapi_url": None}
        app = fastapi.FastAPI(title=title, version="1", lifespan=self._lifespan, redoc_url=None, **pages)
        if pages:

            async def description(request: fastapi.Request) -> Any:
                self._check_key(request)
                return JSONResponse(app.openapi())

            app.add_api_route("/openapi.json", description, include_in_schema=False)
        app.add_middleware(RequestLimits, limits=self.limits, log=self.log)
        app.add_exception_handler(HTTPException, _as_problem)
        for route in ROUTES:
            endpoint, texts = getattr(self, route.endpoint), ENDPOINTS[route.endpoint]
            shown = route.documented
            app.add_api_route(route.path, endpoint, methods=[route.method], include_in_schema=shown, **texts)
        return app

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: fastapi.FastAPI) -> AsyncIterator[None]:
        renderer = PageRenderer(
            self.contract.image_max_tokens,
            workers=self.settings.workers,
            time_limit=self.settings.render_timeout,
            max_pages=self.limits.pages,
        )
        with renderer:
            self.renderer = renderer
            await asyncio.to_thread(warm_up, renderer)
            sent = headers(self.settings.server_key)
            self.http = httpx.AsyncClient(headers=sent, timeout=httpx.Timeout(self.limits.seconds, connect=5))
            # Of its own: however many requests are passed on, one more connection is there for health.
            self.probe = httpx.AsyncClient(headers=sent, timeout=5)
            yield
            await self.http.aclose()
            await self.probe.aclose()
            if self.model is not None:
                await self.model.__aexit__()

    # --- endpoints: what OpenAPI says of them is in openapi.py; a docstring here would be published there ---

    async def extract(self, request: fastapi.Request) -> Any:
        self._check_key(request)
        if self.waiting >= self.limits.documents + self.limits.queue:
            self.metrics_of_requests.requests.labels("busy").inc()
            return problem(429, "too many documents are waiting; try again", {"Retry-After": "1"})
        self._count_waiting(1)
        if LINES in request.headers.get("accept", ""):
            return await self._answer_in_lines(request)
        return await self._answer(request, None)

    async def completions(self, request: fastapi.Request) -> Any:
        self._check_key(request)
        try:
            body = json.loads(await request.body())
            # What was checked is what is sent: a key that stands twice, or another encoding, would be read by two
            # parsers.
            content = json.dumps(body).encode()
        except (ValueError, RecursionError):
            return problem(400, NOT_CHAT)
        if not isinstance(body, dict):
            return problem(400, NOT_CHAT)
        if sentence := refusal_of(body):
            return problem(400, sentence)
        return await self._passed_on("POST", "chat/completions", content)

    async def models(self, request: fastapi.Request) -> Any:
        self._check_key(request)
        return await self._passed_on("GET", "models")

    async def live(self) -> dict[str, str]:
        return {"status": "live"}

    async def ready(self) -> Any:
        sentence = await self._why_not_ready()
        return problem(503, sentence, None, "http_error") if sentence else {"status": "ready"}

    async def ping(self) -> Any:
        return Response(status_code=204) if await self._why_not_ready() else {"status": "ready"}

    async def metrics(self, request: fastapi.Request) -> Any:
        self._check_key(request)
        return PlainTextResponse(self.metrics_of_requests.text(), media_type="text/plain; version=0.0.4")

    # --- the steps of a request for a document ---

    def _check_key(self, request: fastapi.Request) -> None:
        """Raises fastapi.HTTPException 401 for a client without the key."""
        sent = request.headers.get("authorization", "").encode()
        key = self.settings.key
        if key is not None and not hmac.compare_digest(sent, f"Bearer {key}".encode()):
            raise fastapi.HTTPException(401, "another API key is needed", headers={"WWW-Authenticate": "Bearer"})

    def _count_waiting(self, change: int) -> None:
        self.waiting += change
        self.metrics_of_requests.under_way.set(self.waiting)

    async def _answer_in_lines(self, request: fastapi.Request) -> Response:
        """Each shard's values in a line as they come, the whole answer as the last line.

        What fails before the first line has its status code.
        """
        lines: asyncio.Queue[bytes] = asyncio.Queue()

        def on_part(window: int, shard: Shard, values: dict[str, Any]) -> None:
            lines.put_nowait(line_of({"window": window + 1, "shard": shard.line, "values": values}))

        work = asyncio.create_task(self._answer(request, on_part))
        first = asyncio.create_task(lines.get())
        await asyncio.wait({work, first}, return_when=asyncio.FIRST_COMPLETED)
        if work.done() and not first.done():
            first.cancel()
            whole = work.result()
            return Response(bytes(whole.body) + b"\n", media_type=LINES) if whole.status_code == 200 else whole

        async def sent() -> AsyncIterator[bytes]:
            work.add_done_callback(lambda _: lines.put_nowait(b""))
            try:
                yield await first
                while line := await lines.get():
                    yield line
                yield bytes((await work).body) + b"\n"
            finally:
                work.cancel()  # the client has all, or has left

        return StreamingResponse(sent(), media_type=LINES)

    async def _answer(self, request: fastapi.Request, on_part: OnPart | None) -> Response:
        """The answer to a request that was counted as waiting; timed and logged."""
        asked = DocumentRequest(request, on_part, asyncio.get_running_loop().time() + self.limits.seconds)
        try:
            asked.line = await self._prediction_line(asked)
        except Exception as error:
            asked.line = self._failure_line(error)
            if isinstance(error, ANSWERED_ELSEWHERE):
                raise
        finally:
            self._account_for(asked)
        line, status = asked.line, asked.line["status"]
        code = STATUS_CODES[status]
        if code == 200:
            return JSONResponse({"id": asked.identity, **{name: line[name] for name in ANSWER_FIELDS if name in line}})
        return problem(code, line.get("error") or status, {"Retry-After": "2"} if code == 503 else {}, status)

    async def _prediction_line(self, asked: DocumentRequest) -> dict[str, Any]:
        """Store what was sent, wait for a turn, read it; its files are removed when this ends.

        Raises TimeoutError at the request's deadline. An upload that takes as long is ended by `RequestLimits`.
        """
        with self.renderer.workspace() as work:
            sources = [
                Document(path.name, source=path)
                for path in await stored_uploads(asked.request, work.folder, self.limits.files)
            ]
            async with until_client_leaves(asked.request), asyncio.timeout_at(asked.deadline), self.turn:
                began = time.monotonic()
                try:
                    pages, layer = await rendered_pages(work, sources)
                except Unreadable as error:
                    return {"status": "unreadable", "error": str(error)}
                finally:
                    asked.seconds["render"] = time.monotonic() - began
                if len(pages) > self.limits.pages:
                    return {"status": "unreadable", "error": f"it has more than {self.limits.pages} pages"}
                self.metrics_of_requests.pages.inc(len(pages))
                return await self._model_line(asked, pages, layer) | {"pages": len(pages)}

    async def _model_line(self, asked: DocumentRequest, pages: list[Any], layer: list[Any] | None) -> dict[str, Any]:
        """The model's prediction line for these page images; `layer`: their text layer."""
        began = time.monotonic()
        try:
            line = await prediction_of(
                self.judge,
                await self._connected_model(),
                Document(asked.identity),
                pages,
                window=self.contract.max_pages,
                tries=3,
                words=DocumentWords(layer) if layer else None,
                on_part=asked.on_part,
            )
        except StageError:
            # The server's address or key is wrong, or it is not up: nothing that the client could cure.
            return {"status": "http_error", "error": SERVER_SILENT}
        asked.seconds["model"] = time.monotonic() - began
        return {**line}

    def _failure_line(self, error: Exception) -> dict[str, Any]:
        """The line of a document whose request ended with this error."""
        match error:
            case TimeoutError() if self._model_is_away():
                return {"status": "http_error", "error": SERVER_SILENT}
            case TimeoutError():
                return {"status": "time-out", "error": f"no answer within {self.limits.seconds:g} s"}
            case ClientLeft():
                return {"status": "left", "error": "the client left"}
            case NoWorkers():
                return {"status": "unavailable", "error": str(error)}
            case OSError():
                return {"status": "unavailable", "error": f"the document cannot be stored ({error.strerror})"}
            case fastapi.HTTPException():
                return {"status": f"http {error.status_code}"}
            case TooLarge():
                return {"status": "http 413"}
            case TooSlow():
                return {"status": "http 408"}
            case ClientDisconnect():
                return {"status": "left"}
        return {"status": "error", "error": UNEXPECTED, "place": place_of(error)}

    def _account_for(self, asked: DocumentRequest) -> None:
        """The request has ended: metrics and one line in the log."""
        self._count_waiting(-1)
        asked.seconds["total"] = time.monotonic() - asked.began
        self.metrics_of_requests.requests.labels(asked.line["status"]).inc()
        for part, seconds in asked.seconds.items():
            self.metrics_of_requests.seconds.labels(part).observe(seconds)
        print(asked.log_line(), file=self.log, flush=True)

    # --- the model server ---

    async def _connected_model(self) -> ServerModel:
        """The served model; looked for at the first request, since the gateway may be up before vLLM is."""
        async with self.opening:
            if self.model is None:
                model = ServerModel(
                    self.settings.url,
                    self.contract,
                    key=self.settings.server_key,
                    concurrency=self.limits.documents,
                    timeout=self.limits.seconds,
                    attempts=3,
                    patience=self.limits.seconds,
                )
                try:
                    self.model = await model.__aenter__()
                except BaseException:
                    await model.__aexit__()
                    raise
            return self.model

    def _model_is_away(self) -> bool:
        return self.model is not None and self.model.away

    async def _passed_on(self, method: str, path: str, content: bytes | None = None) -> Response:
        """The answer of one of OpenAI's own routes at the model server, streams included."""
        more = {"content-type": "application/json"} if content is not None else {}
        passed = self.http.build_request(method, f"{self.settings.url}/{path}", content=content, headers=more)
        try:
            answer = await self.http.send(passed, stream=True)
        except httpx.RequestError:
            return problem(503, SERVER_SILENT, {"Retry-After": "2"}, "http_error")
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
        closing = BackgroundTask(answer.aclose)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=closing)

    async def _why_not_ready(self) -> str:
        """Why no document can be answered now; empty where one can."""
        if sentence := self.renderer.trouble():
            return str(sentence)
        ready_file = self.settings.ready_file
        if ready_file is not None and not ready_file.is_file():
            return "the model server is starting"
        try:
            answer = await self.probe.get(f"{self.settings.url.removesuffix('/v1')}/health")
        except httpx.RequestError:
            return SERVER_SILENT
        if answer.status_code != 200:
            return "the model server is not ready"
        return "the model server was away and has not been found again yet" if self._model_is_away() else ""


async def rendered_pages(work: Workspace, documents: list[Document]) -> tuple[list[Any], list[Any] | None]:
    """Page images of all files in order, and their text layer where every file has one. Raises Unreadable."""
    made = await asyncio.gather(*(asyncio.wrap_future(work.pages_of(document)) for document in documents))
    layers = [PageRenderer.layer_of(document, pages) for document, pages in zip(documents, made, strict=True)]
    layer = [page for part in layers for page in part or []] if all(layers) else None
    return [page for pages in made for page in pages], layer


def warm_up(renderer: PageRenderer) -> None:
    """Render a blank page, so that no client waits for the workers to start.

    Where no worker can be had, readiness says so.
    """
    from PIL import Image

    with renderer.workspace() as work:
        source = work.folder / "blank.png"
        Image.new("RGB", (64, 64), "white").save(source)
        with contextlib.suppress(NoWorkers, Unreadable):
            work.pages_of(Document("blank", source=source)).result()


def problem(code: int, sentence: str, more: dict[str, str] | None = None, kind: str = "refused") -> JSONResponse:
    """An error answer of the gateway's form; `more`: further headers."""
    return JSONResponse({"error": {"message": sentence, "type": kind}}, code, headers=more or {})


async def _as_problem(_: fastapi.Request, error: Any) -> Response:
    return problem(error.status_code, str(error.detail), dict(error.headers or {}))


def line_of(value: dict[str, Any]) -> bytes:
    """One line of an answer in lines; half surrogates, which a model may write, are escaped."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"
