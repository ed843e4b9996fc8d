"""Half a surrogate pair is no character: what holds one is named, and no run ends with an encoding error."""

import csv
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY, png, write_results
from fault_server import FaultServer
from test_page_manifest import pdf
from test_server_client import SCHEMA

from toolkit.answers.predictions import PredictionFile, finished_ids, prediction_line
from toolkit.files import escaped, read_jsonl, safe_name, shown, with_whole_pairs, write_json, write_jsonl, write_text
from toolkit.json_text import lone_surrogate, strict_json
from toolkit.model.contract import Contract

HALF, FACE = "x\ud800y", "\U0001f600"
BAD_NAME = os.fsdecode(b"caf\xe9.pdf")
names_of_any_bytes = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are not any bytes there")
FIELDS = {
    "type": "object",
    "title": "d",
    "additionalProperties": False,
    "required": ["number"],
    "properties": {"number": {"type": ["string", "null"], "maxLength": 30}},
}


def lines_of(path: Path | str) -> list[dict]:
    """The lines as the strictest reader takes them."""
    import orjson

    return [orjson.loads(line) for line in Path(path).read_bytes().splitlines()]


def record(identity: str, answer: str) -> dict:
    turns = [
        {"role": "user", "content": [{"type": "image", "image": f"{identity}.png"}, {"type": "text", "text": "read"}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    return {"id": identity, "messages": turns, "meta": {"schema": "d.schema.json"}}


@pytest.fixture
def place(workspace) -> Path:
    (workspace / "d.schema.json").write_text(json.dumps(FIELDS))
    return workspace


# --- the two rules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (r'{"a": ["ok", "\ud800"]}', "$.a[1] holds \\ud800"),
        (r'{"a": {"b": "\uDFFF"}}', "$.a.b holds \\udfff"),
        (r'{"\udc00": 1}', "$ has the key"),
        ('"\ud800"', "$ holds \\ud800"),
        (r'["\ud83d \ude00"]', "$[0] holds \\ud83d"),
        (r'["\ude00\ud83d"]', "$[0] holds \\ude00"),
    ],
)
def test_strict_json_refuses_half_a_pair_and_says_where(text, where):
    with pytest.raises(ValueError, match="half of a surrogate pair") as error:
        strict_json(text)
    assert str(error.value).startswith(where)


@pytest.mark.parametrize("text", [r'"\ud83d\ude00"', r'"\uD83D\uDE00"', r'"\\ud800"', f'"{FACE}"', '"é"', r'"\u00e9"'])
def test_whole_pairs_and_texts_about_escapes_are_valid(text):
    assert strict_json(text) == json.loads(text) and lone_surrogate(strict_json(text)) == ""


def test_every_writer_shows_half_a_pair_escaped(tmp_path):
    value = {"a": HALF, "b" + HALF: [FACE, "\\" + HALF]}
    write_json(tmp_path / "a.json", value)
    assert write_jsonl(tmp_path / "a.jsonl", [value]) == 1
    for path in (tmp_path / "a.json", tmp_path / "a.jsonl"):
        assert json.loads(path.read_text(encoding="utf-8")) == value and FACE in path.read_text(encoding="utf-8")
    write_text(tmp_path / "a.html", f"<p>{HALF}</p>")
    assert (tmp_path / "a.html").read_text() == "<p>x\\ud800y</p>"
    assert safe_name(BAD_NAME) == "caf_udce9.pdf" and shown(BAD_NAME) == escaped(BAD_NAME) == "caf\\udce9.pdf"
    assert with_whole_pairs("\ud83d\ude00" + HALF) == FACE + HALF


def test_a_prediction_line_is_read_by_every_reader(tmp_path):
    line = prediction_line(HALF, "not_json", None, '{"a": "\ud800"}', error=HALF, warnings=[HALF])
    write_jsonl(tmp_path / "p.jsonl", [line])
    (read,) = lines_of(tmp_path / "p.jsonl")
    assert read == line == next(value for _, value in read_jsonl(tmp_path / "p.jsonl"))
    assert json.loads(read["raw"]) == {"a": "\ud800"}  # escaped, the raw answer is the same JSON
    assert PredictionFile(tmp_path / "p.jsonl").ids() == finished_ids(tmp_path / "p.jsonl") == {"x\\ud800y"}


# --- records --------------------------------------------------------------------------------------------------------


def test_validation_names_the_line_and_the_place(run, place):
    good = json.dumps(record("a", '{"number":"1"}'))
    outside = good.replace('"read"', r'"\ud800"').replace('"a"', '"b"')
    inside = json.dumps(record("c", r'{"number":"\ud800"}'))
    raw = good.replace('"a"', '"d"').replace("read", "\udced\udca0\udc80")  # a half as bytes
    pair = good.replace('"a"', '"e"').replace('"read"', r'"\ud83d\ude00"')
    text = "\n".join([good, outside, inside, raw, pair, good]) + "\n"
    (place / "t.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    done = run("validate_jsonl", "t.jsonl", "--fix-out", "v.jsonl")
    assert done.code == 1 and "stands twice" in done.err + done.out
    (place / "t.jsonl").write_bytes(text.encode("utf-8", "surrogateescape").rsplit(good.encode(), 1)[0])
    done = run("validate_jsonl", "t.jsonl", "--fix-out", "v.jsonl")
    said = done.out.splitlines()
    assert done.code == 1 and said[-1].startswith("5 records, 2 valid, 3 invalid")
    assert said[0].startswith("t.jsonl:2: $: not JSON: $.messages[0].content[1].text holds \\ud800")
    assert said[1].startswith("t.jsonl:3: $.messages[-1]: the answer is not only JSON: $.number holds \\ud800")
    assert said[2].startswith("t.jsonl:4: $: not JSON: t.jsonl:4: not valid utf-8")
    assert [line["id"] for line in lines_of("v.jsonl")] == ["a", "e"]


def test_readers_behind_the_validation_say_it_in_one_sentence(run, place):
    png(place / "a.png")
    for name, line in (
        ("outer", json.dumps(record("a", "{}")).replace('"read"', r'"\ud800"')),
        ("inner", json.dumps(record("a", r'{"number":"\ud800"}'))),
    ):
        (place / f"{name}.jsonl").write_text(line + "\n")
        for script, arguments in (
            ("dataset_stats", ["--in", f"{name}.jsonl", "--html", "s.html"]),
            ("split_jsonl", ["--in", f"{name}.jsonl", "--out-dir", "splits"]),
        ):
            done = run(script, *arguments)
            assert done.code == 2 and done.err.startswith("error: ") and done.err.count("\n") == 1, (script, done.err)
            assert "holds \\ud800" in done.err


# --- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_half_a_pair_in_a_labels_table_is_that_documents_problem(run, place, kind):
    for name in "abcd":
        png(place / f"img/{name}.png", shade=ord(name))
    rows = [
        {"Filename": "a.pdf", "number": "1"},
        {"Filename": "b.pdf", "number": HALF},
        {"Filename": "c.pdf", "number": FACE},
        {"Filename": "d.pdf\ud800", "number": "4"},
    ]
    text = json.dumps(rows) if kind == "json" else "".join(json.dumps(row) + "\n" for row in rows)
    (place / f"r.{kind}").write_text(text)
    done = run("build_jsonl_from_results", "--results", f"r.{kind}", "--schema", "d.schema.json", "--images-dir", "img")
    assert done.code == 1, done.err
    assert [line["id"] for line in lines_of("data/train.jsonl")] == ["a.pdf", "c.pdf"]
    problems = {line["document"]: line["problems"][0] for line in lines_of("data/train.problems.jsonl")}
    assert "number holds \\ud800, half of a surrogate pair" in problems["b.pdf"]


def test_a_workbook_that_is_no_xml_is_one_sentence(run, place):
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["Filename", "number"])
    book.active.append(["a.pdf", "HERE"])
    book.save(place / "good.xlsx")
    with zipfile.ZipFile(place / "good.xlsx") as good, zipfile.ZipFile(place / "bad.xlsx", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, good.read(name).replace(b"HERE", b"&#xD800;"))
    (place / "img").mkdir()
    done = run("build_jsonl_from_results", "--results", "bad.xlsx", "--schema", "d.schema.json", "--images-dir", "img")
    assert done.code == 2 and done.err.startswith("error: bad.xlsx: not an Excel file") and done.err.count("\n") == 1


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "jsonl", "rows"])
def test_half_a_pair_in_an_imported_answer_is_a_failed_prediction_that_names_it(run, place, kind):
    write_jsonl(place / "gold.jsonl", [record(name, '{"number":"1"}') for name in "abc"])
    if kind == "folder":
        (place / "in").mkdir()
        (place / "in/a.json").write_text('{"number": "1"}')
        (place / "in/b.json").write_text(r'{"number": "\ud800"}')
        (place / "in/c.json").write_bytes(b'{"number": "\xed\xa0\x80"}')
    elif kind == "jsonl":
        answers = {"a": {"number": "1"}, "b": {"number": HALF}, "c": '{"number": "\ud800"}'}
        text = "".join(json.dumps({"id": name, "answer": answer}) + "\n" for name, answer in answers.items())
        (place / "in").write_text(text)
        (place / "in").rename(place / "in.jsonl")
    else:
        write_results(
            place / "in.json",
            [{"id": "a", "number": "1"}, {"id": "b", "number": HALF}, {"id": "c", "number": "\udc00"}],
        )
    source = {"folder": "in", "jsonl": "in.jsonl", "rows": "in.json"}[kind]
    done = run("import_predictions", "--in", source, "--gold", "gold.jsonl", "--out", "p.jsonl", "--json")
    assert done.code == 1 and done.json["states"] == {"ok": 1, "not_json": 2}, done.err
    lines = {line["id"]: line for line in lines_of("p.jsonl")}
    assert lines["a"]["prediction"] == {"number": "1"}
    assert "half of a surrogate pair" in lines["b"]["error"] and "\\ud800" in lines["b"]["raw"]
    assert "surrogate" in lines["c"]["error"] or "not valid utf-8" in lines["c"]["error"]
    scored = run(
        "evaluate_predictions", "--pred", "p.jsonl", "--gold", "gold.jsonl", "--schema", "d.schema.json", "--json"
    )
    assert scored.code == 0 and scored.json["documents"] == 3 and scored.json["valid"] == 1, scored.err


@pytest.mark.parametrize("half", ["\ud800", "\\ud800"], ids=["decoded", "escaped"])
def test_half_a_pair_in_a_servers_answer_fails_that_document_only(run, place, half):
    Contract(SCHEMA, "s.json", "read", "json", 64, 100, max_pages=2, prompt_tokens=20).save(place / "model")
    for number in range(3):
        png(place / f"in/doc{number}.png", (64, 96), 20 * number)
    answers = [f'{{"name":"{FACE}","rows":[]}}', f'{{"name":"{half}","rows":[]}}', '{"name":"C","rows":[]}']
    with FaultServer(lambda _: None, answer=lambda _: answers[(len(server.requests) - 1) % 3]) as server:
        words = ["--server", server.url, "--contract", "model", "--in", "in", "--out", "p.jsonl"]
        done = run("extract_documents", *words, "--concurrency", 1, "--tries", 1, "--review-below", "0.9", "--json")
        again = run("extract_documents", *words, "--json")
    assert done.code == 1 and done.json["status"] == {"not_json": 1, "ok": 2}, done.err
    assert again.json["documents"] == 0
    (bad,) = [line for line in lines_of("p.jsonl") if line["status"] == "not_json"]
    assert bad["error"].startswith("$.name holds \\ud800") and bad["raw"] == answers[1].replace("\ud800", "\\ud800")
    assert {line["prediction"]["name"] for line in lines_of("p.jsonl") if line["prediction"]} == {FACE, "C"}
    assert len(lines_of("p.review.jsonl")) >= 1


def test_a_stream_that_parts_a_pair_spells_the_whole_character(place):
    """A server in JavaScript may cut between the halves; half a pair alone stays an answer that is judged."""
    import asyncio

    from toolkit.extraction.server_client import ServerModel, collected

    class Response:
        def __init__(self, *pieces: str) -> None:
            self.pieces = pieces

        async def aiter_lines(self):
            for piece in self.pieces:
                yield "data: " + json.dumps({"choices": [{"delta": {"content": piece}, "finish_reason": None}]})
            yield 'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}'

    def text(*pieces: str) -> str:
        whole = asyncio.run(collected(Response(*pieces), 0.0, None))
        return ServerModel._read(json.loads(json.dumps(whole)), 1.0).raw

    assert text('{"a":"\ud83d', '\ude00"}') == f'{{"a":"{FACE}"}}'
    assert text('{"a":"\ud83d', '"}') == '{"a":"\\ud83d"}'


def test_a_streamed_half_reaches_the_client_of_the_gateway_as_a_failed_answer():
    from served_gateway import LIMITS, Gateway, contract_of, pdf

    with (
        FaultServer(lambda _: None, answer=lambda _: '{"bl_number":"\ud800"}') as server,
        Gateway(server.url, contract_of(), LIMITS) as gateway,
    ):
        for accept in ("application/json", "application/x-ndjson"):
            headers = {"content-type": "application/pdf", "accept": accept}
            answer = gateway.http.post("/v1/extract", content=pdf(), headers=headers)
            assert answer.status_code == 502 and "holds \\ud800" in answer.json()["error"]["message"], answer.text


# --- file names and engines -----------------------------------------------------------------------------------------


@names_of_any_bytes
def test_a_name_that_is_not_utf8_is_a_named_problem_and_stops_no_rendering(run, workspace):
    pdf(workspace / "pdfs/a.pdf")
    (workspace / "pdfs" / BAD_NAME).write_bytes((workspace / "pdfs/a.pdf").read_bytes())
    (workspace / "pdfs" / os.fsdecode(b"broken\xff.pdf")).write_bytes(b"no PDF")
    for _ in range(2):
        done = run("pdf_to_images", "--in", "pdfs", "--image-max-tokens", 64, "--text-layer", "--json")
        assert done.code == 1 and done.json["documents"] == 1 and done.json["problems"] == 2
        assert "pdfs/caf\\udce9.pdf: the name caf\\udce9.pdf is not valid UTF-8; rename it" in done.err
        assert {line["source"] for line in lines_of("data/images/problems.jsonl")} == {
            "pdfs/caf\\udce9.pdf",
            "pdfs/broken\\udcff.pdf",
        }
    assert [line["source"] for line in lines_of("data/images/manifest.jsonl")] == ["pdfs/a.pdf"]


@names_of_any_bytes
def test_a_name_that_is_not_utf8_is_a_failed_document_of_an_extraction(run, place):
    Contract(SCHEMA, "s.json", "read", "json", 64, 100, max_pages=2, prompt_tokens=20).save(place / "model")
    pdf(place / "in/a.pdf")
    (place / "in" / BAD_NAME).write_bytes((place / "in/a.pdf").read_bytes())
    with FaultServer(lambda _: None, answer=lambda _: '{"name":"A","rows":[]}') as server:
        words = ["--server", server.url, "--contract", "model", "--in", "in", "--out", "p.jsonl", "--json"]
        done, again = run("extract_documents", *words), run("extract_documents", *words)
        watched = run("extract_documents", *words[:-3], "--out", "w.jsonl", "--watch", "--watch-for", 3)
    assert done.code == 1 and done.json["status"] == {"ok": 1, "unreadable": 1} and again.json["documents"] == 0
    for path in ("p.jsonl", "w.jsonl"):
        lines = {line["id"]: line for line in lines_of(path)}
        assert lines["a.pdf"]["status"] == "ok", watched.err
        assert "not valid UTF-8" in lines["caf\\udce9.pdf"]["error"]


@names_of_any_bytes
def test_images_whose_name_is_not_utf8_are_named_by_the_build(run, place):
    png(place / "img/a.png")
    png(place / "img" / os.fsdecode(b"b\xe9_page_0001.png"))
    png(place / "img" / os.fsdecode(b"fold\xe9r") / "c.png")
    write_results(place / "r.json", [{"Filename": f"{name}.pdf", "number": "1"} for name in "abc"])
    done = run(
        "build_jsonl_from_results", "--results", "r.json", "--schema", "d.schema.json", "--images-dir", "img", "--json"
    )
    assert done.code == 1 and done.json["records"] == 1 and done.json["documents_with_problems"] == 2
    named = [line["document"] for line in lines_of("data/train.problems.jsonl")]
    assert named == ["img/b\\udce9_page_0001.png", "img/fold\\udce9r/c.png"]


@names_of_any_bytes
def test_a_zip_whose_name_is_not_utf8_comes_out_under_a_name_that_is(run, workspace):
    (workspace / "data").mkdir()
    for name in (b"a.zip", b"caf\xe9.zip"):
        with zipfile.ZipFile(workspace / "data" / os.fsdecode(name), "w") as archive:
            archive.writestr("page.png", b"x")
    done = run("extract_combined_zip")
    assert done.code == 0 and "data/caf\\udce9.zip: 1 extracted" in done.err
    assert sorted(path.name for path in Path("data/raw").iterdir() if path.is_dir()) == ["a", "caf_udce9"]


def test_a_member_whose_name_is_marked_as_utf8_and_is_not_comes_out_beside_the_others(run, workspace):
    good, inner = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("inside.png", b"z")
    with zipfile.ZipFile(good, "w") as archive:
        archive.writestr("café_1.png", b"x")
        archive.writestr(
            "plain.png", inner.getvalue()[inner.getvalue().find(b"PK\x01\x02") :]
        )  # looks like a directory
        archive.writestr("übel.png", b"y")
    (workspace / "a.zip").write_bytes(good.getvalue().replace("café".encode(), b"caf\xe9\xe9"))
    done = run("extract_combined_zip", "--zip", "a.zip", "--names-encoding", "cp1252", "--json")
    assert done.code == 0 and done.json["extracted"] == 3, done.err
    assert sorted(path.name for path in Path("data/raw/a").iterdir()) == ["caféé_1.png", "plain.png", "übel.png"]


@names_of_any_bytes
def test_other_scripts_and_narrow_consoles_show_such_a_name_escaped(workspace):
    name = os.fsdecode(b"t\xe9.jsonl")
    Path(name).write_text('{"id": \n')
    for encoding in ("utf-8", "ascii", "cp437"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        words = [sys.executable, str(REPOSITORY / "scripts/validate_jsonl.py"), name]
        done = subprocess.run(words, cwd=workspace, capture_output=True, env=environment)
        assert done.returncode == 1 and b"Traceback" not in done.stderr and done.stdout.startswith(b"t\\udce9.jsonl:1")


def test_what_engines_say_is_escaped_where_it_arises(workspace, monkeypatch):
    import pymupdf

    from toolkit.pages.pdf_pages import readable
    from toolkit.pages.rendered_page import said
    from toolkit.pages.rendering import render_document

    pdf(workspace / "a.pdf")
    monkeypatch.setattr(pymupdf.TOOLS, "mupdf_warnings", lambda: "bad font caf\udce9\nother")
    (line,) = render_document("a.pdf", "img", 64, "png", None)
    assert line["warnings"] == ["bad font caf\\udce9", "other"]
    assert said(ValueError("a\udce9\n b")) == "a\\udce9 b"
    assert readable("\ud83d\ude00a\ud800") == FACE + "a\ufffd"


def test_scores_in_csv_and_html_hold_any_text(tmp_path):
    from toolkit.files import atomic

    with atomic(tmp_path / "s.csv") as file:
        csv.writer(file, lineterminator="\n").writerow([HALF, FACE])
    rows = list(csv.reader(io.StringIO((tmp_path / "s.csv").read_text(encoding="utf-8"))))
    assert rows == [["x\\ud800y", FACE]]
