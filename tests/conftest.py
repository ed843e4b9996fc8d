"""Shared helpers: run a script in this process, a workspace with the schemas, a tiny model made once."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def server_processes(port: int) -> list[int]:
    """Process ids of the vLLM servers on `port`, as scripts/serve_vllm.py starts them; Linux and macOS (pgrep)."""
    words = ["pgrep", "-f", f"vllm.entrypoints.cli.main serve .*--port {port}"]
    return [int(word) for word in subprocess.run(words, capture_output=True, text=True).stdout.split()]


class Outcome:
    """Exit code, stdout, stderr of a script; `json` is its last stdout line."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict:
        return json.loads(self.out.strip().splitlines()[-1])


@pytest.fixture
def run(capsys):
    """`run("split_jsonl", "--in", path)` calls the script's main in this process."""

    def call(script: str, *arguments: object) -> Outcome:
        capsys.readouterr()
        try:
            code = importlib.import_module(script).main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """An empty working directory that has the project's schemas, as a clone has."""
    shutil.copytree(REPOSITORY / "schemas", tmp_path / "schemas")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def easy_dataset(tmp_path_factory) -> Path:
    """A folder with 24 easy bills of lading taken through the data stages: data/train.jsonl and its images."""
    folder = tmp_path_factory.mktemp("easy")
    shutil.copytree(REPOSITORY / "schemas", folder / "schemas")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for script, arguments in (
            ("make_sample_documents", ["--out-dir", "data/samples", "--documents", "24", "--layout", "easy", "--seed", "5", "--no-mess"]),
            ("extract_combined_zip", ["--zip", "data/samples/combined.zip", "--zip", "data/samples/bls_another.zip"]),
            ("pdf_to_images", ["--in", "data/samples/pdfs", "--image-max-tokens", "384"]),
            ("build_jsonl_from_results", ["--results", "data/samples/results.json", "--images-dir", "data/raw", "--images-dir", "data/images",
                                          "--prompt", str(REPOSITORY / "examples/quickstart/prompt.txt")]),
        ):  # fmt: skip
            assert importlib.import_module(script).main(arguments) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    assert importlib.import_module("make_tiny_model").main(["--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def tiny_moe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-moe"
    assert importlib.import_module("make_tiny_model").main(["--out", str(folder), "--moe"]) == 0
    return folder


def write_results(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def png(path: Path, size: tuple[int, int] = (64, 64), shade: int = 200) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (shade, shade, shade))
    image.paste((shade ^ 0x80,) * 3, (4, 4, 12, 12))  # a page with something on it: a blank one identifies nothing
    image.save(path)
    return path
