"""The gateway's routes. This module imports no web framework, so the checks of the cloud templates can use it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Route:
    """One route of the gateway; `endpoint` is the method of `Gateway` that answers it."""

    method: str
    path: str
    endpoint: str
    documented: bool = True  # in the OpenAPI page


ROUTES = (
    Route("POST", "/score", "extract", documented=False),  # Azure ML's name for /v1/extract
    Route("POST", "/v1/extract", "extract"),
    Route("POST", "/v1/chat/completions", "completions"),
    Route("GET", "/v1/models", "models"),
    Route("GET", "/health/live", "live"),
    Route("GET", "/health/ready", "ready"),
    Route("GET", "/ping", "ping"),
    Route("GET", "/metrics", "metrics"),
)
PATHS = frozenset(route.path for route in ROUTES)
