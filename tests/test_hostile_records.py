"""Records and predictions made to do harm: each bad line is named with its place, no reader ends in a traceback, and
what is good is neither lost nor stopped."""

import json
import os
import time

import pytest
from conftest import png
from receipt_records import record

LIMIT = 20  # seconds; each takes a fraction of one
SCHEMA = "schemas/receipt.schema.json"
PAGE, QUESTION = {"type": "image", "image": "img/a.png"}, {"type": "text", "text": "json"}
GOOD = json.dumps(record(id="good", messages=[{"role": "user", "content": [PAGE, QUESTION]}, record()["messages"][1]]))


def nested(depth, opening="[", closing="]"):
    return opening * depth + closing * depth


def asking(*content):
    return record(messages=[{"role": "user", "content": list(content)}, record()["messages"][1]])


def answered(text):
    return record(messages=[{"role": "user", "content": [PAGE, QUESTION]}, record(text)["messages"][1]])


# Lines that are no training record, so that every reader refuses them.
NO_RECORDS = {
    "no JSON": '{"id": ',
    "a number": "7",
    "a list": "[]",
    "null": "null",
    "no id": {"messages": []},
    "id a number": record(id=7),
    "id empty": record(id=""),
    "id a list": record(id=["a"]),
    "messages a text": record(messages="hello"),
    "messages null": record(messages=None),
    "messages empty": record(messages=[]),
    "messages of texts": record(messages=["a", "b"]),
    "message without a role": record(messages=[{"content": []}, {"content": []}]),
    "role unknown": record(messages=[{"role": "tool", "content": [QUESTION]}, record()["messages"][1]]),
    "role a list": record(messages=[{"role": ["user"], "content": [QUESTION]}, record()["messages"][1]]),
    "content a text": record(messages=[{"role": "user", "content": "read"}, record()["messages"][1]]),
    "content null": record(messages=[{"role": "user", "content": None}, record()["messages"][1]]),
    "content of texts": record(messages=[{"role": "user", "content": ["a"]}, record()["messages"][1]]),
    "content empty": record(messages=[{"role": "user", "content": []}, record()["messages"][1]]),
    "item without a type": asking({"image": "a.png"}),
    "item of an unknown type": asking({"type": "video", "video": "a.mp4"}),
    "image a number": asking({"type": "image", "image": 5}, QUESTION),
    "image an object": asking({"type": "image", "image": {"url": "a.png"}}, QUESTION),
    "image null": asking({"type": "image", "image": None}, QUESTION),
    "image empty": asking({"type": "image", "image": ""}, QUESTION),
    "image with NUL": asking({"type": "image", "image": "a\0.png"}, QUESTION),
    "text a number": asking(PAGE, {"type": "text", "text": 5}),
    "meta null": record(meta=None),
    "meta a list": record(meta=[]),
    "meta a text": record(meta="schemas/receipt.schema.json"),
    "meta.schema a number": record(meta={"schema": 5}),
    "meta.schema a list": record(meta={"schema": ["a"]}),
    "meta.pages a text": record(meta={"schema": SCHEMA, "pages": "two"}),
    "key twice": GOOD.replace('"id": "good"', '"id": "x", "id": "y"'),
    "NaN": GOOD.replace('"meta": {', '"meta": {"x": NaN, '),
    "1e400": GOOD.replace('"meta": {', '"meta": {"x": 1e400, '),
    "half a character": GOOD.replace('"json"', '"\\ud800"'),
    "nested 200": GOOD.replace('"meta": {', '"meta": {"x": ' + nested(200) + ", "),
    "nested 100,000": nested(100_000),
}
# Records whose answer is not right: named by the validation, and no traceback anywhere.
BAD_ANSWERS = {
    "no JSON": "Sure! {}",
    "empty": "",
    "a list": "[]",
    "a text": '"A"',
    "a number": "7",
    "null": "null",
    "key twice": '{"company":"A","company":"B","date":null,"address":null,"total":"1"}',
    "NaN": '{"company":NaN,"date":null,"address":null,"total":"1"}',
    "Infinity": '{"company":Infinity,"date":null,"address":null,"total":"1"}',
    "1e400": '{"company":1e400,"date":null,"address":null,"total":"1"}',
    "a key too many": '{"company":"A","date":null,"address":null,"total":"1","x":1}',
    "a list for a value": '{"company":["A"],"date":null,"address":null,"total":"1"}',
    "an object for a value": '{"company":{"a":1},"date":null,"address":null,"total":"1"}',
    "nested 200": '{"company":' + nested(200) + ',"date":null,"address":null,"total":"1"}',
    "nested 5,000": nested(5000, '{"company":', "}").replace("{}", "{1}"),
    "long number": '{"company":' + "9" * 9000 + ',"date":null,"address":null,"total":"1"}',
}
BAD_SCHEMAS = {
    "a device": "/dev/zero",
    "missing": "schemas/gone.schema.json",
    "a folder": "schemas",
    "no schema": "img/a.png",
    "NUL": "a\0b",
    "long": "x" * 5000,
}


def line(value):
    return value if isinstance(value, str) else json.dumps(value)


@pytest.fixture
def place(workspace):
    png(workspace / "img/a.png")
    png(workspace / "a.png", shade=90)
    (workspace / "ocr").mkdir()
    words = {"pages": [{"page": 1, "width": 64, "height": 64, "words": [[1, 1, 20, 9, "A"]]}]}
    for name in ("good", "r"):
        (workspace / f"ocr/{name}.json").write_text(json.dumps(words))
    (workspace / "p.jsonl").write_text('{"id": "good", "status": "ok", "prediction": {"company": "A"}}\n')
    return workspace


def alive(run, *words):
    """Run a script; it ends in time, without a traceback, and what it refuses it refuses in one sentence."""
    started = time.monotonic()
    done = run(*words)
    assert "Traceback" not in done.err and time.monotonic() - started < LIMIT, (words, done.err)
    assert done.code in (0, 1, 2), done.err
    if done.code == 2:
        assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    return done


READERS = [
    ["split_jsonl", "--out-dir", "splits", "--in"],
    ["dataset_stats", "--in"],
    ["audit_labels", "--text-layer-dir", "ocr", "--out-dir", "audit", "--in"],
    ["verify_image_paths", "--in"],
    ["review_predictions", "--pred", "p.jsonl", "--out", "r.html", "--schema", SCHEMA, "--records"],
    ["evaluate_predictions", "--pred", "p.jsonl", "--schema", SCHEMA, "--report", "e.html", "--gold"],
    ["import_predictions", "--in", "p.jsonl", "--out", "o.jsonl", "--schema", SCHEMA, "--gold"],
]


def test_validation_accounts_for_every_line_and_writes_the_good_ones(run, place):
    bad = [line(value) for value in NO_RECORDS.values()]
    bad += [line(answered(text) | {"id": f"answer {name}"}) for name, text in BAD_ANSWERS.items()]
    bad += [
        line(
            answered(record()["messages"][1]["content"][0]["text"])
            | {"id": f"schema {name}"}
            | {"meta": {"schema": path}}
        )
        for name, path in BAD_SCHEMAS.items()
    ]
    lines = [text.encode("utf-8", "surrogatepass") for text in bad]
    lines += [GOOD.replace('"A\\"', '"é\\"').encode("latin-1").replace(b"good", b"latin"), b"\xff\xfe\x00", b"\x00" * 9]
    # One id twice: which one is right cannot be told. Good lines stand at both ends.
    lines = [
        GOOD.encode(),
        *lines,
        *[GOOD.replace("good", "twice").encode()] * 2,
        GOOD.replace("good", "last").encode(),
    ]
    (place / "d.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    done = alive(run, "validate_jsonl", "d.jsonl", "--fix-out", "ok.jsonl", "--limit", 1000, "--json")
    assert len(lines) > 60 and done.code == 1
    said = {int(text.split(":")[1]) for text in done.out.splitlines() if text.startswith("d.jsonl:")}
    assert said == set(range(2, len(lines))), "every bad line is named, no good one"
    filed = [json.loads(text) for text in (place / "ok.problems.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {problem["line"] for problem in filed} == said
    kept = [json.loads(text)["id"] for text in (place / "ok.jsonl").read_text(encoding="utf-8").splitlines()]
    assert kept == ["good", "last"] and done.json["written"] == 2
    assert done.json["records"] == len(lines) == done.json["valid"] + done.json["invalid"] and done.json["valid"] == 2


@pytest.mark.parametrize("case", NO_RECORDS)
def test_no_reader_takes_what_is_no_record(run, place, case):
    (place / "d.jsonl").write_bytes(f"{GOOD}\n{line(NO_RECORDS[case])}\n".encode("utf-8", "surrogatepass"))
    for words in READERS:
        done = alive(run, *words, "d.jsonl")
        assert done.code == 2 and "d.jsonl:2" in done.err, (words, done.code, done.err)


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_a_bad_answer_breaks_no_reader(run, place, case):
    (place / "d.jsonl").write_text(f"{GOOD}\n{line(answered(BAD_ANSWERS[case]))}\n")
    for words in READERS:
        alive(run, *words, "d.jsonl")


@pytest.mark.parametrize("case", BAD_SCHEMAS)
def test_a_bad_schema_that_a_record_names_breaks_no_reader(run, place, case):
    bad = json.loads(GOOD) | {"id": "r", "meta": {"schema": BAD_SCHEMAS[case]}}
    (place / "d.jsonl").write_text(f"{line(bad)}\n{GOOD}\n")
    for words in READERS:
        alive(run, *words, "d.jsonl")


# --- several files --------------------------------------------------------------------------------------------------


def test_an_unreadable_file_is_named_and_the_others_are_checked(run, place):
    (place / "a.jsonl").write_text(GOOD + "\n")
    (place / "loop.jsonl").symlink_to("loop.jsonl")
    os.mkfifo(place / "pipe.jsonl")
    (place / "b.jsonl").write_text(GOOD.replace("good", "other") + "\n")
    (place / "empty.jsonl").write_text("")
    files = ["gone.jsonl", "a.jsonl", "loop.jsonl", "pipe.jsonl", "empty.jsonl", "b.jsonl"]
    done = alive(run, "validate_jsonl", *files, "--fix-out", "ok.jsonl", "--json")
    assert done.code == 1 and done.json["records"] == 2 and done.json["unreadable_files"] == 4
    for name in ("gone", "loop", "pipe", "empty"):
        assert f"not read: {name}.jsonl" in done.err or f"{name}.jsonl" in done.err
    assert (place / "ok.jsonl").read_text().count("\n") == 2
    assert (place / "ok.problems.jsonl").read_text().count("\n") == 4


def test_pages_that_are_no_files_are_problems_of_the_build(run, place):
    (place / "img/dead.png").symlink_to("gone.png")
    os.mkfifo(place / "img/pipe.png")
    (place / "t.json").write_text(
        json.dumps([{"Filename": "a.pdf", "company": "A"}, {"Filename": "pipe.pdf", "total": "1"}])
    )
    done = alive(
        run, "build_jsonl_from_results", "--results", "t.json", "--images-dir", "img", "--schema", SCHEMA, "--json"
    )
    problems = [json.loads(text) for text in (place / "data/train.problems.jsonl").read_text().splitlines()]
    assert done.code == 1 and done.json["records"] == 1 and done.json["labels_without_images"] == 1
    assert [problem["document"] for problem in problems] == ["img/dead.png", "img/pipe.png"]


# --- predictions ------------------------------------------------------------------------------------------------------


ANSWER = {"company": "A", "date": None, "address": None, "total": "1"}


def said(**change):
    return {"id": "good", "status": "ok", "prediction": ANSWER} | change


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


# --- pictures, and files that are in the way ------------------------------------------------------------------------


def test_no_report_carries_a_picture_from_outside_the_root(run, place):
    (place / "inside").mkdir()
    png(place / "secret.png", size=(80, 80))
    absolute = str(place / "secret.png")
    lines = []
    for number, image in enumerate(["../secret.png", absolute, "x/../../secret.png", "a.png"]):
        lines.append(line(json.loads(GOOD.replace("img/a.png", image)) | {"id": str(number)}))
    (place / "inside/d.jsonl").write_text("\n".join(lines) + "\n")
    png(place / "inside/a.png")
    (place / "inside/p.jsonl").write_text("".join(line(said(id=str(n))) + "\n" for n in range(4)))
    words = ["--pred", "inside/p.jsonl", "--root", "inside"]
    done = alive(run, "evaluate_predictions", *words, "--gold", "inside/d.jsonl", "--report", "e.html")
    assert done.code == 0 and "3 page images lie outside inside" in done.err
    assert (place / "e.html").read_text().count("data:image/jpeg") == 1
    shown = alive(run, "review_predictions", *words, "--records", "inside/d.jsonl", "--out", "r.html")
    assert (
        shown.code == 1
        and "3 page images lie outside" in shown.err
        and "secret.png" not in (place / "r.html").read_text()
    )
    checked = alive(run, "validate_jsonl", "inside/d.jsonl")
    assert checked.out.count("warning: ") == 3 and "leads out of the folder" in checked.out


IN_THE_WAY = {
    "validation": (["validate_jsonl", "d.jsonl", "--fix-out"], "own.jsonl"),
    "report": (["evaluate_predictions", "--pred", "p.jsonl", "--gold", "d.jsonl", "--report"], "own.html"),
    "metrics": (["evaluate_predictions", "--pred", "p.jsonl", "--gold", "d.jsonl", "--metrics"], "own.json"),
    "csv": (["evaluate_predictions", "--pred", "p.jsonl", "--gold", "d.jsonl", "--csv"], "own.csv"),
    "markdown": (["evaluate_predictions", "--pred", "p.jsonl", "--gold", "d.jsonl", "--markdown"], "own.md"),
    "review": (["review_predictions", "--pred", "p.jsonl", "--records", "d.jsonl", "--out"], "own.html"),
    "statistics": (["dataset_stats", "--in", "d.jsonl", "--html"], "own.html"),
    "import": (["import_predictions", "--in", "p.jsonl", "--gold", "d.jsonl", "--out"], "own.jsonl"),
}


@pytest.mark.parametrize("case", IN_THE_WAY)
def test_an_output_replaces_neither_its_input_nor_another_file(run, place, case):
    words, own = IN_THE_WAY[case]
    (place / "d.jsonl").write_text(GOOD + "\n")
    (place / "p.jsonl").write_text(line(said()) + "\n")
    (place / "notes.txt").write_text("my notes\n")
    before = {path: path.read_bytes() for path in place.iterdir() if path.is_file()}
    for name in ("d.jsonl", "notes.txt", *(["p.jsonl"] if "p.jsonl" in words else [])):
        refused = alive(run, *words, name)
        assert refused.code == 2 and name in refused.err, refused.err
    assert {path: path.read_bytes() for path in place.iterdir() if path.is_file()} == before
    assert alive(run, *words, own).code == 0
    again = alive(run, *words, own)  # its own output is replaced
    assert again.code == 0 and (place / own).stat().st_size, again.err


def test_an_audit_replaces_no_file_of_another_kind(run, place):
    (place / "d.jsonl").write_text(GOOD + "\n")
    words = ["audit_labels", "--in", "d.jsonl", "--text-layer-dir", "ocr", "--out-dir", "audit"]
    for name in ("report.html", "findings.jsonl", "summary.json"):
        (place / "audit").mkdir(exist_ok=True)
        (place / "audit" / name).write_text("mine\n")
        assert alive(run, *words).code == 2 and (place / "audit" / name).read_text() == "mine\n"
        (place / "audit" / name).unlink()
    assert alive(run, *words).code in (0, 1) and alive(run, *words).code in (0, 1)


LAYERS = [5, {"pages": 5}, {"pages": [{"page": 1, "words": [[1, 2]]}]}, {"pages": [{"page": 1, "words": ["a"]}]}]
LAYERS += [
    {"pages": [{"page": 1, "width": width, "height": 9, "words": [[1, 1, 9, 9, "A"]]}]} for width in (0, "a", [])
]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_malformed_text_layer_stops_no_report(run, place, layer):
    (place / "d.jsonl").write_text(GOOD + "\n" + GOOD.replace('"good"', '"r"') + "\n")
    (place / "p.jsonl").write_text(line(said()) + "\n" + line(said(id="r")) + "\n")
    (place / "ocr/good.json").write_text(json.dumps(layer))
    layers = ["--text-layer-dir", "ocr"]
    for words in (
        ["audit_labels", "--in", "d.jsonl", "--out-dir", "audit", *layers],
        ["evaluate_predictions", "--pred", "p.jsonl", "--gold", "d.jsonl", "--report", "e.html", *layers],
        ["review_predictions", "--pred", "p.jsonl", "--records", "d.jsonl", "--out", "r.html", *layers],
    ):
        done = alive(run, *words)
        assert done.code in (0, 1) and "1 text layers cannot be read" in done.err, (words, done.err)


def test_a_text_layer_that_cannot_be_read_is_named_and_stops_no_other(run, place):
    lines = [GOOD, GOOD.replace('"good"', '"broken"')]
    (place / "d.jsonl").write_text("\n".join(lines) + "\n")
    (place / "ocr/broken.json").write_text('{"pages": [')
    done = alive(run, "audit_labels", "--in", "d.jsonl", "--text-layer-dir", "ocr", "--out-dir", "audit", "--json")
    assert done.code == 1 and "ocr/broken.json" in done.err
    assert done.json["documents"] == 1 and done.json["unreadable_text_layers"] == 1


# --- a run that is killed between two moves -------------------------------------------------------------------------


def test_files_that_belong_together_are_never_read_half_replaced(run, place, monkeypatch):
    from toolkit import outputs

    records = [line(json.loads(GOOD) | {"id": f"d{n}"}) for n in range(6)]
    (place / "d.jsonl").write_text("\n".join(records) + "\n")
    split = ["split_jsonl", "--in", "d.jsonl", "--out-dir", "splits", "--compare-images", "names"]
    assert alive(run, *split).code == 0
    whole = {path.name: path.read_bytes() for path in (place / "splits").iterdir()}
    moves = []

    def killed(source, target):
        moves.append(target)
        if len(moves) == 2:
            raise KeyboardInterrupt
        os.replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(outputs, "replace", killed)
        assert run(*split, "--reassign", "--seed", 3).code == 130
    refused = alive(run, "dataset_stats", "--in", "splits/train.jsonl")
    assert refused.code == 2 and "were being replaced when a run was ended" in refused.err
    assert alive(run, *split, "--reassign").code == 0
    assert {path.name: path.read_bytes() for path in (place / "splits").iterdir()} == whole
