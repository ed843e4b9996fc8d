"""A field's numbers are read in the one way that fits all its values; what fits none, or two, is named, not guessed."""

import json

import pytest
from conftest import png

from toolkit.console import StageError
from toolkit.evaluation.scoring import outcome, score_document
from toolkit.records.label_table import coerce
from toolkit.schema.target import Leaf, TargetSchema

STRING = {"type": ["string", "null"], "maxLength": 30}
NUMBER = {"type": ["number", "null"]}


def schema_of(fields, **root):
    return {"type": "object", "additionalProperties": False, "properties": fields} | root


def csv_of(*rows):
    """Rows of `file;value...`, quoted with a semicolon between, as a German export writes them."""
    return "\n".join(rows) + "\n"


@pytest.fixture
def build(run, workspace):
    """`build(table, schema, *flags)`: `(outcome, {document: answer}, {document: problems}, the dataset's schema)`."""

    def call(table, schema, *flags):
        (workspace / "labels.csv").write_text(table, encoding="utf-8")
        (workspace / "s.json").write_text(json.dumps(schema))
        for number in range(1, 10):
            png(workspace / f"img/d{number}.png")
        done = run(
            "build_jsonl_from_results", "--results", "labels.csv", "--schema", "s.json", "--images-dir", "img", *flags
        )
        folder = workspace / "data"
        records = [json.loads(line) for line in read(folder / "train.jsonl")]
        answers = {r["id"]: json.loads(r["messages"][-1]["content"][0]["text"]) for r in records}
        problems = {p["document"]: p["problems"] for p in map(json.loads, read(folder / "train.problems.jsonl"))}
        dataset = json.loads("".join(read(folder / "train.schema.json")) or "null")
        return done, answers, problems, dataset

    return call


def read(path):
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def test_one_value_with_a_decimal_comma_decides_the_column(build):
    table = csv_of("Filename;weight;volume", "d1.pdf;26.460;1,000", "d2.pdf;24.800,50;0,125", "d3.pdf;1.000;30,5")
    _, answers, problems, _ = build(table, schema_of({"weight": NUMBER, "volume": NUMBER}))
    assert problems == {}
    assert answers == {
        "d1.pdf": {"weight": 26460, "volume": 1},
        "d2.pdf": {"weight": 24800.5, "volume": 0.125},
        "d3.pdf": {"weight": 1000, "volume": 30.5},
    }


def test_one_value_with_a_decimal_point_decides_the_column(build):
    table = 'Filename,weight\nd1.pdf,"1,000"\nd2.pdf,26.46\nd3.pdf,26.460\n'
    _, answers, _, _ = build(table, schema_of({"weight": NUMBER}))
    assert [answer["weight"] for answer in answers.values()] == [1000, 26.46, 26.46]


def test_rows_of_lists_belong_to_the_column_of_all_documents(build):
    schema = schema_of(
        {
            "lines": {
                "type": "array",
                "maxItems": 9,
                "items": {"type": "object", "additionalProperties": False, "properties": {"amount": NUMBER}},
            },
        }
    )
    table = csv_of("Filename;amount", "d1.pdf;1.000", "d1.pdf;2.500", "d2.pdf;7,5")
    _, answers, _, _ = build(table, schema)
    assert answers["d1.pdf"]["lines"] == [{"amount": 1000}, {"amount": 2500}]


def test_a_column_of_open_values_only_is_a_problem_of_each_document(build):
    table = csv_of("Filename;weight", "d1.pdf;26.460", "d2.pdf;1.000", "d3.pdf;12")
    done, answers, problems, _ = build(table, schema_of({"weight": NUMBER}))
    assert done.code == 1 and answers == {"d3.pdf": {"weight": 12}}
    assert set(problems) == {"d1.pdf", "d2.pdf"}
    sentence = problems["d1.pdf"][0]
    assert "'26.460' is two numbers: 26.460 with a decimal point, 26460 with a decimal comma" in sentence
    assert '"decimal"' in sentence and "x-extract" in sentence and "--decimal" in sentence


def stated_fields():
    return {
        "leaf": (schema_of({"weight": NUMBER | {"x-extract": {"decimal": "comma"}}}), ()),
        "root": (schema_of({"weight": NUMBER}, **{"x-extract": {"decimal": "comma"}}), ()),
        "flag": (schema_of({"weight": NUMBER}), ("--decimal", "comma")),
        "flag before root": (
            schema_of({"weight": NUMBER}, **{"x-extract": {"decimal": "point"}}),
            ("--decimal", "comma"),
        ),
        "leaf before flag": (
            schema_of({"weight": NUMBER | {"x-extract": {"decimal": "comma"}}}),
            ("--decimal", "point"),
        ),
    }


@pytest.mark.parametrize("place", stated_fields())
def test_what_is_stated_decides(build, place):
    schema, flags = stated_fields()[place]
    table = csv_of("Filename;weight", "d1.pdf;26.460", "d2.pdf;1.000", "d3.pdf;26.46")
    done, answers, problems, _ = build(table, schema, *flags)
    assert answers == {"d1.pdf": {"weight": 26460}, "d2.pdf": {"weight": 1000}}
    assert (
        done.code == 1
        and "needs a decimal point, but the field is stated to have a decimal comma" in problems["d3.pdf"][0]
    )


def test_values_that_need_different_signs_are_problems_that_show_both(build):
    table = csv_of("Filename;weight", 'd1.pdf;"1.234,50"', 'd2.pdf;"1,234.50"', "d3.pdf;1.000", "d4.pdf;7")
    done, answers, problems, _ = build(table, schema_of({"weight": NUMBER}))
    assert done.code == 1 and answers == {"d4.pdf": {"weight": 7}}
    assert set(problems) == {"d1.pdf", "d2.pdf", "d3.pdf"}
    assert all("'1.234,50'" in found[0] and "'1,234.50'" in found[0] for found in problems.values())


def test_json_numbers_are_never_open_and_decide_nothing(run, workspace):
    rows = [
        {"Filename": "d1.pdf", "weight": 26.46},
        {"Filename": "d2.pdf", "weight": 1000},
        {"Filename": "d3.pdf", "weight": "1,000"},
    ]
    (workspace / "labels.json").write_text(json.dumps(rows))
    (workspace / "s.json").write_text(json.dumps(schema_of({"weight": NUMBER})))
    for number in (1, 2, 3):
        png(workspace / f"img/d{number}.png")
    done = run(
        "build_jsonl_from_results", "--results", "labels.json", "--schema", "s.json", "--images-dir", "img", "--json"
    )
    assert (done.code, done.json["records"], done.json["documents_with_problems"]) == (1, 2, 1)


@pytest.mark.parametrize("text", ["12.50.", "2 x 40", "a7", "12.5.3 kg", "5²", "7 days"])
def test_a_label_that_is_no_number_is_a_problem(build, text):
    _, answers, problems, _ = build(csv_of("Filename;n", f"d1.pdf;{text}", "d2.pdf;7"), schema_of({"n": NUMBER}))
    assert answers == {"d2.pdf": {"n": 7}} and f"{text!r} is no number" in problems["d1.pdf"][0]


@pytest.mark.parametrize(
    ("text", "value"),
    [("\u22125", -5), ("\u20135", -5), ("Rs. 500", 500), ("12.5 m³", 12.5), ("1.234,50-", -1234.5), ("٥", 5)],
)
def test_a_label_is_read_with_its_sign_and_unit(text, value):
    assert coerce(text, Leaf(("n",), NUMBER)) == value


def test_the_units_that_a_number_cannot_hold_are_said(build):
    table = csv_of("Filename;n;total", "d1.pdf;5 kg;USD 5", "d2.pdf;7 KGS;EUR 7")
    done, answers, _, _ = build(table, schema_of({"n": NUMBER, "total": NUMBER}))
    assert [answer["n"] for answer in answers.values()] == [5, 7]
    assert "n: numbers hold no unit; left out beside them: kg (2)" in done.err
    assert "left out beside them: USD (1), EUR (1)" in done.err


def test_two_units_of_one_dimension_in_a_number_field_are_problems_that_show_both(build):
    _, answers, problems, _ = build(
        csv_of("Filename;n", "d1.pdf;5 kg", "d2.pdf;5 t", "d3.pdf;3"), schema_of({"n": NUMBER})
    )
    assert answers == {"d3.pdf": {"n": 3}} and set(problems) == {"d1.pdf", "d2.pdf"}
    assert all("'5 kg'" in found[0] and "'5 t'" in found[0] for found in problems.values())


TEXT_NUMBER = STRING | {"x-extract": {"compare": "number"}}


def test_the_dataset_schema_keeps_what_was_decided_for_texts_and_scores_read_them_so(build, run, workspace):
    table = csv_of("Filename;weight", "d1.pdf;26.460", 'd2.pdf;"1,5"', "d3.pdf;0,125")
    _, answers, _, dataset = build(table, schema_of({"weight": TEXT_NUMBER}))
    assert answers["d1.pdf"] == {"weight": "26.460"}  # as printed
    assert dataset["properties"]["weight"]["x-extract"] == {"compare": "number", "decimal": "comma"}
    said = {"d1.pdf": "26.46", "d2.pdf": "1.5", "d3.pdf": "125"}
    lines = [{"id": i, "status": "ok", "prediction": {"weight": text}} for i, text in said.items()]
    (workspace / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = run("evaluate_predictions", "--pred", "p.jsonl", "--gold", "data/train.jsonl", "--json").json
    assert scores["micro_f1"] == pytest.approx(1 / 3)  # 1.5 is 1,5; 26.46 is not 26.460 kg, 125 is not 0,125


def test_open_texts_are_kept_as_printed_and_said(build):
    done, answers, problems, dataset = build(csv_of("Filename;w", "d1.pdf;1.000"), schema_of({"w": TEXT_NUMBER}))
    assert answers == {"d1.pdf": {"w": "1.000"}} and not problems
    assert "decimal" not in dataset["properties"]["w"]["x-extract"]
    assert "w: texts like '1.000' are kept, but are two numbers to the scores" in done.err


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        (NUMBER | {"x-extract": {"decimal": "dot"}}, '"decimal": "dot" is unknown; use point or comma'),
        (NUMBER | {"x-extract": {"decimal": ["comma"]}}, "is unknown; use point or comma"),
        (STRING | {"x-extract": {"decimal": "comma"}}, "this field is compared as text"),
    ],
)
def test_a_schema_that_states_no_decimal_sign_is_refused(field, sentence):
    with pytest.raises(StageError, match=r"\$\.n: ") as refused:
        TargetSchema.parse(schema_of({"n": field}), "s.json")
    assert sentence in str(refused.value)
    with pytest.raises(StageError, match=r"s.json: \$: .*is unknown"):
        TargetSchema.parse(schema_of({"n": NUMBER}, **{"x-extract": {"decimal": ","}}), "s.json")


def number_leaf(decimal=None):
    return Leaf(("n",), STRING | {"x-extract": {"compare": "number"} | ({"decimal": decimal} if decimal else {})})


@pytest.mark.parametrize(
    ("gold", "predicted", "decimal", "expected"),
    [
        ("0,125", "125", None, "wrong"),
        ("0,125", 0.125, None, "tp"),
        ("5 kg", "5 t", None, "wrong"),
        ("5 kg", "5 KGS", None, "tp"),
        ("5 kg", "5", None, "tp"),
        ("USD 5", "EUR 5", None, "wrong"),
        ("USD 5", "$5", None, "tp"),
        ("EUR 5", "$5", None, "wrong"),
        ("USD 5", 5, None, "tp"),
        ("2 x 40", "240", None, "wrong"),
        ("-12.50", "12.50", None, "wrong"),
        ("\u221212.50", -12.5, None, "tp"),
        ("12.50-", "(12.50)", None, "tp"),
        ("12.50.", "1250", None, "wrong"),
        ("12.50.", "12.50", None, "tp"),  # no number: the texts agree
        # Nothing states how to read 1,000: it is whatever a convention common to both makes it.
        ("1,000", "1000", None, "tp"),
        ("1,000", "1,000.00", None, "tp"),
        ("1,000", "1.000,00", None, "wrong"),
        ("1,000", "1.000", None, "wrong"),
        ("1,000", "1000", "point", "tp"),
        ("1,000", "1000", "comma", "wrong"),
        ("1,000", 1, "comma", "tp"),
        ("26.460", "26460", "comma", "tp"),
        ("26.460", "26.46", "comma", "wrong"),
        ("1.234,50", "1,234.50", "comma", "tp"),  # each can be read in one way only
        ("1.234,50", "1,234.50", None, "tp"),
    ],
)
def test_numbers_agree_in_value_sign_and_unit_under_one_convention(gold, predicted, decimal, expected):
    assert outcome(number_leaf(decimal), gold, predicted) == expected
    assert outcome(number_leaf(decimal), predicted, gold) == expected


@pytest.mark.parametrize(
    ("compare", "gold", "predicted"), [("text", "-12.50", "12.50"), ("id", "京B12345", "粤B12345")]
)
def test_signs_of_texts_and_letters_of_ids_count(compare, gold, predicted):
    assert outcome(Leaf(("f",), STRING | {"x-extract": {"compare": compare}}), gold, predicted) == "wrong"


def test_rows_pair_by_a_number_key_though_only_one_side_prints_its_unit():
    row = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"amount": STRING | {"x-extract": {"compare": "number", "key": True}}, "name": STRING},
    }
    schema = TargetSchema.parse(schema_of({"rows": {"type": "array", "maxItems": 9, "items": row}}), "s.json")
    gold = {"rows": [{"amount": "7 kg", "name": "a"}, {"amount": "1,234.5 kg", "name": "b"}]}
    said = {"rows": [{"amount": "1234.5", "name": "b"}, {"amount": "7", "name": "a"}]}
    score = score_document(schema, "d", gold, said, "ok")
    assert score.rows_right == 2 and score.exact


def hosted(run, workspace, answers, *flags):
    fields = {"weight": NUMBER, "net": TEXT_NUMBER}
    (workspace / "s.json").write_text(json.dumps(schema_of(fields)))
    lines = [{"id": name, "gold": {"weight": 26460, "net": "1"}, "meta": {"schema": "s.json"}} for name in answers]
    (workspace / "gold.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (workspace / "in.jsonl").write_text(
        "".join(json.dumps({"file": n, "answer": a}) + "\n" for n, a in answers.items())
    )
    run("import_predictions", "--in", "in.jsonl", "--gold", "gold.jsonl", "--out", "p.jsonl", *flags)
    return {line["id"]: line for line in map(json.loads, read(workspace / "p.jsonl"))}


def test_imported_answers_are_read_as_all_of_them_are_written(run, workspace):
    lines = hosted(run, workspace, {"a": {"weight": "26.460"}, "b": {"weight": "7,5 kg"}, "c": {"weight": 3.25}})
    assert [line["prediction"]["weight"] for line in lines.values()] == [26460, 7.5, 3.25]
    assert not any("warnings" in line for line in lines.values())


def test_imported_answers_that_stay_open_are_kept_and_named_unless_the_command_line_decides(run, workspace):
    line = hosted(run, workspace, {"a": {"weight": "26.460"}})["a"]
    assert line["prediction"]["weight"] == "26.460" and "is two numbers" in line["warnings"][0]
    line = hosted(run, workspace, {"a": {"weight": "26.460"}}, "--decimal", "comma")["a"]
    assert line["prediction"]["weight"] == 26460 and "warnings" not in line


def test_evaluation_reads_open_texts_as_the_command_line_says(run, workspace):
    (workspace / "s.json").write_text(json.dumps(schema_of({"net": TEXT_NUMBER})))
    (workspace / "gold.jsonl").write_text(
        json.dumps({"id": "a", "gold": {"net": "1,000"}, "meta": {"schema": "s.json"}}) + "\n"
    )
    (workspace / "p.jsonl").write_text(json.dumps({"id": "a", "status": "ok", "prediction": {"net": "1000"}}) + "\n")
    scores = [
        run("evaluate_predictions", "--pred", "p.jsonl", "--gold", "gold.jsonl", "--decimal", sign, "--json").json
        for sign in ("point", "comma")
    ]
    assert [score["micro_f1"] for score in scores] == [1, 0]
