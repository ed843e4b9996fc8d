"""Answers of other services, in the shapes that their APIs and exports have."""

import json

import pytest

GOLD = {
    "consignee_name": "ACME SDN BHD",
    "bl_number": "A1",
    "vessel_name": None,
    "port_of_loading": None,
    "port_of_discharge": "Port Klang",
    "detention_free_days": 7,
    "demurrage_free_days": None,
    "combined_free_days": None,
    "container_summary": None,
    "containers": [{"container_number": "CSQU3054383", "container_size": "40", "container_type": "HC"}],
}
TEXT = json.dumps(GOLD)


@pytest.fixture
def gold(workspace):
    lines = [
        {"id": f"BL {n}.pdf", "gold": GOLD, "meta": {"schema": "schemas/bill_of_lading.schema.json"}} for n in (1, 2)
    ]
    (workspace / "gold.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return workspace


def imported(run, workspace, *more):
    outcome = run("import_predictions", *more, "--gold", "gold.jsonl", "--out", "p.jsonl", "--json")
    path = workspace / "p.jsonl"
    return outcome, [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        f"Here is the data:\n```json\n{json.dumps(GOLD, indent=2)}\n```\nAnything else?",
        f"The answer is {TEXT} as requested.",
        json.dumps(
            {
                "choices": [{"message": {"content": f"```json\n{TEXT}\n```"}, "finish_reason": "stop"}],
                "usage": {"total_tokens": 9},
            }
        ),
        json.dumps({"type": "message", "content": [{"type": "text", "text": TEXT}], "stop_reason": "end_turn"}),
        json.dumps({"candidates": [{"content": {"parts": [{"text": TEXT}]}, "finishReason": "STOP"}]}),
        json.dumps(
            {
                "object": "response",
                "status": "completed",
                "output": [{"content": [{"type": "output_text", "text": TEXT}]}],
            }
        ),
        json.dumps({"id": "x", "status": "succeeded", "result": GOLD}),
        json.dumps([GOLD]),
    ],
)
def test_every_shape_of_a_response_gives_the_same_answer(run, gold, content):
    (gold / "hosted").mkdir()
    for n in (1, 2):
        (gold / f"hosted/BL_{n}.{'json' if content[0] in '{[' else 'txt'}").write_text(content)
    outcome, lines = imported(run, gold, "--in", "hosted")
    assert outcome.code == 0, outcome.err
    assert [(line["id"], line["status"], line["prediction"]) for line in lines] == [
        ("BL 1.pdf", "ok", GOLD),
        ("BL 2.pdf", "ok", GOLD),
    ]
    scores = run("evaluate_predictions", "--pred", "p.jsonl", "--gold", "gold.jsonl", "--json").json
    assert scores["document_exact"] == 1


def test_other_names_nesting_and_fields_with_confidences_are_read(run, gold):
    theirs = {
        "shipment": {
            "Consignee Name": {"value": "ACME SDN BHD", "confidence": 0.9},
            "BL Number": "A1",
            "pod": "PORT KLANG (WESTPORT)",
        },
        "free": {"detention_free_days": "7 days"},
        "Containers": [{"number": "CSQU3054383", "container size": 40, "type": "HC", "seal": "S1"}],
        "page_count": 2,
    }
    mapping = {
        "columns": {
            "port_of_discharge": "pod",
            "containers[].container_number": "number",
            "containers[].container_type": "type",
        }
    }
    (gold / "m.json").write_text(json.dumps(mapping))
    (gold / "a.jsonl").write_text("".join(json.dumps({"file": f"BL {n}.pdf", "answer": theirs}) + "\n" for n in (1, 2)))
    outcome, lines = imported(run, gold, "--in", "a.jsonl", "--mapping", "m.json")
    assert outcome.json["unknown_keys"] == {"page_count": 2, "containers[].seal": 2} and outcome.code == 1
    answer = lines[0]["prediction"]
    assert answer | {"detention_free_days": 7} == GOLD
    # "7 days" is no number: kept as it came, and named.
    assert answer["detention_free_days"] == "7 days" and "'7 days' is no number" in lines[0]["warnings"][0]
    _, lines = imported(run, gold, "--in", "a.jsonl", "--mapping", "m.json", "--strict")
    assert {line["status"] for line in lines} == {"schema_error"}


def test_a_table_of_flat_rows_is_read(run, gold):
    (gold / "t.csv").write_text(
        "Filename,bl_number,consignee_name,port_of_discharge,detention_free_days,Container_Number,Container_Size,Container_Type\n"
        "BL 1.pdf,A1,ACME SDN BHD,Port Klang,7,CSQU3054383,40,HC\nBL 2.pdf,A1,ACME SDN BHD,Port Klang,7,CSQU3054383,40,HC\n"
        "BL 2.pdf,A1,ACME SDN BHD,Port Klang,7,MSCU6639870,20,GP\n"
    )
    outcome, lines = imported(run, gold, "--in", "t.csv")
    assert outcome.code == 0, outcome.err
    assert lines[0]["prediction"] == GOLD and len(lines[1]["prediction"]["containers"]) == 2


def test_what_is_cut_broken_missing_or_a_stranger_is_named(run, gold):
    (gold / "h").mkdir()
    (gold / "h/BL 1.txt").write_text(
        json.dumps({"choices": [{"message": {"content": TEXT[:80]}, "finish_reason": "length"}]})
    )
    (gold / "h/other.txt").write_text(TEXT)
    outcome, lines = imported(run, gold, "--in", "h")
    assert outcome.code == 1 and [line["status"] for line in lines] == ["truncated"]
    assert "1 documents have no answer" in outcome.err and "1 answers belong to no document" in outcome.err
    (gold / "h/BL 1.txt").write_text("I cannot read this document.")
    assert [line["status"] for line in imported(run, gold, "--in", "h")[1]] == ["not_json"]
    (gold / "h/sub").mkdir()
    (gold / "h/sub/BL_1.json").write_text(TEXT)
    assert (
        "1 documents have two answers"
        in run("import_predictions", "--in", "h", "--gold", "gold.jsonl", "--out", "p.jsonl").err
    )
    (gold / "e").mkdir()
    assert (
        "no .json, .txt, .md files"
        in run("import_predictions", "--in", "e", "--gold", "gold.jsonl", "--out", "p.jsonl").err
    )


def test_rows_that_disagree_and_lists_that_are_none_are_named(run, gold):
    (gold / "t.csv").write_text(
        "Filename,bl_number,Container_Number\nBL 1.pdf,A1,CSQU3054383\nBL 1.pdf,A2,MSCU6639870\n"
    )
    _, lines = imported(run, gold, "--in", "t.csv")
    assert lines[0]["warnings"] == ["bl_number: the rows disagree: 'A1' and 'A2'; the first counts"]
    (gold / "a.jsonl").write_text(json.dumps({"file": "BL 1.pdf", "answer": {"containers": "see attached"}}) + "\n")
    _, lines = imported(run, gold, "--in", "a.jsonl")
    assert (
        lines[0]["warnings"] == ["containers: no list: 'see attached'"] and lines[0]["prediction"]["containers"] == []
    )
