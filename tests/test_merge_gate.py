"""What a merge and a quantization must hold before they are called good: answers, widths, groups."""

from types import SimpleNamespace

import pytest
from test_serving import adapter  # noqa: F401

# ruff: noqa: F811 - imported fixtures are arguments by their name
from toolkit.console import StageError
from toolkit.model.quantization import check_divisible, group_size_of


def test_a_merge_that_answers_otherwise_too_often_ends_with_a_problem_and_names_the_records(
    run, adapter, easy_dataset, tmp_path
):
    """Weights rounded to eight bits of precision: a few of this random model's answers change."""
    words = ["--adapter", adapter, "--dtype", "bfloat16", "--json", "--check", easy_dataset / "data/train.jsonl"]
    words += ["--root", easy_dataset, "--check-records", 4]
    strict = run("merge_adapter", *words, "--out", tmp_path / "a", "--min-agreement", 1)
    share, different = strict.json["agreement"], strict.json["different"]
    assert 0 < share < 1 and share == 1 - len(different) / 4
    assert strict.code == 1 and "do not serve it" in strict.err and all(name in strict.err for name in different)
    lenient = run("merge_adapter", *words, "--out", tmp_path / "b", "--min-agreement", share)
    assert lenient.code == 0 and lenient.json["different"] == different


def config_of(hidden: int, inner: int, expert: int | None = None) -> SimpleNamespace:
    sizes = {"hidden_size": hidden, "intermediate_size": inner}
    return SimpleNamespace(
        text_config=SimpleNamespace(**sizes, **({"moe_intermediate_size": expert} if expert else {}))
    )


@pytest.mark.parametrize(
    ("sizes", "group"),
    [
        ((4096, 12288), 128),
        ((128, 384), 128),
        ((192, 384), 64),
        ((128, 320), 64),
        ((2048, 6144, 768), 128),
        ((2048, 6144, 704), 64),
    ],
)
def test_weights_are_grouped_by_128_or_where_a_width_asks_for_it_by_64(sizes, group):
    assert group_size_of(config_of(*sizes)) == group


@pytest.mark.parametrize(("sizes", "width"), [((4096, 4304), "4304"), ((100, 128), "100"), ((2048, 6144, 96), "96")])
def test_a_width_that_no_group_divides_is_refused_for_four_bits_and_not_for_fp8(sizes, width):
    for method in ("awq", "gptq"):
        with pytest.raises(StageError, match=rf"{width} does not divide by 64; use --method fp8"):
            check_divisible(config_of(*sizes), method)
    check_divisible(config_of(*sizes), "fp8")
    check_divisible(config_of(4096, 12288, 768), "awq")
