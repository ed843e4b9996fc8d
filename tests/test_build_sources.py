"""A build remembers which table its records came from: it never replaces another table's, and merges when asked to."""

import json

import pytest
from conftest import png, write_results

FIELDS = ("bl_number", "vessel_name", "port_of_loading")


def row(number, **change):
    return {
        "Filename": f"BL{number}.pdf",
        "bl_number": f"A{number}",
        "vessel_name": "MSC",
        "port_of_loading": "Rotterdam",
        **change,
    }


def build(run, *words):
    return run("build_jsonl_from_results", "--images-dir", "img", "--json", *words)


def records(workspace, name="data/train.jsonl"):
    lines = (workspace / name).read_text(encoding="utf-8").splitlines()
    return {record["id"]: record for record in map(json.loads, lines)}


def answer(record):
    return json.loads(record["messages"][-1]["content"][0]["text"])


@pytest.fixture
def dataset(run, workspace):
    """data/train.jsonl of six documents, built from data/results.json."""
    for number in range(6):
        png(workspace / f"img/BL{number}.png", shade=number * 20)
    write_results(workspace / "data/results.json", [row(n) for n in range(6)])
    assert build(run, "--allow-problems").json["records"] == 6
    return workspace


# --- replacing ------------------------------------------------------------------------------------------------------------


def test_another_table_never_replaces_the_records_of_the_first(run, dataset):
    before = (dataset / "data/train.jsonl").read_bytes()
    write_results(dataset / "reviewed.json", [row(2, vessel_name="EVER")])
    refused = build(run, "--results", "reviewed.json")
    assert refused.code == 2 and "data/results.json" in refused.err and refused.err.count("\n") == 1
    assert "--update" in refused.err and "--overwrite" in refused.err
    assert (dataset / "data/train.jsonl").read_bytes() == before
    assert build(run, "--results", "reviewed.json", "--overwrite", "--allow-problems").json["records"] == 1
    assert list(records(dataset)) == ["BL2.pdf"]


def test_the_same_command_works_again_and_a_corrected_table_too(run, dataset):
    before = (dataset / "data/train.jsonl").read_bytes()
    assert build(run, "--allow-problems").code == 0
    assert (dataset / "data/train.jsonl").read_bytes() == before
    assert build(run, "--allow-problems", "--limit", 2).json["records"] == 2
    assert build(run, "--allow-problems").json["records"] == 6
    write_results(dataset / "data/results.json", [row(n, vessel_name="EVER") for n in range(5)])
    corrected = build(run, "--allow-problems")
    assert corrected.code == 0 and corrected.json["records"] == 5 and "BL5.pdf" in corrected.err
    (dataset / "data/results.json").rename(dataset / "moved.json")
    assert build(run, "--allow-problems", "--results", "moved.json").code == 0


def test_another_table_of_the_same_name_is_known_by_its_documents(run, dataset):
    for number in (6, 7):
        png(dataset / f"img/BL{number}.png", shade=number * 20)
    write_results(dataset / "data/results.json", [row(6), row(7)])
    assert build(run).code == 2 and len(records(dataset)) == 6


def test_records_of_unknown_origin_are_never_replaced(run, dataset):
    (dataset / "data/train.source.json").unlink()
    refused = build(run)
    assert refused.code == 2 and "--overwrite" in refused.err
    assert build(run, "--overwrite", "--allow-problems").code == 0
    text = (dataset / "data/train.jsonl").read_text(encoding="utf-8")
    (dataset / "data/train.jsonl").write_text(text.replace("MSC", "MSC GAIA"), encoding="utf-8")
    refused = build(run)
    assert refused.code == 2 and "changed since" in refused.err
    (dataset / "data/train.jsonl").write_text("")
    assert build(run, "--allow-problems").code == 0


def test_two_sheets_of_one_workbook_are_two_tables(run, workspace):
    import openpyxl

    book = openpyxl.Workbook()
    for name, number in (("one", 1), ("two", 2)):
        sheet = book.create_sheet(name)
        sheet.append(list(row(number)))
        sheet.append(list(row(number).values()))
        png(workspace / f"img/BL{number}.png", shade=number)
    book.save(workspace / "t.xlsx")
    assert build(run, "--results", "t.xlsx", "--sheet", "one", "--allow-problems").code == 0
    assert build(run, "--results", "t.xlsx", "--sheet", "two", "--allow-problems").code == 2


def test_the_records_hold_nothing_of_the_machine_or_the_time(run, dataset):
    first = {path.name: path.read_bytes() for path in (dataset / "data").glob("train.*")}
    build(run, "--allow-problems")
    assert {path.name: path.read_bytes() for path in (dataset / "data").glob("train.*")} == first


# --- updating -------------------------------------------------------------------------------------------------------------


def test_update_merges_by_document_and_says_what_changed(run, dataset):
    before = records(dataset)
    png(dataset / "img/BL7.png", shade=140)
    write_results(dataset / "reviewed.json", [row(1), row(2, vessel_name="EVER", bl_number="A9"), row(7)])
    done = build(run, "--results", "reviewed.json", "--update")
    assert (done.code, done.json["records"]) == (0, 7), done.err
    assert {name: done.json[name] for name in ("added", "replaced", "unchanged", "kept")} == {
        "added": 1,
        "replaced": 1,
        "unchanged": 1,
        "kept": 4,
    }
    assert "BL2.pdf (bl_number, vessel_name)" in done.err
    after = records(dataset)
    assert list(after) == [*before, "BL7.pdf"]
    assert answer(after["BL2.pdf"]) == {**answer(before["BL2.pdf"]), "vessel_name": "EVER", "bl_number": "A9"}
    assert all(after[name] == before[name] for name in before if name != "BL2.pdf")
    changes = [json.loads(line) for line in (dataset / "data/train.changes.jsonl").read_text().splitlines()]
    assert changes == [
        {
            "document": "BL2.pdf",
            "change": "replaced",
            "fields": {"bl_number": ["A2", "A9"], "vessel_name": ["MSC", "EVER"]},
        },
        {"document": "BL7.pdf", "change": "added", "fields": {}},
    ]
    again = build(run, "--results", "reviewed.json", "--update")
    assert (again.json["added"], again.json["replaced"], again.json["unchanged"]) == (0, 0, 3)
    assert records(dataset) == after and not (dataset / "data/train.changes.jsonl").exists()


def test_after_an_update_neither_table_alone_replaces_the_records(run, dataset):
    write_results(dataset / "reviewed.json", [row(2, vessel_name="EVER")])
    assert build(run, "--results", "reviewed.json", "--update").code == 0
    for words in ((), ("--results", "reviewed.json")):
        refused = build(run, *words)
        assert refused.code == 2 and "--update" in refused.err
    assert build(run, "--update", "--allow-problems").json["replaced"] == 1


def test_rows_of_a_list_that_changed_are_named(run, dataset):
    def with_rows(*numbers):
        return row(
            1, containers=[{"container_number": n, "container_size": "40", "container_type": "HC"} for n in numbers]
        )

    write_results(dataset / "data/results.json", [with_rows("CSQU3054383", "MSCU6639870"), row(2, containers=[])])
    assert build(run, "--allow-problems").json["records"] == 2
    write_results(dataset / "reviewed.json", [with_rows("CSQU3054383", "TEMU6639872", "MSCU6639870")])
    done = build(run, "--results", "reviewed.json", "--update")
    assert "BL1.pdf (containers[1].container_number, containers[2])" in done.err, done.err


def test_update_follows_the_dataset_s_own_schema_and_prompt(run, workspace):
    """A dataset of another document type, with an instruction of its own: the update needs neither flag."""
    png(workspace / "img/a.png")
    (workspace / "prompt.txt").write_text("Read it. JSON only.")
    receipt = {"Filename": "a.pdf", "company": "A", "total": "1.00"}
    write_results(workspace / "r.json", [receipt])
    common = ("--schema", "schemas/receipt.schema.json", "--prompt", "prompt.txt")
    assert build(run, "--results", "r.json", *common).code == 0
    before = records(workspace)["a.pdf"]
    write_results(workspace / "reviewed.json", [{**receipt, "total": "2.00", "date": None, "address": "here"}])
    done = build(run, "--results", "reviewed.json", "--update")
    after = records(workspace)["a.pdf"]
    assert answer(after) == {"company": "A", "total": "2.00"} and after["messages"][:-1] == before["messages"][:-1]
    assert done.json["labels_not_used"] == {"address": 1}


def test_update_refuses_a_table_that_would_empty_fields(run, dataset):
    before = (dataset / "data/train.jsonl").read_bytes()
    short = row(2)
    del short["vessel_name"]
    write_results(dataset / "reviewed.json", [short])
    refused = build(run, "--results", "reviewed.json", "--update")
    assert refused.code == 2 and "no column for vessel_name" in refused.err and refused.err.count("\n") == 1
    assert (dataset / "data/train.jsonl").read_bytes() == before


def test_update_refuses_a_schema_or_a_prompt_that_old_records_do_not_follow(run, dataset):
    schema = json.loads((dataset / "schemas/bill_of_lading.schema.json").read_text(encoding="utf-8"))
    schema["properties"]["notes"] = {"type": ["string", "null"], "maxLength": 40}
    (dataset / "wider.json").write_text(json.dumps(schema))
    write_results(dataset / "reviewed.json", [row(2, notes="new")])
    refused = build(run, "--results", "reviewed.json", "--update", "--schema", "wider.json")
    assert refused.code == 2 and "notes" in refused.err and refused.err.count("\n") == 1
    (dataset / "prompt.txt").write_text("Another instruction.")
    refused = build(run, "--results", "reviewed.json", "--update", "--prompt", "prompt.txt")
    assert refused.code == 2 and "instruction" in refused.err
    assert (
        build(run, "--results", "reviewed.json", "--update", "--schema", "schemas/bill_of_lading.schema.json").code == 0
    )


def test_a_document_with_problems_stays_as_it_was(run, dataset):
    before = records(dataset)
    write_results(dataset / "reviewed.json", [row(2, port_of_discharge=None), row(2, vessel_name="EVER")])
    done = build(run, "--results", "reviewed.json", "--update")
    assert done.code == 1 and records(dataset) == before and "the rows disagree" in done.err


def test_update_of_nothing_builds_and_a_broken_file_is_one_sentence(run, dataset):
    assert build(run, "--update", "--out", "data/new.jsonl", "--allow-problems").json["added"] == 6
    (dataset / "data/train.jsonl").write_text("no json\n")
    refused = build(run, "--update")
    assert refused.code == 2 and "data/train.jsonl:1" in refused.err and refused.err.count("\n") == 1
    assert "not allowed with" in build(run, "--update", "--overwrite").err


# --- other scripts --------------------------------------------------------------------------------------------------------


def test_samples_never_replace_somebody_s_own_labels_and_zips(run, workspace):
    common = ("--documents", 3, "--zips-to", "data", "--layout", "easy")
    assert run("make_sample_documents", *common).code == 0
    assert run("make_sample_documents", *common, "--seed", 2).code == 0
    for name in ("results.json", "combined.zip"):
        (workspace / "data/results.source.json").unlink(missing_ok=True)
        for path in (workspace / "data").iterdir():
            if path.is_file() and path.name != name:
                path.unlink()
        (workspace / "data" / name).write_text("mine")
        refused = run("make_sample_documents", *common)
        assert refused.code == 2 and f"data/{name}" in refused.err and "--overwrite" in refused.err
        assert (workspace / "data" / name).read_text() == "mine"
    assert run("make_sample_documents", *common, "--overwrite").code == 0
    (workspace / "data/results.json").write_text("[]")
    assert run("make_sample_documents", *common).code == 2


def test_imported_answers_never_replace_a_model_s_predictions(run, dataset):
    answers_ = [{"Filename": f"BL{n}.pdf", "answer": json.dumps({"bl_number": f"A{n}"})} for n in range(6)]
    (dataset / "hosted.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers_))
    common = ("--in", "hosted.jsonl", "--gold", "data/train.jsonl", "--out", "p.jsonl")
    assert run("import_predictions", *common).code == 0
    assert run("import_predictions", *common).code == 0
    (dataset / "p.source.json").unlink()
    refused = run("import_predictions", *common)
    assert refused.code == 2 and "--overwrite" in refused.err and refused.err.count("\n") == 1
    assert run("import_predictions", *common, "--overwrite").code == 0
