"""Answers from an OpenAI-compatible server: the request in its one shape, retries that lose nothing, one waiting room.

The request is the same for vLLM and any hosted API: system turn, page images as data URLs at their exact size, question,
`response_format` json_schema. What fails on the way (connection, 429, 5xx) is sent again after a pause; what the server
refuses (4xx) is not.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.answers.answer import Answer, Hearing, NoAnswer
from toolkit.answers.row_shards import Shard
from toolkit.answers.token_confidence import text_tokens
from toolkit.console import ExitCode, StageError
from toolkit.files import escaped, with_replacement, with_whole_pairs
from toolkit.model.contract import Contract

API_KEY_VARIABLE = "VLLM_API_KEY"
# Answers that every document would get: the run stops with a sentence instead of failing a thousand times.
SETUP_ERRORS = {
    401: "the server wants another API key (environment variable {variable})",
    403: "the server forbids this API key (environment variable {variable})",
    404: "the server has no such route or model; look at {url}/models and give --served-model",
}
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
KNOWN_PAGES = 4096  # far more than are in flight, far fewer than fill memory
PASSING_ERRORS = (408, 409, 425, 429)
LOOK_EVERY = 1.0  # seconds between two looks for a server that is gone
GATEWAY_ERRORS = (502, 503, 504)  # a gateway whose server may be gone


def page_url(path: Path) -> str:
    """A page image as a data URL. PNG and JPEG files go as they are; anything that a server might open differently than
    training did (transparency, EXIF turns, other formats) goes as the PNG of what training saw."""
    from PIL import Image

    from toolkit.model.encoding import open_page

    try:
        with Image.open(path) as image:
            plain = image.mode in ("RGB", "L") and image.getexif().get(0x0112, 1) == 1
            kind = {"PNG": "png", "JPEG": "jpeg"}.get(str(image.format), "")
    except (OSError, ValueError):
        kind, plain = "", False
    if kind and plain:
        open_page(path)  # a cut-off file must be named here, not at the server
        data = path.read_bytes()
    else:
        buffer = io.BytesIO()
        open_page(path).save(buffer, "PNG", compress_level=1)
        kind, data = "png", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@dataclass(frozen=True)
class SentPage:
    """A page image as a data URL, and its name at the server: the hash of its bytes."""

    url: str
    name: str


def request_body(
    contract: Contract,
    model: str,
    pages: list[str],
    shard: Shard | None = None,
    *,
    temperature: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """The one request shape, for the whole answer or one shard of it; `pages` are data URLs."""
    plan = contract.answer_plan
    shard = shard or plan.first
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in pages]
    content.append({"type": "text", "text": contract.prompt.asking(shard.line).question})
    return {
        "model": model,
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": contract.system}]},
            {"role": "user", "content": content},
        ],
        "temperature": temperature,
        "seed": seed,
        "max_tokens": contract.max_answer_tokens,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "document", "strict": True, "schema": plan.wire_of(shard).grammar()},
        },
    }


def blank_request(
    contract: Contract, model: str, *, max_tokens: int, grammar: bool = True, logprobs: bool = False
) -> dict[str, Any]:
    """A request of the served shape without a document: one striped page of the largest size."""
    from PIL import Image, ImageDraw

    from toolkit.pages.images import fitted_size

    size = fitted_size(595, 842, contract.image_max_tokens)
    image = Image.new("RGB", size, "white")
    for y in range(16, size[1], 64):
        ImageDraw.Draw(image).rectangle((16, y, size[0] - 16, y + 12), fill=(40, 40, 40))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    body = request_body(contract, model, [url]) | {"max_tokens": max_tokens}
    if not grammar:
        del body["response_format"]
    return body | ({"logprobs": True, "top_logprobs": 1} if logprobs else {})


def headers(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def post(host: str, port: int, body: dict[str, Any]) -> dict[str, Any]:
    """One request to a server that this project started. Raises StageError where it is not answered."""
    import os

    import httpx

    try:
        answer = httpx.post(
            f"http://{host}:{port}/v1/chat/completions",
            json=body,
            headers=headers(os.environ.get(API_KEY_VARIABLE)),
            timeout=600,
        )
    except httpx.HTTPError as error:
        raise StageError(f"the server did not answer a warm-up request: {error!r}", ExitCode.PROBLEMS) from None
    if answer.status_code != 200:
        raise StageError(
            f"the server answered a warm-up request with HTTP {answer.status_code}: {server_message(answer)}",
            ExitCode.PROBLEMS,
        )
    return dict(answer.json())


def server_message(response: Any) -> str:
    """The server's own sentence, from OpenAI's error object or the body's start."""
    try:
        value = response.json()
        error = value.get("error", value)
        text = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        text = response.text
    return escaped(" ".join(str(text).split())[:300])


class ServerModel:
    """A served model, an Asker of extraction; may be called from many tasks at once; use as an async context.

    The pages of a document go to the server once where that is a vLLM: its further shards name them by their hash, and vLLM takes them from its
    cache (else it asks for them, and they are sent again). With `stream` answers tell when their first text came. `url` ends in /v1.

    `attempts` tries of one request. Waiting for a server that cannot be reached uses no attempts: requests wait until an outage
    is `patience` seconds old, and fail at once from then on. The server is looked for all the time; when it is back, it is used.
    A request that was under way when `attempts` outages began, and one more, fails: it may be what ends the server.
    """

    def __init__(
        self,
        url: str,
        contract: Contract,
        *,
        model: str | None = None,
        key: str | None = None,
        concurrency: int = 16,
        timeout: float = 300,
        attempts: int = 6,
        patience: float = 600,
        confidence: bool = True,
        stream: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        import httpx

        self.url, self.contract, self.model = url.rstrip("/"), contract, model
        self.attempts, self.patience, self.say = attempts, patience, say
        self.retries = 0
        self._reachable = asyncio.Event()
        self._reachable.set()
        self._away_since: float | None = None
        self._watching: asyncio.Task[None] | None = None
        concurrency = concurrency * contract.max_shards + 2
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._http = httpx.AsyncClient(
            headers=headers(key), limits=limits, timeout=httpx.Timeout(timeout, connect=10, pool=None)
        )
        # The constant part is built once a shard: hundreds of requests share it.
        self._bodies: dict[str, dict[str, Any]] = {}
        self._more: dict[str, Any] = {"logprobs": True} if confidence else {}
        self._more |= STREAMED if stream else {}
        self._keeps_pages = False
        self._known: dict[str, None] = {}  # names of pages that the server has had, oldest first

    async def __aenter__(self) -> ServerModel:
        import httpx

        try:
            response = await self._http.get(f"{self.url}/models", timeout=30)
            if response.status_code in SETUP_ERRORS:
                raise self._setup_error(response)
            names = [str(entry["id"]) for entry in response.json()["data"]]
        except httpx.TransportError as error:
            await self._http.aclose()
            raise StageError(
                f"{self.url}: no server answers ({type(error).__name__}); start one with serve_vllm.py, or correct --server"
            ) from None
        except (KeyError, ValueError, TypeError):
            await self._http.aclose()
            raise StageError(
                f"{self.url}: this is no OpenAI-compatible server (GET /models); give the address up to /v1"
            ) from None
        except StageError:
            await self._http.aclose()
            raise
        if self.contract.answer_plan.sharded:
            self._keeps_pages = await self._is_vllm()
        if self.model is None:
            self.model = names[0]
        elif self.model not in names:
            await self._http.aclose()
            raise StageError(f"{self.url}: no model {self.model!r} there; it serves {', '.join(names)}")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watching:
            self._watching.cancel()
        await self._http.aclose()

    def _setup_error(self, response: Any) -> StageError:
        advice = SETUP_ERRORS[response.status_code].format(variable=API_KEY_VARIABLE, url=self.url)
        return StageError(f"{self.url}: HTTP {response.status_code}: {advice}")

    async def _is_vllm(self) -> bool:
        import httpx

        try:
            answer = await self._http.get(f"{self.url.removesuffix('/v1')}/version", timeout=10)
            return answer.status_code == 200 and "version" in answer.json()
        except (httpx.TransportError, ValueError):
            return False

    def prepare(self, page: Path) -> SentPage:
        url = page_url(page)
        return SentPage(url, hashlib.sha256(url.encode()).hexdigest())

    def _content(self, pages: list[SentPage], again: bool) -> list[dict[str, Any]]:
        """The pages of a request; `again`: by name only."""
        if not self._keeps_pages:
            return [{"type": "image_url", "image_url": {"url": page.url}} for page in pages]
        return [
            {"type": "image_url", "image_url": None if again else {"url": page.url}, "uuid": page.name}
            for page in pages
        ]

    def _remember(self, pages: list[SentPage]) -> None:
        for page in pages:
            self._known.pop(page.name, None)
            self._known[page.name] = None
        while len(self._known) > KNOWN_PAGES:
            self._known.pop(next(iter(self._known)))

    async def __call__(
        self,
        pages: list[SentPage],
        shard: Shard,
        temperature: float,
        seed: int,
        hearing: Hearing | None = None,
        *,
        forced: str | None = None,
    ) -> Answer:
        """One answer about the pages, which `hearing` is told of while it is written; with `forced` the grammar allows this text alone (vLLM only), which
        tells what it costs to write it. Raises NoAnswer where there is none, StageError where nobody will get one."""
        import httpx

        if shard.line not in self._bodies:
            self._bodies[shard.line] = request_body(self.contract, "", [], shard) | self._more
        constant = self._bodies[shard.line]
        if forced is not None:
            # A model that would say something else spells it in more tokens than one that was trained to: no bound but the server's own.
            constant = {k: v for k, v in constant.items() if k not in ("response_format", "max_tokens")}
            constant |= {"structured_outputs": {"choice": [forced]}}
        if hearing is not None:
            constant = constant | STREAMED
        system, user = constant["messages"]
        again = self._keeps_pages and all(page.name in self._known for page in pages)

        def whole_body() -> dict[str, Any]:
            messages = [system, user | {"content": [*self._content(pages, again), *user["content"]]}]
            return constant | {"model": self.model, "temperature": temperature, "seed": seed, "messages": messages}

        body = whole_body()
        complaint = ""
        attempt = outages = 0
        while attempt < self.attempts:
            if outages > self.attempts:
                raise NoAnswer("http_error", f"the server went away each of the {outages} times that it was asked")
            await self._server_back()
            began = time.monotonic()
            attempt += 1
            wait = min(30.0, 0.5 * 2**attempt) * random.uniform(0.7, 1.3)
            try:
                response = await self._sent(body, hearing)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                self._server_gone()
                attempt -= 1
                complaint = f"no connection ({type(error).__name__})"
                continue
            except httpx.RequestError as error:
                complaint = f"the connection broke off ({type(error).__name__})"
                if not await self._alive():
                    self._server_gone()
                    attempt, outages = attempt - 1, outages + 1
                    continue
            else:
                if again and response.status_code in (400, 422, 500):
                    # The server's cache no longer has a page: this is how it asks for it.
                    again, attempt = False, attempt - 1
                    body = whole_body()
                    continue
                if response.status_code == 200:
                    try:
                        found = self._read(response.json(), time.monotonic() - began)
                        self._remember(pages if self._keeps_pages else [])
                        return found
                    except (ValueError, KeyError, IndexError, TypeError):
                        complaint = f"not an answer: {response.text[:80]!r}"
                elif response.status_code in PASSING_ERRORS or response.status_code >= 500:
                    complaint = f"HTTP {response.status_code}: {server_message(response)}"
                    if response.status_code in GATEWAY_ERRORS and not await self._alive():
                        self._server_gone()
                        attempt, outages = attempt - 1, outages + 1
                        continue
                    wait = max(wait, retry_after(response))
                elif response.status_code in SETUP_ERRORS:
                    raise self._setup_error(response)
                else:
                    raise NoAnswer("refused", f"HTTP {response.status_code}: {server_message(response)}")
            if attempt < self.attempts:
                self.retries += 1
                await asyncio.sleep(wait)
        raise NoAnswer("http_error", f"{complaint}; {self.attempts} attempts")

    async def _sent(self, body: dict[str, Any], hearing: Hearing | None) -> Any:
        """The response; of a stream one that holds the gathered answer."""
        import httpx

        if "stream" not in body:
            return await self._http.post(f"{self.url}/chat/completions", json=body)
        began = time.monotonic()
        async with self._http.stream("POST", f"{self.url}/chat/completions", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                return response
            whole = await gathered(response, began, hearing)
            return httpx.Response(200, content=json.dumps(whole).encode())

    @staticmethod
    def _read(value: dict[str, Any], seconds: float) -> Answer:
        choice = value["choices"][0]
        usage = {k: v for k, v in (value.get("usage") or {}).items() if k in ("prompt_tokens", "completion_tokens")}
        cached = ((value.get("usage") or {}).get("prompt_tokens_details") or {}).get("cached_tokens")
        if cached is not None:
            usage["cached_tokens"] = cached
        text = choice["message"]["content"]
        # Half a surrogate pair becomes its JSON escape: judged with the answer, and written down as it came.
        text = "" if text is None else escaped(with_whole_pairs(str(text)))
        said = (choice.get("logprobs") or {}).get("content") or []
        pieces = [(with_replacement(str(entry["token"])), float(entry["logprob"])) for entry in said]
        tokens = text_tokens(pieces, text) if said else None
        return Answer(text, str(choice["finish_reason"]), usage, round(seconds, 3), tokens, value.get("first_token"))

    async def _alive(self) -> bool:
        """Whether the server answers at all; behind a gateway its end looks like a connection that breaks off."""
        import httpx

        try:
            return bool((await self._http.get(f"{self.url}/models", timeout=5)).status_code < 500)
        except httpx.HTTPError:
            return False

    @property
    def away(self) -> bool:
        """Whether the server was gone when it was last looked for."""
        return self._away_since is not None

    def _server_gone(self) -> None:
        """The first to find the server gone starts the watch; the others wait with it."""
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._reachable.clear()
            self.say(f"{self.url}: the server is gone; waiting for it, {self.patience:g} s at most")
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(self._away_since))

    async def _watch(self, since: float) -> None:
        """Looks for the server until it is back, however long that takes."""
        told = False
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if await self._alive():
                break
            if not told and time.monotonic() - since > self.patience:
                told = True
                self.say(f"{self.url}: the server is still gone; documents fail until it is back")
        self.say(f"{self.url}: the server is back after {time.monotonic() - since:.0f} s")
        self._away_since = None
        self._reachable.set()

    async def _server_back(self) -> None:
        """Waits while the server is away. Raises NoAnswer as soon as this outage is older than `patience`."""
        while self._away_since is not None:
            left = self._away_since + self.patience - time.monotonic()
            if left <= 0:
                raise NoAnswer("http_error", "the server went away and did not come back")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reachable.wait(), left)


async def gathered(response: Any, began: float, hearing: Hearing | None) -> dict[str, Any]:
    """A stream of OpenAI's chunks as the answer that it spells, with `first_token`, the seconds from `began` to its first text; `hearing` is told the text
    so far with every chunk. What is not such a stream comes back without choices."""
    first: float | None = None
    text: list[str] = []
    logprobs: list[Any] = []
    finish, usage = None, None
    async for line in response.aiter_lines():
        if not line.startswith("data:") or line.strip() == "data: [DONE]":
            continue
        try:
            chunk = json.loads(line[5:])
        except ValueError:
            return {}
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", []):
            piece = (choice.get("delta") or {}).get("content")
            if piece:
                first = time.monotonic() - began if first is None else first
                text.append(piece)
                if hearing is not None:
                    hearing(with_whole_pairs("".join(text)))
            logprobs += (choice.get("logprobs") or {}).get("content") or []
            finish = choice.get("finish_reason") or finish
    if finish is None:
        return {}
    choice = {"message": {"content": "".join(text)}, "finish_reason": finish, "logprobs": {"content": logprobs}}
    return {"choices": [choice], "usage": usage, "first_token": first}


def retry_after(response: Any) -> float:
    """Seconds that the server asks to wait, 60 at most; 0 where it does not say."""
    try:
        return min(60.0, max(0.0, float(response.headers.get("retry-after", 0))))
    except ValueError:
        return 0.0
