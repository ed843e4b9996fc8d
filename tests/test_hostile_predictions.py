"""Predictions made to do harm: what is none is named by every reader, what is one is scored and shown."""

import json

import pytest
from hostile_lines import ANSWER, GOOD, alive, hostile_place, line, nested, said


@pytest.fixture
def place(workspace):
    return hostile_place(workspace)


NO_PREDICTIONS = {
    "no JSON": '{"id": ',
    "a number": "7",
    "no id": {"status": "ok", "prediction": {}},
    "id a number": said(id=7),
    "id null": said(id=None),
    "neither status nor prediction": {"id": "good"},
    "status unknown": said(status="fine"),
    "status a list": said(status=["ok"]),
    "ok without a prediction": {"id": "good", "status": "ok"},
    "ok with null": said(prediction=None),
    "prediction a list": said(prediction=[ANSWER]),
    "prediction a text": said(prediction=json.dumps(ANSWER)),
    "confidence a text": said(confidence="high"),
    "confidence a list": said(confidence=[0.5]),
    "confidence of texts": said(confidence={"company": "high"}),
    "confidence of null": said(confidence={"company": None}),
    "confidence beyond one": said(confidence={"company": 1.5}),
    "confidence NaN": line(said(confidence={"company": 0.5})).replace("0.5", "NaN"),
    "warnings a number": said(warnings=5),
    "warnings of numbers": said(warnings=[5]),
    "error an object": said(error={"a": 1}),
    "raw a list": said(raw=[1]),
    "features of texts": said(features={"company": "x"}),
    "features of numbers": said(features={"company": 5}),
    "seconds a text": said(seconds="fast"),
    "seconds negative": said(seconds=-1),
    "usage a number": said(usage=5),
    "key twice": line(said()).replace('"status": "ok"', '"status": "ok", "status": "ok"'),
    "key twice in the answer": line(said()).replace('"company": "A"', '"company": "A", "company": "B"'),
    "NaN in the answer": line(said()).replace('"A"', "NaN"),
    "1e400 in the answer": line(said()).replace('"A"', "1e400"),
    "half a character": line(said()).replace('"A"', '"\\ud800"'),
    "nested 200": line(said()).replace('"A"', nested(200)),
    "nested 100,000": line(said()).replace('"A"', nested(100_000)),
    "a newer version": said(version=99),
    "version a text": said(version="1"),
}
# What fits the line's form, though not the target schema: scored, shown, and no traceback.
ODD_ANSWERS = {
    "list a text": {"containers": "MSKU1234565"},
    "list a number": {"containers": 5},
    "list true": {"containers": True},
    "list an object": {"containers": {"container_number": "MSKU1234565"}},
    "rows texts": {"containers": ["MSKU1234565", 5, None, []]},
    "cells lists": {"containers": [{"container_number": ["MSKU1234565"], "container_size": {"a": 1}}]},
    "row key a list": {"containers": [{"container_number": []}, {"container_number": [[]]}]},
    "values lists": {"bl_number": ["A1"], "vessel_name": [], "detention_free_days": [7]},
    "values objects": {"bl_number": {"value": "A1"}, "consignee_name": {}},
    "summary a number": {"container_summary": 5, "containers": [1, 2]},
    "names of JavaScript": {"__proto__": {"a": 1}, "constructor": "x", "toString": 5},
    "markup": {
        "vessel_name": "<!--<script>alert(1)</script>",
        "consignee_name": "</script><img src=x onerror=alert(1)>",
    },
    "huge number": {"detention_free_days": 10**300},
    "nothing": {},
}
BILL = "schemas/bill_of_lading.schema.json"
GOLD = {
    "bl_number": "A1",
    "vessel_name": "V",
    "containers": [{"container_number": "MSKU1234565", "container_size": "40"}],
}


@pytest.mark.parametrize("case", NO_PREDICTIONS)
def test_what_is_no_prediction_is_named_by_every_reader(run, place, case):
    (place / "d.jsonl").write_text(GOOD + "\n")
    bad = line(NO_PREDICTIONS[case])
    (place / "p.jsonl").write_text(f"{line(said(id='first'))}\n{bad}\n")
    for words in (
        ["evaluate_predictions", "--gold", "d.jsonl", "--report", "e.html", "--pred"],
        ["review_predictions", "--records", "d.jsonl", "--out", "r.html", "--pred"],
    ):
        done = alive(run, *words, "p.jsonl")
        assert done.code == 2 and "p.jsonl:2" in done.err, (words, done.err)
    assert not (place / "e.html").exists() and not (place / "r.html").exists()


def test_all_lines_that_are_no_predictions_are_counted(run, place):
    (place / "d.jsonl").write_text(GOOD + "\n")
    bad = [line(value) for value in NO_PREDICTIONS.values()]
    (place / "p.jsonl").write_text("\n".join([line(said()), *bad]) + "\n")
    done = alive(run, "evaluate_predictions", "--gold", "d.jsonl", "--pred", "p.jsonl")
    assert f"{len(bad)} lines are no predictions" in done.err and f"and {len(bad) - 3} more" in done.err


@pytest.mark.parametrize("case", ODD_ANSWERS)
def test_an_answer_of_another_shape_is_scored_and_shown(run, place, case):
    from toolkit.reports.html_page import embedded_json

    (place / "g.jsonl").write_text(line({"id": "document", "gold": GOLD}) + "\n")
    # A confidence of a value that the answer does not hold is odd too.
    confidence = {"bl_number": 0.5, "containers[0].container_number": 0.7, "containers": 1}
    prediction = {
        "id": "document",
        "status": "ok",
        "prediction": ODD_ANSWERS[case],
        "confidence": confidence,
        "warnings": ["w"],
    }
    (place / "p.jsonl").write_text(line(prediction) + "\n")
    words = ["--pred", "p.jsonl", "--schema", BILL]
    done = alive(
        run, "evaluate_predictions", *words, "--gold", "g.jsonl", "--report", "e.html", "--companions", "--json"
    )
    assert done.code == 0 and done.json["documents"] == 1 and done.json["micro_f1"] == 0, done.err
    shown = alive(run, "review_predictions", *words, "--images-dir", "img", "--review-below", 0.9, "--out", "r.html")
    assert shown.code == 1 and "1 documents have no page images" in shown.err
    for page in ("e.html", "r.html"):
        text = (place / page).read_text()
        data = text[text.index('id="data">') + 10 :]
        data = data[: data.index("</script>")]
        assert "<" not in data and json.loads(data)["documents"], "the data is whole, and no markup is in it"
    assert "<" not in embedded_json(ODD_ANSWERS[case])


def test_one_item_in_a_list_is_not_the_value(run, place):
    gold = {"bl_number": "A1", "containers": [{"container_number": "MSKU1234565"}]}
    lists = {"bl_number": ["A1"], "containers": [{"container_number": ["MSKU1234565"]}]}
    (place / "g.jsonl").write_text(line({"id": "a", "gold": gold}) + "\n")
    for answer, f1 in ((gold, 1), (lists, 0)):
        (place / "p.jsonl").write_text(line({"id": "a", "status": "ok", "prediction": answer}) + "\n")
        words = ["--gold", "g.jsonl", "--pred", "p.jsonl", "--schema", BILL, "--json"]
        assert alive(run, "evaluate_predictions", *words).json["micro_f1"] == f1


@pytest.mark.parametrize(("version", "code"), [(None, 0), (1, 0), (2, 2)])
def test_files_of_older_versions_are_read_and_newer_ones_say_what_to_do(run, place, version, code):
    (place / "d.jsonl").write_text(GOOD + "\n")
    (place / "p.jsonl").write_text(line(said() | ({} if version is None else {"version": version})) + "\n")
    done = alive(run, "evaluate_predictions", "--gold", "d.jsonl", "--pred", "p.jsonl")
    assert done.code == code and ("update the program" in done.err) is (code == 2)


def test_a_prediction_without_a_status_is_an_answer_for_every_reader(run, place):
    (place / "d.jsonl").write_text(GOOD + "\n")
    (place / "p.jsonl").write_text(line({"id": "good", "prediction": ANSWER, "confidence": {"company": 0.1}}) + "\n")
    done = alive(run, "evaluate_predictions", "--gold", "d.jsonl", "--pred", "p.jsonl", "--json")
    assert done.json["valid"] == 1
    words = ["--pred", "p.jsonl", "--records", "d.jsonl", "--review-below", 0.9, "--out", "r.html", "--json"]
    assert alive(run, "review_predictions", *words).json["flagged"] == 1


def test_predictions_that_are_written_have_the_form_and_the_version():
    from toolkit.answers.predictions import VERSION, failed_line, line_problem, prediction_line

    made = prediction_line("a", "ok", {"x": 1}, "{}", warnings=["w"], confidence={"x": 0.5}, windows=2)
    assert made["version"] == VERSION and line_problem(made) == "" == line_problem(failed_line("a", "refused", "why"))


def test_a_resumed_extraction_leaves_a_file_of_something_else_alone(tmp_path):
    from toolkit.answers.predictions import finished_ids
    from toolkit.console import StageError

    path = tmp_path / "p.jsonl"
    for content in (b"my notes\nwithout an end", b'{"a": 1}\n', b'{"id": "a", "status": "ok"}\n{"id": "b', b"\xff\n"):
        path.write_bytes(content)
        with pytest.raises(StageError, match=r"p\.jsonl"):
            finished_ids(path)
        assert path.read_bytes() == content
    whole = line(said()).encode()
    path.write_bytes(whole + b'\n{"id": "b", "sta')
    assert finished_ids(path) == {"good"} and path.read_bytes() == whole + b"\n"
    path.write_bytes(whole)  # all of the line but its end
    assert finished_ids(path) == {"good"} and path.read_bytes() == whole + b"\n"
