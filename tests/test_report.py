"""The evaluation script and its HTML report, looked at by a real browser where one is installed."""

import json
import shutil
import subprocess

import pytest
from conftest import REPOSITORY


@pytest.fixture
def evaluated(run, easy_dataset, monkeypatch, tmp_path):
    monkeypatch.chdir(easy_dataset)
    lines = []
    for number, text in enumerate((easy_dataset / "data/train.jsonl").read_text(encoding="utf-8").splitlines()):
        record = json.loads(text)
        answer = json.loads(record["messages"][2]["content"][0]["text"])
        if number % 3 == 0:
            answer["bl_number"] = "</script><b>" + str(answer["bl_number"])
        if number % 5 == 0:
            answer["containers"] = answer["containers"][1:]
        status = "truncated" if number == 7 else "ok"
        lines.append(
            {"id": record["id"], "status": status, "prediction": answer if status == "ok" else None, "raw": "{"}
        )
    predictions = tmp_path / "p.jsonl"
    predictions.write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]))
    report = tmp_path / "report.html"
    return run(
        "evaluate_predictions",
        "--pred",
        predictions,
        "--gold",
        "data/train.jsonl",
        "--against",
        f"same={predictions}",
        "--report",
        report,
        "--json",
    ), report


def test_the_last_line_holds_the_metrics_and_missing_answers_are_named(evaluated):
    outcome, report = evaluated
    assert {
        "micro_f1",
        "macro_f1",
        "header_macro_f1",
        "row_precision",
        "row_recall",
        "row_f1",
        "cell_f1",
        "document_exact",
        "documents",
        "valid",
    } <= set(outcome.json)
    assert (outcome.json["documents"], outcome.json["valid"]) == (24, 22)
    assert outcome.json["funnel"] == {"ok": 22, "truncated": 1, "missing": 1}
    assert "1 gold documents have no prediction" in outcome.err
    assert json.loads(report.with_suffix(".json").read_text())["same"]["micro_f1"] == outcome.json["micro_f1"]


def test_the_report_needs_no_network_and_survives_hostile_text(evaluated):
    _, report = evaluated
    text = report.read_text(encoding="utf-8")
    assert "http://" not in text and "https://" not in text
    assert text.count("</script>") == 2


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_a_browser_shows_every_part_without_an_error(evaluated, tmp_path):
    _, report = evaluated
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
        "--dump-dom",
        report.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<button") == 24 and "truncated" in done.stdout and "data:image/jpeg" in done.stdout
    assert "24 of 24" in done.stdout


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_filters_keys_and_boxes_work_in_a_browser(run, easy_dataset, evaluated, monkeypatch, tmp_path):
    """Driven from inside: a script appended to the report sets the filters, presses a key, and writes down what is shown."""
    _, report = evaluated
    predictions = report.parent / "p.jsonl"
    monkeypatch.chdir(easy_dataset)
    run(
        "pdf_to_images",
        "--in",
        "data/samples/pdfs",
        "--out-dir",
        tmp_path / "img",
        "--text-layer",
        "--text-layer-dir",
        tmp_path / "ocr",
    )
    run(
        "evaluate_predictions",
        "--pred",
        predictions,
        "--gold",
        "data/train.jsonl",
        "--report",
        report,
        "--text-layer-dir",
        tmp_path / "ocr",
    )
    steps = """
    const seen = [$("shown").textContent];
    const set = (id, value) => { $(id).value = value; $(id).onchange ? $(id).onchange() : $(id).oninput(); seen.push($("shown").textContent); };
    set("kind", "wrong"); set("field", "bl_number"); set("kind", ""); set("field", ""); set("search", "no such name"); set("search", "");
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "j", bubbles: true }));
    seen.push(String([...$("list").children].findIndex((b) => b.getAttribute("aria-current") === "true")));
    const boxes = data.documents.reduce((n, d) => n + d.boxes.length, 0);
    document.body.textContent = "SEEN " + JSON.stringify([...seen, boxes > 0, visible.length]);
    """
    page = tmp_path / "driven.html"
    page.write_text(report.read_text().replace("\nfilter();\n", f"\nfilter();\n{steps}"))
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    seen = json.loads(done.stdout.split("SEEN ", 1)[1].split("</body>")[0].replace("&amp;", "&"))
    # Every third answer has a wrong number; the cut one and the one without a prediction are missed.
    assert seen[0] == seen[4] == seen[6] == "24 of 24" and seen[1] == seen[2] == "8 of 24" and seen[5] == "0 of 24"
    assert seen[3] == "10 of 24" and seen[7:] == ["1", True, 24]


def test_a_schema_is_needed_and_names_must_differ(run, workspace):
    (workspace / "g.jsonl").write_text('{"id": "a", "gold": {}}\n')
    (workspace / "p.jsonl").write_text('{"id": "a", "status": "ok", "prediction": {}}\n')
    assert "give --schema FILE" in run("evaluate_predictions", "--pred", "p.jsonl", "--gold", "g.jsonl").err
    assert (
        run(
            "evaluate_predictions",
            "--pred",
            "p.jsonl",
            "--gold",
            "g.jsonl",
            "--schema",
            REPOSITORY / "schemas/receipt.schema.json",
        ).code
        == 0
    )
    assert (
        "NAME=FILE"
        in run(
            "evaluate_predictions",
            "--pred",
            "p.jsonl",
            "--gold",
            "g.jsonl",
            "--schema",
            "schemas/receipt.schema.json",
            "--against",
            "p.jsonl",
        ).err
    )


def small_files(workspace):
    gold = [
        {
            "id": str(n),
            "gold": {"company": "A", "date": None, "address": "x", "total": str(n)},
            "meta": {"kind": "till" if n < 10 else "web"},
        }
        for n in range(30)
    ]
    (workspace / "gold.jsonl").write_text("".join(json.dumps(line) + "\n" for line in gold))
    for name, wrong in (("one", range(3)), ("two", range(12))):
        lines = [
            {"id": g["id"], "status": "ok", "prediction": g["gold"] | ({"company": "B"} if n in wrong else {})}
            for n, g in enumerate(gold)
        ]
        (workspace / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ["--pred", "one.jsonl", "--gold", "gold.jsonl", "--schema", "schemas/receipt.schema.json"]


def test_gates_make_the_exit_code(run, workspace):
    common = small_files(workspace)
    assert run("evaluate_predictions", *common, "--fail-under", "micro_f1=0.9").code == 0
    low = run("evaluate_predictions", *common, "--fail-under", "document_exact=0.95", "--json")
    assert low.code == 1 and "document_exact of predictions is 0.9000, less than --fail-under 0.95" in low.err
    assert low.json["gates_broken"]
    swapped = ["--pred", "two.jsonl", *common[2:], "--against", "one=one.jsonl", "--max-drop"]
    dropped = run("evaluate_predictions", *swapped, "document_exact=0.1")
    assert dropped.code == 1 and "0.3000 below one, more than --max-drop 0.1" in dropped.err
    assert run("evaluate_predictions", *swapped, "document_exact=0.31").code == 0
    # A score that the schema does not have cannot hold.
    assert run("evaluate_predictions", *common, "--fail-under", "row_f1=0.1").code == 1
    assert "give METRIC=VALUE" in run("evaluate_predictions", *common, "--fail-under", "beauty=1").err
    assert "--against" in run("evaluate_predictions", *common, "--max-drop", "micro_f1=0").err


def test_runs_are_compared_bucketed_and_tabled(run, workspace):
    common = small_files(workspace)
    outcome = run(
        "evaluate_predictions",
        *common,
        "--name",
        "ours",
        "--against",
        "hosted=two.jsonl",
        "--bucket-by",
        "kind",
        "--companions",
        "--csv",
        "t.csv",
        "--markdown",
        "t.md",
        "--metrics",
        "m.json",
        "--json",
    )
    metrics = json.loads((workspace / "m.json").read_text())
    assert metrics["ours"]["buckets"]["kind till"]["document_exact"] == 0.7
    assert metrics["ours"]["buckets"]["kind web"]["document_exact"] == 1
    assert metrics["hosted"]["difference"]["document_exact"]["verdict"] == "better"
    assert outcome.json["against"]["hosted"]["difference"]["micro_f1"]["difference"] > 0
    assert 0.9 < outcome.json["anls_star"] < 1 and 0.9 < outcome.json["nted"] < 1
    assert "| ours | 0.967 (" in (workspace / "t.md").read_text() and "better" in (workspace / "t.md").read_text()
    assert (workspace / "t.csv").read_text().startswith("run,field,metric,value,low,high\nours,,micro_f1,0.9666")


def test_predictions_saved_as_utf16_and_repeated_lines_are_read(run, workspace):
    common = small_files(workspace)
    text = (workspace / "one.jsonl").read_text()
    (workspace / "one.jsonl").write_bytes(("\ufeff" + text).encode("utf-16-le"))
    plain = run("evaluate_predictions", *common, "--json").json
    (workspace / "one.jsonl").write_text(
        text.replace('"company": "A"', '"company": "Z"') + text
    )  # the last line counts
    assert run("evaluate_predictions", *common, "--json").json["micro_f1"] == plain["micro_f1"]
    (workspace / "one.jsonl").write_text(
        '{"id": "1", "status": "ok", "prediction": {"company": "A", "company": "B"}}\n'
    )
    assert "one.jsonl:1: not JSON: the key 'company' stands twice" in run("evaluate_predictions", *common).err
