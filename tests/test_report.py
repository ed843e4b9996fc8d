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
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
               "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom", report.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<button") == 24 and "truncated" in done.stdout and "data:image/jpeg" in done.stdout
    assert "24 of 24" in done.stdout


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
