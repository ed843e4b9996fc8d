"""What one document costs on each way of renting a GPU."""

import pytest

from toolkit.latency.cost import Load, costs


def by_option(*arguments):
    return {cost.option: cost for cost in costs(*arguments)}


def test_a_machine_that_is_always_on_costs_its_hours_whatever_comes():
    few, many = (by_option(1.0, Load(count), 1.0, 1.0, 1.0)["always on"] for count in (10_000, 100_000))
    assert few.a_month == many.a_month == 730 and few.a_document == pytest.approx(0.073)
    assert few.machines == many.machines == 1


def test_machines_are_counted_for_the_peak():
    # 730 h x 3600 s hold 2,628,000 documents of a second; three times the mean hour fills one machine at a third.
    assert by_option(1.0, Load(876_001), 1.0, 1.0, 1.0)["always on"].machines == 2


def test_a_serverless_worker_pays_its_start_and_its_idling_once_a_burst():
    load = Load(1000, burst=10, start_seconds=100, idle_seconds=50)
    assert by_option(5.0, load, 9.0, 3.6, 9.0)["serverless"].a_document == pytest.approx(0.001 * (5 + 15))


def test_a_nightly_batch_pays_one_start_a_night():
    assert by_option(2.0, Load(3000, start_seconds=100), 9.0, 9.0, 3.6)["nightly batch"].a_month == pytest.approx(9.0)


def test_the_table_has_every_option_of_the_users_own_documents(run, workspace):
    made = run("make_sample_documents", "--out-dir", "made", "--documents", "3", "--seed", "3", "--no-mess")
    assert made.code == 0, made.err
    assert run("pdf_to_images", "--in", "made/pdfs", "--workers", "1").code == 0
    built = run("build_jsonl_from_results", "--results", "made/results.json", "--images-dir", "data/images")
    assert built.code in (0, 1), built.err  # labels without images, as real exports have
    words = ["--in", "data/train.jsonl", "--price", "a100=3.67", "--spot", "a100=1.2", "--month", "10000"]
    done = run("estimate_latency", *words, "--json")
    assert done.code == 0, done.err
    assert [line["option"] for line in done.json["costs"]] == ["always on", "serverless", "nightly batch"]
    assert done.json["costs"][2]["a_document"] < done.json["costs"][0]["a_document"]
    refused = run("estimate_latency", "--in", "data/train.jsonl", "--month", "10000")
    assert refused.code == 2 and "--price" in refused.err
