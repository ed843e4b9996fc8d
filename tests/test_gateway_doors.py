"""What the gateway lets in: no address that the model server would fetch, no connection that is held for nothing."""

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from conftest import REPOSITORY
from fault_server import FaultServer
from served_gateway import LADING, LIMITS, Gateway, contract_of, page, pdf, raw, reader
from test_page_workers import until

from toolkit.answers.row_shards import AnswerPlan
from toolkit.extraction.chat_request import request_body
from toolkit.serving.connections import Connections, file_handles
from toolkit.serving.settings import Limits

ANSWER = reader(AnswerPlan(LADING, "json"))
HTTP = "http://127.0.0.1:8990/secret"


def data_url(kind: str = "PNG", name: str = "png") -> str:
    return f"data:image/{name};base64,{base64.b64encode(page((32, 32), kind)).decode()}"


@pytest.fixture(scope="module")
def gateway():
    with FaultServer(lambda _: None, answer=ANSWER, vllm=True) as server:
        with Gateway(server.url, contract_of(), LIMITS) as made:
            made.model = server
            yield made


def question(*parts) -> dict:
    """A request as the gateway's own client sends it, with these parts before its question."""
    body = request_body(contract_of(), "stand-in", [])
    body["messages"][1]["content"][:0] = parts
    return body


ADDRESSES = [
    HTTP,
    "https://example.invalid/a.png",
    "HTTP://127.0.0.1/a",
    "hTtPs://127.0.0.1/a",
    " http://127.0.0.1/a",
    "\thttp://127.0.0.1/a",
    "\nhttp://127.0.0.1/a",
    "\u00a0http://127.0.0.1/a",
    "//127.0.0.1/a",
    "127.0.0.1:8990",
    "file:///etc/passwd",
    "FILE:/etc/passwd",
    "file:etc",
    "ftp://127.0.0.1/a",
    "gopher://127.0.0.1/",
    "/etc/passwd",
    "",
    "data:",
    "data:,",
    "data:text/html;base64,PGI+",
    "data:image/svg+xml;base64,PHN2Zz4=",
    "data:image/png,http://127.0.0.1",
    "data:image/png;base64,http://127.0.0.1/",
    "data:image/png;base64,PHN2Zz48L3N2Zz4=",
    "data:video/mp4;base64,AAAA",
    "x" + data_url(),
    data_url() + "#" + HTTP,
    data_url() + "," + HTTP,
    data_url() + "\n",
    " " + data_url(),
    "data:application/pdf;base64,JVBERi0xLjcK",
    "data:image/png;base64,JSFQUy1BZG9iZS0zLjAgRVBTRi0zLjA=",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_image_that_is_no_data_url_is_refused_before_the_model_server_sees_it(gateway, address):
    before = len(gateway.model.requests)
    for part in (
        {"type": "image_url", "image_url": {"url": address}},
        {"type": "image_url", "image_url": address},
        {"type": "input_image", "image_url": address},
        {"image_url": address},
        {"type": "text", "text": "x", "image_url": {"url": address}},
        {"type": "image_url", "image_url": {"url": address}, "uuid": "a"},
    ):
        answer = gateway.http.post("/v1/chat/completions", json=question(part))
        assert answer.status_code == 400 and "data" in answer.json()["error"]["message"], (part, answer.text)
    assert len(gateway.model.requests) == before


GOOD = {"type": "image_url", "image_url": {"url": data_url()}}
PARTS = [
    {"type": "video_url", "video_url": {"url": HTTP}},
    {"type": "audio_url", "audio_url": {"url": HTTP}},
    {"video_url": HTTP},
    {"audio_url": HTTP},
    {"type": "video_url", "video_url": {"url": data_url()}},
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    {"type": "file", "file": {"file_data": HTTP}},
    {"type": "file", "file": {"file_id": "1"}},
    {"type": "input_file", "file_url": HTTP},
    {"type": "image_embeds", "image_embeds": "AAAA"},
    {"type": "image_pil", "image_pil": HTTP},
    {"type": "image", "image": HTTP},
    {"type": "image_url", "url": HTTP},
    {"type": "IMAGE_URL", "image_url": HTTP},
    {"type": ["image_url"], "image_url": HTTP},
    {"type": "unknown"},
    {"type": "text", "text": {"url": HTTP}},
    {"type": "image_url", "image_url": {"url": {"url": HTTP}}},
    {"type": "image_url", "image_url": [HTTP]},
    {"type": "image_url", "image_url": {"url": [HTTP]}},
    {"type": "image_url", "image_url": {"url": data_url(), "fallback": HTTP}},
    {**GOOD, "video_url": {"url": HTTP}, "uuid": "a"},
    [{"type": "image_url", "image_url": {"url": HTTP}}],
    [[GOOD]],
    5,
    None,
    True,
]


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_parts_other_than_text_and_images_are_refused(gateway, part):
    before = len(gateway.model.requests)
    assert gateway.http.post("/v1/chat/completions", json=question(part)).status_code == 400
    assert gateway.http.post("/v1/chat/completions", json=question(GOOD, part)).status_code == 400
    assert len(gateway.model.requests) == before


def with_message(message) -> dict:
    body = question()
    return body | {"messages": [*body["messages"], message]}


BAD_BODIES = [
    with_message({"role": "user", "content": {"type": "image_url", "image_url": HTTP}}),
    with_message({"role": "user", "content": 5}),
    with_message("text"),
    with_message([GOOD]),
    with_message({"role": "tool", "tool_call_id": "1", "content": [{"type": "image_url", "image_url": HTTP}]}),
    with_message({"role": "assistant", "audio": {"url": HTTP}, "content": "x"}),
    with_message({"role": "user", "content": "x", "parts": [{"image_url": HTTP}]}),
    question() | {"kv_transfer_params": {"remote_host": "127.0.0.1"}},
    question() | {"media_io_kwargs": {"image": {}}},
    [question()],
    "text",
    {"messages": "text"},
    {"messages": {"0": {}}},
    {},
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: json.dumps(body)[-60:])
def test_other_places_for_an_address_are_refused_too(gateway, body):
    before = len(gateway.model.requests)
    answer = gateway.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["message"], answer.text
    assert len(gateway.model.requests) == before


def test_what_was_checked_is_what_is_sent(gateway):
    """A key that stands twice, and an encoding that two parsers might read differently."""
    bad = json.dumps({"role": "user", "content": [{"type": "image_url", "image_url": {"url": HTTP}}]})
    twice = json.dumps(question()).replace('{"model"', f'{{"messages": [{bad}], "model"', 1).encode()
    assert gateway.http.post("/v1/chat/completions", content=twice).status_code == 200
    assert "8990" not in json.dumps(gateway.model.requests[-1])
    twice = json.dumps(question())[:-1] + f', "messages": [{bad}]}}'
    assert gateway.http.post("/v1/chat/completions", content=twice.encode()).status_code == 400
    assert gateway.http.post("/v1/chat/completions", content=twice.encode("utf-16")).status_code == 400
    assert gateway.http.post("/v1/chat/completions", content=b"[" * 100_000).status_code == 400


@pytest.mark.parametrize(
    "part",
    [
        GOOD,
        {"type": "image_url", "image_url": {"url": data_url("JPEG", "jpeg"), "detail": "auto"}, "uuid": "a"},
        {"type": "image_url", "image_url": data_url("WEBP", "webp")},
        {"type": "image_url", "image_url": {"url": data_url().replace("data:image/png", "DATA:IMAGE/PNG")}},
        {"type": "image_url", "image_url": None, "uuid": "a"},
        {"type": "text", "text": f"a text may speak of {HTTP}"},
        "a text",
    ],
    ids=lambda part: str(part)[:60],
)
def test_text_and_images_that_come_along_are_passed_on_as_they_are(gateway, part):
    body = question(part) | {"tools": [{"type": "function", "function": {"name": "url", "parameters": {}}}]}
    answer = gateway.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert gateway.model.requests[-1] == body


# --- connections that are held for nothing ---------------------------------------------------------------------------


@contextlib.contextmanager
def silent(port: int, count: int, first: bytes = b""):
    """Connections that send at most the beginning of a request."""
    file_handles(4 * count + 256)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(count)]
        for connection in held:
            if first:
                connection.sendall(first)
        yield held


def closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(65536) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "first", [b"", b"POST /v1/extract HTTP/1.1\r\nHost: x\r\nX-Slow: "], ids=["silent", "half a head"]
)
def test_silent_connections_hold_up_nobody_and_are_closed(first):
    with FaultServer(lambda _: None, answer=ANSWER, vllm=True) as server:
        with Gateway(server.url, contract_of(), LIMITS, connections=Connections(100, idle_seconds=1.5)) as gateway:
            with silent(gateway.port, 300, first) as held:
                for _ in range(3):
                    # A new connection each time: the one that is kept open would not be refused.
                    began = time.monotonic()
                    for path in ("/health/live", "/health/ready"):
                        assert httpx.get(f"http://127.0.0.1:{gateway.port}{path}").status_code == 200
                    url = f"http://127.0.0.1:{gateway.port}/v1/extract"
                    answer = httpx.post(url, content=pdf(), headers={"authorization": "Bearer k"})
                    assert answer.status_code == 200 and time.monotonic() - began < 5
                assert until(lambda: all(map(closed, held)), 4)
            assert gateway.http.post("/v1/extract", content=pdf()).status_code == 200


def test_a_head_that_comes_byte_by_byte_is_closed_as_well():
    with FaultServer(lambda _: None, answer=ANSWER) as server:
        with Gateway(server.url, contract_of(), LIMITS, connections=Connections(idle_seconds=1.0)) as gateway:
            used = socket.create_connection(("127.0.0.1", gateway.port))
            used.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in used.recv(1000)
            with silent(gateway.port, 3, b"GET /health/live HTTP/1.1\r\nX: ") as held, used:
                began = time.monotonic()
                while not all(map(closed, [*held, used])) and time.monotonic() - began < 6:
                    for connection in (*held, used):  # also as the second request of a connection
                        with contextlib.suppress(OSError):
                            connection.setblocking(True)
                            connection.sendall(b"a")
                    time.sleep(0.2)
                assert 0.8 < time.monotonic() - began < 3


def test_a_document_that_is_worked_on_is_not_dropped_for_new_connections_nor_for_its_length():
    with FaultServer(lambda _: "slow", answer=ANSWER, vllm=True) as server:
        kept = Connections(20, idle_seconds=0.5)
        with Gateway(server.url, contract_of(), LIMITS, connections=kept) as gateway:
            answers: list[int] = []

            def ask() -> None:
                answers.append(gateway.http.post("/v1/extract", content=page()).status_code)

            thread = threading.Thread(target=ask)
            thread.start()
            time.sleep(0.3)
            with silent(gateway.port, 100):
                thread.join()  # two seconds in the model
            assert answers == [200]


def test_where_every_connection_has_a_request_under_way_one_more_gets_a_proper_503():
    with FaultServer(lambda _: None, answer=ANSWER) as server:
        with Gateway(server.url, contract_of(), Limits(seconds=3), connections=Connections(5), key=None) as gateway:
            head = b"POST /v1/extract HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n%PDF-"
            with silent(gateway.port, 5, head):
                time.sleep(0.3)
                refused, _, body = raw(gateway.port, b"").partition(b"\r\n\r\n")
                assert b" 503 " in refused and b"retry-after" in refused and json.loads(body)["error"]["message"]
            assert until(lambda: httpx.get(f"http://127.0.0.1:{gateway.port}/health/live").status_code == 200)


def test_a_client_that_does_not_read_its_answers_is_cut_off():
    with FaultServer(lambda _: None, answer=ANSWER) as server:
        kept = Connections(idle_seconds=1.0, stalled_seconds=1.0)
        with Gateway(server.url, contract_of(), LIMITS, connections=kept) as gateway:
            with socket.socket() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.connect(("127.0.0.1", gateway.port))
                connection.settimeout(8)
                with pytest.raises((ConnectionResetError, BrokenPipeError)):
                    for _ in range(100_000):
                        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
            assert gateway.http.get("/health/live").status_code == 200


def test_the_script_itself_answers_while_300_connections_are_held(tmp_path):
    contract_of().save(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with FaultServer(lambda _: None, answer=ANSWER, vllm=True) as server:
        words = [sys.executable, "scripts/serve_gateway.py", "--server", server.url, "--contract", str(tmp_path)]
        words += ["--port", str(port), "--workers", "1"]
        environment = {name: value for name, value in os.environ.items() if name != "EXTRACTION_API_KEY"}
        process = subprocess.Popen(words, cwd=REPOSITORY, env=environment)
        url = f"http://127.0.0.1:{port}"

        def up() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{url}/health/live").status_code == 200
            return False

        try:
            assert until(up, 30)
            with silent(port, 300):
                assert httpx.get(f"{url}/health/ready").status_code == 200
                assert httpx.post(f"{url}/v1/extract", content=pdf()).status_code == 200
        finally:
            process.terminate()
            process.wait(20)
