"""Records and predictions made to do harm: each bad line is named with its place, no reader ends in a traceback, and
what is good is neither lost nor stopped."""

import json
import os

import pytest
from conftest import png
from hostile_lines import GOOD, PAGE, QUESTION, SCHEMA, alive, hostile_place, line, nested, said
from receipt_records import record


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


@pytest.fixture
def place(workspace):
    return hostile_place(workspace)


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


def test_the_outputs_of_an_evaluation_appear_together_or_not_at_all(run, place, monkeypatch):
    from toolkit.reports import evaluation_page

    (place / "d.jsonl").write_text(GOOD + "\n")
    (place / "p.jsonl").write_text(line(said()) + "\n")
    words = [
        "evaluate_predictions",
        "--pred",
        "p.jsonl",
        "--gold",
        "d.jsonl",
        "--report",
        "r/e.html",
        "--csv",
        "t/e.csv",
    ]
    assert alive(run, *words).code == 0
    files = [place / name for name in ("r/e.html", "r/e.json", "t/e.csv")]
    before = [path.read_bytes() for path in files]
    (place / "p.jsonl").write_text(line(said(prediction={})) + "\n")

    def interrupted(*_):
        raise KeyboardInterrupt  # the report is written last

    with monkeypatch.context() as patched:
        patched.setattr(evaluation_page, "write_page", interrupted)
        assert run(*words).code == 130
    assert [path.read_bytes() for path in files] == before
    assert sorted(path.name for folder in ("r", "t") for path in (place / folder).iterdir()) == [
        "e.csv",
        "e.html",
        "e.json",
    ]
    assert alive(run, *words).code == 0
    assert all(path.read_bytes() != old for path, old in zip(files, before, strict=True))


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
