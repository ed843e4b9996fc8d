"""A gateway whose model server goes away, whose render workers are killed, or that meets what nobody foresaw."""

import asyncio
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_server import FaultServer
from served_gateway import LADING, LIMITS, SECRET, Gateway, bill, contract_of, page, pdf, reader
from test_page_workers import kill_workers, killing, slow_picture, until

from toolkit.answers.answer import NoAnswer
from toolkit.answers.row_shards import AnswerPlan
from toolkit.extraction.server_client import ServerModel
from toolkit.serving.settings import Limits

ANSWER = reader(AnswerPlan(LADING, "json"))


def model_server(port: int = 0, fault=lambda _: None) -> FaultServer:
    return FaultServer(fault, answer=ANSWER, vllm=True, port=port).__enter__()


# --- the model server goes away --------------------------------------------------------------------------------------


def test_a_server_that_was_away_longer_than_patience_is_used_again_when_it_is_back(tmp_path):
    (tmp_path / "page.png").write_bytes(page())
    contract = contract_of()
    whole = contract.answer_plan.whole
    first = model_server()

    async def story() -> None:
        said: list[str] = []
        async with ServerModel(first.url, contract, attempts=2, patience=0.5, say=said.append) as ask:
            pages = [ask.prepare(tmp_path / "page.png")]
            for _ in range(2):  # patience is each outage's own
                first_port = first.port
                (first if not servers else servers[-1]).__exit__()
                began = time.monotonic()
                with pytest.raises(NoAnswer, match="did not come back"):
                    await ask(pages, whole, 0.0, 0)
                assert time.monotonic() - began < 2 and ask.away
                with pytest.raises(NoAnswer, match="did not come back"):  # the outage is old: nobody waits again
                    await asyncio.wait_for(ask(pages, whole, 0.0, 0), 0.4)
                servers.append(model_server(first_port))
                await asyncio.sleep(1.6)
                assert not ask.away and (await ask(pages, whole, 0.0, 0)).finish_reason == "stop"
        assert sum("the server is back" in line for line in said) == 2

    servers: list[FaultServer] = []
    try:
        asyncio.run(story())
    finally:
        servers[-1].__exit__()


def test_a_document_that_ends_the_server_each_time_is_given_up(tmp_path):
    """Else it would be sent again for ever, and end the server for ever."""
    (tmp_path / "page.png").write_bytes(page())
    servers: list[FaultServer] = []

    def dies(_: int) -> str:
        ended = servers[-1]
        ended.__exit__()
        threading.Timer(0.3, lambda: servers.append(model_server(ended.port, dies))).start()
        return "close"

    servers.append(model_server(0, dies))

    async def story() -> None:
        contract = contract_of()
        async with ServerModel(servers[0].url, contract, attempts=1, patience=30) as ask:
            with pytest.raises(NoAnswer, match="went away each of the 2 times"):
                await ask([ask.prepare(tmp_path / "page.png")], contract.answer_plan.whole, 0.0, 0)

    asyncio.run(asyncio.wait_for(story(), 20))
    assert until(lambda: len(servers) == 3)
    servers[-1].__exit__()


def test_an_outage_longer_than_a_request_ends_when_the_server_is_back():
    server = model_server()
    with Gateway(server.url, contract_of(), Limits(seconds=1.5, documents=2, queue=2)) as gateway:
        assert gateway.http.post("/v1/extract", content=page()).status_code == 200
        server.__exit__()
        began = time.monotonic()
        for _ in range(3):
            answer = gateway.http.post("/v1/extract", content=page())
            assert answer.status_code == 503 and answer.headers["retry-after"], answer.text
            assert answer.json()["error"]["message"].startswith("the ")
            ready = gateway.http.get("/health/ready")
            assert ready.status_code == 503 and "model server" in ready.json()["error"]["message"]
            assert gateway.http.get("/health/live").status_code == 200
        assert time.monotonic() - began < 4  # the first one waits its time, the others do not
        server = model_server(server.port)
        try:
            assert until(lambda: gateway.http.get("/health/ready").status_code == 200)
            answer = gateway.http.post("/v1/extract", content=page())
            assert answer.status_code == 200 and answer.json()["prediction"] == bill(3)
        finally:
            server.__exit__()


# --- render workers are killed ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gateway():
    with model_server() as server, Gateway(server.url, contract_of(), LIMITS) as made:
        yield made


@pytest.fixture(scope="module")
def slow_document(tmp_path_factory) -> bytes:
    return slow_picture(tmp_path_factory.mktemp("slow") / "slow.tiff", frames=3).read_bytes()


def test_idle_workers_that_are_killed_cost_no_document(gateway):
    for _ in range(3):
        assert gateway.http.post("/v1/extract", content=pdf()).status_code == 200
        assert kill_workers()
        answer = gateway.http.post("/v1/extract", content=pdf())
        assert answer.status_code == 200, answer.text
        assert until(lambda: gateway.http.get("/health/ready").status_code == 200)


@contextmanager
def killed_while_rendering(times: int):
    """Kills the render workers as soon as a first page is there, `times` times."""

    def kill() -> None:
        for _ in range(times):
            assert until(first_pages)
            killed.append(kill_workers())
            for path in first_pages():
                path.unlink(missing_ok=True)

    def first_pages() -> list[Path]:
        return list(Path(tempfile.gettempdir()).glob("document-pages-*/*/*/*_page_0001.png"))

    killed: list[list[int]] = []
    thread = threading.Thread(target=kill)
    thread.start()
    yield killed
    thread.join()


def test_a_good_document_whose_worker_is_killed_is_read_all_the_same(gateway, slow_document):
    with killed_while_rendering(1) as killed:
        answer = gateway.http.post("/v1/extract", content=slow_document)
    assert killed and answer.status_code == 200 and answer.json()["pages"] == 3, answer.text


def test_a_document_that_loses_its_worker_twice_is_unreadable_and_the_next_one_is_read(gateway, slow_document):
    with killed_while_rendering(2) as killed:
        answer = gateway.http.post("/v1/extract", content=slow_document)
    assert len(killed) == 2 and answer.status_code == 422 and answer.json()["error"]["type"] == "unreadable"
    assert "ended by signal 9, 2 times" in answer.json()["error"]["message"]
    assert gateway.http.post("/v1/extract", content=pdf()).status_code == 200


@pytest.mark.slow
def test_a_storm_of_kills_leaves_proper_answers_and_a_working_gateway(gateway):
    with killing(1e9):
        codes = {gateway.http.post("/v1/extract", content=pdf()).status_code for _ in range(3)}
    assert codes <= {200, 422, 503}
    assert until(lambda: gateway.http.get("/health/ready").status_code == 200)
    assert gateway.http.post("/v1/extract", content=pdf()).status_code == 200


def test_a_gateway_that_can_start_no_worker_is_not_ready_and_says_why(monkeypatch):
    monkeypatch.setattr("toolkit.extraction.documents.engines_loaded", sys.exit)
    with model_server() as server, Gateway(server.url, contract_of(), LIMITS) as gateway:
        ready = gateway.http.get("/health/ready")
        assert ready.status_code == 503 and "no worker process can be started" in ready.json()["error"]["message"]
        answer = gateway.http.post("/v1/extract", content=pdf())
        assert answer.status_code == 503 and answer.json()["error"]["type"] == "unavailable"
        assert answer.headers["retry-after"] and gateway.http.get("/health/live").status_code == 200


# --- what nobody foresaw ---------------------------------------------------------------------------------------------


def fails(*_, **__):
    raise KeyError(SECRET)


def test_an_unexpected_error_has_the_gateways_form_and_its_log_names_the_place_and_no_value(gateway, monkeypatch):
    monkeypatch.setattr("toolkit.serving.gateway.prediction_of", fails)
    monkeypatch.setattr("toolkit.serving.gateway.refusal_of", fails)
    whole = gateway.http.post("/v1/extract", content=pdf())
    lines = gateway.http.post("/v1/extract", content=pdf(), headers={"accept": "application/x-ndjson"})
    chat = gateway.http.post("/v1/chat/completions", json={"messages": []})
    for answer in (whole, lines, chat):
        assert answer.status_code == 500 and answer.json()["error"]["type"] == "error"
        assert SECRET not in answer.text
    assert SECRET not in gateway.log.getvalue()
    assert gateway.log.getvalue().count("KeyError at test_gateway_faults.py:") == 3
    monkeypatch.undo()
    assert gateway.http.post("/v1/extract", content=pdf()).status_code == 200


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("DELETE", "/v1/extract"), ("GET", "/v1/extract")])
def test_unknown_routes_and_methods_have_the_gateways_form_too(gateway, method, path):
    assert gateway.http.request(method, path).json()["error"]["message"]


def test_what_is_not_http_has_the_gateways_form_too(gateway):
    from served_gateway import raw

    head, _, body = raw(gateway.port, b"\x16\x03\x01 hello\r\n\r\n").partition(b"\r\n\r\n")
    assert b" 400 " in head and b'"error"' in body
