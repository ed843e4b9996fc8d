"""Label tables become records: the join with the images, and tables as other people write them."""

import codecs
import json
from pathlib import Path

import pytest
from conftest import png, write_results

ROW = {
    "Filename": "BL1.pdf",
    "bl_number": "A1",
    "Container_Number": "CSQU3054383",
    "Container_Size": "40",
    "Container_Type": "HC",
}


def built_answers(workspace: Path) -> list[dict]:
    """The answers of the records that build_jsonl_from_results wrote."""
    lines = (workspace / "data/train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(json.loads(line)["messages"][-1]["content"][0]["text"]) for line in lines]


def test_rows_of_one_document_become_one_record_in_page_order(run, workspace):
    write_results(workspace / "data/results.json", [ROW, {**ROW, "Container_Number": "MSCU6639870"}])
    for number in (2, 1, 10, 3, 4, 5, 6, 7, 8, 9):
        png(workspace / f"img/BL1_page_{number}.png", shade=number)
    outcome = run("build_jsonl_from_results", "--images-dir", "img", "--json")
    assert outcome.code == 0, outcome.err
    record = json.loads((workspace / "data/train.jsonl").read_text())
    images = [item["image"] for item in record["messages"][1]["content"] if item["type"] == "image"]
    assert images == [f"img/BL1_page_{n}.png" for n in range(1, 11)]
    answer = json.loads(record["messages"][2]["content"][0]["text"])
    assert [row["container_number"] for row in answer["containers"]] == ["CSQU3054383", "MSCU6639870"]
    assert "consignee_name" not in answer and "consignee_name" in outcome.json["fields_left_out"]
    assert run("validate_jsonl", "data/train.jsonl").code == 0


@pytest.mark.parametrize(
    "encode",
    [
        lambda t: codecs.BOM_UTF8 + t.encode(),
        lambda t: codecs.BOM_UTF16_LE + t.encode("utf-16-le"),
        lambda t: t.encode("utf-16-le"),
    ],
)
def test_tables_saved_by_powershell_are_read(run, workspace, encode):
    png(workspace / "img/BL1.png")
    (workspace / "data").mkdir()
    table = json.dumps([{**ROW, "consignee_name": "MÜLLER"}], ensure_ascii=False)
    (workspace / "data/results.json").write_bytes(encode(table))
    assert run("build_jsonl_from_results", "--images-dir", "img").code == 0
    assert "MÜLLER" in (workspace / "data/train.jsonl").read_text(encoding="utf-8")


def test_a_csv_is_a_table_too(run, workspace):
    png(workspace / "img/BL1.png")
    table = "Filename;bl_number;detention_free_days;Container Number\nBL1.pdf;A1;7;CSQU3054383\n"
    (workspace / "labels.csv").write_text(table, encoding="utf-8")
    assert run("build_jsonl_from_results", "--results", "labels.csv", "--images-dir", "img").code == 0
    assert '\\"detention_free_days\\":7' in (workspace / "data/train.jsonl").read_text()


def test_rows_that_disagree_are_left_out_with_both_values(run, workspace):
    other = {**ROW, "bl_number": "A2", "Container_Number": "MSCU6639870"}
    write_results(workspace / "data/results.json", [ROW, other, {**ROW, "Filename": "BL2.pdf"}])
    png(workspace / "img/BL1.png")
    png(workspace / "img/BL2.png", shade=3)
    outcome = run("build_jsonl_from_results", "--images-dir", "img", "--json")
    assert (outcome.code, outcome.json["records"], outcome.json["documents_with_problems"]) == (1, 1, 1)
    assert "'A1'" in outcome.err and "'A2'" in outcome.err


def test_leftovers_on_both_sides_are_one_line_and_a_file_each(run, workspace):
    write_results(workspace / "data/results.json", [{**ROW, "Filename": f"BL{n}.pdf"} for n in range(929)])
    png(workspace / "img/BL0.png")
    png(workspace / "img/stranger.png")
    outcome = run("build_jsonl_from_results", "--images-dir", "img", "--json")
    assert outcome.code == 1 and outcome.json["labels_without_images"] == 928 and outcome.err.count("\n") < 6
    assert len((workspace / "data/train.labels_without_images.txt").read_text().splitlines()) == 928
    assert (workspace / "data/train.images_without_labels.txt").read_text() == "img/stranger.png\n"
    assert run("build_jsonl_from_results", "--images-dir", "img", "--allow-problems").code == 0


def test_labels_that_cannot_be_told_apart_are_both_left_out(run, workspace):
    names = ("BL 1.pdf", "BL_1.pdf", "BL2.pdf")
    write_results(workspace / "data/results.json", [{**ROW, "Filename": name} for name in names])
    for name in ("BL 1.png", "BL2.png"):
        png(workspace / "img" / name)
    outcome = run("build_jsonl_from_results", "--images-dir", "img", "--json")
    assert outcome.json["records"] == 1 and "'BL_1.pdf'" in outcome.err and "BL 1.pdf" in outcome.err


def test_second_pictures_of_a_document_are_counted_and_can_be_preferred(run, workspace):
    write_results(workspace / "data/results.json", [ROW])
    for name in ("BL1_page_1.png", "BL1_page_2.png", "BL1_combined_grid.png"):
        png(workspace / "img" / name, shade=len(name) * 7 + int(name[-5] == "2"))
    first = run("build_jsonl_from_results", "--images-dir", "img", "--json")
    assert (first.code, first.json["pages"], first.json["images_not_used"]) == (0, 2, 1)
    assert "1 images not used" in first.err
    grid = run("build_jsonl_from_results", "--images-dir", "img", "--prefer", "combined_grid", "--json")
    assert (grid.json["pages"], grid.json["images_not_used"]) == (1, 2)


def test_enum_synonyms_are_normalised_and_unknown_values_named(run, workspace):
    rows = [
        {**ROW, "port_of_discharge": "PORT KLANG (WESTPORT)"},
        {**ROW, "Filename": "BL2.pdf", "port_of_discharge": "Atlantis"},
    ]
    write_results(workspace / "data/results.json", rows)
    png(workspace / "img/BL1.png")
    png(workspace / "img/BL2.png", shade=9)
    outcome = run("build_jsonl_from_results", "--images-dir", "img")
    assert outcome.code == 1 and "'Atlantis' is none of" in outcome.err
    assert '\\"port_of_discharge\\":\\"Port Klang\\"' in (workspace / "data/train.jsonl").read_text()


def test_a_failed_build_leaves_the_old_file_alone(run, workspace):
    write_results(workspace / "data/results.json", [ROW])
    (workspace / "data/train.jsonl").write_text("old\n")
    (workspace / "img").mkdir()
    assert run("build_jsonl_from_results", "--images-dir", "img").code == 1
    assert (workspace / "data/train.jsonl").read_text() == "old\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "the file is empty"),
        ("{", "not JSON"),
        ("[]", "no rows"),
        ("[1]", "a row must be an object"),
        ('[{"a": 1, "a": 2}]', "stands twice"),
        ('[{"Filename": NaN}]', "NaN is not JSON"),
    ],
)
def test_a_broken_table_is_one_sentence(run, workspace, content, sentence):
    (workspace / "results.json").write_text(content)
    (workspace / "img").mkdir()
    outcome = run("build_jsonl_from_results", "--images-dir", "img")
    assert outcome.code == 2 and sentence in outcome.err and outcome.err.count("\n") == 1


def workbook(path, rows, sheets=("Sheet1",), formats=None):
    import openpyxl

    book = openpyxl.Workbook()
    book.active.title = sheets[0]
    for name in sheets[1:]:
        book.create_sheet(name)
    for row in rows:
        book[sheets[-1]].append(row)
    for place, text in (formats or {}).items():
        book[sheets[-1]][place].number_format = text
    book.save(path)


def test_an_excel_table_is_read_as_people_see_it(run, workspace):
    import datetime

    png(workspace / "img/Rechnung 7_page_0001.png")
    header = ["file", "supplier_name", "invoice_number", "invoice_date", "net_total"]
    row = ["Rechnung 7.pdf", "Müller", 123, datetime.datetime(2024, 4, 3), 1234.5]
    workbook(workspace / "t.xlsx", [header, row, [None] * 5], ("notes", "data"), {"C2": "00000"})
    schema = json.loads((workspace / "schemas/invoice.schema.json").read_text(encoding="utf-8"))
    leaves = schema["properties"]
    mapping = {"document": "file", "columns": {}}
    for field, column in (("invoice_number", "invoice_number"), ("invoice_date", "invoice_date")):
        assert field in leaves
        mapping["columns"][field] = column
    (workspace / "map.json").write_text(json.dumps(mapping))
    common = "--results t.xlsx --schema schemas/invoice.schema.json --images-dir img --mapping map.json".split()
    several = run("build_jsonl_from_results", *common)
    assert several.code == 2 and "2 sheets; name one with --sheet: notes, data" in several.err
    done = run("build_jsonl_from_results", *common, "--sheet", "data", "--json")
    assert done.json["records"] == 1, done.err
    (gold,) = built_answers(workspace)
    assert gold["invoice_number"] == "00123" and gold["invoice_date"] == "2024-04-03"


def test_a_mapping_that_names_what_is_not_there_is_one_sentence(run, workspace):
    write_results(workspace / "t.json", [{"doc": "a.pdf", "Konossement": "B1", "Cntr": "MSKU1234565"}])
    png(workspace / "img/a.png")
    common = ["--results", "t.json", "--images-dir", "img", "--mapping", "m.json"]
    for mapping, sentence in (
        ({"document": "doc", "columns": {"bl_no": "Konossement"}}, "the schema has no field 'bl_no'"),
        ({"document": "doc", "columns": {"bl_number": "B/L"}}, "has no column 'B/L'; it has Cntr, Konossement, doc"),
        ({"columns": {"bl_number": 7}}, "a column name or a list of them"),
        ({"fields": {}}, "a mapping is"),
    ):
        (workspace / "m.json").write_text(json.dumps(mapping))
        done = run("build_jsonl_from_results", *common)
        assert done.code == 2 and sentence in done.err and done.err.count("\n") == 1, done.err
    columns = {"bl_number": "Konossement", "containers[].container_number": "Cntr"}
    (workspace / "m.json").write_text(json.dumps({"document": "doc", "columns": columns}))
    done = run("build_jsonl_from_results", *common, "--json")
    (gold,) = built_answers(workspace)
    assert gold == {"bl_number": "B1", "containers": [{"container_number": "MSKU1234565"}]}, done.err


def test_dates_become_iso_only_where_the_schema_says_so_and_never_by_a_guess(run, workspace):
    text_or_null = ["string", "null"]
    printed = {"type": text_or_null, "maxLength": 20, "x-extract": {"compare": "date"}}
    iso = {"type": text_or_null, "maxLength": 10, "x-extract": {"compare": "date", "normalise": "iso_date"}}
    schema = {"type": "object", "additionalProperties": False, "required": []}
    schema |= {"properties": {"printed": printed, "iso": iso}}
    rows = [
        {"Filename": f"{n}.pdf", "printed": text, "iso": text}
        for n, text in enumerate(("13/04/2024", "3 Apr 2024", "03/04/2024", "soon"))
    ]
    write_results(workspace / "t.json", rows)
    for number in range(4):
        png(workspace / f"img/{number}.png")
    (workspace / "s.json").write_text(json.dumps(schema))
    done = run("build_jsonl_from_results", "--results", "t.json", "--schema", "s.json", "--images-dir", "img")
    answers = built_answers(workspace)
    assert answers == [{"printed": "13/04/2024", "iso": "2024-04-13"}, {"printed": "3 Apr 2024", "iso": "2024-04-03"}]
    problems = (workspace / "data/train.problems.jsonl").read_text()
    assert done.code == 1 and "is two dates" in problems and "'soon' is no date" in problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.50", 1234.5),
        ("1.234,50 EUR", 1234.5),
        ("$ 7", 7),
        ("(12.5)", -12.5),
        ("1 234", 1234),
        ("7 days", None),
        ("a7", None),
        ("1234567890123456789012", None),
    ],
)
def test_numbers_are_read_as_people_write_them(text, value):
    from toolkit.records.label_table import coerce
    from toolkit.schema.target import Leaf

    leaf = Leaf(("n",), {"type": ["number", "null"]})
    if value is None and text[0] in "7a":
        with pytest.raises(ValueError, match="no number"):
            coerce(text, leaf)
    elif value is not None:
        assert coerce(text, leaf) == value
    else:
        assert coerce(text, leaf) == float(text)


def test_several_lists_come_from_flat_rows_and_from_nested_objects(run, workspace):
    def leaf(column, **more):
        return {"type": ["string", "null"], "maxLength": 40, "x-extract": {"column": column, **more}}

    def rows(**properties):
        item = {"type": "object", "additionalProperties": False, "required": [], "properties": properties}
        return {"type": "array", "maxItems": 50, "items": item}

    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": [],
        "x-extract": {"document_column": "file"},
        "properties": {
            "containers": rows(number=leaf("cntr", compare="id", key=True), size=leaf("size")),
            "charges": rows(code=leaf("charge", key=True), amount=leaf("amount")),
        },
    }
    (workspace / "s.json").write_text(json.dumps(schema))
    png(workspace / "img/a.png")
    flat = [
        {"file": "a.pdf", "cntr": "MSKU1234565", "size": "40", "charge": "THC", "amount": "10"},
        {"file": "a.pdf", "cntr": "CSQU3054383", "size": "20", "charge": None, "amount": None},
        {"file": "a.pdf", "cntr": None, "size": None, "charge": "DOC", "amount": "5"},
    ]
    nested = [
        {
            "file": "a.pdf",
            "containers": [{"cntr": "MSKU1234565", "size": "40"}, {"cntr": "CSQU3054383", "size": "20"}],
            "charges": [{"charge": "THC", "amount": "10"}, {"charge": "DOC", "amount": "5"}],
        }
    ]
    for table in (flat, nested):
        write_results(workspace / "t.json", table)
        done = run("build_jsonl_from_results", "--results", "t.json", "--schema", "s.json", "--images-dir", "img")
        assert done.code == 0, done.err
        (gold,) = built_answers(workspace)
        assert gold == {
            "containers": [{"number": "MSKU1234565", "size": "40"}, {"number": "CSQU3054383", "size": "20"}],
            "charges": [{"code": "THC", "amount": "10"}, {"code": "DOC", "amount": "5"}],
        }
