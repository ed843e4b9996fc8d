"""The review page, driven in a real browser; what it saves must build."""

import html
import json
import shutil
import subprocess
from urllib.parse import unquote

import pytest


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
    outcome = run("review_predictions", "--pred", "p.jsonl", "--records", "data/train.jsonl", "--out", "r/review.html", "--json")  # fmt: skip
    assert (outcome.code, outcome.json["documents"], outcome.json["without_pages"]) == (0, 6, 0)
    text = (folder / "r/review.html").read_text()
    data = json.loads(text.split('id="data">', 1)[1].split("</script>")[0])
    assert data["documents"][0]["id"] == lines[4]["id"] and "truncated" in data["documents"][0]["reasons"][0]
    assert all((folder / "r" / unquote(page)).is_file() for d in data["documents"] for page in d["pages"])
    by_name = run("review_predictions", "--pred", "p.jsonl", "--images-dir", "data/raw", "--images-dir", "data/images", "--schema", "schemas/bill_of_lading.schema.json", "--out", "r/b.html", "--json")  # fmt: skip
    assert by_name.json["without_pages"] == 0
    assert "--records FILE or --images-dir" in run("review_predictions", "--pred", "p.jsonl", "--out", "x.html").err


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_corrections_become_labels_that_build(run, reviewed_folder):
    folder, lines = reviewed_folder
    run("review_predictions", "--pred", "p.jsonl", "--records", "data/train.jsonl", "--out", "review.html")
    steps = """
    const type = (box, value) => { box.value = value; box.oninput(); };
    const at = data.documents.findIndex((d) => d.values.vessel_name === "</" + "script>WRONG");
    show(at); type(document.querySelector('[aria-label="vessel_name"]'), "RIGHT NAME");
    document.querySelector('[aria-label="detention_free_days"]') && type(document.querySelector('[aria-label="detention_free_days"]'), "12");
    [...document.querySelectorAll("button")].find((b) => b.textContent === "add a row").onclick();
    const cells = [...document.querySelectorAll("tr")].at(-1).querySelectorAll("input, select");
    type(cells[0], "CSQU3054383"); type(cells[1], "40"); type(cells[2], "HC");
    $("reviewed").checked = true; $("reviewed").onchange();
    const other = data.documents.findIndex((d, i) => i !== at && !d.reasons.length);
    show(other); $("reviewed").checked = true; $("reviewed").onchange();
    const out = JSON.stringify({ table: reviewed(), progress: $("progress").textContent });
    document.body.textContent = "SEEN " + out;
    """
    page = folder / "driven.html"
    text = (folder / "review.html").read_text()
    page.write_text(text.replace("if (data.documents.length) show(0);", f"if (data.documents.length) show(0);{steps}"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
               "--disable-sync", f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--dump-dom", page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "CONSOLE" not in done.stderr
    seen = json.loads(html.unescape(done.stdout.split("SEEN ", 1)[1].split("</body>")[0]))
    assert seen["progress"] == "2 of 6 reviewed" and len(seen["table"]) == 2
    (folder / "reviewed.json").write_text(json.dumps(seen["table"]))
    built = run("build_jsonl_from_results", "--results", "reviewed.json", "--images-dir", "data/raw", "--images-dir", "data/images", "--out", "data/reviewed.jsonl", "--json")  # fmt: skip
    assert built.json["records"] == 2 and built.json["documents_with_problems"] == 0, built.err
    records = {json.loads(line)["id"]: json.loads(json.loads(line)["messages"][-1]["content"][0]["text"]) for line in (folder / "data/reviewed.jsonl").read_text().splitlines()}  # fmt: skip
    corrected = records[lines[2]["id"]]
    assert (corrected["vessel_name"], corrected["detention_free_days"]) == ("RIGHT NAME", 12)
    assert corrected["containers"] == [*lines[2]["prediction"]["containers"], {"container_number": "CSQU3054383", "container_size": "40", "container_type": "HC"}]  # fmt: skip
    # A document that was only ticked comes back as it was predicted.
    untouched = next(line for line in lines if line["id"] in records and line["id"] != lines[2]["id"])
    kept = {key: value for key, value in untouched["prediction"].items() if key in records[untouched["id"]]}
    assert records[untouched["id"]] == kept
