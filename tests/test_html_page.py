"""Pages that carry their data: no text in it ends the script element, starts a comment, or fills a placeholder."""

import json
import sys

import pytest
from browser import MISSING, Browser

from toolkit.reports.evaluation_page import link_to
from toolkit.reports.html_page import embedded_json

HOSTILE = ["</script>", "</SCRIPT >", "<!--", "<!--<script>", "/*DATA*/null", "\u2028", "\ud800", "\\u003c", "&lt;"]


@pytest.mark.parametrize("value", HOSTILE)
def test_embedded_json_reads_back_as_it_was_and_holds_no_tag(value):
    text = embedded_json({value: [value]})
    assert "<" not in text and text.isascii()
    assert json.loads(text) == {value: [value]}


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_the_report_shows_hostile_values_as_text(run, easy_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(easy_dataset)
    values = ["</script><!--", "<!--<script>", "/*DATA*/null"]
    lines = []
    for value, line in zip(values, (easy_dataset / "data/train.jsonl").read_text(encoding="utf-8").splitlines()):
        record = json.loads(line)
        answer = json.loads(record["messages"][-1]["content"][0]["text"]) | {"vessel_name": value}
        lines.append({"id": record["id"], "status": "ok", "prediction": answer})
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    files = ["--pred", tmp_path / "p.jsonl", "--gold", "data/train.jsonl", "--report", tmp_path / "r.html"]
    done = run("evaluate_predictions", *files)
    assert "Traceback" not in done.err
    with Browser(tmp_path / "browser") as browser:
        browser.open(tmp_path / "r.html")
        assert browser.errors() == []
        for line in lines:
            browser.click("#list button", line["id"])
            shown = browser.run("return document.getElementById('doc').textContent")
            assert line["prediction"]["vessel_name"] in shown


@pytest.mark.skipif(sys.platform == "win32", reason="file names of Windows are Unicode")
def test_an_image_whose_name_is_not_utf_8_has_a_link(tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    assert link_to(tmp_path / name, tmp_path) == "caf%E9.png"
