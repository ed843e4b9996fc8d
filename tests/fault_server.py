"""A proxy before a real server (or an answerer of its own) that fails as real networks do, on demand."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = str | None  # "429", "500", "cut", "close", "garbage", "slow", or "refuse"


class FaultServer:
    """`fault(n)` names what happens to the n-th completion request (from 0); None lets it through.

    `target` is the port of a real server; without one `answer(body)` gives the message text, or an HTTP status and a
    sentence. `vllm`: it tells its version as vLLM does. A streamed answer waits for `writing(text so far)` before each
    piece.
    """

    def __init__(
        self,
        fault: Callable[[int], Fault],
        *,
        target: int | None = None,
        answer: Callable[[dict[str, Any]], Any] | None = None,
        port: int = 0,
        vllm: bool = False,
        writing: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.fault, self.target, self.answer, self.vllm, self.writing = fault, target, answer, vllm, writing
        self.retry_after = 0.2  # seconds that a 429 asks for
        self.slowness = 2.0  # seconds that "slow" takes longer
        self.requests: list[dict[str, Any]] = []
        self.faults: dict[str, int] = {}
        self._lock = threading.Lock()
        self._connections: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer._connections.append(self.connection)

            def log_message(self, *_: object) -> None:
                pass

            def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def stream(self, choice: dict[str, Any]) -> None:
                """The answer in chunks of three characters, its usage in the last one, as OpenAI's API does."""
                text = choice["message"]["content"]
                deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
                deltas += [{"content": text[at : at + 3]} for at in range(0, len(text), 3)]
                chunks: list[dict[str, Any]] = [
                    {"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas
                ]
                chunks[-1]["choices"][0]["finish_reason"] = choice["finish_reason"]
                chunks.append({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": len(deltas)}})
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                for number, chunk in enumerate(chunks):
                    outer.writing(text[: 3 * max(0, number - 1)])
                    self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                self.wfile.write(b"data: [DONE]\n\n")

            def do_GET(self) -> None:
                if self.path == "/version" and outer.vllm:
                    self.reply(200, b'{"version":"0"}')
                    return
                if outer.target is None:
                    self.reply(200, b'{"data":[{"id":"stand-in"}]}')
                else:
                    self.forward("GET", None)

            def forward(self, method: str, body: bytes | None) -> None:
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", outer.target, timeout=600)
                    connection.request(method, self.path, body, {"Content-Type": "application/json"})
                    response = connection.getresponse()
                    data = response.read()
                except OSError:
                    self.close_connection = True  # what a client sees when the server behind dies
                    self.connection.close()
                    return
                self.reply(response.status, data)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with outer._lock:
                    number = len(outer.requests)
                    outer.requests.append(json.loads(body))
                    fault = outer.fault(number)
                    outer.faults[str(fault)] = outer.faults.get(str(fault), 0) + 1
                if fault == "429":
                    self.reply(429, b'{"error":{"message":"slow down"}}', {"Retry-After": str(outer.retry_after)})
                elif fault == "500":
                    self.reply(500, b'{"error":{"message":"engine fell over"}}')
                elif fault == "refuse":
                    self.reply(400, b'{"error":{"message":"this page is not welcome"}}')
                elif fault == "401":
                    self.reply(401, b'{"error":"Unauthorized"}')
                elif fault == "close":
                    self.close_connection = True
                    self.connection.close()
                elif fault == "cut":
                    self.send_response(200)
                    self.send_header("Content-Length", "5000")
                    self.end_headers()
                    self.wfile.write(b'{"choices": [{"mess')
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.close()
                elif fault == "garbage":
                    self.reply(200, b"<html>It works!</html>")
                else:
                    if fault == "slow":
                        time.sleep(outer.slowness)
                    if outer.target is not None:
                        self.forward("POST", body)
                        return
                    assert outer.answer is not None
                    given = outer.answer(outer.requests[number])
                    if isinstance(given, tuple):
                        self.reply(given[0], json.dumps({"error": {"message": given[1]}}).encode())
                        return
                    choice = (
                        given if isinstance(given, dict) else {"message": {"content": given}, "finish_reason": "stop"}
                    )
                    if outer.requests[number].get("stream"):
                        self.stream(choice)
                        return
                    self.reply(
                        200,
                        json.dumps(
                            {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
                        ).encode(),
                    )

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> FaultServer:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        # A dead server holds no connection open; a kept-alive one would go on being served.
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
