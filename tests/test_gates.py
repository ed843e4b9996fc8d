"""Gates: which direction of a metric is a decline, and thresholds that are compared as the decimals that were typed."""

import json
import subprocess
import sys
from decimal import Decimal

import pytest
from conftest import REPOSITORY

from toolkit.evaluation.score_table import ScoreTable, compared
from toolkit.evaluation.scoring import score_document
from toolkit.schema.target import TargetSchema

RECEIPT = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "total": {"type": ["string", "null"], "maxLength": 20},
        "items": {
            "type": "array",
            "maxItems": 9,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"name": {"type": ["string", "null"], "maxLength": 20}},
            },
        },
    },
}


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def runs(workspace):
    """A function that writes gold and runs; of run NAME so many of `documents` are right and have rows too many."""

    def make(documents=100, rows=False, **right):
        (workspace / "s.json").write_text(json.dumps(RECEIPT))
        gold = [{"total": str(n), "items": [{"name": "a"}] if rows else []} for n in range(documents)]
        write_lines(workspace / "gold.jsonl", [{"id": str(n), "gold": value} for n, value in enumerate(gold)])
        for name, count in right.items():
            wrong = [{**value, "items": value["items"] * 2} if rows else {**value, "total": "wrong"} for value in gold]
            answers = gold[:count] + wrong[count:]
            lines = [{"id": str(n), "status": "ok", "prediction": value} for n, value in enumerate(answers)]
            write_lines(workspace / f"{name}.jsonl", lines)

    return make


def evaluate(run, pred, *more):
    return run("evaluate_predictions", "--pred", f"{pred}.jsonl", "--gold", "gold.jsonl", "--schema", "s.json", *more)


def test_a_fall_of_exactly_what_is_allowed_passes(run, runs):
    runs(before=95, after=94)
    assert evaluate(run, "after", "--against", "before=before.jsonl", "--max-drop", "document_exact=0.01").code == 0
    assert evaluate(run, "after", "--against", "before=before.jsonl", "--max-drop", "document_exact=0.009").code == 1


def test_the_least_more_than_what_is_allowed_breaks_the_gate(run, runs):
    runs(documents=1000, before=950, after=939)
    done = evaluate(run, "after", "--against", "before=before.jsonl", "--max-drop", "document_exact=0.01")
    assert done.code == 1 and "0.0110 below before, more than --max-drop 0.01" in done.err


def test_a_broken_gates_sentence_shows_as_many_places_as_the_difference_needs():
    from toolkit.evaluation.gates import allowance_of, floor_of

    sentence = floor_of("micro_f1=0.95").broken("run", {"micro_f1": 0.94999})
    assert "micro_f1 of run is 0.94999, less than --fail-under 0.95" in sentence
    sentence = allowance_of("micro_f1=0.01").broken("run", {"micro_f1": 0.9399}, "other", {"micro_f1": 0.95})
    assert "0.0101 below other, more than --max-drop 0.01" in sentence


@pytest.mark.parametrize("hundredths", range(1, 100, 7))
def test_a_score_of_exactly_the_floor_passes(hundredths):
    from toolkit.evaluation.gates import floor_of

    # Sums of floating-point numbers, as a mean over fields makes them, lie a hair beside the decimal.
    score = sum([hundredths / 100] * 7) / 7
    assert floor_of(f"micro_f1={hundredths / 100}").broken("run", {"micro_f1": score}) == ""
    assert floor_of(f"micro_f1={hundredths / 100 + 0.001:.3f}").broken("run", {"micro_f1": score})


def test_a_rising_count_error_is_a_decline_and_a_falling_one_is_not(run, runs):
    runs(rows=True, better=90, worse=60)
    drop = ("--max-drop", "row_count_error=0.1")
    done = evaluate(run, "worse", "--against", "better=better.jsonl", *drop)
    assert done.code == 1 and "row_count_error of predictions is 0.3000 above better" in done.err
    assert evaluate(run, "better", "--against", "worse=worse.jsonl", *drop).code == 0
    assert evaluate(run, "worse", "--against", "better=better.jsonl", "--max-drop", "row_count_error=0.3").code == 0


def test_the_worst_count_error_that_is_accepted_is_an_upper_bound(run, runs):
    runs(rows=True, one=90)
    assert evaluate(run, "one", "--fail-under", "row_count_error=0.1").code == 0
    done = evaluate(run, "one", "--fail-under", "row_count_error=0.09")
    assert done.code == 1 and "row_count_error of predictions is 0.1000, more than --fail-under 0.09" in done.err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("micro-f1", "micro_f1"), ("row_counts_error", "row_count_error"), ("Document_Exact", "document_exact")],
)
def test_an_unknown_metric_is_an_error_that_names_the_nearest(run, runs, typed, meant):
    runs(one=90)
    for flag in ("--fail-under", "--max-drop"):
        done = evaluate(run, "one", "--against", "two=one.jsonl", flag, f"{typed}=0.5")
        assert done.code == 2 and f"did you mean '{meant}'" in done.err


@pytest.mark.parametrize("value", ["", "nan", "inf", "-Infinity", "five", "0,9"])
def test_a_threshold_is_a_decimal_number(run, runs, value):
    runs(one=90)
    done = evaluate(run, "one", "--fail-under", f"micro_f1={value}")
    assert done.code == 2 and "give METRIC=VALUE" in done.err


def test_a_baseline_without_answers_has_a_score_and_a_score_that_is_not_measured_breaks_its_gate(run, runs, workspace):
    runs(one=90)
    write_lines(workspace / "null.jsonl", [{"id": str(n), "prediction": None} for n in range(100)])
    assert evaluate(run, "one", "--against", "null=null.jsonl", "--max-drop", "micro_f1=0").code == 0
    assert evaluate(run, "null", "--against", "one=one.jsonl", "--max-drop", "micro_f1=0.5").code == 1
    (workspace / "nan.jsonl").write_text('{"id": "0", "status": "ok", "prediction": {"total": NaN}}\n')
    done = evaluate(run, "one", "--against", "nan=nan.jsonl", "--max-drop", "micro_f1=0")
    assert done.code == 2 and "nan.jsonl:1: not JSON" in done.err
    flat = json.dumps({**RECEIPT, "properties": {"total": RECEIPT["properties"]["total"]}})
    (workspace / "s.json").write_text(flat)
    done = evaluate(run, "one", "--against", "two=one.jsonl", "--max-drop", "row_f1=0.5", "--fail-under", "cell_f1=0")
    assert done.code == 1 and done.err.count("not measured") == 2


@pytest.mark.parametrize("missing", [{}, {"micro_f1": None}, {"micro_f1": float("nan")}])
def test_a_score_that_is_missing_on_either_side_breaks_the_gate(missing):
    from toolkit.evaluation.gates import allowance_of, floor_of

    good = {"micro_f1": 0.9}
    assert "not measured" in floor_of("micro_f1=0").broken("run", missing)
    assert "not measured" in allowance_of("micro_f1=1").broken("run", missing, "other", good)
    assert "other has none" in allowance_of("micro_f1=1").broken("run", good, "other", missing)


def test_every_metric_of_a_table_has_a_direction():
    from toolkit.evaluation.score_table import HIGHER, METRICS

    schema = TargetSchema.parse(RECEIPT, "s.json")
    gold = {"total": "1", "items": [{"name": "a"}]}
    good, bad = ScoreTable(schema), ScoreTable(schema)
    for number in range(8):
        good.add(score_document(schema, str(number), gold, gold, "ok"))
        bad.add(score_document(schema, str(number), gold, {"total": "2", "items": [{"name": "b"}] * 3}, "ok"))
    found = compared(good, bad, seed=0, samples=50)
    assert set(found) == set(METRICS)
    assert {name for name, metric in METRICS.items() if metric != HIGHER} == {"row_count_error"}
    assert {found[name]["verdict"] for name in METRICS} == {"better"}


def test_two_runs_that_differ_by_rounding_only_show_no_difference():
    """The same mean over fields, summed in another order, differs in its last bit."""
    text = {"type": ["string", "null"], "maxLength": 9}
    row = {"id": text | {"x-extract": {"key": True}}, **dict.fromkeys("abcdefg", text)}
    rows = {"type": "object", "additionalProperties": False, "properties": row}
    lists = {"rows": {"type": "array", "maxItems": 10, "items": rows}}
    schema = TargetSchema.parse({"type": "object", "additionalProperties": False, "properties": lists}, "s.json")

    def answer(wrong):
        return {"rows": [{"id": str(n), **{f: "y" if n < wrong[f] else "x" for f in "abcdefg"}} for n in range(10)]}

    tables = []
    for wrong in ((1, 2, 3, 4, 5, 6, 7), (7, 1, 6, 2, 5, 3, 4)):
        table = ScoreTable(schema)
        for number in range(7):
            values = answer(dict.fromkeys("abcdefg", 0)), answer(dict(zip("abcdefg", wrong, strict=True)))
            table.add(score_document(schema, str(number), *values, "ok"))
        tables.append(table)
    assert tables[0].summary()["macro_f1"] != tables[1].summary()["macro_f1"]
    assert compared(*tables, seed=0, samples=50)["macro_f1"]["verdict"] == "no difference shown"
    assert compared(*tables[::-1], seed=0, samples=50)["macro_f1"]["verdict"] == "no difference shown"


@pytest.mark.parametrize(
    ("before", "after", "allowed", "code"),
    [(0.95, 0.94, "0.01", 0), (0.95, 0.9399, "0.01", 1), (0.3, 0.1, "0.2", 0), (0.9, 0.95, "0", 0)],
)
def test_quantizing_is_judged_as_decimals(before, after, allowed, code, capsys):
    import quantize_awq

    words = ["--model", "m", "--out", "o", "--max-drop", allowed]
    args = quantize_awq.build_parser().parse_args(words)
    scores = [dict.fromkeys(quantize_awq.SCORES, value) for value in (before, after)]
    assert quantize_awq.verdict(args, *scores) == code


def test_a_merge_is_judged_by_its_whole_numbers_of_answers():
    from toolkit.evaluation.gates import share_reached

    assert share_reached(9, 10, Decimal("0.9")) and share_reached(63, 90, Decimal("0.7"))
    assert not share_reached(89_999, 100_000, Decimal("0.9"))


@pytest.mark.parametrize(
    ("script", "flag", "value"),
    [
        ("merge_adapter", "--min-agreement", "nan"),
        ("merge_adapter", "--min-agreement", "90"),
        ("quantize_awq", "--max-drop", "nan"),
    ],
)
def test_a_threshold_that_nothing_could_break_or_hold_is_a_usage_error(run, script, flag, value):
    words = ["--adapter", "a"] if script == "merge_adapter" else ["--model", "m"]
    done = run(script, *words, "--out", "o", flag, value)
    assert done.code == 2 and flag in done.err


@pytest.mark.parametrize(
    ("scores", "required", "code", "sentence"),
    [
        ({"micro_f1": 0.95}, "micro_f1=0.95", 0, ""),
        ({"micro_f1": 0.1 + 0.2}, "micro_f1=0.3", 0, ""),
        ({"micro_f1": 0.94999}, "micro_f1=0.95", 1, "0.94999"),
        ({"micro_f1": float("nan")}, "micro_f1=0.5", 2, "no micro_f1 in it"),
        ({"micro_f1": None}, "micro_f1=0.5", 2, "no micro_f1 in it"),
        ({"micro_f1": True}, "micro_f1=0.5", 2, "no micro_f1 in it"),
        ({"micro_f1": 0.9}, "micro_f1=nan", 2, "METRIC=VALUE"),
        ({"micro_f1": 0.9}, "mikro_f1=0.5", 2, "did you mean 'micro_f1'"),
        ({"row_count_error": 0.2}, "row_count_error=0.1", 1, "at most 0.1"),
        ({"row_count_error": 0.05}, "row_count_error=0.1", 0, ""),
        ({"valid": 90}, "valid=91", 1, "valid is 90"),
    ],
)
def test_a_model_is_registered_only_where_its_scores_hold(tmp_path, scores, required, code, sentence):
    (tmp_path / "m.json").write_text(json.dumps({"predictions": scores}))
    words = ["--model", "azureml://m", "--name", "m", "--metrics", tmp_path / "m.json", "--require", required]
    command = [sys.executable, REPOSITORY / "azureml/pipeline/register_model.py", *words, "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code and sentence in done.stderr and "Traceback" not in done.stderr
