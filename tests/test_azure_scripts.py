"""Deploying to Azure ML, with the CLI's answers recorded and a server on this machine as the endpoint."""

import http.server
import json
import os
import shlex
import shutil
import threading
from pathlib import Path

import pytest
from conftest import REPOSITORY
from recorded_cloud import RecordedCloud

from toolkit.cloud.image_version import image_version

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the recorder is a program with a shebang")
ABSENT = (["show", "none"], 3, "", "ERROR: (UserError) it was not found\n")
KEY = (["get-credentials"], 0, "sesame\n", "")


@pytest.fixture
def cloud(tmp_path, monkeypatch) -> RecordedCloud:
    return RecordedCloud(tmp_path, monkeypatch)


@pytest.fixture
def endpoint():
    """What stands behind the scoring address: its status, and the requests that came."""

    class Endpoint(http.server.BaseHTTPRequestHandler):
        status, asked = 200, []

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            type(self).asked.append((dict(self.headers), body))
            self.send_response(type(self).status)
            self.end_headers()
            self.wfile.write(b'{"pages": 1}')

        def log_message(self, *_):
            pass

    Endpoint.asked = []
    server = http.server.HTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Endpoint.address = f"http://127.0.0.1:{server.server_port}/score"
    yield Endpoint
    server.shutdown()


@pytest.fixture
def document(tmp_path) -> Path:
    path = tmp_path / "d.pdf"
    path.write_bytes(b"%PDF-1.4")
    return path


def deploy(run, document: Path, *words: object):
    return run("deploy_endpoint", "--slot", "green", "--model", "bl-8b-awq:2", "--document", document, *words)


def scoring(endpoint) -> tuple[list[str], int, str, str]:
    return (["scoring_uri"], 0, endpoint.address + "\n", "")


def test_a_new_slot_gets_the_model_and_the_image_of_this_content(run, cloud, endpoint, document):
    cloud.answer(ABSENT, scoring(endpoint), KEY)
    done = deploy(run, document, "--resource-group", "rg", "--workspace", "ws")
    assert done.code == 0, done.err
    version = image_version(REPOSITORY, REPOSITORY / "azureml/endpoint/Dockerfile")
    assert cloud.said("environment", "create", "--version", version, "rg", "ws")
    assert cloud.said("online-endpoint", "create", "bl-extract")
    given = "model=azureml:bl-8b-awq:2", f"environment=azureml:extraction-server:{version}"
    assert cloud.said("online-deployment", "create", "green", "--set", *given)
    assert not any("--traffic" in call for call in cloud.calls)
    ((headers, body),) = endpoint.asked
    assert headers["azureml-model-deployment"] == "green" and body == b"%PDF-1.4"
    assert headers["Authorization"] == "Bearer sesame"
    assert not any("sesame" in word for call in cloud.calls for word in call)  # the key is no program's argument


def test_the_printed_next_step_can_be_run_as_it_is_printed(run, cloud, endpoint, document):
    cloud.answer(ABSENT, scoring(endpoint), KEY)
    done = deploy(run, document, "--resource-group", "rg", "--workspace", "ws", "--endpoint", "other")
    python, script, *words = shlex.split(done.err.partition("next: ")[2].splitlines()[0])
    assert python == "python" and (REPOSITORY / script).is_file()
    assert run(Path(script).stem, *words).code == 0
    assert cloud.said("--traffic", "green=10 blue=90", "other", "rg", "ws")


def test_what_is_there_is_updated_and_an_environment_of_this_content_is_not_made_again(run, cloud, endpoint, document):
    cloud.answer(scoring(endpoint), KEY)
    assert deploy(run, document).code == 0
    assert cloud.said("online-deployment", "update", "green")
    assert not any("create" in call for call in cloud.calls)


@pytest.mark.parametrize(("there", "words", "deleted"), [(False, [], 1), (False, ["--keep-failed"], 0), (True, [], 0)])
def test_a_new_slot_that_fails_its_test_is_removed_and_an_old_one_stays(
    run, cloud, endpoint, document, there, words, deleted
):
    endpoint.status = 424
    cloud.answer(*([] if there else [ABSENT]), scoring(endpoint), KEY)
    done = deploy(run, document, *words)
    assert done.code == 1 and "green answers 424 to" in done.err
    assert sum("delete" in call for call in cloud.calls) == deleted


def test_a_slot_that_cannot_be_made_shows_its_log_and_is_removed(run, cloud, document):
    failure = (["online-deployment", "create"], 1, "", "ERROR: (OutOfQuota) no cores\n")
    log = (["get-logs"], 0, "the driver runs CUDA 12.2\n", "")
    cloud.answer(ABSENT, failure, log)
    done = deploy(run, document)
    assert done.code == 2 and "the driver runs CUDA 12.2" in done.err and "OutOfQuota" in done.err
    assert cloud.said("online-deployment", "delete", "green")


def test_a_failing_cli_is_not_taken_for_something_absent(run, cloud, document):
    cloud.answer((["show"], 1, "", "ERROR: Please run 'az login'\n"))
    done = deploy(run, document)
    assert done.code == 2 and "az login" in done.err and not any("create" in call for call in cloud.calls)


def test_wrong_words_reach_no_cloud(run, cloud, document, tmp_path):
    assert "not found" in deploy(run, tmp_path / "gone.pdf").err
    wrong = run("deploy_endpoint", "--slot", "blue", "--model", "bl-8b-awq", "--document", document)
    assert wrong.code == 2 and "NAME:VERSION" in wrong.err
    assert run("shift_traffic", "--slot", "red", "--share", "10").code == 2
    assert run("shift_traffic", "--slot", "green", "--share", "101").code == 2
    assert run("shift_traffic", "--slot", "green").code == 2
    assert cloud.calls == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mirror"], ["--mirror-traffic", "green=10"]),
        (["--share", "0"], ["--traffic", "green=0 blue=100"]),
        (["--share", "100"], ["--traffic", "green=100"]),
    ],
)
def test_traffic_is_shared_out_and_taken_back(run, cloud, words, said):
    assert run("shift_traffic", "--slot", "green", *words).code == 0
    assert set(said) <= set(cloud.calls[-1])


def test_a_missing_cli_is_one_sentence(run, monkeypatch, document):
    monkeypatch.setenv("PATH", "/nowhere")
    done = deploy(run, document)
    assert done.code == 3 and "the Azure CLI (az) is not installed" in done.err


def test_the_images_version_follows_what_the_dockerfile_copies_and_nothing_else(tmp_path):
    for name in ("scripts", "schemas", "requirements", "azureml"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    dockerfile = tmp_path / "azureml/endpoint/Dockerfile"
    first = image_version(tmp_path, dockerfile)
    (tmp_path / "docs.md").write_text("not copied")
    (tmp_path / "scripts/__pycache__").mkdir()
    (tmp_path / "scripts/__pycache__/x.pyc").write_bytes(b"1")
    windows = tmp_path / "scripts/check_gpu.py"
    windows.write_bytes(windows.read_bytes().replace(b"\n", b"\r\n"))
    assert image_version(tmp_path, dockerfile) == first
    with (tmp_path / "scripts/check_gpu.py").open("a") as file:
        file.write("# changed\n")
    second = image_version(tmp_path, dockerfile)
    assert second != first
    with dockerfile.open("a") as file:
        file.write("ENV CHANGED=1\n")
    assert image_version(tmp_path, dockerfile) not in (first, second)


def test_an_environment_is_registered_under_its_content(run, cloud):
    cloud.answer(ABSENT)
    file = REPOSITORY / "azureml/train/environment.yml"
    shown = run("register_environment", "--file", file, "--version-only", "--json")
    assert cloud.calls == []
    made = run("register_environment", "--file", file, "--json")
    assert made.code == 0 and made.json == shown.json
    assert cloud.said("environment", "create", "--version", json.loads(made.out.splitlines()[-1])["environment"][-12:])
