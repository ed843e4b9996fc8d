"""The definitions of scoring, case by case; the expected numbers are worked out by hand."""

import copy
import random

import pytest
from conftest import REPOSITORY

from toolkit.score_table import ScoreTable
from toolkit.scoring import as_number, outcome, score_document
from toolkit.target_schema import Leaf, TargetSchema

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


@pytest.mark.parametrize(
    ("text", "number"),
    [("1,000", "1000"), ("1.000", "1.000"), ("1.000.000", "1000000"), ("RM 12.5", "12.5"), ("-3", "-3")],
)
def test_separators_of_numbers(text, number):
    assert str(as_number(text)) == number


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
