"""What a container does before and around the server: the model is found or fetched and proved, processes are kept up, a GPU that cannot be used is said."""

import functools
import http.server
import io
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest
from serve_container import supervise

from toolkit.console import ExitCode, StageError
from toolkit.files import sha256_of
from toolkit.model.archive import fetched_model, model_folder_in
from toolkit.model.gpus import Driver, check_torch_sees


def archive_of(path: Path, names: list[str]) -> str:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(b"{}"))
    return sha256_of(path)


@pytest.fixture
def shelf(tmp_path):
    """A folder behind HTTP on this machine; /away redirects to another host without TLS, /far/... to the file itself."""
    folder = tmp_path / "shelf"
    folder.mkdir()

    class Shelf(http.server.SimpleHTTPRequestHandler):
        asked = 0

        def log_message(self, *_):
            pass

        def do_GET(self):
            type(self).asked += 1
            if self.path.startswith(("/away", "/far/")):
                self.send_response(302)
                self.send_header("Location", "http://storage.invalid/m.tgz" if self.path == "/away" else self.path[4:])
                self.end_headers()
                return
            super().do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Shelf, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}", Shelf
    server.shutdown()


def test_the_one_model_below_a_mounted_folder_is_found(tmp_path):
    deep = tmp_path / "bl-8b-awq/1/model"
    deep.mkdir(parents=True)
    with pytest.raises(StageError, match="0 model folders inside"):
        model_folder_in(tmp_path, "AZUREML_MODEL_DIR")
    (deep / "config.json").write_text("{}")
    assert model_folder_in(tmp_path, "AZUREML_MODEL_DIR") == deep == model_folder_in(deep, "--model")
    other = tmp_path / "bl-8b-awq/1/other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(StageError, match=r"2 model folders inside .bl-8b-awq/1/model, bl-8b-awq/1/other\)"):
        model_folder_in(tmp_path, "AZUREML_MODEL_DIR")


def test_an_archive_is_fetched_once_and_only_what_its_digest_says(shelf, tmp_path):
    folder, url, asked = shelf
    digest = archive_of(folder / "m.tgz", ["m/config.json", "m/model.safetensors"])
    cache = tmp_path / "cache"
    with pytest.raises(StageError, match=f"its SHA-256 is {digest}, not the one given"):
        fetched_model(f"{url}/m.tgz", "0" * 64, cache)
    assert list(cache.iterdir()) == []
    model = fetched_model(f"{url}/far/m.tgz", digest.upper(), cache)
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "model.safetensors"]
    before = asked.asked
    assert fetched_model(f"{url}/m.tgz", digest, cache) == model and asked.asked == before
    assert [path.name for path in cache.iterdir()] == [digest[:16]]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://storage.invalid/m.tgz", "an https:// address or a file is needed"),
        ("ftp://storage.invalid/m.tgz", "an https:// address or a file is needed"),
        ("{url}/away", "an https:// address or a file is needed"),
        ("{url}/gone.tgz", "answers 404; is the address still valid?"),
        ("{url}/far/far/far/far/far/far/m.tgz", "redirects without end"),
        ("gone.tgz", "not found: gone.tgz"),
    ],
)
def test_an_address_that_cannot_be_is_refused_and_nothing_stays(shelf, tmp_path, address, said):
    with pytest.raises(StageError, match=said):
        fetched_model(address.format(url=shelf[1]), "0" * 64, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("names", [["../config.json"], ["a/config.json", "b/config.json"], ["notes.txt"]])
def test_an_archive_that_is_no_model_leaves_nothing(tmp_path, names):
    digest = archive_of(tmp_path / "m.tgz", names)
    with pytest.raises(StageError):
        fetched_model(str(tmp_path / "m.tgz"), digest, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == [] and not (tmp_path / "config.json").exists()
    with pytest.raises(StageError, match="64 hexadecimal digits"):
        fetched_model(str(tmp_path / "m.tgz"), "abc", tmp_path / "cache")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


WAITS = python("import time; time.sleep(60)")


def test_a_server_that_ends_is_started_again_until_it_ends_too_often(tmp_path):
    starts = tmp_path / "starts"
    count = python(f"open({str(starts)!r}, 'a').write('x'); raise SystemExit(1)")
    with pytest.raises(StageError, match="the model server ended 3 times in 10 minutes") as failed:
        supervise(WAITS, count, tmp_path / "ready.json", 2, [])
    assert starts.read_text() == "xxx" and failed.value.code == ExitCode.PROBLEMS


def test_what_cannot_be_cured_is_not_tried_again_and_a_dead_gateway_ends_all(tmp_path):
    starts = tmp_path / "starts"
    hopeless = python(f"open({str(starts)!r}, 'a').write('x'); raise SystemExit(3)")
    with pytest.raises(StageError, match="the model server cannot start") as failed:
        supervise(WAITS, hopeless, tmp_path / "ready.json", 5, [])
    assert starts.read_text() == "x" and failed.value.code == ExitCode.DEPENDENCY
    with pytest.raises(StageError, match="the gateway ended with code 4"):
        supervise(python("raise SystemExit(4)"), WAITS, tmp_path / "ready.json", 5, [])


def test_a_signal_ends_both_in_order(tmp_path):
    ready, stopping = tmp_path / "ready.json", []
    ready.write_text("of a server that was killed")
    threading.Timer(1.0, stopping.append, [15]).start()
    began = time.monotonic()
    assert supervise(WAITS, WAITS, ready, 5, stopping) == 0
    assert time.monotonic() - began < 10 and not ready.exists()


def test_arguments_that_contradict_are_one_sentence(run, tmp_path, monkeypatch):
    for name in ("MODEL_DIR", "AZUREML_MODEL_DIR", "MODEL_ARCHIVE"):
        monkeypatch.delenv(name, raising=False)
    for words, said in (
        ([], "no model is named"),
        (["--archive", "m.tgz"], "--archive needs --sha256"),
        (["--archive", "m.tgz", "--sha256", "0" * 64, "--model", "m"], "give one"),
    ):
        outcome = run("serve_container", *words)
        assert outcome.code == 2 and said in outcome.err and outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("cuda", "wheel", "said"),
    [
        ((12, 4), "13.0", "torch 2.13.0 is built for CUDA 13.0, the driver runs 12.4 at most"),
        ((13, 0), None, "torch 2.13.0 is a CPU build"),
        ((13, 0), "13.0", "torch 2.13.0 cannot start CUDA"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_said_and_not_passed_over(monkeypatch, cuda, wheel, said):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver = Driver("NVIDIA A100", 80.0, 79.0, cuda)
    with pytest.raises(StageError, match=said.replace(".", r"\.")):
        check_torch_sees(driver, "2.13.0", wheel)
    check_torch_sees(None, "2.13.0", wheel)  # no GPU here: the CPU is meant
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    check_torch_sees(driver, "2.13.0", wheel)  # hidden on purpose
