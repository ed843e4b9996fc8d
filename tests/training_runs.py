"""A small training run as the tests start it, and the adapter that it leaves."""

from pathlib import Path


def weights(folder: Path):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def arguments(dataset: Path, model: Path, out: Path, *more: object) -> list[str]:
    fixed = [
        "--train",
        dataset / "data/train.jsonl",
        "--root",
        dataset,
        "--schema",
        dataset / "schemas/bill_of_lading.schema.json",
        "--model",
        model,
        "--out",
        out,
        "--image-max-tokens",
        384,
        "--max-length",
        4096,
        "--rank",
        4,
        "--threads",
        1,
        "--log-each",
        1,
    ]
    return [str(word) for word in (*fixed, *more)]
