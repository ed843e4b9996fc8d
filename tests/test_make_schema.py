"""Schemas made from what a team has, and what labels settle where a schema leaves it open."""

import json
from pathlib import Path

import pytest
from conftest import png

from toolkit.files import write_json
from toolkit.schema.label_defaults import fitted_to_labels
from toolkit.schema.normalise import normalise
from toolkit.schema.target import TargetSchema

MODEL = """
from __future__ import annotations
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Literal, Optional
from pydantic import BaseModel

print("this file talks while it is read")

class Size(Enum):
    small = "small"
    large = "large"

class Tax(BaseModel):
    rate: Decimal
    name: Optional[str] = None

class Line(BaseModel):
    sku: str
    size: Optional[Size] = None
    amount: Decimal
    taxes: list[Tax] = []

class Order(BaseModel):
    number: str
    day: date
    total: Optional[Decimal] = None
    kind: Literal["a", "b"]
    reference: int | str
    notes: dict[str, str] = {}
    lines: list[Line] = []
    tags: Optional[list[str]] = None

class Broken(BaseModel):
    part: Broken
"""
TABLE = """Filename;B/L No;Issued;Container_Number;Container_Size;Container_Weight;Consignee;Paid
a.pdf;X100A;25/03/2024;MSKU1234;40;1.234,50;ACME;007
a.pdf;X100A;25/03/2024;MSKU2234;20;12,5;ACME;007
b.pdf;X200B;01/02/2024;MSKU3234;40;7,25;Beta Ltd;012
"""


def made(run, *words):
    done = run("make_schema", "--out", "new.schema.json", "--json", *words)
    assert done.code == 0, done.err
    return json.loads(Path("new.schema.json").read_text(encoding="utf-8")), done


@pytest.fixture
def model(workspace):
    pytest.importorskip("pydantic")
    (workspace / "models.py").write_text(MODEL, encoding="utf-8")
    return workspace / "models.py"


def test_a_json_schema_becomes_explicit_and_keeps_its_original(run, workspace):
    raw = {"name": "order", "schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
    write_json("in.json", raw)
    schema, done = made(run, "--from", "in.json")
    assert schema["title"] == "order" and schema["additionalProperties"] is False
    assert schema["x-extract"]["original"]["properties"] == {"a": {"type": "string"}}
    assert normalise(schema).schema == schema and done.json["fields"] == 1


def test_the_code_of_a_model_is_executed_only_where_it_is_trusted(run, model):
    done = run("make_schema", "--from", "models.py:Order", "--out", "new.schema.json")
    assert done.code == 2 and "--trust-code" in done.err and not Path("new.schema.json").exists()


def test_a_pydantic_model_loads_and_its_class_takes_the_public_answers(run, model, monkeypatch):
    raw, _ = made(run, "--from", "models.py:Order", "--trust-code")
    fields = raw["properties"]
    assert fields["day"]["format"] == "date" and fields["day"]["x-extract"]["compare"] == "date"
    assert fields["total"]["x-extract"]["compare"] == "number"
    assert fields["kind"]["enum"] == ["a", "b", None] and fields["reference"]["type"] == ["integer", "string", "null"]
    assert fields["lines"]["items"]["properties"]["size"]["enum"] == ["small", "large", None]
    schema = TargetSchema.load("new.schema.json")
    answer = schema.ordered(
        {
            "number": "A1",
            "day": "2024-02-29",
            "kind": "b",
            "reference": "R",
            "notes": [{"key": "colour", "value": "red"}],
            "lines": [
                {"sku": "S", "amount": 12.5, "taxes": [{"rate": 19}, {"rate": "7.0", "name": "food"}]},
                {"sku": "T", "size": "large", "amount": "3.20"},
            ],
        }
    )
    public, warnings = schema.public(answer)
    assert warnings == []
    monkeypatch.syspath_prepend(str(model.parent))
    import models

    order = models.Order.model_validate_json(json.dumps(public))
    assert str(order.lines[1].amount) == "3.20" and order.notes == {"colour": "red"} and order.total is None
    assert order.lines[1].size is models.Size.large and [tax.name for tax in order.lines[0].taxes] == [None, "food"]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("models.py:Gone", "no class 'Gone' in it; it has"),
        ("models.py:Broken", "contains itself"),
        ("gone.py:Order", "file not found: gone.py"),
        ("models.py", "name the class too"),
        ("gone.csv", "file not found: gone.csv"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_sentence(run, model, source, sentence):
    done = run("make_schema", "--from", source, "--trust-code", "--out", "new.schema.json")
    assert done.code == 2 and sentence in done.err and "Traceback" not in done.err


def test_a_table_gives_types_conventions_the_list_and_its_key(run, workspace):
    Path("t.csv").write_text(TABLE, encoding="utf-8")
    schema, done = made(run, "--from", "t.csv")
    fields = schema["properties"]
    assert schema["x-extract"]["document_column"] == "Filename"
    assert list(fields) == ["b_l_no", "issued", "consignee", "paid", "containers"]
    assert fields["b_l_no"]["x-extract"] == {"column": "B/L No", "compare": "id", "key": True}
    assert fields["issued"]["x-extract"]["day_first"] is True
    assert fields["paid"]["type"] == ["string", "null"]  # 007 is no number
    row = fields["containers"]["items"]["properties"]
    assert row["container_number"]["x-extract"]["key"] is True
    assert row["container_size"]["type"] == ["integer", "null"]
    assert row["container_weight"]["x-extract"]["decimal"] == "comma"
    assert any("several values in one document" in line for line in done.json["decided"])


def test_choices_open_dates_and_open_numbers_are_to_be_checked(run, workspace):
    rows = [f'd{n}.pdf,{"EUR" if n % 2 else "USD"},03/04/2024,"1,234"' for n in range(14)]
    Path("t.csv").write_text("\n".join(["file,currency,day,value", *rows]), encoding="utf-8")
    schema, done = made(run, "--from", "t.csv")
    assert schema["properties"]["currency"]["enum"] == ["EUR", "USD", None]
    text = " ".join(done.json["check"])
    assert "'03/04/2024' is two dates" in text and "'1,234' is two numbers" in text and "EUR, USD" in text


def test_the_schema_of_a_table_builds_records_from_that_table(run, workspace):
    Path("t.csv").write_text(TABLE, encoding="utf-8")
    made(run, "--from", "t.csv")
    for name in "ab":
        png(workspace / f"images/{name}_page_0001.png")
    words = ["--results", "t.csv", "--images-dir", "images", "--schema", "new.schema.json", "--out", "train.jsonl"]
    done = run("build_jsonl_from_results", *words)
    assert done.code == 0, done.err
    assert run("validate_jsonl", "train.jsonl").code == 0


def test_a_folder_of_answers_gives_the_nested_schema(run, workspace):
    for n in range(3):
        rows = [{"sku": f"S{n}{k}00", "price": 1.5} for k in range(2)]
        write_json(f"answers/d{n}.json", {"buyer": {"name": "ACME"}, "lines": rows, "tags": ["x", "y"]})
    schema, _ = made(run, "--from", "answers")
    fields = schema["properties"]
    assert fields["buyer"]["properties"]["name"]["type"] == ["string", "null"]
    assert fields["lines"]["items"]["properties"]["price"]["type"] == ["number", "null"]
    assert fields["lines"]["items"]["properties"]["sku"]["x-extract"]["key"] is True
    assert fields["tags"]["items"]["type"] == "string"


def test_an_existing_file_is_replaced_only_on_request(run, workspace):
    Path("t.csv").write_text(TABLE, encoding="utf-8")
    Path("new.schema.json").write_text("mine", encoding="utf-8")
    done = run("make_schema", "--from", "t.csv", "--out", "new.schema.json")
    assert done.code == 2 and Path("new.schema.json").read_text(encoding="utf-8") == "mine"
    made(run, "--from", "t.csv", "--overwrite")


def test_a_table_without_a_column_of_file_names_asks_for_it(run, workspace):
    Path("t.csv").write_text("Scan,a\nx1,2\n", encoding="utf-8")
    done = run("make_schema", "--from", "t.csv", "--out", "new.schema.json")
    assert done.code == 2 and "--document-column" in done.err
    done = run("make_schema", "--from", "t.csv", "--document-column", "Scans", "--out", "new.schema.json")
    assert done.code == 2 and "did you mean 'Scan'?" in done.err
    made(run, "--from", "t.csv", "--document-column", "scan")


LINES = {
    "type": "array",
    "items": {"type": "object", "properties": {"note": {"type": "string"}, "sku": {"type": "string"}}},
}


def test_default_bounds_rise_to_the_longest_label_and_stated_ones_stay():
    raw = {"properties": {"a_no": {"type": "string"}, "b": {"type": "string", "maxLength": 5}, "lines": LINES}}
    schema = TargetSchema.parse(raw, "s")
    answer = schema.ordered({"a_no": "x" * 99, "b": "y" * 9, "lines": [{"note": "n"}] * 2500})
    fitted, said = fitted_to_labels(schema, [answer])
    fields = fitted.raw["properties"]
    assert fields["a_no"]["maxLength"] == 99 and fields["b"]["maxLength"] == 5 and fields["lines"]["maxItems"] == 2500
    assert len(said) == 2 and "raised to 99" in said[0]


def test_a_key_is_found_where_no_document_has_a_value_twice():
    schema = TargetSchema.parse({"properties": {"lines": LINES}}, "s")
    answers = [{"lines": [{"note": "same", "sku": f"S{n}{k}"} for k in range(2)]} for n in range(3)]
    fitted, said = fitted_to_labels(schema, answers)
    assert fitted.lists[0].key.path == ("sku",) and "lines[].sku is the key" in said[0]
    twice = [*answers, {"lines": [{"note": "n", "sku": "S1"}, {"note": "m", "sku": "s-1"}]}]
    assert fitted_to_labels(schema, twice) == (schema, [])
    assert fitted_to_labels(schema, answers[:2]) == (schema, [])


def test_an_annotated_schema_gets_no_key_from_its_labels():
    raw = json.loads(json.dumps(normalise({"properties": {"lines": LINES}}).schema))
    del raw["x-extract"]
    schema = TargetSchema.parse(raw, "s")
    answers = [{"lines": [{"note": "same", "sku": f"S{n}{k}"} for k in range(2)]} for n in range(3)]
    assert fitted_to_labels(schema, answers) == (schema, [])


LABEL = {
    "number": "A1",
    "day": "29 Feb 2024",
    "total": 12.5,
    "kind": "a",
    "reference": "R",
    "notes": {"colour": "red"},
    "lines": [{"sku": "S1", "amount": 12.5, "taxes": [{"rate": 19, "name": "VAT"}]}],
}


def test_labels_shaped_like_the_model_build_records_and_a_perfect_prediction_scores_one(run, model):
    made(run, "--from", "models.py:Order", "--trust-code")
    write_json("labels.json", [LABEL | {"Filename": f"d{n}.pdf", "number": f"A{n}"} for n in range(3)])
    for n in range(3):
        png(model.parent / f"images/d{n}_page_0001.png", (64, 96))
    words = [
        "--results",
        "labels.json",
        "--images-dir",
        "images",
        "--schema",
        "new.schema.json",
        "--out",
        "train.jsonl",
    ]
    done = run("build_jsonl_from_results", *words, "--json")
    assert done.code == 0, done.err
    assert run("validate_jsonl", "train.jsonl").code == 0
    given = [
        {"id": f"d{n}.pdf", "status": "ok", "prediction": LABEL | {"number": f"A{n}", "day": "2024-02-29"}}
        for n in range(3)
    ]
    Path("pred.jsonl").write_text("".join(json.dumps(line) + "\n" for line in given), encoding="utf-8")
    scored = run("evaluate_predictions", "--pred", "pred.jsonl", "--gold", "train.jsonl", "--json")
    assert scored.code == 0 and scored.json["micro_f1"] == 1 and scored.json["document_exact"] == 1


@pytest.mark.slow
def test_a_model_trained_on_a_pydantic_schema_answers_what_its_class_accepts(run, model, tiny_model, monkeypatch):
    """Two steps of training prove the road, not the answers: each that keeps the schema is one that the class takes."""
    test_labels_shaped_like_the_model_build_records_and_a_perfect_prediction_scores_one(run, model)
    words = ["--model", tiny_model, "--train", "train.jsonl", "--out", "adapter", "--image-max-tokens", 16]
    trained = run("train_lora", *words, "--max-steps", 2, "--rank", 4, "--threads", 1, "--eval-documents", 0)
    assert trained.code == 0, trained.err
    contract = json.loads(Path("adapter/extraction_config.json").read_text(encoding="utf-8"))
    assert contract["schema"]["x-extract"]["original"]["title"] == "Order"
    how = ["--model", tiny_model, "--adapter", "adapter", "--in", "train.jsonl", "--out", "out.jsonl", "--tries", 1]
    assert run("extract_documents", *how).code in (0, 1)
    monkeypatch.syspath_prepend(str(model.parent))
    import models

    lines = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 3
    for line in lines:
        if line["status"] == "ok" and not any("absent but required" in warning for warning in line.get("warnings", [])):
            models.Order.model_validate_json(json.dumps(line["prediction"]))
