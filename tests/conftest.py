"""Shared helpers: run a script in this process, a workspace with the schemas, models made once a run."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
from made_once import free_port, give_each_lane_its_threads, made_once, shared_folder

__all__ = ["REPOSITORY", "Outcome", "free_port", "png", "script", "server_processes", "write_results"]
REPOSITORY = Path(__file__).resolve().parents[1]
READING_BASE = REPOSITORY / "examples/reading_base"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
give_each_lane_its_threads()
# How long one example takes says something about the machine: the first one imports, and other lanes run beside it.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One lane begins with the quickstart, the other with what does not need its model; what needs it comes last."""

    def turn(item: pytest.Item) -> int:
        needed = getattr(item, "fixturenames", ())
        return 0 if "quickstart_result" in needed else 2 if "quickstart" in needed else 1

    items.sort(key=turn)


def script(name: str, *arguments: object, python: object = sys.executable, code: tuple[int, ...] = (0,)) -> dict:
    """Run a script from the repository; its --json line."""
    words = [str(python), f"scripts/{name}.py", *map(str, arguments), "--json"]
    done = subprocess.run(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert done.returncode in code, f"{words}: {done.returncode}"
    return json.loads(done.stdout.strip().splitlines()[-1])


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
def shared(tmp_path_factory) -> Path:
    """A folder of the whole run, the same in all its processes (see made_once)."""
    return shared_folder(tmp_path_factory)


EASY_DATASET = """
make_sample_documents --out-dir data/samples --documents 24 --layout easy --seed 5 --no-mess
extract_combined_zip --zip data/samples/combined.zip --zip data/samples/bls_another.zip
pdf_to_images --in data/samples/pdfs --image-max-tokens 384
build_jsonl_from_results --results data/samples/results.json --images-dir data/raw --images-dir data/images --prompt
""".strip().splitlines()


def make_easy_dataset(folder: Path) -> None:
    shutil.copytree(REPOSITORY / "schemas", folder / "schemas")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for line in EASY_DATASET:
            name, *words = line.split()
            words += [str(REPOSITORY / "examples/quickstart/prompt.txt")] if words[-1] == "--prompt" else []
            assert importlib.import_module(name).main(words) == 0
    finally:
        os.chdir(before)


@pytest.fixture(scope="session")
def easy_dataset(shared, tmp_path_factory) -> Path:
    """A folder with 24 easy bills of lading taken through the data stages: data/train.jsonl and its images.

    Each process has a copy of its own, because some tests write into it.
    """
    made = made_once(shared / "easy", make_easy_dataset)
    return shutil.copytree(made, tmp_path_factory.mktemp("easy") / "copy")


def make_model(folder: Path, *words: str) -> None:
    assert importlib.import_module("make_tiny_model").main(["--out", str(folder / "model"), *words]) == 0


@pytest.fixture(scope="session")
def tiny_model(shared, tmp_path_factory) -> Path:
    made = made_once(shared / "tiny", make_model)
    return shutil.copytree(made / "model", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_moe(shared, tmp_path_factory) -> Path:
    made = made_once(shared / "tiny-moe", lambda folder: make_model(folder, "--moe"))
    return shutil.copytree(made / "model", tmp_path_factory.mktemp("models") / "tiny-moe")


def make_quickstart(folder: Path) -> None:
    result = script("quickstart", "--here", "--seed", 11)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


@pytest.fixture(scope="session")
def quickstart_result(shared) -> dict:
    """What the quickstart says at its end; it is run anew, once for all the processes of the run."""
    return json.loads((made_once(shared / "quickstart", make_quickstart) / "result.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def quickstart(request) -> Path:
    """The quickstart's adapter. That of an earlier run serves too, unless a test of this run replaces it."""
    adapter = REPOSITORY / "outputs/quickstart/adapter"
    replaced = any("quickstart_result" in getattr(item, "fixturenames", ()) for item in request.session.items)
    if replaced or not (adapter / "extraction_config.json").is_file():
        request.getfixturevalue("quickstart_result")
    return adapter


@pytest.fixture(scope="session")
def held_out(quickstart) -> Path:
    """The records of documents of another seed than the quickstart's model was trained on."""
    return REPOSITORY / "data/quickstart/held_out/records.jsonl"


@pytest.fixture(scope="session")
def merged(quickstart, shared) -> Path:
    """The quickstart's adapter and its base as one model."""

    def make(folder: Path) -> None:
        result = script("merge_adapter", "--adapter", quickstart, "--model", READING_BASE, "--out", folder / "model")
        assert result["targets"] == 35 and result["smallest_delta"] > 0

    return made_once(shared / "merged", make) / "model"


def environment_python(name: str, shared: Path) -> Path:
    """The Python of an environment, which is installed first where it is not there yet; by one process at a time."""

    def make(folder: Path) -> None:
        found = script("make_environment", name, python=Path(sys.base_prefix) / "bin/python3")
        (folder / "python.txt").write_text(found["python"], encoding="utf-8")

    return Path((made_once(shared / f"environment-{name}", make) / "python.txt").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def vllm_python(shared) -> Path:
    return environment_python("ray-cpu", shared)


@pytest.fixture(scope="session")
def cloud_python(shared) -> Path:
    return environment_python("cloud", shared)


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
