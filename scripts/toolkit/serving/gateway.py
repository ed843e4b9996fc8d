"""The gateway: a PDF or page images in, strict JSON with confidence out, in front of a vLLM in the same container.

It renders at the contract's size in worker processes, asks as extract_documents.py does (windows, shards, wire form), and answers with the
public JSON. Nothing of a document is logged or kept: uploads and pages live in one temporary folder a request, which is gone when the
request ends, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import sys
import time
import traceback
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastapi
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from toolkit.answers.row_shards import Shard
from toolkit.extraction.documents import Document, PageRenderer, Unreadable, Workspace
from toolkit.extraction.run import Heard, Judge, prediction_of
from toolkit.extraction.server_client import ServerModel, headers
from toolkit.model.contract import Contract
from toolkit.pages.evidence import DocumentWords
from toolkit.pages.workers import NoWorkers
from toolkit.serving.media_urls import refusal_of

# By their first bytes: what a client says of its file is not asked.
SIGNATURES = (
    (b"%PDF-", ".pdf"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"II*\x00", ".tif"),
    (b"MM\x00*", ".tif"),
)
PDF_START = 1024  # bytes in which a PDF's signature may stand (ISO 32000, appendix H)
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
    "left": 499,  # nobody hears it
    "error": 500,
}
UNEXPECTED = "an unexpected error in the gateway; its log says where"
LINES = "application/x-ndjson"
HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "keep-alive", "server", "date"}


@dataclass(frozen=True)
class Limits:
    """`body_bytes` of a request, `pages` of a document, `files` of a request; `seconds` for a whole request, its upload included; `documents` worked on at the
    same time and as many waiting as `queue`; beyond that a client is sent away with 429."""

    body_bytes: int = 32 * 2**20
    pages: int = 50
    files: int = 50
    seconds: float = 60.0
    documents: int = 16
    queue: int = 64


class TooLarge(Exception):
    """The body is longer than allowed."""


class TooSlow(Exception):
    """The body did not come in time."""


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


@contextlib.asynccontextmanager
async def until_client_leaves(request: fastapi.Request) -> AsyncIterator[None]:
    """Ends the block with ClientLeft when the client closes its connection; the request's body must have been read."""
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


def place_of(error: BaseException) -> str:
    """The kind of an unexpected error and where it was raised; its message may hold something of a document."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


class Bounded:
    """ASGI middleware: a body over the limit is 413 before it is held, one that takes too long to come is 408, and what nobody
    foresaw is a 500 of the same form."""

    def __init__(self, app: Any, limits: Limits, log: Any) -> None:
        self.app, self.limits, self.log = app, limits, log

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.limits.body_bytes:
            await refused(send, 413 if declared.isdigit() else 400, f"a body may have {self.limits.body_bytes} bytes")
            return
        seen, began, started = 0, time.monotonic(), False

        async def counted() -> Any:
            nonlocal seen
            left = self.limits.seconds - (time.monotonic() - began)
            try:
                message = await asyncio.wait_for(receive(), max(0.01, left)) if not ended else await receive()
            except TimeoutError:
                raise TooSlow from None
            seen += len(message.get("body", b""))
            if seen > self.limits.body_bytes:
                raise TooLarge
            mark(message)
            return message

        ended = False

        def mark(message: Any) -> None:
            nonlocal ended
            ended = ended or message["type"] == "http.disconnect" or not message.get("more_body", False)

        async def watched(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except TooLarge:
            if not started:
                await refused(send, 413, f"a body may have {self.limits.body_bytes} bytes")
        except TooSlow:
            if not started:
                await refused(send, 408, f"the request did not come within {self.limits.seconds:g} s")
        except ClientDisconnect:
            pass  # in the middle of its body
        except Exception as error:
            print(json.dumps({"status": "error", "error": place_of(error)}), file=self.log, flush=True)
            if not started:
                await refused(send, 500, UNEXPECTED, "error")
            # Else the answer ends unfinished, and uvicorn closes the connection: the client sees that it is not whole.


async def refused(send: Any, status: int, sentence: str, kind: str = "refused") -> None:
    body = json.dumps({"error": {"message": sentence, "type": kind}}).encode()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json"), (b"connection", b"close")],
        }
    )
    await send({"type": "http.response.body", "body": body})


def make_app(
    contract: Contract,
    url: str,
    limits: Limits,
    *,
    key: str | None,
    server_key: str | None = None,
    render_timeout: float = 30,
    workers: int = 2,
    ready_file: Path | None = None,
    log: Any = sys.stderr,
) -> Any:
    """The FastAPI application. `url`: the vLLM behind it, up to /v1; `key`: what clients must bring as a bearer token (None: nobody has to);
    `ready_file`: exists while the model is warm (None: its health alone counts)."""
    import httpx
    from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

    judge = Judge(contract.answer_plan, contract.confidence)
    registry = CollectorRegistry()
    asked = Counter("extract_requests", "documents by their status", ["status"], registry=registry)
    took = Histogram(
        "extract_seconds",
        "seconds of a document by part",
        ["part"],
        registry=registry,
        buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60),
    )
    pages_seen = Counter("extract_pages", "page images rendered", registry=registry)
    under_way = Gauge("extract_documents_under_way", "documents that are worked on or wait", registry=registry)
    gate, opening = asyncio.Semaphore(limits.documents), asyncio.Lock()
    state: dict[str, Any] = {"waiting": 0}

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        renderer = PageRenderer(
            contract.image_max_tokens, workers=workers, time_limit=render_timeout, max_pages=limits.pages
        )
        with renderer:
            state["renderer"] = renderer
            await asyncio.to_thread(warmed, renderer)
            timeout = httpx.Timeout(limits.seconds, connect=5)
            state["http"] = httpx.AsyncClient(headers=headers(server_key), timeout=timeout)
            # Of its own: however many requests are passed on, one more connection is there for health.
            state["probe"] = httpx.AsyncClient(headers=headers(server_key), timeout=5)
            yield
            await state["http"].aclose()
            await state["probe"].aclose()
            if "model" in state:
                await state["model"].__aexit__()

    async def model() -> ServerModel:
        """The served model; looked for at the first request, since the gateway may be up before vLLM is."""
        async with opening:
            if "model" not in state:
                made = ServerModel(
                    url,
                    contract,
                    key=server_key,
                    concurrency=limits.documents,
                    timeout=limits.seconds,
                    attempts=3,
                    patience=limits.seconds,
                )
                try:
                    state["model"] = await made.__aenter__()
                except BaseException:
                    await made.__aexit__()
                    raise
            return state["model"]

    def model_is_away() -> bool:
        return "model" in state and state["model"].away

    app = fastapi.FastAPI(title=f"Extraction: {contract.target.title}", version="1", lifespan=lifespan, redoc_url=None)
    app.add_middleware(Bounded, limits=limits, log=log)

    def allowed(request: fastapi.Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if key is not None and not hmac.compare_digest(given, f"Bearer {key}".encode()):
            raise fastapi.HTTPException(401, "another API key is needed", headers={"WWW-Authenticate": "Bearer"})

    async def uploads(request: fastapi.Request, folder: Path) -> list[Path]:
        """The request's files in `folder`, named by number and kind: a body that is one file, or a form of files in page order."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "multipart/form-data":
            data = await request.body()
            return [stored(folder, 1, data)]
        try:
            form = await request.form(max_files=limits.files, max_fields=16)
        except HTTPException as error:
            raise fastapi.HTTPException(400, f"the form cannot be read ({error.detail})") from None
        except Exception as error:
            if isinstance(error, TooLarge | TooSlow | ClientDisconnect | OSError):
                raise
            raise fastapi.HTTPException(400, "the form cannot be read") from None
        try:
            files = [value for _, value in form.multi_items() if hasattr(value, "read")]
            if not files:
                raise fastapi.HTTPException(400, "the form has no file; send a PDF or page images")
            return [stored(folder, number, await file.read()) for number, file in enumerate(files, 1)]
        finally:
            await form.close()

    def stored(folder: Path, number: int, data: bytes) -> Path:
        suffix = next((s for mark, s in SIGNATURES if data.startswith(mark)), "")
        if not suffix and b"%PDF-" in data[:PDF_START]:
            suffix = ".pdf"
        if not suffix:
            raise fastapi.HTTPException(
                415 if data else 400, "a PDF, PNG, JPEG or TIFF is needed" if data else "the body is empty"
            )
        path = folder / f"{number:04d}{suffix}"
        path.write_bytes(data)
        return path

    async def pages_of(work: Workspace, sources: list[Path]) -> tuple[list[Path], list[Any] | None]:
        """Page images of all files in order, and their text layer where every file has one."""
        documents = [Document(source.name, source=source) for source in sources]
        made = await asyncio.gather(*(asyncio.wrap_future(work.pages_of(document)) for document in documents))
        layers = [PageRenderer.layer_of(document, pages) for document, pages in zip(documents, made, strict=True)]
        layer = [page for one in layers for page in one or []] if all(layers) else None
        return [page for pages in made for page in pages], layer

    @app.post(
        "/v1/extract", summary="A document's values as strict JSON", openapi_extra=REQUEST_BODY, responses=RESPONSES
    )
    @app.post("/score", include_in_schema=False)
    async def extract(request: fastapi.Request) -> Any:
        allowed(request)
        if state["waiting"] >= limits.documents + limits.queue:
            asked.labels("busy").inc()
            return problem(429, "too many documents are waiting; try again", {"Retry-After": "1"})
        state["waiting"] += 1
        under_way.set(state["waiting"])
        if LINES in request.headers.get("accept", ""):
            return await in_lines(request)
        return await worked(request, None)

    async def in_lines(request: fastapi.Request) -> Any:
        """The shards' values in lines as they come, the whole answer as the last one; what fails before the first line has its status code."""
        lines: asyncio.Queue[bytes] = asyncio.Queue()

        def heard(window: int, shard: Shard, values: dict[str, Any]) -> None:
            lines.put_nowait(line_of({"window": window + 1, "shard": shard.line, "values": values}))

        work = asyncio.create_task(worked(request, heard))
        first = asyncio.create_task(lines.get())
        await asyncio.wait({work, first}, return_when=asyncio.FIRST_COMPLETED)
        if work.done() and not first.done():
            first.cancel()
            whole = work.result()
            if whole.status_code != 200:
                return whole
            return fastapi.Response(whole.body + b"\n", media_type=LINES)

        async def sent() -> AsyncIterator[bytes]:
            work.add_done_callback(lambda _: lines.put_nowait(b""))
            try:
                yield await first
                while line := await lines.get():
                    yield line
                yield (await work).body + b"\n"
            finally:
                work.cancel()  # nobody listens any more

        return StreamingResponse(sent(), media_type=LINES)

    async def worked(request: fastapi.Request, heard: Heard | None) -> Any:
        """The answer to a request, which was counted as waiting; timed and logged."""
        identity = uuid.uuid4().hex
        began = time.monotonic()
        parts: dict[str, float] = {}
        line: dict[str, Any] = {"status": "cancelled"}
        try:
            line = await answered(request, identity, parts, asyncio.get_running_loop().time() + limits.seconds, heard)
        except TimeoutError:
            line = {"status": "time-out", "error": f"no answer within {limits.seconds:g} s"}
            if model_is_away():
                line = {"status": "http_error", "error": "the model server does not answer"}
        except ClientLeft:
            line = {"status": "left", "error": "the client left"}
        except NoWorkers as error:
            line = {"status": "unavailable", "error": str(error)}
        except OSError as error:
            line = {"status": "unavailable", "error": f"the document cannot be stored ({error.strerror})"}
        except fastapi.HTTPException as error:
            line = {"status": f"http {error.status_code}"}
            raise
        except (TooLarge, TooSlow, ClientDisconnect) as error:
            line = {"status": {TooLarge: "http 413", TooSlow: "http 408"}.get(type(error), "left")}
            raise
        except Exception as error:
            line = {"status": "error", "error": UNEXPECTED, "place": place_of(error)}
        finally:
            state["waiting"] -= 1
            under_way.set(state["waiting"])
            parts["total"] = time.monotonic() - began
            asked.labels(line["status"]).inc()
            for name, seconds in parts.items():
                took.labels(name).observe(seconds)
            said = {
                "id": identity,
                "status": line["status"],
                "pages": line.get("pages", 0),
                "seconds": {name: round(s, 4) for name, s in parts.items()},
            }
            said |= {"error": line["place"]} if "place" in line else {}
            print(json.dumps(said), file=log, flush=True)
        code = STATUS_CODES[line["status"]]
        if code != 200:
            return problem(
                code, line.get("error") or line["status"], {"Retry-After": "2"} if code == 503 else {}, line["status"]
            )
        return JSONResponse({"id": identity, **{name: line[name] for name in ANSWERED if name in line}})

    async def answered(
        request: fastapi.Request, identity: str, parts: dict[str, float], deadline: float, heard: Heard | None
    ) -> dict[str, Any]:
        """The document's prediction line; its files are gone when this ends. Raises TimeoutError at `deadline` (of the loop's clock); an upload that takes
        as long is `Bounded`'s to end."""
        with state["renderer"].workspace() as work:
            sources = await uploads(request, work.folder)
            async with until_client_leaves(request), asyncio.timeout_at(deadline), gate:
                return await read_and_asked(identity, work, sources, parts, heard)

    async def read_and_asked(
        identity: str, work: Workspace, sources: list[Path], parts: dict[str, float], heard: Heard | None
    ) -> dict[str, Any]:
        from toolkit.console import StageError

        began = time.monotonic()
        try:
            pages, layer = await pages_of(work, sources)
        except Unreadable as error:
            return {"status": "unreadable", "error": str(error)}
        finally:
            parts["render"] = time.monotonic() - began
        if len(pages) > limits.pages:
            return {"status": "unreadable", "error": f"it has more than {limits.pages} pages"}
        pages_seen.inc(len(pages))
        began = time.monotonic()
        words = DocumentWords(layer) if layer else None
        try:
            line = await prediction_of(
                judge,
                await model(),
                Document(identity),
                pages,
                window=contract.max_pages,
                tries=3,
                words=words,
                heard=heard,
            )
        except StageError:
            # The server's address or key is wrong, or it is not up: nothing that the client could cure.
            return {"status": "http_error", "error": "the model server does not answer", "pages": len(pages)}
        parts["model"] = time.monotonic() - began
        return line | {"pages": len(pages)}

    def problem(code: int, sentence: str, more: dict[str, str] | None = None, kind: str = "refused") -> Any:
        return JSONResponse({"error": {"message": sentence, "type": kind}}, code, headers=more or {})

    @app.exception_handler(HTTPException)
    async def as_problem(_: fastapi.Request, error: Any) -> Any:
        return problem(error.status_code, str(error.detail), dict(error.headers or {}))

    async def passed_on(method: str, path: str, content: bytes | None = None) -> Any:
        """The answer of one of OpenAI's own routes at the model server, streams included."""
        more = {"content-type": "application/json"} if content is not None else {}
        sent = state["http"].build_request(method, f"{url}/{path}", content=content, headers=more)
        try:
            answer = await state["http"].send(sent, stream=True)
        except httpx.RequestError:
            return problem(503, "the model server does not answer", {"Retry-After": "2"}, "http_error")
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
        return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=_closing(answer))

    @app.post(
        "/v1/chat/completions",
        summary="OpenAI's chat completions, passed on to the model server",
        openapi_extra={
            "requestBody": {
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["messages"],
                            "properties": {"messages": {"type": "array", "items": {"type": "object"}}},
                        }
                    }
                }
            }
        },
        responses=PASSED_ON,
    )
    async def completions(request: fastapi.Request) -> Any:
        allowed(request)
        try:
            body = json.loads(await request.body())
            # What was checked is what is sent: a key that stands twice, or another encoding, would be read by two parsers.
            content = json.dumps(body).encode()
        except (ValueError, RecursionError):
            return problem(400, "a JSON object with messages is needed")
        if not isinstance(body, dict):
            return problem(400, "a JSON object with messages is needed")
        if sentence := refusal_of(body):
            return problem(400, sentence)
        return await passed_on("POST", "chat/completions", content)

    @app.get("/v1/models", summary="OpenAI's list of models, passed on", responses=PASSED_ON)
    async def models(request: fastapi.Request) -> Any:
        allowed(request)
        return await passed_on("GET", "models")

    @app.get("/health/live", summary="The gateway runs")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get(
        "/health/ready",
        summary="Documents can be answered",
        responses={503: {"description": "they cannot (yet), and why"}},
    )
    async def ready() -> Any:
        sentence = await not_ready()
        return problem(503, sentence, None, "http_error") if sentence else {"status": "ready"}

    @app.get(
        "/ping",
        summary="The same for load balancers that tell starting (204) from broken",
        responses={204: {"description": "it is not ready yet"}},
    )
    async def ping() -> Any:
        return fastapi.Response(status_code=204) if await not_ready() else {"status": "ready"}

    async def not_ready() -> str:
        """Why no document can be answered now; empty where one can."""
        if sentence := state["renderer"].trouble():
            return str(sentence)
        if ready_file is not None and not ready_file.is_file():
            return "the model server is starting"
        try:
            answer = await state["probe"].get(f"{url.removesuffix('/v1')}/health")
        except httpx.RequestError:
            return "the model server does not answer"
        if answer.status_code == 200 and model_is_away():
            return "the model server was away and has not been found again yet"
        return "" if answer.status_code == 200 else "the model server is not ready"

    @app.get("/metrics", response_class=PlainTextResponse, summary="Prometheus metrics")
    async def metrics() -> Any:
        return PlainTextResponse(generate_latest(registry).decode(), media_type="text/plain; version=0.0.4")

    return app


def warmed(renderer: PageRenderer) -> None:
    """Render a blank page, so that no client waits for the workers to start. Where none can be had, readiness says so."""
    from PIL import Image

    with renderer.workspace() as work:
        source = work.folder / "blank.png"
        Image.new("RGB", (64, 64), "white").save(source)
        with contextlib.suppress(NoWorkers, Unreadable):
            work.pages_of(Document("blank", source=source)).result()


def line_of(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"


def _closing(answer: Any) -> Any:
    from starlette.background import BackgroundTask

    return BackgroundTask(answer.aclose)


ANSWERED = (
    "prediction",
    "confidence",
    "evidence",
    "checks",
    "warnings",
    "pages",
    "windows",
    "shards",
    "usage",
    "seconds",
)
_FILE = {"schema": {"type": "string", "format": "binary"}}
REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/pdf": _FILE,
            "image/png": _FILE,
            "image/jpeg": _FILE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
        },
    }
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the document's values; asked for as lines: each shard's values when they are there, the whole answer last",
        "content": {"application/json": {}, LINES: {}},
    },
    400: {"description": "no file, or a form that cannot be read"},
    401: {"description": "another API key is needed"},
    408: {"description": "the upload took too long"},
    413: {"description": "the body is too large"},
    415: {"description": "neither PDF nor image"},
    422: {"description": "the document cannot be read"},
    429: {"description": "too many documents wait"},
    502: {"description": "the model gave no valid answer"},
    503: {"description": "the model server does not answer"},
    504: {"description": "not done in time"},
    500: {"description": "an error that nobody foresaw"},
}
PASSED_ON: dict[int | str, dict[str, Any]] = {404: {"description": "no such model"}}
PASSED_ON.update({code: RESPONSES[code] for code in (400, 401, 408, 413, 500, 503)})
