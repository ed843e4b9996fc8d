"""A failed answer is never right, whatever gold holds; `skip` cells are never judged and never end a run."""

import itertools
import json

import pytest
from hypothesis import given, settings, strategies

from toolkit.evaluation.score_table import RATES, ScoreTable
from toolkit.evaluation.scoring import judged_values, score_document
from toolkit.schema.target import TargetSchema

TEXT = {"type": ["string", "null"], "maxLength": 20}
SKIP = TEXT | {"x-extract": {"compare": "skip"}}
SKIP_KEY = TEXT | {"x-extract": {"compare": "skip", "key": True}}
KEY = TEXT | {"x-extract": {"compare": "id", "key": True}}
FAILED = (
    "truncated",
    "not_json",
    "schema_error",
    "http_error",
    "refused",
    "unreadable",
    "missing",
    "made up by a service",
)


def closed(**properties):
    return {"type": "object", "additionalProperties": False, "properties": properties}


def schema_of(row=None, **header):
    rows = {} if row is None else {"rows": {"type": "array", "maxItems": 9, "items": row}}
    return TargetSchema.parse(closed(**header, **rows), "s.json")


SCHEMA = schema_of(closed(id=KEY, size=TEXT), number=TEXT)
KEYLESS = schema_of(closed(name=TEXT, note=SKIP), number=TEXT)


def summary(schema, *scores):
    table = ScoreTable(schema)
    for score in scores:
        table.add(score)
    return table.summary()


def scored(schema, gold, predicted, status="ok"):
    return summary(schema, score_document(schema, "d", gold, predicted, status))


# --- failed answers -------------------------------------------------------------------------------------------------

GOLDS = [
    {},
    {"number": None, "rows": []},
    {"number": "", "rows": None},
    {"number": "1", "rows": []},
    {"rows": [{"id": "A"}]},
]
HIGHER = [name for name in RATES if name != "row_count_error"]


@pytest.mark.parametrize("status", FAILED)
@pytest.mark.parametrize("gold", GOLDS, ids=json.dumps)
def test_a_failed_answer_scores_nothing_whatever_gold_holds(status, gold):
    for predicted in (None, {}, gold):
        score = score_document(SCHEMA, "d", gold, predicted, status)
        found = summary(SCHEMA, score)
        assert not score.exact and not score.rows_exact
        assert {name: found[name] for name in HIGHER} == dict.fromkeys(HIGHER, 0.0)
        assert found["valid"] == 0


@pytest.mark.parametrize("gold", GOLDS[:3], ids=json.dumps)
def test_a_valid_answer_that_finds_nothing_where_nothing_is_scores_one_everywhere(gold):
    found = scored(SCHEMA, gold, {})
    assert {name: found[name] for name in HIGHER} == dict.fromkeys(HIGHER, 1.0)


@pytest.mark.parametrize(
    ("predicted", "status"), [(None, "missing"), ([], "schema_error"), ("text", "schema_error"), (7, "schema_error")]
)
def test_an_answer_that_is_no_object_has_failed_though_its_line_says_ok(predicted, status):
    score = score_document(SCHEMA, "d", {}, predicted, "ok")
    table = ScoreTable(SCHEMA)
    table.add(score)
    assert score.status == status and not score.exact and not score.rows_exact
    assert table.summary()["valid"] == 0 and table.funnel()["schema"] == 0


def test_where_nothing_is_to_be_found_the_rates_are_the_share_of_valid_answers():
    scores = [score_document(SCHEMA, str(n), {}, {}, "ok" if n < 3 else "truncated") for n in range(4)]
    found = summary(SCHEMA, *scores)
    assert {name: found[name] for name in HIGHER} == dict.fromkeys(HIGHER, 0.75)


def test_a_bucket_and_a_field_of_failed_answers_are_not_perfect():
    table = ScoreTable(SCHEMA)
    for number in range(4):
        table.add(score_document(SCHEMA, str(number), {}, None, "not_json"), groups=["kind a"])
    assert {name: bucket["micro_f1"] for name, bucket in table.buckets().items()} == {
        "rows 0": 0,
        "pages 0": 0,
        "kind a": 0,
    }
    assert all(bucket["row_f1"] == bucket["document_exact"] == 0 for bucket in table.buckets().values())
    assert all(line["f1"] == line["precision"] == line["recall"] == 0 for line in table.field_table())
    assert all(high == 0 for name, (_, high) in table.intervals(seed=0, samples=20).items() if name in HIGHER)


def test_an_unknown_status_does_not_pass_the_funnel():
    table = ScoreTable(SCHEMA)
    for number, status in enumerate(("ok", "failed by the service", "timeout")):
        table.add(score_document(SCHEMA, str(number), {}, {}, status))
    assert table.funnel() == {"documents": 3, "answered": 1, "finished": 1, "JSON": 1, "schema": 1, "checks": 1}


answers = strategies.fixed_dictionaries(
    {
        "number": strategies.sampled_from(["1", "2", "", None]),
        "rows": strategies.lists(
            strategies.fixed_dictionaries(
                {"id": strategies.sampled_from(["A", "B", None]), "size": strategies.just("9")}
            ),
            max_size=3,
        ),
    }
)


@given(strategies.lists(strategies.tuples(answers, answers, strategies.booleans()), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_failed_answer_never_scores_more_than_the_right_one_would(documents):
    """Making one answer of a run right never lowers a rate but the precisions, to which answers that say nothing
    count for nothing."""
    rates = [name for name in HIGHER if "precision" not in name]
    scores = [
        score_document(SCHEMA, str(n), g, p, "ok" if ok else "truncated") for n, (g, p, ok) in enumerate(documents)
    ]
    before = summary(SCHEMA, *scores)
    for number, (gold, _, ok) in enumerate(documents):
        if not ok:
            right = score_document(SCHEMA, str(number), gold, gold, "ok")
            after = summary(SCHEMA, *scores[:number], right, *scores[number + 1 :])
            assert all(
                after[name] >= before[name] - 1e-12 for name in rates if name not in ("macro_f1", "header_macro_f1")
            )


def test_the_scripts_rates_of_a_run_that_answered_nothing_are_all_zero(run, workspace):
    (workspace / "s.json").write_text(json.dumps(SCHEMA.raw))
    (workspace / "g.jsonl").write_text(
        "".join(json.dumps({"id": str(n), "gold": {"number": None, "rows": []}}) + "\n" for n in range(4))
    )
    lines = [
        {"id": "0", "status": "truncated", "prediction": None},
        {"id": "1", "status": "not_json", "prediction": None, "confidence": {"number": 0.9}},
        {"id": "2", "prediction": None},
    ]
    (workspace / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = "--pred p.jsonl --gold g.jsonl --schema s.json --companions --report r.html --json"
    done = run("evaluate_predictions", *words.split())
    assert done.code == 0, done.err
    assert {done.json[name] for name in HIGHER} == {0.0} and (done.json["anls_star"], done.json["nted"]) == (0, 0)
    assert done.json["funnel"] == {"missing": 2, "not_json": 1, "truncated": 1} and done.json["valid"] == 0
    assert "2 gold documents have no prediction" in done.err


def test_companion_scores_of_a_failed_answer_are_zero_though_gold_has_empty_fields():
    from evaluate_predictions import companion_scores

    gold = {"a": "x", "b": None, "c": None}
    assert companion_scores(gold, {"prediction": None}, "truncated") == (0, 0)
    assert companion_scores({}, None, "missing") == (0, 0)
    assert companion_scores({}, {"prediction": None}, "ok") == (0, 0)
    assert companion_scores({}, {"prediction": {}}, "ok") == (1, 1)


# --- skip -----------------------------------------------------------------------------------------------------------


def test_differing_skip_cells_of_a_keyless_list_change_nothing():
    gold = {"number": "1", "rows": [{"name": "a", "note": "x"}, {"name": "b", "note": "y"}]}
    other = {"number": "1", "rows": [{"name": "b", "note": "z"}, {"name": "a", "note": None}]}
    found = scored(KEYLESS, gold, other)
    assert {name: found[name] for name in HIGHER} == dict.fromkeys(HIGHER, 1.0)


def test_skip_cells_do_not_pair_rows():
    gold = {"rows": [{"name": "a", "note": "x"}, {"name": "b", "note": "y"}]}
    other = {"rows": [{"name": "c", "note": "x"}, {"name": "a", "note": "y"}]}
    # By name the first gold row is the second predicted one; nothing pairs the others.
    assert scored(KEYLESS, gold, other)["cell_f1"] == pytest.approx(2 / (2 + 1 + 1))


@pytest.mark.parametrize(
    "row",
    [SKIP, SKIP_KEY, closed(note=SKIP), closed(note=SKIP, inner=closed(more=SKIP_KEY))],
    ids=["values", "keys", "cells", "nested"],
)
def test_a_list_of_skip_cells_only_is_not_scored(row):
    schema = schema_of(row, number=TEXT)
    rows = [["a", "b"], []] if "properties" not in row else [[{"note": "a"}, {"note": "b"}], [{"note": "c"}]]
    for gold, predicted in itertools.product(rows, repeat=2):
        found = scored(schema, {"number": "1", "rows": gold}, {"number": "1", "rows": predicted})
        assert (found["micro_f1"], found["document_exact"]) == (1.0, 1.0)
        assert found["row_f1"] is found["row_set_exact"] is found["row_count_error"] is None
        assert list(judged_values(schema, {"number": "1", "rows": gold}, {"rows": predicted})) == [("number", False)]


def test_a_skip_key_is_no_key():
    schema = schema_of(closed(id=SKIP_KEY, size=TEXT))
    gold = {"rows": [{"id": "A", "size": "1"}, {"id": "B", "size": "2"}]}
    swapped = {"rows": [{"id": "zzzz", "size": "2"}, {"id": None, "size": "1"}]}
    found = scored(schema, gold, swapped)
    assert (found["row_f1"], found["row_set_exact"], found["cell_f1"]) == (1.0, 1.0, 1.0)
    assert scored(schema, gold, {"rows": [{"id": "A", "size": "9"}]})["row_f1"] == 0


def test_the_report_frames_no_skip_values():
    from toolkit.pages.evidence import DocumentWords
    from toolkit.reports.evaluation_page import boxes_of

    schema = schema_of(closed(id=SKIP_KEY, size=TEXT), number=TEXT, note=SKIP)
    words = [[10 * n, 10, 10 * n + 8, 20, text] for n, text in enumerate(("N1", "noted", "other", "KEY1", "KEY2"))]
    page = {"page": 1, "width": 100, "height": 100, "words": words}
    gold = {"number": "N1", "note": "noted", "rows": [{"id": "KEY1", "size": None}]}
    predicted = {"number": "N1", "note": "other", "rows": [{"id": "KEY2", "size": None}]}
    boxes = boxes_of(schema, gold, predicted, DocumentWords([page]))
    assert [(name, kind) for name, _, _, kind in boxes] == [("number", "right")]


def test_a_skip_key_still_tells_rows_apart_when_the_answers_of_windows_are_joined():
    from toolkit.answers.page_windows import union

    schema = schema_of(closed(id=SKIP_KEY, size=TEXT), number=SKIP)
    first, second = (
        {"rows": [{"id": "A", "size": "1"}]},
        {"rows": [{"id": "A", "size": None}, {"id": "B", "size": "2"}]},
    )
    merged, _ = union(schema, [schema.ordered(first), schema.ordered(second)])
    assert [row["id"] for row in merged["rows"]] == ["A", "B"]


@given(
    strategies.lists(strategies.tuples(strategies.sampled_from("abc"), strategies.sampled_from("xyz")), max_size=4),
    strategies.lists(strategies.tuples(strategies.sampled_from("abc"), strategies.sampled_from("xyz")), max_size=4),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_value_of_a_skip_cell_changes_a_score(gold, predicted):
    def answer(pairs, noted):
        return {"number": "1", "rows": [{"name": n, "note": x if noted else None} for n, x in pairs]}

    bare = scored(KEYLESS, answer(gold, False), answer(predicted, False))
    assert scored(KEYLESS, answer(gold, True), answer(predicted, True)) == bare
