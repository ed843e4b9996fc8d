"""RunPod queue worker: a job brings a document, the gateway on this machine answers it.

Input: {"document_base64": "..."} (a PDF, PNG, JPEG or TIFF), or {"pages_base64": ["...", ...]} (page images in order).
A job may be 10 MB (/run) or 20 MB (/runsync), base64 included; larger documents go to the load-balancing endpoint.
Output: what POST /v1/extract answers; or {"error": ...}, which RunPod shows as a failed job. Started by
runpod/serve/start.sh with MODE=queue; on your own machine, with RunPod's local server:

    python .runpod/handler.py --rp_serve_api --rp_api_port 8009
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import time
from typing import Any

import httpx

GATEWAY = f"http://127.0.0.1:{os.environ.get('PORT') or 8080}"
KEY = os.environ.get("EXTRACTION_API_KEY") or ""
START_SECONDS = float(os.environ.get("START_SECONDS") or 1800)
JOB_SECONDS = 300.0
CONCURRENCY = int(os.environ.get("CONCURRENCY") or 8)
# Busy or starting again: the same job a moment later may well be answered.
AGAIN = (429, 503)
client: httpx.AsyncClient | None = None


def files_of(job: dict[str, Any]) -> list[bytes]:
    """The job's files. Raises ValueError with one sentence."""
    given = job.get("input")
    if not isinstance(given, dict):
        raise ValueError("input must be an object with document_base64 or pages_base64")
    one, many = given.get("document_base64"), given.get("pages_base64")
    if (one is None) == (many is None):
        raise ValueError("input needs document_base64 or pages_base64, and only one of them")
    texts = [one] if many is None else many
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise ValueError("document_base64 is a text, pages_base64 a list of texts")
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, ValueError):
        raise ValueError("the document is not base64") from None


async def answered(files: list[bytes]) -> dict[str, Any]:
    """The gateway's answer, or {"error": sentence}; waits while the model server starts again."""
    global client
    if client is None:
        bearer = {"Authorization": f"Bearer {KEY}"} if KEY else {}
        client = httpx.AsyncClient(base_url=GATEWAY, headers=bearer, timeout=httpx.Timeout(JOB_SECONDS, connect=5))
    deadline, pause = time.monotonic() + JOB_SECONDS, 0.5
    while True:
        sentence = "the gateway does not answer"
        try:
            if len(files) == 1:
                answer = await client.post("/v1/extract", content=files[0])
            else:
                answer = await client.post(
                    "/v1/extract", files=[("file", (f"{n}.page", data)) for n, data in enumerate(files)]
                )
            if answer.status_code == 200:
                return dict(answer.json())
            sentence = str(answer.json()["error"]["message"])
            if answer.status_code not in AGAIN:
                return {"error": f"{answer.status_code}: {sentence}"}
        except (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError):
            pass
        if time.monotonic() + pause > deadline:
            return {"error": f"503: {sentence}"}
        await asyncio.sleep(pause)
        pause = min(5, pause * 2)


async def handler(job: dict[str, Any]) -> dict[str, Any]:
    try:
        files = files_of(job)
    except ValueError as error:
        return {"error": f"400: {error}"}
    return await answered(files)


def wait_until_ready() -> None:
    """Take no job before the model is warm: a job that is taken counts against its time limit."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{GATEWAY}/ping", timeout=10).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(1)
    raise SystemExit(f"error: the model is not ready after {START_SECONDS:g} s")


if __name__ == "__main__":
    import logging

    import runpod

    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every request otherwise

    wait_until_ready()
    runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda _: CONCURRENCY})
