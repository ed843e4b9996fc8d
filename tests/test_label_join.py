"""The join of labels with a schema: nested answers, flat rows and mixtures keep every value, or say where it went."""

import json
import re
import shutil
import string

import pytest
from conftest import png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TEXT = {"type": ["string", "null"], "maxLength": 60}
NUMBER = {"type": ["number", "null"]}


def leaf(column=None, **more):
    extract = {**({"column": column} if column else {}), **more}
    return {**TEXT, **({"x-extract": extract} if extract else {})}


def closed(**properties):
    return {"type": "object", "additionalProperties": False, "properties": properties}


def rows(item):
    return {"type": "array", "maxItems": 50, "items": item}


CONTRACT = closed(
    number=leaf(compare="id", key=True),
    party=rows(TEXT),
    kinds=rows({"enum": ["sale", "lease", None]}),
    seller=closed(name=TEXT, address=closed(city=TEXT, zip=leaf(compare="id")), contacts=rows(closed(name=TEXT))),
    buyer=closed(name=TEXT, contacts=rows(closed(name=TEXT))),
    lines=rows(closed(text=TEXT, price=closed(amount=NUMBER, currency=TEXT))),
)
ANSWER = {
    "number": "C-1",
    "party": ["A", "B"],
    "kinds": ["sale", "lease"],
    "seller": {
        "name": "S",
        "address": {"city": "Köln", "zip": "50667"},
        "contacts": [{"name": "Ann"}, {"name": "Ben"}],
    },
    "buyer": {"name": "B", "contacts": [{"name": "Cid"}]},
    "lines": [
        {"text": "nuts", "price": {"amount": 2.5, "currency": "EUR"}},
        {"text": "bolts", "price": {"amount": 3, "currency": None}},
    ],
}


@pytest.fixture
def build(run, workspace):
    """`build(table, schema)` builds and returns `(outcome, {document: answer})`."""

    def call(table, schema, *more, name="t.json"):
        text = table if isinstance(table, str) else json.dumps(table)
        (workspace / name).write_text(text, encoding="utf-8")
        (workspace / "s.json").write_text(json.dumps(schema))
        shutil.rmtree(workspace / "img", ignore_errors=True)
        for document in set(re.findall(r'"Filename": "([ab])"|^([ab])[,;]', text, re.M)):
            png(workspace / f"img/{''.join(document)}.png")
        words = ["--results", name, "--schema", "s.json", "--images-dir", "img", "--json"]
        outcome = run("build_jsonl_from_results", *words, *more)
        return outcome, answers(workspace / "data/train.jsonl")

    return call


def answers(path):
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    records = [json.loads(line) for line in lines]
    return {record["id"]: json.loads(record["messages"][-1]["content"][0]["text"]) for record in records}


# --- whole answers --------------------------------------------------------------------------------------------------------


def test_an_answer_shaped_like_the_schema_is_kept_whole(run, build):
    outcome, built = build([{"Filename": "a", **ANSWER}], CONTRACT)
    assert built["a"] == ANSWER, outcome.err
    assert outcome.json["fields_left_out"] == [] and outcome.json["labels_not_used"] == {}
    values = outcome.json["values"]
    assert values == {
        "given": 19,
        "used": 18,
        "not_mapped": 0,
        "with_problems": 0,
        "without_images": 0,
        "beyond_limit": 0,
        "blank": 1,
    }
    assert run("validate_jsonl", "data/train.jsonl").code == 0


def test_a_file_that_is_one_answer_is_one_row(build):
    outcome, built = build(json.dumps({"Filename": "a", "number": "C-1", "party": ["A", "B"]}), CONTRACT)
    assert built == {"a": {"number": "C-1", "party": ["A", "B"]}}, outcome.err


def test_two_lists_of_one_name_read_from_their_own_place(build):
    _, built = build([{"Filename": "a", **ANSWER}], CONTRACT)
    assert [row["name"] for row in built["a"]["seller"]["contacts"]] == ["Ann", "Ben"]
    assert [row["name"] for row in built["a"]["buyer"]["contacts"]] == ["Cid"]


def test_two_lists_of_one_name_never_share_a_top_level_list(build):
    outcome, built = build([{"Filename": "a", "number": "C-1", "contacts": [{"name": "Ann"}]}], CONTRACT)
    assert built["a"] == {"number": "C-1"}
    assert outcome.code == 1 and outcome.json["labels_not_used"] == {"contacts[].name": 1}
    assert "seller.contacts or buyer.contacts" in outcome.err


def test_a_key_inside_the_answer_that_the_schema_lacks_is_a_problem_with_a_count(build, workspace):
    wrong = {"Filename": "a", "number": "C-1", "seller": {"nmae": "S", "address": {"city": "X", "street": "Y"}}}
    wrong["lines"] = [{"text": "nuts", "weight": 1}, {"text": "bolts", "weight": 2}]
    outcome, _ = build([wrong], CONTRACT)
    assert outcome.code == 1 and outcome.json["records"] == 1
    assert outcome.json["labels_not_used"] == {"seller.nmae": 1, "seller.address.street": 1, "lines[].weight": 2}
    assert "did you mean seller.name" in outcome.err and "data/train.labels_not_used.jsonl" in outcome.err
    filed = [json.loads(line) for line in (workspace / "data/train.labels_not_used.jsonl").read_text().splitlines()]
    assert {line["path"]: line["values"] for line in filed} == outcome.json["labels_not_used"]
    assert build([wrong], CONTRACT, "--allow-problems")[0].code == 0
    outcome, _ = build([{"Filename": "a", **ANSWER}], CONTRACT)
    assert outcome.code == 0 and not (workspace / "data/train.labels_not_used.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seller": "ACME"}, "seller: an object is needed, this is a single value"),
        ({"lines": "nuts"}, "lines: a list of objects is needed, this is a single value"),
        ({"lines": ["nuts"]}, "an object is needed, this is a single value"),
        ({"number": ["C-1"]}, "number: a single value is needed, this is a list"),
        ({"number": {"value": "C-1"}}, "number: a single value is needed, this is an object"),
        ({"party": [["A"]]}, "party[]: a single value is needed, this is a list"),
        ({"party": {"name": "A"}}, "party: a list is needed, this is an object"),
        ({"party": "['A', 'B']"}, "party: this starts like a JSON list and is none"),
        ({"kinds": ["sale", "gift"]}, "'gift' is none of sale, lease"),
    ],
)
def test_a_value_of_another_shape_is_a_problem_not_a_loss(build, change, sentence):
    outcome, built = build([{"Filename": "a", **ANSWER, **change}, {"Filename": "b", **ANSWER}], CONTRACT)
    assert outcome.code == 1 and list(built) == ["b"] and sentence in outcome.err, outcome.err
    assert outcome.json["values"]["with_problems"] > 0


def test_one_value_or_one_object_where_a_list_is_wanted_is_a_list_of_one(build):
    _, built = build([{"Filename": "a", "party": "A", "lines": {"text": "nuts"}}], CONTRACT)
    assert built["a"] == {"party": ["A"], "lines": [{"text": "nuts"}]}


def test_sparse_answers_keep_what_any_document_has(build):
    table = [
        {"Filename": "a", "seller": {"name": "S"}, "lines": []},
        {"Filename": "b", "seller": None, "lines": None, "number": ""},
    ]
    outcome, built = build(table, CONTRACT)
    assert built["b"] == {"number": None, "seller": {"name": None}, "lines": []}
    # No document has a row, so nothing says that a column is missing.
    assert "lines" not in outcome.json["fields_left_out"] and "buyer.name" in outcome.json["fields_left_out"]


# --- flat rows ------------------------------------------------------------------------------------------------------------


def test_plain_values_come_from_flat_rows_each_once_in_order(build):
    schema = closed(number=TEXT, party=rows(leaf("Party Name")))
    flat = [{"Filename": "a", "number": "1", "Party Name": name} for name in ("B", "A", "B", "", "C")]
    outcome, built = build(flat, schema)
    assert (outcome.code, built["a"]) == (0, {"number": "1", "party": ["B", "A", "C"]})


def test_a_cell_may_hold_a_json_list_or_object(build):
    table = 'Filename;number;party;lines;seller\na;1;"[""A"", ""B""]";"[{""text"": ""nuts""}]";"{""name"": ""S""}"\n'
    outcome, built = build(table, CONTRACT, name="t.csv")
    assert built["a"] == {"number": "1", "party": ["A", "B"], "seller": {"name": "S"}, "lines": [{"text": "nuts"}]}
    assert outcome.json["values"]["given"] == outcome.json["values"]["used"] == 6


def test_columns_may_be_named_by_their_path(build):
    table = "Filename,seller.name,seller.address.city,buyer.name,party[],lines[].text,lines.price.amount\n"
    table += "a,S,X,B,P,nuts,2\na,S,X,B,Q,bolts,3\n"
    outcome, built = build(table, CONTRACT, name="t.csv")
    assert outcome.code == 0, outcome.err
    assert built["a"] == {
        "party": ["P", "Q"],
        "seller": {"name": "S", "address": {"city": "X"}},
        "buyer": {"name": "B"},
        "lines": [{"text": "nuts", "price": {"amount": 2}}, {"text": "bolts", "price": {"amount": 3}}],
    }


def test_a_flat_header_with_a_nested_list_is_one_answer(build):
    row = {"Filename": "a", "Seller": "S", "city": "X", "lines": [{"Text": "nuts", "price.amount": "2"}]}
    schema = json.loads(json.dumps(CONTRACT))
    schema["properties"]["seller"]["properties"]["name"] = leaf("Seller")
    outcome, built = build([row], schema)
    assert outcome.code == 0, outcome.err
    assert built["a"] == {
        "seller": {"name": "S", "address": {"city": "X"}},
        "lines": [{"text": "nuts", "price": {"amount": 2}}],
    }


def test_a_short_name_that_fits_two_fields_feeds_neither(build):
    outcome, built = build([{"Filename": "a", "number": "1", "name": "X"}], CONTRACT)
    assert built["a"] == {"number": "1"} and outcome.json["labels_not_used"] == {"name": 1}
    assert "could be seller.name or seller.contacts[].name" in outcome.err


def test_a_short_name_is_no_part_of_an_object_that_is_given_itself(build):
    outcome, built = build([{"Filename": "a", "city": "title", "seller": {"address": {"city": "Köln"}}}], CONTRACT)
    assert built["a"]["seller"]["address"]["city"] == "Köln" and outcome.json["labels_not_used"] == {"city": 1}


def test_columns_of_a_table_that_feed_no_field_are_one_line_and_no_problem(build):
    table = "Filename,number,Selller Name,checked by,\na,1,S,me,x\nb,2,,you,\n"
    schema = closed(number=TEXT, seller_name=TEXT)
    outcome, _ = build(table, schema, name="t.csv")
    assert outcome.code == 0
    assert outcome.json["labels_not_used"] == {"Selller Name": 1, "checked by": 2, "column 5 (no name)": 1}
    assert "Selller Name (1 value; did you mean seller_name?)" in outcome.err


def test_a_top_level_list_or_object_that_feeds_no_field_is_a_problem(build):
    outcome, _ = build([{"Filename": "a", "number": "1", "parties": ["A", "B"]}], CONTRACT)
    assert outcome.code == 1 and outcome.json["labels_not_used"] == {"parties[]": 2}
    assert "did you mean party" in outcome.err


def test_cells_beyond_the_header_leave_the_document_out(build):
    outcome, built = build("Filename,number\na,1\nb,2,3,4\n", closed(number=TEXT), name="t.csv")
    assert outcome.code == 1 and list(built) == ["a"] and "2 cells more than the header" in outcome.err
    fine, built = build("Filename,number\na,1,,\nb,2,\n,,\n", closed(number=TEXT), "--overwrite", name="t.csv")
    assert fine.code == 0 and list(built) == ["a", "b"]


def test_a_column_that_stands_twice_is_refused(build):
    outcome, _ = build("Filename,number,number\na,1,2\n", closed(number=TEXT), name="t.csv")
    assert outcome.code == 2 and "the column 'number' stands twice" in outcome.err
    outcome, built = build("Filename,Bl Number,bl_number\na,1,2\n", closed(bl_number=TEXT), name="t.csv")
    assert outcome.code == 1 and built == {} and "'1'" in outcome.err and "'2'" in outcome.err


def test_a_second_column_of_a_field_that_differs_is_counted(build):
    schema = closed(port=leaf(["pod corrected", "pod"]))
    table = [{"Filename": "a", "pod corrected": "X", "pod": "Y"}, {"Filename": "b", "pod corrected": None, "pod": "Z"}]
    outcome, built = build(table, schema)
    assert built == {"a": {"port": "X"}, "b": {"port": "Z"}} and outcome.code == 0
    assert outcome.json["labels_not_used"] == {"pod": 1} and "pod corrected was used" in outcome.err


def test_lists_of_two_rows_that_differ_are_a_problem_and_equal_ones_are_one(build):
    one, other = ({"Filename": "a", "lines": [{"text": text}]} for text in ("nuts", "bolts"))
    outcome, built = build([one, other, {"Filename": "b", "lines": []}], CONTRACT)
    assert outcome.code == 1 and "lines: the rows disagree" in outcome.err and list(built) == ["b"]
    outcome, built = build([one, one], CONTRACT, "--overwrite")
    assert outcome.code == 0 and built["a"]["lines"] == [{"text": "nuts"}]


def test_what_stands_beside_the_rows_is_counted(build):
    outcome, _ = build(json.dumps({"exported": "2024", "rows": [{"Filename": "a", "number": "1"}]}), CONTRACT)
    assert outcome.json["labels_not_used"] == {"exported": 1} and outcome.json["values"]["given"] == 3


def test_values_of_documents_without_images_and_beyond_the_limit_are_counted(build):
    table = json.dumps([{"Filename": name, "number": "1", "note": "n"} for name in ("a", "b", "gone")])
    outcome, _ = build(table, CONTRACT, "--limit", 1)
    assert outcome.json["values"] == {
        "given": 9,
        "used": 2,
        "not_mapped": 3,
        "with_problems": 0,
        "without_images": 2,
        "beyond_limit": 2,
        "blank": 0,
    }


# --- every value is accounted for -----------------------------------------------------------------------------------------

WORD = st.text(string.ascii_letters, min_size=1, max_size=4).filter(
    lambda t: t.casefold() not in ("null", "none", "nan")
)
SCALAR = st.one_of(WORD, st.integers(0, 99), st.none(), st.just(""), st.booleans())
KEY = st.sampled_from(
    [
        "number",
        "party",
        "kinds",
        "seller",
        "buyer",
        "lines",
        "name",
        "city",
        "address",
        "contacts",
        "text",
        "price",
        "amount",
        "seller.name",
        "lines[].text",
        "lines.price.amount",
        "Number",
        "extra",
        "party[]",
        "price.amount",
    ]
)
TREE = st.recursive(
    SCALAR, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEY, inner, max_size=4)), max_leaves=12
)
TABLE = st.lists(
    st.tuples(st.sampled_from("abc"), st.dictionaries(KEY, TREE, min_size=1, max_size=6)), min_size=1, max_size=5
)


def count(value):
    if isinstance(value, dict | list):
        return sum(map(count, value.values() if isinstance(value, dict) else value))
    return 1


def scalars(value):
    if isinstance(value, dict | list):
        return [one for item in (value.values() if isinstance(value, dict) else value) for one in scalars(item)]
    return [] if value is None else [value]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(TABLE)
def test_every_value_is_used_or_not_mapped_or_in_a_problem_or_blank(table):
    from toolkit.records.label_join import LabelJoin
    from toolkit.schema.target import TargetSchema

    located = [(f"t[{i}]", {"Filename": name, **row}) for i, (name, row) in enumerate(table)]
    join = LabelJoin(TargetSchema.parse(CONTRACT, "s.json"))
    documents = list(join.documents(located))
    given_values = sum(count(row) for _, row in located)
    assert join.account.given == given_values
    mapped = sum(document.values for document in documents)
    assert mapped + sum(note.values for note in join.account.not_used.values()) + join.account.blank == given_values
    for document in documents:
        # What a sound document's answer holds came from its rows, and every mapped value that is no repeat is in it.
        found = scalars(document.answer)
        if not document.problems:
            assert len(found) < document.values
