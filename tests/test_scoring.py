"""The definitions of scoring, case by case; the expected numbers are worked out by hand."""

import copy
import random

import numpy
import pytest
from conftest import REPOSITORY
from hypothesis import given, settings, strategies

from toolkit.evaluation.score_table import ScoreTable, compared
from toolkit.evaluation.scoring import outcome, score_document
from toolkit.schema.target import Leaf, TargetSchema

SCHEMA = TargetSchema.load(REPOSITORY / "schemas/bill_of_lading.schema.json")


def leaf(**extract):
    return Leaf(("field",), {"type": ["string", "null"], "x-extract": extract})


@pytest.mark.parametrize(
    ("compare", "gold", "predicted", "expected"),
    [
        ("exact", "A b", "A b", "tp"),
        ("exact", "A b", "a b", "wrong"),
        ("text", "ACME  Sdn. Bhd.", "acme sdn. bhd", "tp"),
        ("text", "ACME", "ACMI", "wrong"),
        ("text", "ﬁne", "fine", "tp"),
        ("text", "-", "-", "tp"),
        ("id", "MSKU 123456-7", "msku1234567", "tp"),
        ("id", "MSKU1234567", "MSKU1234568", "wrong"),
        ("number", "1,234.50", 1234.5, "tp"),
        ("number", "1.234,50 EUR", "1234.5", "tp"),
        ("number", 7, "7", "tp"),
        ("number", 7, 7.0, "tp"),
        ("number", "(12.00)", -12, "tp"),
        ("number", 0, None, "miss"),
        ("number", 0, "", "miss"),
        ("number", None, 0, "spurious"),
        ("date", "2026-03-01", "1 Mar 2026", "tp"),
        ("date", "2026-03-01", "2026-03-02", "wrong"),
        ("enum", "Port Klang", "PORT KLANG", "tp"),
        ("enum", "Port Klang", "Penang", "wrong"),
        ("text", "", None, "tn"),
        ("text", None, "  ", "tn"),
        ("text", "", "x", "spurious"),
        ("text", "x", None, "miss"),
        ("text", "x", "", "miss"),
        ("text", "null", None, "miss"),
        ("number", "12", "twelve", "wrong"),
    ],
)
def test_a_pair_of_values_has_one_outcome(compare, gold, predicted, expected):
    assert outcome(leaf(compare=compare), gold, predicted) == expected


def test_day_first_decides_ambiguous_dates():
    assert outcome(leaf(compare="date", day_first=True), "03/04/2026", "2026-04-03") == "tp"
    assert outcome(leaf(compare="date"), "03/04/2026", "2026-03-04") == "tp"


def gold_document(rows=2):
    return SCHEMA.ordered(
        {
            "consignee_name": "ACME",
            "bl_number": "BL1",
            "vessel_name": None,
            "port_of_discharge": "Penang",
            "detention_free_days": 7,
            "containers": [
                {"container_number": f"ABCU123456{i}", "container_size": "40", "container_type": "HC"}
                for i in range(rows)
            ],
        }
    )


def table_of(*scores, schema=SCHEMA):
    table = ScoreTable(schema)
    for score in scores:
        table.add(score)
    return table


def scored(gold, predicted, status="ok"):
    return table_of(score_document(SCHEMA, "d", gold, predicted, status)).summary()


def test_a_perfect_prediction_scores_one_everywhere():
    result = scored(gold_document(), copy.deepcopy(gold_document()))
    for name in (
        "micro_f1",
        "macro_f1",
        "header_macro_f1",
        "row_precision",
        "row_recall",
        "row_f1",
        "cell_f1",
        "document_exact",
        "row_set_exact",
    ):
        assert result[name] == 1.0


def test_one_wrong_header_value():
    predicted = gold_document() | {"bl_number": "BL2"}
    # 4 header values and 6 cells in gold; 9 right, 1 wrong: F1 = 18 / (18 + 2).
    assert scored(gold_document(), predicted)["micro_f1"] == pytest.approx(0.9)
    assert scored(gold_document(), predicted)["document_exact"] == 0


def test_a_missing_row_is_missed_cells():
    result = scored(gold_document(2), gold_document(1))
    assert (result["row_precision"], result["row_recall"]) == (1.0, 0.5)
    assert result["cell_f1"] == pytest.approx(2 * 3 / (2 * 3 + 3))
    assert result["row_count_error"] == 1


def test_a_duplicated_row_is_spurious():
    predicted = gold_document(1)
    predicted["containers"].append(dict(predicted["containers"][0]))
    result = scored(gold_document(1), predicted)
    assert (result["row_precision"], result["row_recall"]) == (0.5, 1.0)
    assert result["document_exact"] == 0


def test_a_row_with_a_wrong_key_is_not_right_but_its_cells_count():
    predicted = gold_document(1)
    predicted["containers"][0]["container_number"] = "ABCU1234569"
    result = scored(gold_document(1), predicted)
    assert result["row_f1"] == 0
    assert result["cell_f1"] == pytest.approx(2 / 3)  # 2 right, 1 wrong


def test_a_row_with_another_key_is_another_row_however_its_cells_agree():
    predicted = gold_document(1)
    predicted["containers"][0]["container_number"] = "ZZZU7777777"
    result = scored(gold_document(1), predicted)
    assert (result["cell_f1"], result["row_f1"]) == (0, 0)
    predicted["containers"][0]["container_number"] = None
    # Without a key the row may still be the one: size and type are right, the key is missed.
    assert scored(gold_document(1), predicted)["cell_f1"] == pytest.approx(2 * 2 / (2 * 2 + 1))


def test_the_order_of_rows_and_keys_changes_nothing():
    gold, rng = gold_document(6), random.Random(0)
    predicted = gold_document(5)
    predicted["containers"][2]["container_size"] = "20"
    expected = scored(gold, predicted)
    for _ in range(20):
        rng.shuffle(predicted["containers"])
        shuffled = dict(rng.sample(list(predicted.items()), len(predicted)))
        assert scored(gold, shuffled) == expected


@pytest.mark.parametrize("status", ["truncated", "not_json", "schema_error", "http_error", "missing", "unreadable"])
def test_a_failed_answer_counts_as_all_missed(status):
    score = score_document(SCHEMA, "d", gold_document(), gold_document(), status)
    counts = {name: dict(c) for name, c in score.fields.items()}
    assert all(set(c) <= {"miss", "tn"} for c in counts.values())
    result = table_of(score).summary()
    assert (result["micro_f1"], result["row_recall"], result["documents"], result["valid"]) == (0, 0, 1, 0)


def test_an_empty_list_found_empty_is_right():
    result = scored(gold_document(0), gold_document(0))
    assert (result["row_f1"], result["document_exact"]) == (1.0, 1.0)


def test_rows_found_where_there_are_none_have_no_precision():
    assert scored(gold_document(0), gold_document(1))["row_precision"] == 0


def test_fields_are_listed_costliest_first():
    wrong = gold_document() | {"bl_number": "X", "consignee_name": "Y"}
    half = gold_document() | {"bl_number": "X"}
    scores = [score_document(SCHEMA, str(i), gold_document(), p, "ok") for i, p in enumerate((wrong, half))]
    table = table_of(*scores).field_table()
    assert [(line["field"], line["errors"]) for line in table[:2]] == [("bl_number", 2), ("consignee_name", 1)]


def test_intervals_hold_the_value_and_are_the_same_for_the_same_seed():
    rng = random.Random(1)
    scores = [
        score_document(SCHEMA, str(i), gold_document(), gold_document() if rng.random() < 0.7 else {}, "ok")
        for i in range(60)
    ]
    table = table_of(*scores)
    found = table.intervals(seed=3)
    assert found == table.intervals(seed=3)
    low, high = found["document_exact"]
    assert low < table.summary()["document_exact"] < high


def test_a_schema_without_lists_has_no_row_scores():
    receipt = TargetSchema.load(REPOSITORY / "schemas/receipt.schema.json")
    result = table_of(score_document(receipt, "d", {"company": "A"}, {"company": "B"}, "ok"), schema=receipt).summary()
    assert result["row_f1"] is None and result["cell_f1"] is None and result["micro_f1"] == 0


# --- properties -------------------------------------------------------------------------------------------------------

RATED = (
    "micro_f1",
    "macro_f1",
    "header_macro_f1",
    "row_precision",
    "row_recall",
    "row_f1",
    "cell_f1",
    "document_exact",
    "row_set_exact",
)
texts = strategies.sampled_from(["ACME", "acme ltd", "Penang", "7", "x", ""])
rows_strategy = strategies.lists(
    strategies.fixed_dictionaries(
        {
            "container_number": strategies.sampled_from([f"ABCU123456{n}" for n in range(8)] + [None]),
            "container_size": strategies.sampled_from(["20", "40", None]),
            "container_type": strategies.sampled_from(["GP", "HC"]),
        }
    ),
    max_size=6,
)
answers = strategies.fixed_dictionaries(
    {
        "consignee_name": texts,
        "bl_number": texts,
        "detention_free_days": strategies.sampled_from([0, 7, None]),
        "containers": rows_strategy,
    }
).map(SCHEMA.ordered)


@given(answers)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_any_document_predicted_perfectly_scores_one_everywhere(gold):
    result = scored(gold, copy.deepcopy(gold))
    assert all(result[name] == 1.0 for name in RATED) and result["row_count_error"] == 0


@given(answers, answers, strategies.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_permuting_keys_and_rows_changes_nothing_and_swapping_sides_swaps_precision_and_recall(gold, predicted, draw):
    result = scored(gold, predicted)
    shuffled = dict(draw.sample(list(predicted.items()), len(predicted)))
    shuffled["containers"] = draw.sample(predicted["containers"], len(predicted["containers"]))
    assert scored(gold, shuffled) == result
    back = scored(predicted, gold)
    assert back["micro_f1"] == pytest.approx(result["micro_f1"])
    assert (back["micro_precision"], back["row_precision"]) == pytest.approx(
        (result["micro_recall"], result["row_recall"])
    )


@given(answers, answers)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_every_gold_value_is_counted_once(gold, predicted):
    score = score_document(SCHEMA, "d", gold, predicted, "ok")
    failed = score_document(SCHEMA, "d", gold, predicted, "truncated")
    for name, counts in score.fields.items():
        there = counts["tp"] + counts["wrong"] + counts["miss"]
        assert there == failed.fields[name]["miss"] and not failed.fields[name]["tp"]


# --- intervals and differences ----------------------------------------------------------------------------------------


def drawn_table(draw, count, right):
    """Documents of one to four rows, each value right with probability `right`."""
    table = ScoreTable(SCHEMA)
    for number in range(count):
        gold = gold_document(draw.randint(1, 4))
        answer = copy.deepcopy(gold)
        quality = min(1.0, max(0.0, draw.gauss(right, 0.15)))  # documents differ: their values fail together
        for field in ("consignee_name", "bl_number", "port_of_discharge"):
            if draw.random() > quality:
                answer[field] = "Klang" if field == "port_of_discharge" else "WRONG"
        for row in answer["containers"]:
            if draw.random() > quality:
                row["container_size"] = "20"
        table.add(score_document(SCHEMA, str(number), gold, answer, "ok"))
    return table


def test_intervals_cover_the_true_value_as_often_as_they_say():
    """400 samples of 120 documents of one population: its value lies in 93 to 97 of 100 of the 95 % intervals."""
    draw = random.Random(11)
    population = drawn_table(draw, 6000, 0.85)
    truth = population.summary()
    generator = numpy.random.default_rng(1)
    held = dict.fromkeys(("micro_f1", "document_exact", "macro_f1"), 0)
    for trial in range(400):
        sample = ScoreTable(SCHEMA)
        picks = generator.choice(6000, 120, replace=False)
        sample.ids, sample.states = [str(p) for p in picks], ["ok"] * 120
        sample._counts.frombytes(population.table[picks].tobytes())
        for name, (low, high) in sample.intervals(seed=trial, samples=400).items():
            if name in held:
                held[name] += low <= truth[name] <= high
    shares = {name: count / 400 for name, count in held.items()}
    print(shares)
    assert all(0.92 <= share <= 0.975 for share in shares.values()), shares


def test_differences_are_paired_and_have_a_verdict():
    draw = random.Random(4)
    worse, better = drawn_table(draw, 150, 0.7), drawn_table(draw, 150, 0.9)
    found = compared(better, worse, seed=0)["micro_f1"]
    assert found["verdict"] == "better" and 0 < found["interval"][0] < found["difference"] < found["interval"][1]
    assert compared(worse, better, seed=0)["micro_f1"]["verdict"] == "worse"
    same = compared(better, better, seed=0)["micro_f1"]
    assert (same["interval"], same["verdict"]) == ((0, 0), "no difference shown")
    # One document fewer right: two independent intervals overlap widely, the pair tells them apart only with luck.
    gold, answer = gold_document(), gold_document() | {"bl_number": "X"}
    one = table_of(*(score_document(SCHEMA, str(n), gold, gold, "ok") for n in range(40)))
    other = table_of(*(score_document(SCHEMA, str(n), gold, answer if n == 3 else gold, "ok") for n in range(40)))
    assert compared(one, other, seed=0)["document_exact"]["verdict"] == "no difference shown"
    with pytest.raises(ValueError, match="different documents"):
        compared(worse, table_of(score_document(SCHEMA, "other", gold, gold, "ok")), seed=0)


def test_the_funnel_counts_what_is_left_after_each_gate():
    gold = gold_document()
    states = ["ok"] * 5 + ["truncated"] * 2 + ["not_json", "schema_error", "http_error", "missing"]
    table = ScoreTable(SCHEMA)
    for number, state in enumerate(states):
        table.add(score_document(SCHEMA, str(number), gold, gold, state), checked=number != 0)
    assert table.funnel() == {"documents": 11, "answered": 9, "finished": 7, "JSON": 6, "schema": 5, "checks": 4}


def documented_examples():
    text = (REPOSITORY / "docs/EVALUATION.md").read_text(encoding="utf-8").split("<!-- examples -->")[1]
    lines = [line.strip("| ").split(" | ") for line in text.split("\n\n")[0].splitlines() if line.startswith("| ")]
    return lines[1:]


@pytest.mark.parametrize("line", documented_examples(), ids=lambda line: line[1][:30])
def test_the_documented_examples_are_true(line):
    def document(words):
        value, rows = {}, []
        for word in words.split(", "):
            if word.startswith("C"):
                rows.append(
                    {"container_number": f"ABCU00{word[1] * 4}0", "container_size": "40", "container_type": "HC"}
                )
            elif word != "nothing":
                field, text = word.split(" ")
                value[field] = text
        return SCHEMA.ordered(value | {"containers": rows})

    gold, predicted, results = line
    found = scored(document(gold), document(gold if predicted == "the same" else predicted))
    for result in results.split(", "):
        metric, value = result.split(" ")
        top, _, bottom = value.partition("/")
        assert found[metric] == pytest.approx(float(top) / float(bottom or 1)), result


def test_buckets_stand_in_the_order_of_their_numbers():
    table = ScoreTable(SCHEMA)
    for number, pages in enumerate((10, 2, 1, 12)):
        score = score_document(SCHEMA, str(number), {}, {}, "ok")
        score.pages = pages
        table.add(score, groups=[f"year {2030 - pages}"])
    names = [name for name in table.buckets() if name.startswith("pages")]
    assert names == ["pages 1", "pages 2", "pages 10", "pages 12"]
