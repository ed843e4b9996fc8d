"""What an OpenAI-compatible server is sent: one request shape, its headers, and how its error message is read."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.answers.row_shards import Shard
from toolkit.console import ExitCode, StageError
from toolkit.files import escaped
from toolkit.model.contract import Contract

API_KEY_VARIABLE = "VLLM_API_KEY"


def page_url(path: Path) -> str:
    """A page image as a data URL. Raises UnreadablePage if it cannot be read.

    Plain PNG and JPEG files are sent as they are. What a server might open differently from training
    (transparency, EXIF rotation, other formats) is sent as the PNG of what training saw.
    """
    from toolkit.pages.opening import open_page
    from toolkit.pages.pictures import opened_picture

    try:
        with opened_picture(path) as image:
            plain = image.mode in ("RGB", "L") and not image.has_transparency_data
            plain = plain and image.getexif().get(0x0112, 1) == 1
            kind = {"PNG": "png", "JPEG": "jpeg"}.get(str(image.format), "")
    except Exception:  # open_page says what is wrong with it
        kind, plain = "", False
    if kind and plain:
        open_page(path)  # a truncated file must be reported here, not by the server
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
    """The request body for the whole answer or one shard of it (default: the plan's first); `pages` are data URLs."""
    plan = contract.answer_plan
    shard = shard or plan.first
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in pages]
    content.append({"type": "text", "text": contract.prompt.asking(shard.line).question})
    system = {"role": "system", "content": [{"type": "text", "text": contract.system}]}
    grammar = {"name": "document", "strict": True, "schema": plan.wire_of(shard).grammar()}
    return {
        "model": model,
        "messages": [system, {"role": "user", "content": content}],
        "temperature": temperature,
        "seed": seed,
        "max_tokens": contract.max_answer_tokens,
        "response_format": {"type": "json_schema", "json_schema": grammar},
    }


def blank_request(
    contract: Contract, model: str, *, max_tokens: int, grammar: bool = True, logprobs: bool = False
) -> dict[str, Any]:
    """A request body without a document: one striped page of the largest size."""
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
    """The HTTP headers of a request with an API key; none without a key."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def post(host: str, port: int, body: dict[str, Any]) -> dict[str, Any]:
    """The response to one request to a server that this project started. Raises StageError if there is no answer."""
    import os

    import httpx

    url = f"http://{host}:{port}/v1/chat/completions"
    try:
        answer = httpx.post(url, json=body, headers=headers(os.environ.get(API_KEY_VARIABLE)), timeout=600)
    except httpx.HTTPError as error:
        raise StageError(f"the server did not answer a warm-up request: {error!r}", ExitCode.PROBLEMS) from None
    if answer.status_code != 200:
        problem = f"HTTP {answer.status_code}: {server_message(answer)}"
        raise StageError(f"the server answered a warm-up request with {problem}", ExitCode.PROBLEMS)
    return dict(answer.json())


def server_message(response: Any) -> str:
    """The server's error message, from OpenAI's error object or else the start of the body."""
    try:
        value = response.json()
        error = value.get("error", value)
        text = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        text = response.text
    return escaped(" ".join(str(text).split())[:300])
