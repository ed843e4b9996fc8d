"""Each serving image's start command as a user that is not root, in the layout of its Dockerfile, up to a server.

Slow: each starts a real vLLM on the CPU. The user can read everything, as in an image, and write only its own folders.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from conftest import REPOSITORY, free_port
from test_serving import made_adapter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can start another user"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv starts the other user"),
]
USER = "10001"
# Reading needs no owner in an image either; here the interpreter lies in root's home.
AS_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
AS_USER += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory) -> Path:
    import merge_adapter

    folder = tmp_path_factory.mktemp("model")
    adapter = made_adapter(tiny_model, folder / "adapter")
    out = folder / "mounted/bl-8b-awq"
    assert merge_adapter.main(["--adapter", str(adapter), "--out", str(out), "--dtype", "float32"]) == 0
    return out


def layout(dockerfile: Path, app: Path) -> list[str]:
    """Fill `app` as the Dockerfile fills /app, owned by root but for what it gives the user; the start's words."""
    text = dockerfile.read_text(encoding="utf-8")
    for sources, target in re.findall(r"^COPY ((?:\S+ )+)(\S+)$", text.partition("WORKDIR /app")[2], re.M):
        for source in sources.split():
            into = app / target
            into.parent.mkdir(parents=True, exist_ok=True)
            if (REPOSITORY / source).is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(REPOSITORY / source, into, ignore=ignore, dirs_exist_ok=True)
            else:
                shutil.copyfile(REPOSITORY / source, into)
    for owned in re.findall(r"--owner extraction (\S+)", text):
        folder = app / Path(owned).relative_to("/app")
        folder.mkdir(parents=True)
        os.chown(folder, int(USER), int(USER))
    (start,) = re.findall(r"^ENTRYPOINT (\[.+\])$", text, re.M)
    return list(json.loads(start))


@pytest.mark.parametrize(
    ("dockerfile", "variables"),
    [
        ("azureml/endpoint/Dockerfile", {"AZUREML_MODEL_DIR": "{mounted}"}),
        (".runpod/Dockerfile", {"MODE": "http", "NO_KEY": "1", "MODEL_DIR": "{mounted}/bl-8b-awq"}),
    ],
)
def test_an_image_serves_without_root(dockerfile, variables, vllm_python, model, tmp_path):
    app, home = tmp_path / "app", tmp_path / "home"
    words = layout(REPOSITORY / dockerfile, app)
    words = [str(vllm_python) if word == "python3" else word for word in words]
    home.mkdir()
    os.chown(home, int(USER), int(USER))
    port, model_port = free_port(), free_port()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "USER": "extraction", "LOGNAME": "extraction"}
    environment |= {name: value.format(mounted=model.parent) for name, value in variables.items()}
    environment |= {"PORT": str(port), "PYTHON": str(vllm_python), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if words[0] == "bash":
        environment["SERVE_ARGUMENTS"] = f"--model-port {model_port} --max-seconds 100"
    else:
        words += ["--model-port", str(model_port)]
    log = tmp_path / "log.txt"
    with log.open("wb") as file:
        quiet = {"stdout": file, "stderr": subprocess.STDOUT, "start_new_session": True}
        process = subprocess.Popen([*AS_USER, *words], cwd=app, env=environment, **quiet)
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 420
        while time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()[-3000:]
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health/ready").status_code == 200:
                    break
            time.sleep(1)
        else:
            raise AssertionError(log.read_text()[-3000:])
        # A model of random weights has no right answer; 502 is an answer that is not the schema's.
        png = REPOSITORY / "docs/report.png"
        answer = httpx.post(f"{url}/v1/extract", content=png.read_bytes(), timeout=180)
        assert answer.status_code in (200, 502), answer.text
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(rf"^Uid:\t{USER}\t", status, re.M)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(120) in (0, -signal.SIGTERM)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
