"""A wrong name of a field, a column or a group is an error that says what was probably meant."""

import json

import pytest
from nested_schemas import MEET
from receipt_records import write_records
from test_splits import split_records

from toolkit.console import StageError, did_you_mean


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("consignee", "consignee_name"),
        ("consigneename", "consignee_name"),
        ("Vessel Name", "vessel_name"),
        ("containers.container_nummer", "containers[].container_number"),
        ("container_number", "containers[].container_number"),
        ("xyz", None),
    ],
)
def test_the_nearest_name_is_offered(wrong, meant):
    names = ["consignee_name", "vessel_name", "containers[].container_number"]
    assert did_you_mean(wrong, names) == (f"did you mean {meant!r}? " if meant else "")


def test_a_wrong_group_is_refused_before_anything_is_written(run, workspace):
    write_records(workspace / "d.jsonl", split_records(workspace, 6))
    outcome = run("split_jsonl", "--in", "d.jsonl", "--out-dir", "out", "--group-by", "compani")
    assert outcome.code == 2 and not (workspace / "out").exists()
    assert "--group-by compani: no record of d.jsonl has this field; did you mean 'company'?" in outcome.err


def test_a_wrong_bucket_is_refused(run, workspace):
    (workspace / "s.json").write_text(json.dumps(MEET.raw))
    gold = [{"id": f"d{n}", "gold": {"title": None}, "meta": {"kind": "x"} if n else {}} for n in range(2)]
    (workspace / "g.jsonl").write_text("".join(json.dumps(line) + "\n" for line in gold))
    (workspace / "p.jsonl").write_text('{"id": "d0", "status": "ok", "prediction": {}}\n')
    words = ["evaluate_predictions", "--pred", "p.jsonl", "--gold", "g.jsonl", "--schema", "s.json", "--bucket-by"]
    assert run(*words, "title").code == 0  # absent everywhere, but a field
    assert run(*words, "kind").code == 0  # some records have it
    wrong = run(*words, "titel")
    assert wrong.code == 2 and "did you mean 'title'?" in wrong.err and "Traceback" not in wrong.err


def test_a_wrong_field_of_a_mapping_is_refused_at_every_depth():
    mapping = {"columns": {"age_groups[].results[].tiem": "Time"}}
    with pytest.raises(StageError, match=r"did you mean 'age_groups\[\].results\[\].time'\?"):
        MEET.with_columns(mapping, "map.json")
