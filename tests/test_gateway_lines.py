"""Answers in lines: each shard's values as soon as they are there, the whole answer as the last line."""

import json
import threading
import time

import pytest
from fault_server import FaultServer
from served_gateway import LADING, LIMITS, Gateway, bill, contract_of, pdf, reader, sharded_gateway

from toolkit.answers.row_shards import AnswerPlan


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with sharded_gateway(tmp_path_factory.mktemp("gateway")) as made:
        yield made


def lines_of(answer) -> list[dict]:
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_asked_for_lines_each_shards_values_come_before_the_whole_answer(gateway):
    accept = {"accept": "application/x-ndjson"}
    *parts, whole = lines_of(gateway.http.post("/v1/extract", content=pdf(), headers=accept))
    assert {part["shard"] for part in parts} == {"rows", "header", "containers 1-2", "containers 3-4"}
    by_shard = {part["shard"]: part["values"] for part in parts}
    assert by_shard["rows"] == {"containers": 3} and parts[0]["shard"] == "rows"
    assert by_shard["header"]["bl_number"] == "B1" and len(by_shard["containers 3-4"]["containers"]) == 1
    assert whole["prediction"] == bill(3) and {part["window"] for part in parts} == {1}
    plain = gateway.http.post("/v1/extract", content=pdf()).json()
    assert {k: v for k, v in whole.items() if k not in ("id", "seconds")} == {
        k: v for k, v in plain.items() if k not in ("id", "seconds")
    }


def test_the_header_is_sent_while_a_row_is_still_written():
    plan = AnswerPlan(LADING, "json", 2)
    release = threading.Event()

    def slow_rows(body):
        if "containers" in body["messages"][1]["content"][-1]["text"].partition("\n")[2]:
            release.wait(20)
        return reader(plan)(body)

    contract = contract_of(rows_per_shard=2, max_shards=6)
    with (
        FaultServer(lambda _: None, answer=slow_rows, vllm=True) as server,
        Gateway(server.url, contract, LIMITS) as made,
    ):
        with made.http.stream(
            "POST", "/v1/extract", content=pdf(), headers={"accept": "application/x-ndjson"}
        ) as answer:
            lines = answer.iter_lines()
            early = [json.loads(next(lines))["shard"] for _ in range(2)]
            release.set()
            rest = [json.loads(line) for line in lines]
        assert early == ["rows", "header"] and rest[-1]["prediction"] == bill(3)


def test_asked_for_lines_what_fails_early_keeps_its_status_and_what_fails_late_is_the_last_line():
    def fails_late(body):
        line = body["messages"][1]["content"][-1]["text"].partition("\n")[2]
        return "no JSON" if "3-4" in line else reader(AnswerPlan(LADING, "json", 2))(body)

    accept = {"accept": "application/x-ndjson"}
    contract = contract_of(rows_per_shard=2, max_shards=6)
    with (
        FaultServer(lambda _: None, answer=fails_late, vllm=True) as server,
        Gateway(server.url, contract, LIMITS) as made,
    ):
        assert made.http.post("/v1/extract", content=b"no document", headers=accept).status_code == 415
        assert made.http.post("/v1/extract", content=b"%PDF-1.7 broken", headers=accept).status_code == 422
        answer = made.http.post("/v1/extract", content=pdf(), headers=accept)
        *parts, last = lines_of(answer)
        assert answer.status_code == 200 and len(parts) >= 3 and last["error"]["type"] == "not_json"


def test_a_client_that_leaves_in_the_middle_frees_its_place():
    plan, release = AnswerPlan(LADING, "json", 2), threading.Event()

    def stuck(body):
        if "containers" in body["messages"][1]["content"][-1]["text"].partition("\n")[2]:
            release.wait(20)
        return reader(plan)(body)

    contract = contract_of(rows_per_shard=2, max_shards=6)
    with FaultServer(lambda _: None, answer=stuck, vllm=True) as server, Gateway(server.url, contract, LIMITS) as made:
        with made.http.stream(
            "POST", "/v1/extract", content=pdf(), headers={"accept": "application/x-ndjson"}
        ) as answer:
            next(answer.iter_lines())
            assert "extract_documents_under_way 1.0" in made.http.get("/metrics").text
        deadline = time.monotonic() + 5
        while "extract_documents_under_way 0.0" not in made.http.get("/metrics").text and time.monotonic() < deadline:
            time.sleep(0.05)
        text = made.http.get("/metrics").text
        release.set()
        assert "extract_documents_under_way 0.0" in text and 'extract_requests_total{status="cancelled"} 1.0' in text


@pytest.mark.parametrize("wire", ["json", "positional"])
def test_a_whole_answers_header_is_sent_while_its_rows_are_still_written(wire):
    plan, release = AnswerPlan(LADING, wire), threading.Event()
    rows_begin = plan.wire_of(plan.whole).encoded(bill(3)).index("ABCU")

    def writing(text):
        if len(text) > rows_begin:
            release.wait(20)

    with (
        FaultServer(lambda _: None, answer=reader(plan), vllm=True, writing=writing) as server,
        Gateway(server.url, contract_of(wire=wire), LIMITS) as made,
    ):
        with made.http.stream(
            "POST", "/v1/extract", content=pdf(), headers={"accept": "application/x-ndjson"}
        ) as answer:
            lines = answer.iter_lines()
            header = json.loads(next(lines))
            assert not release.is_set()
            release.set()
            (whole,) = map(json.loads, lines)
        assert header["shard"] == "header" and header["values"] == {
            k: v for k, v in bill(3).items() if k != "containers"
        }
        assert whole["prediction"] == bill(3)
        plain = made.http.post("/v1/extract", content=pdf()).json()
        assert plain["prediction"] == bill(3) and "stream" not in server.requests[-1]


def test_a_header_that_does_not_keep_the_schema_is_not_sent_early():
    plan = AnswerPlan(LADING, "json")
    broken = plan.wire_of(plan.whole).encoded(bill(1)).replace('"B1"', "5")
    with (
        FaultServer(lambda _: None, answer=lambda _: broken, vllm=True) as server,
        Gateway(server.url, contract_of(), LIMITS) as made,
    ):
        answer = made.http.post("/v1/extract", content=pdf(), headers={"accept": "application/x-ndjson"})
        assert answer.status_code == 502 and answer.json()["error"]["type"] == "schema_error"
