"""Nested answers on the pages that people look at: evaluation report, audit, review page."""

import json
import random
import shutil
import subprocess

import pytest
import review_predictions
from nested_schemas import MEET, as_json
from review_cases import NO_SCRIPT_ENGINE, any_answer, in_page_script
from test_label_audit import words
from test_nested_lists import meet, result
from test_report import CHROMIUM
from test_review_answers import page_of, saved

from toolkit.answers.confidence import places_of
from toolkit.records.label_audit import Document, audited

GOLD = meet(girls=[result("Ann", "1:00"), result("Bea", "2:00", records=["WR"])], boys=[result("Cid", "3:00")])


@pytest.fixture
def report(run, workspace):
    (workspace / "meet.schema.json").write_text(json.dumps(MEET.raw))
    predicted = meet(girls=[result("Bea", "2:01"), result("Ann", "1:00"), result("Dot", "9:00")], boys=[])
    (workspace / "gold.jsonl").write_text(json.dumps({"id": "a", "gold": GOLD}) + "\n")
    (workspace / "p.jsonl").write_text(json.dumps({"id": "a", "status": "ok", "prediction": predicted}) + "\n")
    words = "--pred p.jsonl --gold gold.jsonl --schema meet.schema.json --report r.html --companions --json".split()
    outcome = run("evaluate_predictions", *words)
    assert outcome.code == 0, outcome.err
    return outcome, workspace / "r.html"


def test_the_tables_name_fields_of_every_depth(report):
    outcome, page = report
    fields = {
        line["field"]: line for line in json.loads(page.with_suffix(".json").read_text())["predictions"]["fields"]
    }
    time = fields["age_groups[].results[].time"]
    assert [time[name] for name in ("tp", "wrong", "miss", "spurious")] == [1, 1, 1, 1]
    assert fields["age_groups[].results[].records[]"]["miss"] == 1
    assert 0 < outcome.json["cell_f1"] < 1 and 0 < outcome.json["anls_star"] < 1


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_the_report_shows_rows_inside_rows(report, tmp_path):
    _, page = report
    command = [*CHROMIUM, f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=60)
    assert "CONSOLE" not in done.stderr
    for label in ("age_groups 1 results 2 time", "age_groups 1 results 2 records 1", "age_groups 2 results 1 swimmer"):
        assert f"<td>{label}" in done.stdout
    assert "age_groups[].results[].swimmer (extra row)" in done.stdout


def test_the_audit_looks_at_rows_of_every_depth():
    page = words("girls", "Ann 1:00", "Bea 2:00 WR", "boys", "Cid 3:30")
    findings = {finding.name: finding for finding in audited(MEET, [Document("a", GOLD, page)])}
    assert findings["age_groups[0].results[1].time"].status == "exact"
    assert findings["age_groups[0].results[1].records[0]"].printed == "WR"
    assert findings["age_groups[1].results[0].time"].status == "missing"
    assert (findings["age_groups[0].results[1].time"].row, findings["age_groups[0].group"].printed) == (1, "girls")


def test_values_inside_rows_have_their_place_on_the_line_of_their_key():
    page = words("girls", "Ann 1:00", "Bea 2:00 WR", "boys", "Cid 3:30")
    places = places_of(MEET, GOLD, page)
    assert places["age_groups[0].results[0].time"].text == "1:00"
    assert "age_groups[1].results[0].time" not in places and places["age_groups[1].group"].text == "boys"


@pytest.mark.skipif(NO_SCRIPT_ENGINE is not None, reason=str(NO_SCRIPT_ENGINE))
def test_the_review_page_saves_nested_answers_unedited_as_they_were(tmp_path):
    rng = random.Random(5)
    answers = [any_answer(MEET.raw, rng) for _ in range(12)]
    labels = saved(tmp_path, MEET, answers)
    for number, (label, answer) in enumerate(zip(labels, answers, strict=True)):
        assert as_json(label) == as_json({"Filename": f"d{number}.pdf", **answer})
    data = page_of(tmp_path, MEET, answers)
    body = "return argument.documents.map((d) => notShown(d.answer, argument.form).length);"
    assert set(in_page_script(tmp_path, body, data)) == {0}


@pytest.mark.skipif(NO_SCRIPT_ENGINE is not None, reason=str(NO_SCRIPT_ENGINE))
def test_rows_inside_rows_are_added_edited_and_removed_on_the_review_page(tmp_path):
    data = page_of(tmp_path, MEET, [GOLD])
    body = """const d = argument.documents[0], form = argument.form, time = form.lists[0].lists[0].fields[1];
    let state = initialState(d, form);
    state = withRowRemoved(state, form, [0, 0, 0], 0);
    const seen = [predictedCell(d, state, form, [0, 0, 0], 0, time)];
    state = withRowAdded(state, form, [0, 1, 0]);
    state = withRowAdded(state, form, [0, 1, 0]);
    state = withRowAdded(state, form, 0);
    seen.push(predictedCell(d, state, form, [0, 1, 0], 1, time) ?? "none");
    const swimmer = ["age_groups", 1, "results", 1, "swimmer"];
    state = { ...state, answer: withValue(state.answer, swimmer, "Dan") };
    state = { ...state, answer: withValue(state.answer, ["age_groups", 0, "results", 0, "records", 0], "XX") };
    state = withRowRemoved(state, form, [0, 1, 0], 0);
    return [seen, misfits(form, "a", state), jsonText(labelsOf(form, "File", d.source, state)),
      predictedCell(d, loadedState(state), form, [0, 0, 0], 0, time)];"""
    seen, misfits, label, loaded = in_page_script(tmp_path, body, data)
    assert seen == ["2:00", "none"] and loaded == "1:00"
    assert misfits == [["a", "age_groups[0].results[0].records[0]", "not one of the choices"]]
    expected = meet(girls=[result("Bea", "2:00", records=["XX"])], boys=[result("Dan", None)])
    assert json.loads(label) == {"File": "d0.pdf", **expected}


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_the_review_page_shows_the_lists_inside_rows(tmp_path):
    page_of(tmp_path, MEET, [GOLD])
    command = [*CHROMIUM, f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom"]
    page = (tmp_path / "review.html").as_uri()
    done = subprocess.run([*command, page], capture_output=True, text=True, timeout=60)
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<h3>results</h3>") == 2 and done.stdout.count("<h3>splits</h3>") == 3


def test_what_is_not_on_the_page_is_a_reason_to_look(tmp_path):
    page = words("girls", "Ann 1:00", "boys", "Cid 3:00")
    reasons = review_predictions.reasons_of(MEET, {"prediction": GOLD, "status": "ok"}, page, None)
    assert reasons == [(1, "age_groups[0].results[1]: 'Bea' is not in the page's own text")]
