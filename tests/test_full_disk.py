"""A full disk is nobody's document: the run stops with one sentence, and the next one does what is missing."""

import errno
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from fault_server import FaultServer
from test_server_client import GOOD, SCHEMA

from toolkit.extraction.documents import rendered_pages
from toolkit.files import NotWritten, is_machine_failure
from toolkit.model.contract import Contract

pytestmark = pytest.mark.skipif(os.name == "nt", reason="tmpfs of Linux")


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 100 KB: less than one page of noise."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no permission to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def contract(tmp_path) -> Path:
    Contract(SCHEMA, "s.json", "read", "json", 64, 100, max_pages=2, prompt_tokens=20).save(tmp_path / "model")
    return tmp_path / "model"


def noise(path: Path) -> Path:
    """A picture that no compression makes small: 190 KB at 64 vision tokens."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.frombytes("RGB", (256, 256), os.urandom(256 * 256 * 3)).save(path)
    return path


def extract(run, server, contract):
    done = run(
        "extract_documents", "--server", server.url, "--contract", contract, "--in", "in", "--out", "o.jsonl", "--json"
    )
    text = Path("o.jsonl").read_text(encoding="utf-8") if Path("o.jsonl").exists() else ""
    return done, [json.loads(line) for line in text.splitlines()]


def test_a_full_disk_stops_an_extraction_and_the_next_run_does_the_document(
    run, workspace, contract, small_disk, monkeypatch
):
    noise(workspace / "in/a.png")
    with FaultServer(lambda _: None, answer=lambda _: GOOD) as server:
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(small_disk))
            done, lines = extract(run, server, contract)
        assert done.code == 2 and "no space left on the disk" in done.err and done.err.count("\n") <= 2, done.err
        assert lines == [] and list(small_disk.iterdir()) == []
        done, lines = extract(run, server, contract)
    assert done.code == 0 and [(line["id"], line["status"]) for line in lines] == [("a.png", "ok")]


def test_a_source_that_may_not_be_read_is_that_documents_failure_and_a_folder_that_may_not_be_written_is_not(tmp_path):
    source = noise(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "folder.png").mkdir()
    assert rendered_pages(str(tmp_path / "folder.png"), str(tmp_path), 64)[1]
    assert rendered_pages(str(tmp_path / "gone.png"), str(tmp_path), 64)[1] == "the file is gone"
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritten):
        rendered_pages(str(source), str(tmp_path / "file"), 64)


@pytest.mark.skipif(os.name == "nt", reason="permissions of Unix")
def test_a_source_without_permission_stops_no_other_document(run, workspace):
    noise(workspace / "in/a.png")
    noise(workspace / "in/closed.png").chmod(0)
    if os.access(workspace / "in/closed.png", os.R_OK):
        # Root may read everything: a loop of links has an error number of the same kind.
        (workspace / "in/closed.png").unlink()
        (workspace / "list.txt").write_text("in/a.png\nin/closed.png\n")
        from toolkit.pages.batch_rendering import Rendering, outcome_of

        (workspace / "in/closed.png").symlink_to("closed.png")
        lines, sentence = outcome_of("in/closed.png", "made", Rendering(64, "png"))
        assert lines == [] and "it cannot be read" in sentence
        return
    done = run("pdf_to_images", "--in", "in", "--image-max-tokens", 64, "--json")
    assert done.code == 1 and done.json["documents"] == 1 and "closed.png: it cannot be read" in done.err


def test_a_full_disk_while_rendering_leaves_whole_documents_only(run, workspace, small_disk):
    from PIL import Image

    (workspace / "in").mkdir()
    Image.new("RGB", (64, 64), "white").save(workspace / "in/a_small.png")
    noise(workspace / "in/b_large.png")
    words = ["--in", "in", "--out-dir", small_disk, "--image-max-tokens", 64]
    done = run("pdf_to_images", *words)
    assert done.code == 2 and "no space left on the disk" in done.err and "Traceback" not in done.err
    assert sorted(path.name for path in small_disk.iterdir()) == ["a_small_page_0001.png", "manifest.jsonl"]


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EMFILE"])
def test_errors_of_the_machine_are_told_from_errors_of_a_file(name):
    assert is_machine_failure(OSError(getattr(errno, name), "x"))
    assert is_machine_failure(NotWritten(errno.EACCES, "x", "f"))
    assert not is_machine_failure(OSError(errno.EIO, "x")) and not is_machine_failure(OSError("an encoder's"))


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_full_disk_is_503_at_the_gateway_and_no_fault_of_the_document(small_disk, monkeypatch, kind):
    """The PNG is itself too large for the disk; the JPEG fits, its page does not."""
    from PIL import Image
    from served_gateway import LIMITS, Gateway, contract_of, reader

    contract = contract_of()
    Image.open(noise(small_disk.parent / "a.png")).save(small_disk.parent / "a.jpeg", quality=10)
    data = (small_disk.parent / f"a.{kind}").read_bytes()
    with FaultServer(lambda _: None, answer=reader(contract.answer_plan)) as server:
        monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
        with Gateway(server.url, contract, LIMITS) as gateway:
            answer = gateway.http.post("/v1/extract", content=data, headers={"content-type": f"image/{kind}"})
            assert answer.status_code == 503 and "No space left" in answer.json()["error"]["message"], answer.text
            monkeypatch.setattr(tempfile, "tempdir", None)
