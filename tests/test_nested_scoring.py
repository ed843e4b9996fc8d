"""Scores of lists in lists: the best pairing at every depth, as a plain reference finds it, and quick for many rows."""

import random
import time

import numpy
import pytest
from hypothesis import given, settings, strategies
from nested_schemas import MEET, closed, key, many, mutated, pairs, reference, shuffled, values_of
from test_nested_lists import meet, result

from toolkit.evaluation import row_pairs
from toolkit.evaluation.row_pairs import similarities, similarity
from toolkit.evaluation.score_table import ScoreTable
from toolkit.evaluation.scoring import judged_lists, judged_values, score_document
from toolkit.schema.target import TargetSchema


def summed(score):
    return {name: sum(counts[name] for counts in score.fields.values()) for name in ("tp", "wrong", "miss", "spurious")}


def scored(schema, gold, predicted):
    return score_document(schema, "d", gold, predicted, "ok")


@pytest.fixture(params=["pair by pair", "all at once"], scope="module")
def way(request):
    """Both ways to find the best pairing, whatever the number of rows."""
    before = row_pairs.FEW
    row_pairs.FEW = 0 if request.param == "all at once" else 10**9
    yield
    row_pairs.FEW = before


@given(pairs, strategies.integers(0, 99))
@settings(max_examples=70, deadline=None, derandomize=True)
def test_the_pairing_is_the_best_of_all_and_the_order_of_rows_changes_nothing(way, case, seed):
    raw, gold, predicted = case
    schema, draw = TargetSchema.parse(raw, "s"), random.Random(seed)
    score = scored(schema, gold, predicted)
    outcomes, totals = reference(schema, gold, predicted)
    assert summed(score)["tp"] == outcomes["tp"]
    assert [score.rows_gold, score.rows_predicted] == totals[:2]
    turned = scored(schema, shuffled(gold, draw), shuffled(predicted, draw))
    assert (turned.fields, turned.rows_right, turned.exact) == (score.fields, score.rows_right, score.exact)


@given(pairs, strategies.integers(0, 99))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_perfect_prediction_scores_one(case, seed):
    raw, gold, _ = case
    schema = TargetSchema.parse(raw, "s")
    table = ScoreTable(schema)
    table.add(scored(schema, gold, shuffled(gold, random.Random(seed))))
    summary = table.summary()
    rates = ("micro_f1", "macro_f1", "document_exact", "row_precision", "row_recall", "row_f1", "cell_f1")
    assert {summary[name] for name in (*rates, "row_set_exact")} <= {1.0, None}
    assert summary["row_count_error"] in (0, None)


def test_mutations_of_gold_score_as_the_reference_says(way):
    draw = random.Random(3)
    for _ in range(25):
        gold = meet(
            **{
                f"group {n}": [
                    result(
                        f"Swimmer {draw.randint(10, 99)}{m}",
                        f"{draw.randint(0, 9)}:{draw.randint(10, 59)}",
                        records=draw.sample(["WR", "CR"], draw.randint(0, 2)),
                        splits=[{"metres": 50 * s, "time": f"0:{draw.randint(10, 59)}"} for s in range(1, 4)],
                    )
                    for m in range(draw.randint(0, 4))
                ]
                for n in range(draw.randint(1, 4))
            }
        )
        predicted = shuffled(mutated(gold, draw), draw)
        score = scored(MEET, gold, predicted)
        outcomes, totals = reference(MEET, gold, predicted)
        assert summed(score) == {name: outcomes[name] for name in ("tp", "wrong", "miss", "spurious")}
        assert [score.rows_gold, score.rows_predicted, score.rows_right] == totals


def test_rows_without_a_key_pair_by_the_lists_inside_them():
    schema = TargetSchema.parse(
        closed(orders=many(closed(lines=many(closed(item={"type": "string", "maxLength": 9}))))), "s"
    )

    def order(*items):
        return {"lines": [{"item": item} for item in items]}

    gold = {"orders": [order("a", "b", "c"), order("d", "e"), order("x")]}
    score = scored(schema, gold, {"orders": [order("e", "d"), order("q", "b", "c")]})
    assert summed(score) == {"tp": 4, "wrong": 0, "miss": 2, "spurious": 1}
    assert (score.rows_gold, score.rows_predicted) == (3 + 6, 2 + 5)
    # The order of d and e is right as a whole; of the other no row but b and c is.
    assert score.rows_right == 1 + 2 + 2


def test_a_doubled_row_is_spurious_with_the_lists_inside_it():
    gold = meet(girls=[result("Ann", records=["WR"])])
    predicted = meet(girls=[result("Ann", records=["WR"]), result("Ann", records=["WR"])])
    assert summed(scored(MEET, gold, predicted)) == {"tp": 4, "wrong": 0, "miss": 0, "spurious": 3}


def test_a_group_that_is_missed_misses_all_its_rows():
    gold = meet(girls=[result("Ann"), result("Bea")], boys=[result("Cid")])
    score = scored(MEET, gold, meet(boys=[result("Cid")]))
    assert (score.rows_gold, score.rows_predicted, score.rows_right) == (5, 2, 2)
    assert summed(score)["miss"] == 1 + 2 * 2


def test_errors_name_golds_row():
    gold = meet(girls=[result("Ann"), result("Bea", "2:00")])
    score = scored(MEET, gold, meet(girls=[result("Bea", "2:01"), result("Ann")]))
    assert score.errors == [("age_groups[].results[].time", "wrong", "2:00", "2:01", "age_groups[0].results[1]")]


def test_judged_values_follow_the_pairs_at_every_depth():
    gold = meet(girls=[result("Ann"), result("Bea", "2:00")])
    judged = dict(judged_values(MEET, gold, meet(girls=[result("Bea", "2:01"), result("Ann")])))
    assert judged["age_groups[0].results[0].swimmer"] and not judged["age_groups[0].results[0].time"]
    assert judged["age_groups[0].results[1].time"] and judged["age_groups[0].results"] and judged["age_groups"]


@given(pairs)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_many_rows_at_once_are_as_alike_as_each_pair_by_itself(case):
    raw, gold, predicted = case
    schema = TargetSchema.parse(raw, "s")
    for rows in judged_lists(schema):
        lists = _at(gold, rows.path), _at(predicted, rows.path)
        for left, right in (lists, lists[::-1]):
            if not left or not right:
                continue
            at_once = similarities(rows, left, right)
            alone = numpy.array([[similarity(rows, g, p) for p in right] for g in left])
            assert (at_once == alone).all() if not rows.lists else (at_once >= alone).all()


def _at(answer, path):
    for step in path:
        answer = answer[step]
    return answer


def test_two_thousand_unlike_rows_pair_within_seconds():
    draw = random.Random(1)

    def rows(count):
        return {
            "rows": [{"k": f"{draw.randrange(10**9):09d}", "a": draw.choice("xyz"), "b": None} for _ in range(count)]
        }

    schema = TargetSchema.parse(closed(rows=many(closed(k=key(), a=key(key=False), b=key(key=False)))), "s")
    started = time.process_time()
    score = scored(schema, rows(2000), rows(2000))
    assert time.process_time() - started < 10  # every pair by itself took more than 90
    assert score.rows_gold == score.rows_predicted == 2000


def test_beyond_the_limit_equal_rows_still_pair(monkeypatch):
    monkeypatch.setattr(row_pairs, "EXACT", 30)
    schema = TargetSchema.parse(closed(rows=many(closed(a={"type": "integer"}, b={"type": "integer"}))), "s")
    gold = {"rows": [{"a": n, "b": n % 3} for n in range(40)]}
    assert scored(schema, gold, shuffled(gold, random.Random(1))).exact
    changed = {"rows": [row | ({"b": 9} if row["a"] == 7 else {}) for row in gold["rows"]]}
    assert summed(scored(schema, gold, shuffled(changed, random.Random(1))))["wrong"] == 1


@pytest.mark.parametrize("schema", [MEET])
@given(strategies.data())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_three_levels_score_as_the_reference_says(schema, data):
    gold, predicted = data.draw(values_of(schema.raw, 2)), data.draw(values_of(schema.raw, 2))
    assert summed(scored(schema, gold, predicted))["tp"] == reference(schema, gold, predicted)[0]["tp"]
