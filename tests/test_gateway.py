"""The gateway over real HTTP: documents in, strict JSON out; nothing of a document is kept or logged."""

import asyncio
import json
import time

import httpx
import pytest
from conftest import free_port
from fault_server import FaultServer
from served_gateway import (
    FORM,
    LADING,
    LIMITS,
    SECRET,
    Gateway,
    bill,
    contract_of,
    files_below,
    page,
    part,
    pdf,
    reader,
    sharded_gateway,
)

from toolkit.answers.row_shards import AnswerPlan
from toolkit.serving.settings import Limits


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with sharded_gateway(tmp_path_factory.mktemp("gateway")) as made:
        yield made


@pytest.mark.parametrize(
    "body",
    [pdf(), page(), page(kind="JPEG"), page(kind="TIFF"), b"\n" * 20 + pdf()],
    ids=["pdf", "png", "jpeg", "tiff", "pdf behind blanks"],
)
def test_a_document_as_the_body(gateway, body):
    answer = gateway.http.post("/v1/extract", content=body)
    assert answer.status_code == 200, answer.text
    value = answer.json()
    assert value["prediction"] == bill(3) and value["pages"] == 1 and value["shards"] == 4
    assert set(value["confidence"] or {}) <= {"bl_number"} or value["confidence"] is None


def test_a_form_of_pages_in_order_and_azures_route(gateway):
    files = [("file", ("b.png", page())), ("file", ("a.png", page()))]
    before = len(gateway.model.requests)
    answer = gateway.http.post("/score", files=files)
    assert answer.status_code == 200 and answer.json()["pages"] == 2
    assert len(gateway.model.requests) - before == 4  # one window of two pages, in four shards


def test_openais_routes_are_passed_on(gateway):
    assert gateway.http.get("/v1/models").json()["data"][0]["id"] == "stand-in"
    from toolkit.extraction.chat_request import request_body

    body = request_body(contract_of(wire="positional", rows_per_shard=2), "stand-in", [])
    answer = gateway.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "[3]"
    streamed = gateway.http.post("/v1/chat/completions", json=body | {"stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream") and "[DONE]" in streamed.text


def test_health_metrics_and_the_openapi_page(gateway):
    assert gateway.http.get("/health/live").json() == {"status": "live"}
    assert gateway.http.get("/health/ready").status_code == gateway.http.get("/ping").status_code == 200
    gateway.http.post("/v1/extract", content=page())
    text = gateway.http.get("/metrics").text
    assert 'extract_requests_total{status="ok"}' in text and 'extract_seconds_bucket{le="0.25",part="render"}' in text
    paths = gateway.http.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/v1/extract",
        "/v1/chat/completions",
        "/v1/models",
        "/health/live",
        "/health/ready",
        "/ping",
        "/metrics",
    }
    assert gateway.http.get("/docs").status_code == 404  # a browser has no key to send


def test_metrics_and_the_description_want_the_key(gateway):
    stranger = {"Authorization": ""}
    for path in ("/metrics", "/openapi.json"):
        assert gateway.http.get(path, headers=stranger).status_code == 401, path
    for path in ("/health/live", "/health/ready", "/ping"):
        assert gateway.http.get(path, headers=stranger).status_code == 200, path


def test_a_port_of_its_own_serves_the_metrics_without_a_key():
    from toolkit.serving.metrics import Metrics

    metrics = Metrics()
    metrics.pages.inc(3)
    port = free_port()
    metrics.serve("127.0.0.1", port)
    assert "extract_pages_total 3.0" in httpx.get(f"http://127.0.0.1:{port}/metrics").text


def test_the_key_comes_from_a_file_and_an_empty_one_lets_nobody_in_by_mistake(tmp_path, monkeypatch):
    from serve_gateway import client_key

    from toolkit.console import StageError

    monkeypatch.delenv("EXTRACTION_API_KEY", raising=False)
    monkeypatch.delenv("EXTRACTION_API_KEY_FILE", raising=False)
    assert client_key() is None
    monkeypatch.setenv("EXTRACTION_API_KEY_FILE", str(tmp_path / "key"))
    (tmp_path / "key").write_text("sesame\n")
    assert client_key() == "sesame"
    (tmp_path / "key").write_text("\n")
    with pytest.raises(StageError, match="is empty; put the key into it"):
        client_key()


def test_it_is_not_ready_before_the_model_is_warm(gateway, tmp_path):
    """The model server is up and its file is not there yet: load balancers are told to wait."""
    ready = tmp_path / "ready.json"
    with Gateway(gateway.model.url, contract_of(), LIMITS, ready_file=ready) as cold:
        assert cold.http.get("/ping").status_code == 204
        answer = cold.http.get("/health/ready")
        assert answer.status_code == 503 and answer.json()["error"]["message"] == "the model server is starting"
        assert cold.http.get("/health/live").status_code == 200
        ready.write_text("{}")
        assert cold.http.get("/ping").status_code == cold.http.get("/health/ready").status_code == 200


def test_a_model_server_that_is_gone_slow_or_wrong():
    contract = contract_of()
    with Gateway("http://127.0.0.1:9/v1", contract, LIMITS) as gateway:
        answer = gateway.http.post("/v1/extract", content=page())
        assert answer.status_code == 503 and answer.headers["retry-after"] and "127.0.0.1" not in answer.text
        assert (
            gateway.http.get("/health/ready").status_code == 503 and gateway.http.get("/health/live").status_code == 200
        )
        assert gateway.http.get("/v1/models").status_code == 503
    with FaultServer(lambda _: "slow", answer=reader(AnswerPlan(LADING, "json"))) as server:
        with Gateway(server.url, contract, Limits(seconds=1.0)) as gateway:
            assert gateway.http.post("/v1/extract", content=page()).status_code == 504
    with (
        FaultServer(lambda _: None, answer=lambda _: '{"bl_number": 5}') as server,
        Gateway(server.url, contract, LIMITS) as gateway,
    ):
        answer = gateway.http.post("/v1/extract", content=page())
        assert answer.status_code == 502 and answer.json()["error"]["type"] == "schema_error"
    with (
        FaultServer(lambda _: "refuse", answer=lambda _: "") as server,
        Gateway(server.url, contract, LIMITS) as gateway,
    ):
        assert gateway.http.post("/v1/extract", content=page()).status_code == 422


def test_too_many_documents_are_sent_away():
    with FaultServer(lambda _: "slow", answer=reader(AnswerPlan(LADING, "json"))) as server:
        server.slowness = 0.8
        with Gateway(server.url, contract_of(), Limits(seconds=30, documents=1, queue=1)) as gateway:

            async def all_at_once() -> list[int]:
                async with httpx.AsyncClient(timeout=60, headers={"authorization": "Bearer k"}) as client:
                    url = f"http://127.0.0.1:{gateway.port}/v1/extract"
                    return [
                        a.status_code
                        for a in await asyncio.gather(*(client.post(url, content=page()) for _ in range(6)))
                    ]

            codes = sorted(asyncio.run(all_at_once()))
            assert codes == [200, 200, 429, 429, 429, 429]


def test_nothing_of_a_document_is_logged_or_kept(gateway):
    """Looks at the gateway's whole temporary folder; what failed requests leave is in test_gateway_files.py."""
    assert any(gateway.files.iterdir()), "the gateway works in this folder"
    before = files_below(gateway.files)
    for body in (pdf(), b"%PDF-" + SECRET.encode(), part(f"{SECRET}.png", page()) + b"--x--\r\n"):
        gateway.http.post("/v1/extract", content=body, headers={"content-type": FORM} if body.startswith(b"--") else {})
    log = gateway.log.getvalue()
    assert SECRET not in log and "B1" not in log and log.count("\n") >= 3
    assert all(set(json.loads(line)) == {"id", "status", "pages", "seconds"} for line in log.splitlines())
    assert files_below(gateway.files) == before


def test_what_the_gateway_adds_besides_rendering(gateway):
    """All but rendering and the model's part costs no more than a few requests that do nothing, on this machine now."""
    nothing = []
    for _ in range(12):
        began = time.perf_counter()
        assert gateway.http.get("/health/live").status_code == 200
        nothing.append(time.perf_counter() - began)
        assert gateway.http.post("/v1/extract", content=page((200, 300))).status_code == 200
    lines = [json.loads(line)["seconds"] for line in gateway.log.getvalue().splitlines()[-12:]]
    added = sorted(line["total"] - line["render"] - line["model"] for line in lines)
    bare = sorted(nothing)[6]
    print(f"added: p50 {1000 * added[6]:.1f} ms; a request that does nothing {1000 * bare:.1f} ms")
    assert added[6] < 25 * bare


def test_the_script_wants_a_key_where_others_can_reach_it(run, tmp_path, monkeypatch):
    monkeypatch.delenv("EXTRACTION_API_KEY", raising=False)
    contract_of().save(tmp_path)
    done = run("serve_gateway", "--server", "http://127.0.0.1:9/v1", "--contract", tmp_path, "--host", "0.0.0.0")
    assert done.code == 2 and "EXTRACTION_API_KEY" in done.err
