"""What the review page makes of predictions and of typed text: its script without the page, in Node or Chromium."""

import json
import random
from pathlib import Path

import pytest
from conftest import REPOSITORY
from review_cases import NO_SCRIPT_ENGINE, any_answer, closed, in_page_script, many, nested_schema, page_data, text

from toolkit.console import StageError
from toolkit.reports.review_page import ReviewDocument, write_review
from toolkit.schema.target import TargetSchema

pytestmark = pytest.mark.skipif(NO_SCRIPT_ENGINE is not None, reason=str(NO_SCRIPT_ENGINE))

SAVE = """const { form, column, documents } = argument;
return documents.map((d) => jsonText(labelsOf(form, column, d.source, initialState(d, form))));"""


def page_of(folder: Path, schema: TargetSchema, answers: list[dict]) -> dict:
    """The data of a page with a document for each answer."""
    documents = [
        ReviewDocument(f"d{number}", f"d{number}.pdf", answer, [], []) for number, answer in enumerate(answers)
    ]
    write_review(folder / "review.html", schema, documents, folder)
    return page_data(folder / "review.html")


def saved(folder: Path, schema: TargetSchema, answers: list[dict]) -> list[dict]:
    """The labels that the page saves of unedited predictions."""
    return [json.loads(line) for line in in_page_script(folder, SAVE, page_of(folder, schema, answers))]


# The schema of a training record is no target schema.
TARGETS = [
    path.name
    for path in (REPOSITORY / "schemas").glob("*.schema.json")
    if not path.name.startswith(("qwen_vl", "prediction_line"))
]


@pytest.mark.parametrize("name", [*sorted(TARGETS), "nested"])
def test_labels_saved_without_edits_are_the_predictions(tmp_path, name):
    schema = nested_schema() if name == "nested" else TargetSchema.load(REPOSITORY / "schemas" / name)
    rng = random.Random(7)
    answers = [any_answer(schema.raw, rng) for _ in range(20)]
    labels = saved(tmp_path, schema, answers)
    # As text: 1 and true, 12.0 and 12 are equal to Python, and different labels.
    for number, (label, answer) in enumerate(zip(labels, answers, strict=True)):
        assert json.dumps(label, sort_keys=True) == json.dumps({"Filename": f"d{number}.pdf", **answer}, sort_keys=True)


def test_a_document_without_an_answer_is_saved_in_the_shape_of_the_schema(tmp_path):
    schema = nested_schema()
    assert saved(tmp_path, schema, [{}]) == [{"Filename": "d0.pdf", **schema.ordered({})}]


def test_missing_fields_of_rows_are_saved_as_null(tmp_path):
    schema = TargetSchema.parse(closed(lines=many(closed(a=text(), b=closed(c=text())))), "s")
    assert saved(tmp_path, schema, [{"lines": [{"a": "x"}]}])[0]["lines"] == [{"a": "x", "b": {"c": None}}]


def test_what_the_form_cannot_show_passes_through_unchanged(tmp_path):
    schema = nested_schema()
    answer = schema.ordered({}) | {
        "unknown": {"deep": [1, {"__proto__": 2}]},
        "seller": "only text",
        "party": "no list",
        "codes": None,
        "total": {"amount": 3},
        "rows": ["no object", None, {"more": True}],
        "goods": None,
    }
    label = saved(tmp_path, schema, [answer])[0]
    assert label.pop("Filename") == "d0.pdf"
    assert label["rows"][2].pop("more") is True
    assert {**label, "rows": label["rows"][:2]} == {**answer, "rows": answer["rows"][:2]}


def test_the_form_names_what_it_does_not_show(tmp_path):
    schema = nested_schema()
    answer = {"unknown": {"deep": [1]}, "seller": "only text", "party": "no list", "rows": ["no object"], "total": []}
    data = page_of(tmp_path, schema, [answer])
    body = "return notShown(argument.documents[0].answer, argument.form).map(([path]) => path);"
    expected = [["unknown"], ["seller"], ["party"], ["rows", 0], ["total"]]
    assert in_page_script(tmp_path, body, data) == expected


@pytest.mark.parametrize(
    ("field", "typed", "predicted", "expected"),
    [
        ("total", "12.50", None, "12.50"),
        ("total", " 007 ", None, "7"),
        ("total", "12345678901234567890.5", None, "12345678901234567890.5"),
        ("total", "12,50", None, '"12,50"'),
        ("total", "1e999", None, '"1e999"'),
        ("total", "", 5, "null"),
        ("count", "12", None, "12"),
        ("count", "12.0", None, "12"),
        ("seller.name", "12", None, '"12"'),
        ("seller.name", "true", None, '"true"'),
        ("seller.name", " padded ", " padded ", '" padded "'),
        ("seller.name", "a\nb", "a\r\nb", '"a\\r\\nb"'),
        ("seller.name", "", "", '""'),
        ("either", "12", None, '"12"'),
        ("either", "13", 12, "13"),
        ("either", "13", "12", '"13"'),
    ],
)
def test_typed_text_becomes_a_value_of_the_fields_type(tmp_path, field, typed, predicted, expected):
    schema = nested_schema()
    data = page_of(tmp_path, schema, [{}])
    before = {"number": str(predicted)} if isinstance(predicted, int) else predicted
    body = """const field = argument.form.header.find((f) => f.name === argument.field);
    return jsonText(typedValue(field, argument.typed, argument.before));"""
    argument = {"form": data["form"], "field": field, "typed": typed, "before": before}
    assert in_page_script(tmp_path, body, argument) == expected


def test_values_that_do_not_fit_the_schema_are_named(tmp_path):
    answer = {"total": "12,50", "count": 1.5, "status": "lost", "paid": "yes", "party": [3], "seller": {"name": "fits"}}
    data = page_of(tmp_path, nested_schema(), [answer])
    body = "const d = argument.documents[0]; return misfits(argument.form, d.id, initialState(d, argument.form));"
    assert in_page_script(tmp_path, body, data) == [
        ["d0", "paid", "not one of the choices"],
        ["d0", "total", "not a number"],
        ["d0", "count", "not a whole number"],
        ["d0", "status", "not one of the choices"],
        ["d0", "party[0]", "not a string"],
    ]


def test_rows_that_were_added_and_left_empty_are_not_saved(tmp_path):
    schema = TargetSchema.parse(closed(party=many(text()), lines=many(closed(a=text()))), "s")
    data = page_of(tmp_path, schema, [{"party": ["A", None], "lines": [{"a": None}]}])
    body = """const d = argument.documents[0]; let state = initialState(d, argument.form);
    for (const list of [0, 0, 1]) state = withRowAdded(state, argument.form, list);
    state = { ...state, answer: withValue(state.answer, ["party", 3], "B") };
    state = withRowRemoved(state, argument.form, 0, 0);
    return jsonText(labelsOf(argument.form, "File", d.source, state));"""
    label = json.loads(in_page_script(tmp_path, body, data))
    assert label == {"File": "d0.pdf", "party": [None, "B"], "lines": [{"a": None}]}


def test_the_run_changes_with_predictions_schema_and_documents_alone(tmp_path):
    schema = TargetSchema.parse(closed(a=text()), "s")

    def run(schema=schema, answer="x", source="d.pdf", reasons=(), pages=(), out="a.html"):
        one = ReviewDocument("d", source, {"a": answer}, list(reasons), list(pages))
        write_review(tmp_path / out, schema, [one], tmp_path)
        return page_data(tmp_path / out)["run"]

    assert run() == run(reasons=[(1, "look")], pages=["p.png"], out="b.html")
    other = TargetSchema.parse(closed(a=text(), b=text()), "s")
    assert len({run(), run(answer="y"), run(schema=other), run(source="e.pdf")}) == 4


def test_a_field_with_the_name_of_the_document_column_is_refused(tmp_path):
    schema = TargetSchema.parse(closed(file_name=text()), "s.json")
    with pytest.raises(StageError, match=r"s\.json: the field 'file_name' has the name of the column"):
        write_review(tmp_path / "r.html", schema, [], tmp_path)


def test_a_stray_value_with_the_name_of_the_document_column_is_named_and_not_saved(tmp_path):
    schema = TargetSchema.parse(closed(a=text()), "s")
    data = page_of(tmp_path, schema, [{"a": "x", "file_name": "other.pdf"}])
    assert "'other.pdf' is not saved" in data["documents"][0]["reasons"][0]
    assert saved(tmp_path, schema, [{"a": "x", "file_name": "other.pdf"}]) == [{"Filename": "d0.pdf", "a": "x"}]


def test_a_number_that_json_lacks_is_refused(tmp_path):
    schema = TargetSchema.parse(closed(a={"type": "number"}), "s")
    with pytest.raises(StageError, match="d0: the prediction holds a number that JSON cannot write"):
        page_of(tmp_path, schema, [{"a": float("inf")}])


def test_a_schemas_own_document_column_is_used(tmp_path):
    raw = closed(a=text()) | {"x-extract": {"document_column": ["Scan", "File"]}}
    assert saved(tmp_path, TargetSchema.parse(raw, "s"), [{"a": "x"}]) == [{"Scan": "d0.pdf", "a": "x"}]
