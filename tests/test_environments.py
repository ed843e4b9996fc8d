"""Environments: which are up to date, and what is said where one cannot be made."""

import pytest
from conftest import REPOSITORY

from toolkit.console import StageError
from toolkit.project import environments


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A stand-in repository root with the real requirements files and no environment."""
    import shutil

    shutil.copyfile(REPOSITORY / "requirements.txt", tmp_path / "requirements.txt")
    shutil.copytree(REPOSITORY / "requirements", tmp_path / "requirements")
    monkeypatch.setattr(environments, "REPOSITORY", tmp_path)
    return tmp_path


def pretend_made(name):
    python = environments.python_of(name)
    python.parent.mkdir(parents=True)
    python.write_text("")
    (environments.REPOSITORY / environments.ENVIRONMENTS[name].folder / environments.STAMP).write_text(
        environments.wanted_stamp(name)
    )


def test_an_environment_is_current_until_a_pin_changes(repository):
    assert not environments.is_current("main")
    pretend_made("main")
    assert environments.is_current("main") and not environments.is_current("dev")
    with (repository / "requirements.txt").open("a") as file:
        file.write("another==1\n")
    assert not environments.is_current("main")


def test_a_dev_environment_is_also_a_main_one(repository):
    pretend_made("dev")
    assert environments.is_current("main") and environments.is_current("dev")


def test_line_ends_of_windows_do_not_make_it_out_of_date(repository):
    pretend_made("main")
    path = repository / "requirements.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert environments.is_current("main")


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_an_unsupported_python_is_one_sentence_with_the_way_out(monkeypatch, version):
    class Version(tuple):
        major, minor = version

    monkeypatch.setattr(environments.sys, "version_info", Version((*version, 0)))
    with pytest.raises(
        StageError, match=rf"needs Python 3.11 to 3.13, this is {version[0]}.{version[1]}; start the script with"
    ):
        environments.make("main")


def test_a_failed_download_is_one_sentence(tmp_path, monkeypatch):
    import sys

    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with pytest.raises(StageError, match="the package index cannot be reached"):
        environments.install(
            environments.Path(sys.executable), ["--dry-run", "--ignore-installed", "--no-deps", "tqdm==4.70.1"]
        )


def test_a_pin_that_does_not_exist_is_one_sentence():
    import sys

    with pytest.raises(StageError, match="has no no-such-package-here==1 for this Python"):
        environments.install(environments.Path(sys.executable), ["--dry-run", "--no-index", "no-such-package-here==1"])


def test_every_requirement_is_pinned():
    for path in [REPOSITORY / "requirements.txt", *(REPOSITORY / "requirements").glob("*.txt")]:
        lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
        assert all("==" in line for line in lines if line), path
