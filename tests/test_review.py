"""The review page, driven in a real browser; what it saves must build."""

import json
import shutil
from urllib.parse import unquote

import pytest
from browser import MISSING, Browser
from review_cases import page_data


@pytest.fixture
def reviewed_folder(run, easy_dataset, tmp_path, monkeypatch):
    """A copy of the easy dataset with predictions: one wrong, one failed, the others right."""
    folder = tmp_path / "w"
    shutil.copytree(easy_dataset, folder)
    monkeypatch.chdir(folder)
    lines = []
    for number, text in enumerate((folder / "data/train.jsonl").read_text(encoding="utf-8").splitlines()[:6]):
        record = json.loads(text)
        answer = json.loads(record["messages"][2]["content"][0]["text"])
        if number == 2:
            answer["vessel_name"] = "</script>WRONG"
        line = {"id": record["id"], "status": "ok", "prediction": answer}
        lines.append(
            line if number != 4 else {"id": record["id"], "status": "truncated", "prediction": None, "raw": "{"}
        )
    (folder / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder, lines


def test_what_needs_a_person_comes_first(run, reviewed_folder):
    folder, lines = reviewed_folder
    outcome = run(
        "review_predictions", "--pred", "p.jsonl", "--records", "data/train.jsonl", "--out", "r/review.html", "--json"
    )
    assert (outcome.code, outcome.json["documents"], outcome.json["without_pages"]) == (0, 6, 0)
    data = page_data(folder / "r/review.html")
    assert data["documents"][0]["id"] == lines[4]["id"] and "truncated" in data["documents"][0]["reasons"][0]
    assert all((folder / "r" / unquote(page)).is_file() for d in data["documents"] for page in d["pages"])
    by_name = run(
        "review_predictions",
        "--pred",
        "p.jsonl",
        "--images-dir",
        "data/raw",
        "--images-dir",
        "data/images",
        "--schema",
        "schemas/bill_of_lading.schema.json",
        "--out",
        "r/b.html",
        "--json",
    )
    assert by_name.json["without_pages"] == 0
    assert "--records FILE or --images-dir" in run("review_predictions", "--pred", "p.jsonl", "--out", "x.html").err


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_corrections_become_labels_that_build(run, reviewed_folder, tmp_path):
    folder, lines = reviewed_folder
    run("review_predictions", "--pred", "p.jsonl", "--records", "data/train.jsonl", "--out", "review.html")
    other = next(
        d["id"]
        for d in page_data(folder / "review.html")["documents"]
        if not d["reasons"] and d["id"] != lines[2]["id"]
    )
    with Browser(tmp_path / "browser") as browser:
        browser.open(folder / "review.html")
        browser.click("#list button", lines[2]["id"])
        browser.type("vessel_name", "RIGHT NAME")
        browser.type("detention_free_days", "12")
        row = len(lines[2]["prediction"]["containers"])
        browser.click("button", "add a row")
        for field, value in (("number", "CSQU3054383"), ("size", "40"), ("type", "HC")):
            browser.type(f"containers[{row}].container_{field}", value)
        browser.click("#reviewed")
        browser.click("#list button", other)
        browser.click("#reviewed")
        assert browser.run("return document.getElementById('progress').textContent") == "2 of 6 reviewed"
        browser.click("#save")
        table = json.loads(browser.downloaded("reviewed.json"))
        assert browser.errors() == [] and len(table) == 2
    (folder / "reviewed.json").write_text(json.dumps(table))
    built = run(
        "build_jsonl_from_results",
        "--results",
        "reviewed.json",
        "--images-dir",
        "data/raw",
        "--images-dir",
        "data/images",
        "--out",
        "data/reviewed.jsonl",
        "--json",
    )
    assert built.json["records"] == 2 and built.json["documents_with_problems"] == 0, built.err
    records = {
        json.loads(line)["id"]: json.loads(json.loads(line)["messages"][-1]["content"][0]["text"])
        for line in (folder / "data/reviewed.jsonl").read_text().splitlines()
    }
    corrected = records[lines[2]["id"]]
    assert (corrected["vessel_name"], corrected["detention_free_days"]) == ("RIGHT NAME", 12)
    assert corrected["containers"] == [
        *lines[2]["prediction"]["containers"],
        {"container_number": "CSQU3054383", "container_size": "40", "container_type": "HC"},
    ]
    # A document that was only ticked comes back as it was predicted.
    untouched = next(line for line in lines if line["id"] in records and line["id"] != lines[2]["id"])
    kept = {key: value for key, value in untouched["prediction"].items() if key in records[untouched["id"]]}
    assert records[untouched["id"]] == kept
