"""A base model without training: a schema alone is asked, on this machine, at a server, and behind the gateway."""

import json
from pathlib import Path

import pytest
from conftest import png
from fault_server import FaultServer

from toolkit.console import StageError
from toolkit.model.contract import FILE_NAME, Untrained, chosen_contract

SCHEMA = {
    "name": "receipt",
    "schema": {
        "type": "object",
        "properties": {
            "total": {"type": "number"},
            "shop": {"type": "string"},
            "note": {"type": "string"},
            "taxes": {"type": "object", "additionalProperties": {"type": "number"}},
        },
        "required": ["total", "shop"],
    },
}
ON_THE_WIRE = {"total": 3, "shop": None, "note": None, "taxes": [{"key": "VAT", "value": 0.5}]}


@pytest.fixture
def schema(workspace):
    path = workspace / "receipt.json"
    path.write_text(json.dumps(SCHEMA))
    png(workspace / "in/a.png", (64, 96))
    return path


def test_a_server_is_asked_by_a_schema_alone_and_answers_as_its_owner_wrote_it(run, schema):
    with FaultServer(lambda _: None, answer=lambda _: json.dumps(ON_THE_WIRE)) as server:
        words = ["--server", server.url, "--schema", schema, "--in", "in", "--out", "o.jsonl"]
        done = run("extract_documents", *words, "--max-answer-tokens", 99)
    assert done.code == 0, done.err
    (body,) = server.requests
    assert body["max_tokens"] == 99 and "receipt" in body["messages"][0]["content"][0]["text"]
    line = json.loads(Path("o.jsonl").read_text(encoding="utf-8"))
    assert line["prediction"] == {"total": 3, "shop": None, "taxes": {"VAT": 0.5}}
    assert line["warnings"] == ["$.shop: absent but required"]
    assert "objects are closed" in done.err


def test_predictions_in_their_public_form_score_against_gold_in_either_form(run, schema):
    gold = [{"id": "a", "gold": ON_THE_WIRE}, {"id": "b", "gold": {"total": 1, "taxes": {"VAT": 2}}}]
    lines = [
        {"id": "a", "status": "ok", "prediction": {"total": 3, "shop": None, "taxes": {"VAT": 0.5}}},
        {"id": "b", "status": "ok", "prediction": {"total": 1, "taxes": [{"key": "VAT", "value": 2}]}},
    ]
    for name, values in (("gold.jsonl", gold), ("pred.jsonl", lines)):
        Path(name).write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    words = ["--pred", "pred.jsonl", "--gold", "gold.jsonl", "--schema", schema, "--json"]
    done = run("evaluate_predictions", *words)
    assert done.code == 0, done.err
    assert done.json["micro_f1"] == 1 and done.json["row_f1"] == 1


def test_an_answer_that_breaks_only_the_original_schema_is_asked_again(run, workspace, schema):
    of_two = {"properties": {"names": {"type": "array", "items": {"type": "string"}, "minItems": 2}}}
    schema.write_text(json.dumps(of_two))
    answers = iter(['{"names":["x"]}', '{"names":["x","y"]}'])
    with FaultServer(lambda _: None, answer=lambda _: next(answers)) as server:
        done = run("extract_documents", "--server", server.url, "--schema", schema, "--in", "in", "--out", "o.jsonl")
    line = json.loads(Path("o.jsonl").read_text(encoding="utf-8"))
    assert done.code == 0 and line["attempts"] == 2 and line["prediction"] == {"names": ["x", "y"]}


def test_a_base_model_on_this_machine_answers_under_the_schemas_grammar(run, schema, tiny_model):
    schema.write_text(json.dumps({"properties": {"paid": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}}}))
    words = ["--model", tiny_model, "--schema", schema, "--in", "in", "--out", "o.jsonl"]
    done = run("extract_documents", *words, "--image-max-tokens", 16, "--max-answer-tokens", 64)
    assert done.code == 0, done.err
    line = json.loads(Path("o.jsonl").read_text(encoding="utf-8"))
    assert set(line["prediction"]) <= {"paid", "kind"} and line["status"] == "ok"


def test_a_schema_beside_a_contract_is_refused(run, workspace, schema):
    (workspace / "model").mkdir()
    (workspace / "model" / FILE_NAME).write_text("{}")
    done = run("extract_documents", "--model", "model", "--schema", schema, "--in", "in", "--out", "o.jsonl")
    assert done.code == 2 and "has its own contract" in done.err


def test_neither_contract_nor_schema_says_both_ways_out(run, workspace, schema):
    (workspace / "model").mkdir()
    done = run("extract_documents", "--model", "model", "--in", "in", "--out", "o.jsonl")
    assert done.code == 2 and "--schema FILE" in done.err
    done = run("extract_documents", "--server", "http://127.0.0.1:9", "--in", "in", "--out", "o.jsonl")
    assert done.code == 2 and "--schema FILE" in done.err
    with pytest.raises(StageError, match="go with --schema"):
        chosen_contract(workspace / "model", Untrained(image_max_tokens=64))


def test_the_gateway_answers_for_a_base_model_as_the_schemas_owner_wrote_it(schema):
    pytest.importorskip("fastapi")
    from served_gateway import LIMITS, Gateway, page

    contract = chosen_contract(None, Untrained(schema, image_max_tokens=64))
    with (
        FaultServer(lambda _: None, answer=lambda _: json.dumps(ON_THE_WIRE), vllm=True) as server,
        Gateway(server.url, contract, LIMITS) as made,
    ):
        answer = made.http.post("/v1/extract", content=page()).json()
    assert answer["prediction"] == {"total": 3, "shop": None, "taxes": {"VAT": 0.5}}
    assert answer["warnings"] == ["$.shop: absent but required"]
