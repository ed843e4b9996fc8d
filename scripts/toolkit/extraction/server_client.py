"""Answers from an OpenAI-compatible server: one request shape, retries, and waiting for a server that is down.

The request is the same for vLLM and any hosted API: system turn, page images as data URLs at their exact size,
question, `response_format` json_schema. A request that fails in transit (connection, 429, 5xx) is sent again after
a pause. A request that the server refuses (other 4xx) is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from toolkit.answers.answer import Answer, NoAnswer, OnText, Usage
from toolkit.answers.row_shards import Shard
from toolkit.answers.token_confidence import text_tokens
from toolkit.console import StageError
from toolkit.extraction.chat_request import (
    API_KEY_VARIABLE,
    SentPage,
    headers,
    page_url,
    request_body,
    server_message,
)
from toolkit.files import escaped, with_replacement, with_whole_pairs
from toolkit.model.contract import Contract

# Every document would get these responses, so the run stops with a sentence.
SETUP_ERRORS = {
    401: "the server wants another API key (environment variable {variable})",
    403: "the server forbids this API key (environment variable {variable})",
    404: "the server has no such route or model; look at {url}/models and give --served-model",
}
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
KNOWN_PAGES = 4096  # page names to remember: far more than are in flight
PASSING_ERRORS = (408, 409, 425, 429)
LOOK_EVERY = 1.0  # seconds between two looks for a server that is down
GATEWAY_ERRORS = (502, 503, 504)  # a gateway whose server may be gone


class ServerGone(Exception):
    """The server cannot be reached; this uses no attempt. `broke_off`: it went away while it worked on the request."""

    def __init__(self, sentence: str, *, broke_off: bool = False) -> None:
        super().__init__(sentence)
        self.broke_off = broke_off


class PagesForgotten(Exception):
    """The server no longer has a page that was sent by name, so it must be sent again; this uses no attempt."""


class PassingFailure(Exception):
    """An attempt failed that may succeed later; `retry_after` is the pause in seconds that the server asks for."""

    def __init__(self, sentence: str, retry_after: float = 0.0) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class ServerModel:
    """A served model as an Asker; may be called from many tasks at once; use as an async context.

    `url` ends in /v1. With `stream` answers report the time of their first text. A vLLM server gets the pages of a
    document once: further shards name them by hash and vLLM takes them from its cache. If it no longer has them,
    they are sent again.

    A request is tried `attempts` times. Waiting for a server that cannot be reached uses no attempts. Requests
    wait until the outage is `patience` seconds old; later ones fail at once. The client keeps looking for the
    server and uses it when it is back. A request during which the server went away more than `attempts` times
    fails: it may be what crashes the server.
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
        # The constant part of a body is built once for each shard and shared by all requests.
        self._bodies: dict[str, dict[str, Any]] = {}
        self._more: dict[str, Any] = {"logprobs": True} if confidence else {}
        self._more |= STREAMED if stream else {}
        self._keeps_pages = False
        self._known: dict[str, None] = {}  # names of pages that the server has received, oldest first

    async def __aenter__(self) -> ServerModel:
        import httpx

        try:
            response = await self._http.get(f"{self.url}/models", timeout=30)
            if response.status_code in SETUP_ERRORS:
                raise self._setup_error(response)
            names = [str(entry["id"]) for entry in response.json()["data"]]
        except httpx.TransportError as error:
            await self._http.aclose()
            advice = "start one with serve_vllm.py, or correct --server"
            raise StageError(f"{self.url}: no server answers ({type(error).__name__}); {advice}") from None
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
        """A page image file as it is sent. Raises UnreadablePage if it cannot be read."""
        url = page_url(page)
        return SentPage(url, hashlib.sha256(url.encode()).hexdigest())

    def _content(self, pages: list[SentPage], by_name: bool) -> list[dict[str, Any]]:
        """The pages of a request; `by_name`: without their bytes."""
        if not self._keeps_pages:
            return [{"type": "image_url", "image_url": {"url": page.url}} for page in pages]
        images = [None if by_name else {"url": page.url} for page in pages]
        return [
            {"type": "image_url", "image_url": image, "uuid": page.name}
            for page, image in zip(pages, images, strict=True)
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
        on_text: OnText | None = None,
        *,
        forced: str | None = None,
    ) -> Answer:
        """One answer about the pages; `on_text` gets its text while it is written.

        With `forced` the grammar allows only this text, which measures what it costs to write it (vLLM only).
        Raises NoAnswer if there is no answer, StageError if no document can get one.
        """
        constant = self._constant_part(shard, forced, stream=on_text is not None)
        by_name = self._keeps_pages and all(page.name in self._known for page in pages)
        complaint = ""
        attempt = outages = 0
        while attempt < self.attempts:
            if outages > self.attempts:
                raise NoAnswer("http_error", f"the server went away each of the {outages} times that it was asked")
            await self._server_back()
            system, user = constant["messages"]
            messages = [system, user | {"content": [*self._content(pages, by_name), *user["content"]]}]
            own = {"model": self.model, "temperature": temperature, "seed": seed, "messages": messages}
            try:
                answer = await self._attempt(constant | own, on_text, by_name)
                self._remember(pages if self._keeps_pages else [])
                return answer
            except ServerGone as gone:
                complaint, outages = str(gone), outages + gone.broke_off
                self._server_gone()
            except PagesForgotten:
                by_name = False
            except PassingFailure as failure:
                attempt += 1
                complaint = str(failure)
                if attempt < self.attempts:
                    self.retries += 1
                    pause = min(30.0, 0.5 * 2**attempt) * random.uniform(0.7, 1.3)
                    await asyncio.sleep(max(pause, failure.retry_after))
        raise NoAnswer("http_error", f"{complaint}; {self.attempts} attempts")

    def _constant_part(self, shard: Shard, forced: str | None, *, stream: bool) -> dict[str, Any]:
        """The part of a request body that all documents share, without pages."""
        if shard.line not in self._bodies:
            self._bodies[shard.line] = request_body(self.contract, "", [], shard) | self._more
        constant = self._bodies[shard.line]
        if forced is not None:
            # A model that would write something else spells it in more tokens, so only the server's own limit holds.
            constant = {k: v for k, v in constant.items() if k not in ("response_format", "max_tokens")}
            constant |= {"structured_outputs": {"choice": [forced]}}
        return constant | STREAMED if stream else constant

    async def _attempt(self, body: dict[str, Any], on_text: OnText | None, by_name: bool) -> Answer:
        """Send a request once; `by_name`: without its pages' bytes. Raises one of the exceptions above, or NoAnswer."""
        import httpx

        began = time.monotonic()
        try:
            response = await self._sent(body, on_text)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ServerGone(f"no connection ({type(error).__name__})") from None
        except httpx.RequestError as error:
            complaint = f"the connection broke off ({type(error).__name__})"
            if not await self._alive():
                raise ServerGone(complaint, broke_off=True) from None
            raise PassingFailure(complaint) from None
        status = response.status_code
        if by_name and status in (400, 422, 500):
            raise PagesForgotten
        if status == 200:
            try:
                return self._read(response.json(), time.monotonic() - began)
            except (ValueError, KeyError, IndexError, TypeError):
                raise PassingFailure(f"not an answer: {response.text[:80]!r}") from None
        complaint = f"HTTP {status}: {server_message(response)}"
        if status in PASSING_ERRORS or status >= 500:
            if status in GATEWAY_ERRORS and not await self._alive():
                raise ServerGone(complaint, broke_off=True)
            raise PassingFailure(complaint, retry_after(response))
        if status in SETUP_ERRORS:
            raise self._setup_error(response)
        raise NoAnswer("refused", complaint)

    async def _sent(self, body: dict[str, Any], on_text: OnText | None) -> Any:
        """The response to a body; a streamed answer is collected into one response."""
        import httpx

        if "stream" not in body:
            return await self._http.post(f"{self.url}/chat/completions", json=body)
        began = time.monotonic()
        async with self._http.stream("POST", f"{self.url}/chat/completions", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                return response
            whole = await collected(response, began, on_text)
            return httpx.Response(200, content=json.dumps(whole).encode())

    @staticmethod
    def _read(value: dict[str, Any], seconds: float) -> Answer:
        """The answer of a response body. Raises ValueError, KeyError, IndexError or TypeError if it is not one."""
        choice = value["choices"][0]
        counts = value.get("usage") or {}
        usage = {k: v for k, v in counts.items() if k in ("prompt_tokens", "completion_tokens")}
        cached = (counts.get("prompt_tokens_details") or {}).get("cached_tokens")
        if cached is not None:
            usage["cached_tokens"] = cached
        text = choice["message"]["content"]
        # Half a surrogate pair becomes its JSON escape, which is judged and stored.
        text = "" if text is None else escaped(with_whole_pairs(str(text)))
        entries = (choice.get("logprobs") or {}).get("content") or []
        pieces = [(with_replacement(str(entry["token"])), float(entry["logprob"])) for entry in entries]
        tokens = text_tokens(pieces, text) if entries else None
        reason, first = str(choice["finish_reason"]), value.get("first_token")
        return Answer(text, reason, cast("Usage", usage), round(seconds, 3), tokens, first)

    async def _alive(self) -> bool:
        """Whether the server answers at all; behind a gateway its end looks like a broken connection."""
        import httpx

        try:
            return bool((await self._http.get(f"{self.url}/models", timeout=5)).status_code < 500)
        except httpx.HTTPError:
            return False

    @property
    def away(self) -> bool:
        """Whether the server could not be reached at the last look."""
        return self._away_since is not None

    def _server_gone(self) -> None:
        """Mark the server as away and start the one task that looks for it, if it is not running."""
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._reachable.clear()
            self.say(f"{self.url}: the server is gone; waiting for it, {self.patience:g} s at most")
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(self._away_since))

    async def _watch(self, since: float) -> None:
        """Look for the server until it is back, however long that takes; `since`: monotonic time of the outage's
        start.
        """
        reported = False
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if await self._alive():
                break
            if not reported and time.monotonic() - since > self.patience:
                reported = True
                self.say(f"{self.url}: the server is still gone; documents fail until it is back")
        self.say(f"{self.url}: the server is back after {time.monotonic() - since:.0f} s")
        self._away_since = None
        self._reachable.set()

    async def _server_back(self) -> None:
        """Wait while the server is away. Raises NoAnswer once the outage is older than `patience` seconds."""
        while self._away_since is not None:
            left = self._away_since + self.patience - time.monotonic()
            if left <= 0:
                raise NoAnswer("http_error", "the server went away and did not come back")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reachable.wait(), left)


async def collected(response: Any, began: float, on_text: OnText | None) -> dict[str, Any]:
    """The response body that a stream of OpenAI's chunks spells; {} if it is not such a stream.

    `first_token` is the seconds from `began` (monotonic) to its first text. `on_text` gets the text so far at
    every chunk.
    """
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
                if on_text is not None:
                    on_text(with_whole_pairs("".join(text)))
            logprobs += (choice.get("logprobs") or {}).get("content") or []
            finish = choice.get("finish_reason") or finish
    if finish is None:
        return {}
    choice = {"message": {"content": "".join(text)}, "finish_reason": finish, "logprobs": {"content": logprobs}}
    return {"choices": [choice], "usage": usage, "first_token": first}


def retry_after(response: Any) -> float:
    """The pause in seconds that the server asks for, at most 60; 0 if it does not ask for one."""
    try:
        return min(60.0, max(0.0, float(response.headers.get("retry-after", 0))))
    except ValueError:
        return 0.0
