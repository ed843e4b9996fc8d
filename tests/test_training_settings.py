"""A run's settings: flags, then a file, then the preset; what is out of range is refused by its name."""

import json
from pathlib import Path

import pytest


def test_settings_come_from_flags_then_a_file_then_the_preset(tmp_path):
    from toolkit.training.settings import preset_for, resolved

    file = tmp_path / "earlier.json"
    earlier = {"rank": 64, "accumulate": 3, "out": "elsewhere", "train_vision": True, "vision_rate": None}
    file.write_text(json.dumps(earlier), encoding="utf-8")
    settings = resolved({"rank": 8}, preset="48gb", file=file)
    assert (settings.rank, settings.accumulate, settings.tokens_per_batch) == (8, 3, 4096)
    assert settings.train_vision and settings.adapter.vision_rate == pytest.approx(1e-5)
    assert resolved({}, preset="24gb").method == "qlora"
    assert [preset_for(memory) for memory in (None, 22, 44.4, 79.2, 139.8)] == ["none", "24gb", "48gb", "80gb", "141gb"]


def test_what_a_run_wrote_is_a_file_of_settings_and_every_setting_is_a_flag(tmp_path):
    from train_lora import build_parser

    from toolkit.training.settings import known_settings, resolved

    settings = resolved({"rank": 8, "schema": Path("schemas/x.schema.json"), "epochs": 2.5}, preset="80gb")
    file = tmp_path / "training_settings.json"
    file.write_text(json.dumps({"train": "t.jsonl", "json": False} | settings.as_json()), encoding="utf-8")
    assert resolved({}, file=file) == settings
    required = ["--train", "t.jsonl", "--model", "m", "--out", "o"]
    assert not set(vars(build_parser().parse_args(required))) & set(known_settings())
    given = build_parser().parse_args([*required, "--rank", "8", "--train-vision", "--checkpointing", "off"])
    assert (given.rank, given.train_vision, given.checkpointing) == (8, True, "off")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ranks": 1}, "'ranks' is no setting"),
        ({"method": "dora"}, "none of lora, qlora"),
        ({"rank": "many"}, "no value"),
        ({"rank": None}, "no value"),
        ({"rank": [8]}, "no value"),
        ({"rank": 0}, "from 1 on"),
        ({"epochs": 0}, "above 0"),
        ({"warmup": 1.5}, "up to 1"),
        ({"learning_rate": "nan"}, "a number is needed"),
        ({"train_vision": "yes"}, "true or false"),
        ([8], "settings are an object"),
    ],
)
def test_a_file_with_a_wrong_setting_is_refused_by_its_name(tmp_path, wrong, said):
    from toolkit.console import StageError
    from toolkit.training.settings import resolved

    file = tmp_path / "settings.json"
    file.write_text(json.dumps(wrong), encoding="utf-8")
    with pytest.raises(StageError, match=said) as caught:
        resolved({}, file=file)
    assert "settings.json" in str(caught.value) and (isinstance(wrong, list) or next(iter(wrong)) in str(caught.value))


def test_a_flag_out_of_its_range_is_refused_before_anything_is_read(run, tmp_path):
    done = run("train_lora", "--train", "none.jsonl", "--model", "m", "--out", tmp_path / "o", "--accumulate", 0)
    assert done.code == 2 and "--accumulate: a number from 1 on is needed, not 0" in done.err
