"""The cloud templates, run here: what their jobs and pods start, with folders in the containers' places.

Every check of the templates can fail. Slow: the pipeline's steps train and quantize. The containers that serve are in
test_serving_containers.py.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import yaml
from conftest import READING_BASE, REPOSITORY
from template_faults import ADDED, MUTATIONS, REMOVED

from toolkit.files import sha256_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="containers run Linux")]
PIPELINE = REPOSITORY / "azureml/pipeline"


def tracked(folder: Path) -> Path:
    """A copy of what git would give a stranger."""
    words = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, folder / name)
    return folder


# One process for all faults, because the SDK takes seconds to import; what is quick to check goes first.
FIND_FAULTS = """
import json, sys
from pathlib import Path
sys.path.insert(0, "scripts")
from toolkit.cloud.checks import CHECKS, checked
copy, (faults, removed, added) = Path(sys.argv[1]), json.loads(sys.stdin.read())
dear = ("hadolint and shellcheck", "command lines", "Azure ML's SDK")
in_order = [*(name for name in CHECKS if name not in dear), *dear]

def is_named(said):
    for one in in_order:
        (found,) = checked(copy, tuple(name for name in CHECKS if name != one)).values()
        if any(said in sentence for sentence in found):
            return True
    return False

for file, changes in faults.items():
    path = copy / file
    text = path.read_text()
    for old, new, said in changes:
        assert old in text, (file, old)
        path.write_text(text.replace(old, new))
        if not is_named(said):
            print("NOT FOUND", file, "|", new, "|", said)
    path.write_text(text)
for file, said in removed.items():
    text = (copy / file).read_text()
    (copy / file).unlink()
    if not is_named(said):
        print("NOT FOUND", file, "| removed |", said)
    (copy / file).write_text(text)
for file, (source, said) in added.items():
    (copy / file).write_text((copy / source).read_text())
    if not is_named(said):
        print("NOT FOUND", file, "| added |", said)
    (copy / file).unlink()
"""


def test_the_templates_are_good_and_every_check_of_them_can_fail(cloud_python, tmp_path):
    def check(*words: object) -> subprocess.CompletedProcess:
        command = [str(cloud_python), "scripts/check_cloud_templates.py", "--here", *map(str, words)]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)

    good = check("--json")
    assert good.returncode == 0, good.stderr
    assert not any(json.loads(good.stdout.splitlines()[-1])["checks"].values())
    words = [str(cloud_python), "-c", FIND_FAULTS, str(tracked(tmp_path / "copy"))]
    done = subprocess.run(
        words, cwd=REPOSITORY, input=json.dumps([MUTATIONS, REMOVED, ADDED]), capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == "", done.stdout + done.stderr[-2000:]
    wrong = check("--in", tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ")


def in_a_container(command: str, values: dict[str, object], folder: Path) -> subprocess.CompletedProcess:
    """A component's command under bash, as Azure ML runs it.

    It stands in a copy of the code without data; its inputs and outputs are paths.
    """
    text = re.sub(r"\$\{\{(\w+)\.(\w+)\}\}", lambda m: str(values[m[2]]), command)
    assert "${{" not in text
    code = tracked(folder)
    kept = {line.strip("!/") for line in (REPOSITORY / ".amlignore").read_text().splitlines() if line.startswith("!")}
    for top in code.iterdir():
        if top.name not in kept:
            shutil.rmtree(top) if top.is_dir() else top.unlink()
    # The CPU on purpose: check_gpu.py ends a step that has no GPU.
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.run(["bash", "-c", text], cwd=code, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """Every step of pipeline.yml on a few documents, in its order; a folder with each step's outputs."""
    folder = tmp_path_factory.mktemp("pipeline")
    samples = folder / "samples"
    words = ["--out-dir", samples, "--documents", 60, "--layout", "easy", "--seed", 6, "--no-mess"]
    made = [sys.executable, REPOSITORY / "scripts/make_sample_documents.py", *words]
    assert subprocess.run([str(word) for word in made]).returncode == 0
    given = yaml.safe_load((PIPELINE / "pipeline.yml").read_text())
    values: dict[str, object] = given["inputs"] | {
        "documents": samples / "pdfs",
        "labels": samples / "results.json",
        "base": READING_BASE,
        "image_max_tokens": 384,
        "preset": "none",
        "epochs": 1,
        "minimum_micro_f1": 0,
        "max_drop": 1,
        "min_agreement": 0,
    }
    outputs: dict[str, Path] = {}
    for step, job in given["jobs"].items():
        if step != "register":
            run_step(step, job, values, outputs, folder)
    return folder


def run_step(step: str, job: dict, values: dict[str, object], outputs: dict[str, Path], folder: Path) -> None:
    """One job of the pipeline; adds its outputs to `outputs` under "step.name"."""
    component = yaml.safe_load((PIPELINE / job["component"]).read_text())
    given = component["inputs"].items()
    at: dict[str, object] = {name: spec["default"] for name, spec in given if "default" in spec}
    for name, source in job["inputs"].items():
        origin = re.fullmatch(r"\$\{\{parent\.(?:inputs\.(\w+)|jobs\.(\w+)\.outputs\.(\w+))\}\}", source)
        at[name] = values[origin[1]] if origin[1] else outputs[f"{origin[2]}.{origin[3]}"]
    for name, spec in component["outputs"].items():
        at[name] = outputs[f"{step}.{name}"] = folder / step / name
        if spec["type"] == "uri_folder":
            (folder / step / name).mkdir(parents=True)  # a mount is there before the step starts
    done = in_a_container(component["command"], at, folder / "containers" / step)
    assert done.returncode == 0, f"{step}: {done.stderr[-3000:]}"


@pytest.mark.xdist_group("pipeline")
def test_the_pipelines_steps_run_in_their_containers_layout(pipeline):
    rendered = {path.name.partition("_page_")[0] for path in (pipeline / "render/images").glob("*.png")}
    assert len(rendered) == len(list((pipeline / "samples/pdfs").glob("*"))) > 10
    splits = {path.name for path in (pipeline / "build/splits").glob("*.jsonl")}
    assert splits >= {"train.jsonl", "val.jsonl", "test.jsonl"}
    assert (pipeline / "train/run/adapter_model.safetensors").is_file()
    (metrics,) = json.loads((pipeline / "evaluate/scores/metrics.json").read_text()).values()
    assert 0 <= metrics["micro_f1"] <= 1 and (pipeline / "evaluate/scores/report.html").is_file()
    for step in ("merge", "quantize"):
        assert (pipeline / step / "model/extraction_config.json").is_file(), step
    config = json.loads((pipeline / "quantize/model/config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"


@pytest.mark.xdist_group("pipeline")
def test_the_training_jobs_command_runs_on_the_mounted_data(pipeline, tmp_path):
    job = yaml.safe_load((REPOSITORY / "azureml/train/job.yml").read_text())
    data, out = tmp_path / "mounted", tmp_path / "run"
    data.mkdir()
    out.mkdir()
    (data / "images").symlink_to(pipeline / "render/images")
    (data / "splits").symlink_to(pipeline / "build/splits")
    small = {"preset": "none", "epochs": 1, "image_max_tokens": 384}
    values = job["inputs"] | {"data": data, "base": READING_BASE, "run": out} | small
    done = in_a_container(job["command"], values, tmp_path / "container")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / "adapter_model.safetensors").is_file() and (out / "extraction_config.json").is_file()


@pytest.mark.xdist_group("pipeline")
def test_a_model_is_registered_with_its_scores_and_only_where_they_hold(pipeline):
    def register(*words: object) -> subprocess.CompletedProcess:
        model = ["--model", "azureml://datastores/d/paths/m", "--name", "m", "--dry-run"]
        command = [sys.executable, "azureml/pipeline/register_model.py", *model, *map(str, words)]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)

    metrics = pipeline / "evaluate/scores/metrics.json"
    good = register("--metrics", metrics, "--require", "micro_f1=0")
    assert good.returncode == 0 and "micro_f1" in json.loads(good.stdout)["tags"]
    bad = register("--metrics", metrics, "--require", "micro_f1=1.01")
    assert bad.returncode == 1 and "not registered: micro_f1 is" in bad.stderr
    gone = register("--metrics", "gone.json")
    assert gone.returncode == 2 and "Traceback" not in gone.stderr


@pytest.mark.xdist_group("pipeline")
def test_a_training_pod_goes_on_after_an_interruption_and_packs_its_results(pipeline, tmp_path):
    volume = tmp_path / "workspace"
    shutil.copytree(pipeline / "render/images", volume / "data/images")
    shutil.copytree(pipeline / "build/splits", volume / "data/splits")
    environment = os.environ | {
        "VOLUME": str(volume),
        "BASE_MODEL": str(READING_BASE),
        "RUN": "try",
        "PYTHON": sys.executable,
        "EPOCHS": "2",
        "HF_HOME": str(volume / "huggingface"),
        "CUDA_VISIBLE_DEVICES": "",
        "TRAIN_ARGUMENTS": "--preset none --image-max-tokens 384 --save-each 1",
    }
    words = ["bash", str(REPOSITORY / "runpod/train/start.sh")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen(words, env=environment, start_new_session=True, **quiet)
    deadline = time.monotonic() + 240
    while not list((volume / "outputs/try").glob("checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        assert first.poll() is None
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)  # the pod is gone
    first.wait()
    with contextlib.suppress(ProcessLookupError):
        while True:  # its children end a moment later
            os.killpg(first.pid, 0)
            time.sleep(0.05)
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no checkpoint" not in done.stderr
    archive = volume / "results/try.tgz"
    with tarfile.open(archive) as packed:
        names = packed.getnames()
    results = {"adapter_model.safetensors", "extraction_config.json"}
    assert {*(f"outputs/try/{name}" for name in results), "data/reports/try.html"} <= set(names)
    assert not any("checkpoint-" in name or "_page_" in name for name in names)
    assert (volume / "results/try.tgz.sha256").read_text().split()[0] == sha256_of(archive)
    before = (volume / "outputs/try/adapter_model.safetensors").stat().st_mtime_ns
    again = subprocess.run(words, env=environment | {"MINIMUM": "1.0"}, capture_output=True, text=True)
    assert again.returncode == 1 and "micro_f1" in again.stderr  # trained already; now the gate is higher
    assert (volume / "outputs/try/adapter_model.safetensors").stat().st_mtime_ns == before
    missing = subprocess.run(words, env=environment | {"VOLUME": str(tmp_path)}, capture_output=True, text=True)
    assert missing.returncode == 2 and "data/splits is missing" in missing.stderr
