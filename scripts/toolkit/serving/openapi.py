"""What the gateway's OpenAPI page says about each endpoint."""

from __future__ import annotations

from typing import Any

from fastapi.responses import PlainTextResponse

LINES = "application/x-ndjson"

_FILE = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "properties": {"file": {"type": "array", "items": _FILE}}}
_DOCUMENT_BODY = {
    "required": True,
    "content": {
        "application/pdf": {"schema": _FILE},
        "image/png": {"schema": _FILE},
        "image/jpeg": {"schema": _FILE},
        "multipart/form-data": {"schema": _FORM},
    },
}
_MESSAGES = {"messages": {"type": "array", "items": {"type": "object"}}}
_CHAT_SCHEMA = {"type": "object", "required": ["messages"], "properties": _MESSAGES}
_CHAT_BODY = {"content": {"application/json": {"schema": _CHAT_SCHEMA}}}

_ANSWERED = "the document's values; asked for as lines: each shard's values when they are there, the whole answer last"
_FAILURES = {
    400: "no file, or a form that cannot be read",
    401: "another API key is needed",
    408: "the upload took too long",
    413: "the body is too large",
    415: "neither PDF nor image",
    422: "the document cannot be read",
    429: "too many documents wait",
    502: "the model gave no valid answer",
    503: "the model server does not answer",
    504: "not done in time",
    500: "an error that nobody foresaw",
}


def _responses(descriptions: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {code: {"description": text} for code, text in descriptions.items()}


_PASSED_ON = _responses({404: "no such model", **{code: _FAILURES[code] for code in (400, 401, 408, 413, 500, 503)}})

# By endpoint: further arguments of FastAPI's `add_api_route`.
ENDPOINTS: dict[str, dict[str, Any]] = {
    "extract": {
        "summary": "A document's values as strict JSON",
        "openapi_extra": {"requestBody": _DOCUMENT_BODY},
        "responses": {
            200: {"description": _ANSWERED, "content": {"application/json": {}, LINES: {}}},
            **_responses(_FAILURES),
        },
    },
    "completions": {
        "summary": "OpenAI's chat completions, passed on to the model server",
        "openapi_extra": {"requestBody": _CHAT_BODY},
        "responses": _PASSED_ON,
    },
    "models": {"summary": "OpenAI's list of models, passed on", "responses": _PASSED_ON},
    "live": {"summary": "The gateway runs"},
    "ready": {
        "summary": "Documents can be answered",
        "responses": _responses({503: "they cannot (yet), and why"}),
    },
    "ping": {
        "summary": "The same for load balancers that tell starting (204) from broken",
        "responses": _responses({204: "it is not ready yet"}),
    },
    "metrics": {"summary": "Prometheus metrics", "response_class": PlainTextResponse},
}
