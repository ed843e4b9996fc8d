"""Statistics of a data set: what is counted is what is there and what training would count."""

from pathlib import Path


def test_statistics_count_tokens_as_training_does(run, easy_dataset, tiny_model, monkeypatch):
    from toolkit.model.lengths import record_length
    from toolkit.model.loading import load_processor
    from toolkit.records.record import read_records

    monkeypatch.chdir(easy_dataset)
    found = run("dataset_stats", "--in", "data/train.jsonl", "--model", tiny_model, "--html", "s.html", "--json").json
    processor = load_processor(str(tiny_model), 1280)
    lengths = [record_length(processor, r, Path(), 1280) for r in read_records("data/train.jsonl")]
    assert found["total_tokens"]["max"] == max(lengths) and found["total_tokens"]["min"] == min(lengths)
    assert found["longest"][0]["tokens"] == max(lengths) and found["tokens_are"] == "exact"
    assert found["fits_max_length"]["2048"] == sum(length <= 2048 for length in lengths)
    assert "http" not in Path("s.html").read_text() and "port_of_discharge" in Path("s.html").read_text()


def test_statistics_count_what_is_there(run, easy_dataset, monkeypatch):
    monkeypatch.chdir(easy_dataset)
    found = run("dataset_stats", "--in", "data/train.jsonl", "--json").json
    ports = found["values"]["port_of_discharge"]
    assert sum(count for _, count in ports["top"]) <= 24 and ports["distinct"] >= len(ports["top"]) > 1
    assert found["predicted"]["training"]["qlora"]["memory_gib"] < found["predicted"]["training"]["lora"]["memory_gib"]
    assert found["documents"] == 24 and found["vision_tokens"] == {"min": 384, "median": 384, "p95": 384, "max": 384}
    assert found["fill_rate"]["bl_number"] == 1.0
