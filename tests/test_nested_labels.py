"""Labels of nested answers: shaped like the schema, one file for each document, flat rows, and sheets with a title."""

import json
import zipfile

import openpyxl
import pytest
from conftest import png
from nested_schemas import MEET, closed, key, many
from test_nested_lists import GIRLS, meet, result

from toolkit.console import StageError
from toolkit.records.fingerprints import free_values
from toolkit.records.foreign_answers import in_schema
from toolkit.records.label_join import LabelJoin
from toolkit.records.label_table import HeaderRows, read_rows
from toolkit.records.split_documents import choices_of
from toolkit.schema.target import TargetSchema
from toolkit.schema.values import iso_date

TEXT = {"type": ["string", "null"], "maxLength": 40}


def joined(schema, *rows):
    return list(LabelJoin(schema).documents([(f"t[{number}]", row) for number, row in enumerate(rows)]))


def test_an_object_shaped_like_the_schema_is_the_answer_beside_its_file_name():
    (document,) = joined(MEET, {"Filename": "a.pdf", **GIRLS, "grid": [[1, 2], [3]], "notes": ["x", "y"]})
    assert document.problems == []
    assert document.answer == GIRLS | {"grid": [[1, 2], [3]], "notes": ["x", "y"]}


def test_enums_inside_rows_are_read_by_their_synonyms_and_a_wrong_one_is_named():
    answer = meet(girls=[result("Ann", records=["wr"])])
    (document,) = joined(MEET, {"Filename": "a.pdf", **answer})
    assert document.answer["age_groups"][0]["results"][0]["records"] == ["WR"]
    answer["age_groups"][0]["results"][0]["records"] = ["XX"]
    (document,) = joined(MEET, {"Filename": "a.pdf", **answer})
    assert document.problems == [
        "t[0].age_groups[0].results[0].records[0]: age_groups[].results[].records[]: "
        "'XX' is none of WR, CR; add it to the enum or to its synonyms in the schema"
    ]


def test_flat_rows_of_one_group_are_one_row_that_holds_a_list():
    flat = [("girls", "Ann", "1:00"), ("girls", "Bea", "1:10"), ("boys", "Cid", "1:05"), ("girls", "Dot", "1:20")]
    rows = [{"Filename": "a.pdf", "group": g, "swimmer": s, "age_groups.results.time": t} for g, s, t in flat]
    (document,) = joined(MEET, *rows)
    assert document.problems == []
    assert document.answer == meet(
        girls=[result("Ann", "1:00"), result("Bea", "1:10"), result("Dot", "1:20")], boys=[result("Cid", "1:05")]
    )


def test_a_key_that_flat_rows_repeat_inside_a_group_is_a_problem():
    schema = TargetSchema.parse(closed(groups=many(closed(name=TEXT, items=many(closed(no=key(compare="id")))))), "s")
    rows = [{"Filename": "a", "name": name, "no": "7"} for name in ("A", "A", "B")]
    (document,) = joined(schema, *rows)
    assert document.problems == ["groups[].items[].no: '7' stands 2 times (t[0] and t[0])"]


def test_a_folder_holds_one_answer_for_each_document(run, workspace):
    (workspace / "meet.schema.json").write_text(json.dumps(MEET.raw))
    (workspace / "labels").mkdir()
    for name, answer in (("one", GIRLS), ("two", meet())):
        png(workspace / f"data/images/{name}_page_0001.png")
        (workspace / f"labels/{name}.json").write_text(json.dumps(answer))
    outcome = run("build_jsonl_from_results", "--results", "labels", "--schema", "meet.schema.json", "--json")
    assert outcome.code == 0, outcome.err
    records = [json.loads(line) for line in (workspace / "data/train.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == ["one", "two"]
    answer = json.loads(records[0]["messages"][-1]["content"][0]["text"])
    assert answer["age_groups"] == GIRLS["age_groups"]
    assert run("validate_jsonl", "--in", "data/train.jsonl").code == 0
    stats = run("dataset_stats", "--in", "data/train.jsonl", "--json")
    assert stats.code == 0, stats.err
    (workspace / "labels/more").mkdir()
    (workspace / "labels/more/two.json").write_text("{}")
    twice = run("build_jsonl_from_results", "--results", "labels", "--schema", "meet.schema.json")
    assert twice.code == 2 and "name one document" in twice.err


def test_another_services_nested_answer_is_brought_into_shape():
    theirs = {
        "title": "T",
        "Age Groups": [{"Group": "girls", "Results": [{"Swimmer": "Ann", "time": "1:00", "club": "X"}, 5]}],
        "grid": [[1], [2, 3]],
    }
    answer, unknown, warnings = in_schema(MEET, theirs)
    assert answer["age_groups"] == meet(girls=[result("Ann")])["age_groups"] and answer["grid"] == [[1], [2, 3]]
    assert unknown == ["age_groups[].results[].club"]
    assert warnings == ["age_groups[].results: a row is no object: '5'"]


def test_a_sheet_with_a_title_and_two_header_rows_and_merged_cells(tmp_path):
    book = openpyxl.Workbook()
    sheet = book.active
    for line in (
        ["Containers of May"],
        [],
        ["Filename", "Container", None],
        [None, "Number", "Size"],
        ["a.pdf", "MSKU1234565", 20],
        [None, "MSKU1234570", 40],
        ["b.pdf", "HLXU1234560", 40],
    ):
        sheet.append(line)
    for place in ("A1:C1", "A3:A4", "B3:C3", "A5:A6"):
        sheet.merge_cells(place)
    book.save(tmp_path / "t.xlsx")
    rows = [row for _, row in read_rows(tmp_path / "t.xlsx", header=HeaderRows.parse("3-4"))]
    assert rows[1] == {"Filename": "a.pdf", "Container Number": "MSKU1234570", "Container Size": 40}
    assert [row["Filename"] for row in rows] == ["a.pdf", "a.pdf", "b.pdf"]


def test_a_csv_may_have_a_title_above_its_header(tmp_path):
    (tmp_path / "t.csv").write_text("Containers of May;;\n\nFilename;Number;Size\na.pdf;M1;20\n")
    assert read_rows(tmp_path / "t.csv", header=HeaderRows.parse("3")) == [
        (f"{(tmp_path / 't.csv').as_posix()}:4", {"Filename": "a.pdf", "Number": "M1", "Size": "20"})
    ]


@pytest.mark.parametrize("text", ["0", "x", "3-2", "2,3", ""])
def test_a_header_row_is_a_number_or_two(text):
    with pytest.raises(StageError, match="--header-row"):
        HeaderRows.parse(text)


def test_json_has_no_header_row(tmp_path):
    (tmp_path / "t.json").write_text("[]")
    with pytest.raises(StageError, match="JSON names its values"):
        read_rows(tmp_path / "t.json", header=HeaderRows(2, 2))


@pytest.mark.parametrize(
    ("text", "day_first", "expected"),
    [
        ("2024年3月5日", False, "2024-03-05"),
        ("2024 年 03 月 05 日", True, "2024-03-05"),
        ("2024년 3월 5일", False, "2024-03-05"),
        ("25032018", False, "2018-03-25"),
        ("03042018", False, "2018-03-04"),
        ("03042018", True, "2018-04-03"),
        ("20180325", True, "2018-03-25"),
        ("16th day of August 2019", False, "2019-08-16"),
        ("this 1st day of May, 2020", False, "2020-05-01"),
        ("Friday, August 16th, 2019", False, "2019-08-16"),
        ("5 Sept. 2024", False, "2024-09-05"),
        ("٢٠٢٤-٠٣-٠٥", False, "2024-03-05"),
        ("०५/०३/२०२४", True, "2024-03-05"),
        ("２０２４／０３／０５", False, "2024-03-05"),
        ("2024年13月5日", False, None),
        ("99999999", False, None),
        ("40 August 2019", False, None),
        ("the day", False, None),
    ],
)
def test_dates_are_read_as_people_write_them(text, day_first, expected):
    assert iso_date(text, day_first=day_first) == expected


def test_choices_inside_rows_identify_no_document():
    assert choices_of(MEET) == {("age_groups", "results", "records")}
    answer = meet(girls=[result("Ann", "1:00", records=["WR", "CR"])])
    assert free_values(answer, choices_of(MEET)) == {"girls", "ann", "1:00"}


def test_merged_cells_invent_no_rows_and_a_hostile_range_costs_nothing(tmp_path):
    book = openpyxl.Workbook()
    sheet = book.active
    for line in (["Filename", "Number"], ["a.pdf", "M1"], [None, None], ["b.pdf", "M2"]):
        sheet.append(line)
    for place in ("A2:A3", "B2:B3", "D1:D2"):
        sheet.merge_cells(place)
    book.save(tmp_path / "plain.xlsx")
    with zipfile.ZipFile(tmp_path / "plain.xlsx") as plain, zipfile.ZipFile(tmp_path / "t.xlsx", "w") as hostile:
        for part in plain.namelist():
            hostile.writestr(part, plain.read(part).replace(b'ref="D1:D2"', b'ref="B1:XFD1048576"'))
    rows = [row for _, row in read_rows(tmp_path / "t.xlsx", header=HeaderRows(1, 1))]
    assert [(row["Filename"], row["Number"]) for row in rows] == [("a.pdf", "M1"), ("b.pdf", "M2")]
