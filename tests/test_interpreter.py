"""A script that is started outside the project's environments starts itself inside one, or says how to make it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from toolkit import interpreter


@pytest.fixture(scope="module")
def empty_python(tmp_path_factory) -> Path:
    """A Python without any package, as a fresh machine has it."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return interpreter.python_in(folder)


@pytest.fixture
def clone(tmp_path) -> Path:
    """The scripts and schemas, and one document; no environment."""
    for name in ("scripts", "schemas"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def started(python: Path, clone: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != interpreter.STARTED}
    command = [str(python), *words]
    return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)


WORDS = ("scripts/make_sample_documents.py", "--documents", "2", "--out-dir", "made", "--json")


def test_without_an_environment_the_sentence_says_how_to_make_it(empty_python, clone):
    done = started(empty_python, clone, *WORDS)
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    assert "is missing; make the environment: python scripts/make_environment.py main; then run" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="a link to a folder wants rights on Windows")
def test_outside_the_environment_a_script_starts_itself_inside_with_the_same_words(empty_python, clone):
    (clone / ".venv").symlink_to(sys.prefix)
    done = started(empty_python, clone, *WORDS)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["documents"] == 2


def test_help_needs_no_environment(empty_python, clone):
    for script in sorted((clone / "scripts").glob("v*.py")):
        done = started(empty_python, clone, f"scripts/{script.name}", "--help")
        assert done.returncode == 0 and "usage: " in done.stdout


def made(root: Path, *folders: str) -> None:
    for folder in folders:
        python = interpreter.python_in(root / folder)
        python.parent.mkdir(parents=True)
        python.write_text("")


def test_serving_prefers_the_environment_with_vllm_and_all_else_the_main_one(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    made(tmp_path, ".venv", ".venv-serve")
    assert interpreter.python_to_start("serve_vllm", tmp_path) == interpreter.python_in(tmp_path / ".venv-serve")
    assert interpreter.python_to_start("pdf_to_images", tmp_path) == interpreter.python_in(tmp_path / ".venv")
    assert interpreter.python_to_start("make_environment", tmp_path) is None


def test_inside_an_environment_or_after_one_start_nothing_is_started_again(tmp_path, monkeypatch):
    made(tmp_path, ".venv", ".venv-serve")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv-serve"))
    assert interpreter.python_to_start("pdf_to_images", tmp_path) is None
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setenv(interpreter.STARTED, "1")
    assert interpreter.python_to_start("pdf_to_images", tmp_path) is None


def test_another_environment_that_has_all_packages_was_chosen_on_purpose(tmp_path, monkeypatch):
    made(tmp_path, ".venv")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "mine"))
    assert interpreter.python_to_start("pdf_to_images", tmp_path) is None
    monkeypatch.setattr(interpreter, "MARKERS", ("PIL", "not_installed"))
    assert interpreter.python_to_start("pdf_to_images", tmp_path) == interpreter.python_in(tmp_path / ".venv")
