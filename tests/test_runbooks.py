"""A stranger's dry run: each runbook top to bottom, the clouds' programs replaced by recorders, in both shells' forms.

And every quoted message is in the code.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from toolkit.cloud.powershell import powershell_lines
from toolkit.cloud.runbooks import blocks_of

RUNBOOKS = ["docs/AZUREML_TRAINING_RUNBOOK.md", "azureml/README.md", "runpod/TRAIN_SERVE_RUNBOOK.md", "docs/COST.md"]
CLOUD = (
    "az",
    "kubectl",
    "docker",
    "runpodctl",
    "helm",
    "sudo",
    "curl",
    "git",
    "sha256sum",
    "openssl",
    "tar",
    "python",
    "python3",
)
# What a step of the user's own makes, or the placeholder that the user replaces; all else that is named must be there.
FROM_THE_USER = ["data/pdfs/BL-001.pdf", "outputs/bl-8b-awq", "models/Qwen3-VL-8B-Instruct"]


def blocks(document: str, language: str) -> list[str]:
    return blocks_of((REPOSITORY / document).read_text(encoding="utf-8"), language)


@pytest.fixture
def clone(tmp_path) -> Path:
    """What git would give a stranger, and what the user brings."""
    words = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        if (REPOSITORY / name).is_file() and not name.startswith(("examples/", "tests/")):
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, tmp_path / "clone" / name)
    for name in FROM_THE_USER:
        path = tmp_path / "clone" / name
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"%PDF-1.4")
        else:
            path.mkdir(parents=True)
    return tmp_path / "clone"


RECORDER = """#!{python}
import os, sys
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(" ".join([name, *words]) + "\\n")
for flag, value in zip(words, words[1:]):
    if flag in ("--file", "--filename", "-f") and name != "tar" and not os.path.exists(value):
        sys.exit(f"recorder: {{name}} {{flag}} {{value}}: no such file")
if name in ("python", "python3") and words and words[0].endswith(".py") and not os.path.exists(words[0]):
    sys.exit(f"recorder: no such script: {{words[0]}}")
if "tee" in words:
    sys.stdin.read()
if "cp" in words and name in ("sudo", "kubectl") and not os.path.exists(words[words.index("cp") + 1]):
    sys.exit(f"recorder: no such file: {{words[words.index('cp') + 1]}}")
if "show" in words and "--output" in words and "none" in words and {absent}:
    sys.exit(3)
if "--query" in words:
    print("https://endpoint.example/score" if "scoring_uri" in words else "recorded")
elif name == "curl" and "--write-out" in words:
    print({status!r}, end="")
elif name == "openssl":
    print("0123456789abcdef")
"""


def recorders(folder: Path, status: str = "200", absent: bool = True) -> tuple[dict[str, str], Path]:
    """The environment in which the clouds' programs only write down how they were called."""
    programs, log = folder / "programs", folder / "log.txt"
    programs.mkdir(exist_ok=True)
    for name in CLOUD:
        path = programs / name
        path.write_text(RECORDER.format(python=sys.executable, log=str(log), status=status, absent=absent))
        path.chmod(0o755)
    keep = {key: os.environ[key] for key in ("HOME", "LANG") if key in os.environ}
    return {**keep, "PATH": f"{programs}:/usr/bin:/bin"}, log


@pytest.mark.skipif(os.name == "nt", reason="the bash form")
@pytest.mark.parametrize("document", RUNBOOKS)
def test_the_bash_form_runs_from_top_to_bottom(document, clone, tmp_path):
    """No undefined variable, no file that is not there.

    What starts a pod's or a worker's script is left to test_templates.py and test_serving_containers.py.
    """
    environment, log = recorders(tmp_path)
    (tmp_path / "workspace/extraction").mkdir(parents=True)
    text = "\n".join(blocks(document, "bash")).replace("/workspace", str(tmp_path / "workspace"))
    text = re.sub(r"^cd .*$", "true", text, flags=re.M)
    started = re.compile(r"^.*bash (?:extraction/)?runpod/(train|serve)/start\.sh.*$", re.M)
    words = ["bash", "-eu", "-o", "pipefail", "-c", started.sub(r"test -f runpod/\1/start.sh", text)]
    done = subprocess.run(words, cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(log.read_text().splitlines()) > 4


@pytest.mark.parametrize("document", RUNBOOKS)
def test_the_powershell_form_can_be_read_and_says_the_same(document):
    """No undefined variable, nothing that Windows PowerShell 5.1 lacks; the bash form's programs and words."""
    shell = "\n".join(blocks(document, "powershell"))
    assert list(powershell_lines(shell)) == []
    bash = "\n".join(blocks(document, "bash"))

    def calls(text: str) -> list[str]:
        """The clouds' calls of a text: slashes, quotes and the names of variables made alike."""
        found = re.findall(
            r"(?:^|= ?|\()((?:az|kubectl|docker build|docker push|hf|runpodctl) [^\n]*?)\)?$", text, re.M
        )
        slashes = str.maketrans({"\\": "/", '"': "", "'": ""})
        alike = [re.sub(r"\$\w+", "$", one.translate(slashes)).strip() for one in found]
        return [re.sub(r"=\S*(?=\s|$)", "=", one) if "defaults" in one else one for one in alike]

    mine, other = calls(shell), calls(bash)
    missing = [one for one in mine if one not in other]
    assert (mine and not missing) or document == "docs/COST.md", missing


# What needs no GPU, no server and no cloud runs for real.
LOCAL = """
extract_combined_zip pdf_to_images build_jsonl_from_results validate_jsonl verify_image_paths split_jsonl dataset_stats
plan_training estimate_latency
""".split()


def local_lines(document: str) -> list[str]:
    """The lines that run here, as they stand in the document; a block for both shells is the bash form, too."""
    lines = "\n".join(blocks(document, "bash")).splitlines()
    names = [re.match(r"python3? scripts/(\w+)\.py ", line) for line in lines]
    return [
        line for line, name in zip(lines, names, strict=True) if name and name[1] in LOCAL and "--calibrate" not in line
    ]


@pytest.fixture(scope="module")
def fresh_machine(tmp_path_factory) -> dict[str, str]:
    """The environment of a machine with a Python without packages, and nothing activated."""
    folder = tmp_path_factory.mktemp("fresh") / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return {"PATH": f"{folder}/bin:/usr/bin:/bin", "HOME": str(folder.parent), "LANG": "C.UTF-8"}


@pytest.mark.skipif(os.name == "nt", reason="the bash form")
def test_without_an_environment_the_first_local_line_says_how_to_make_it(clone, fresh_machine):
    for document in RUNBOOKS[:1]:
        line = local_lines(document)[1]
        done = subprocess.run(["bash", "-c", line], cwd=clone, env=fresh_machine, capture_output=True, text=True)
        assert done.returncode == 3 and "python scripts/make_environment.py main" in done.stderr, line


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the bash form")
def test_the_local_lines_do_what_they_say_on_a_machine_where_nothing_is_activated(clone, fresh_machine):
    """On generated documents, in the runbooks' order, as they are printed, by a Python without any package.

    The environment is there as make_environment.py makes it; its own making is the quickstart's test.
    """
    (clone / ".venv").symlink_to(sys.prefix)
    words = "python scripts/make_sample_documents.py --zips-to data --documents 40 --seed 8"
    made = subprocess.run(["bash", "-c", words], cwd=clone, env=fresh_machine, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    shutil.rmtree(clone / "data/pdfs")
    shutil.copytree(clone / "data/samples/pdfs", clone / "data/pdfs")
    lines = [line for document in RUNBOOKS for line in local_lines(document)]
    for line in lines:
        done = subprocess.run(["bash", "-c", line], cwd=clone, env=fresh_machine, capture_output=True, text=True)
        # 1: documents without images, which this data has, as real exports have.
        accepted = (0, 1) if "build_jsonl" in line else (0,)
        assert done.returncode in accepted, f"{line}: {done.stderr}"
    assert len(lines) >= 12 and (clone / "data/splits/train.jsonl").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("npm") and shutil.which("node")), reason="KEDA's schema is an npm package")
def test_the_autoscaler_fits_keda_s_published_schema(tmp_path):
    import yaml

    words = ["npm", "install", "--silent", "--prefix", str(tmp_path), "@kubernetes-models/keda@2.0.0"]
    installed = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    (tmp_path / "check.mjs").write_text(
        'import {ScaledObject} from "@kubernetes-models/keda/keda.sh/v1alpha1"; import {readFileSync} from "node:fs";'
        'const given = new ScaledObject(JSON.parse(readFileSync(0, "utf8")));'
        'try { given.validate(); console.log("valid"); } catch { console.log("refused"); }'
    )

    def verdict(value) -> str:
        words, given = ["node", "check.mjs"], json.dumps(value)
        return subprocess.run(words, cwd=tmp_path, input=given, text=True, capture_output=True).stdout.strip()

    given = yaml.safe_load((REPOSITORY / "azureml/aks/autoscale.yaml").read_text(encoding="utf-8"))
    assert verdict(given) == "valid"
    given["spec"]["maxReplicaCount"] = "three"
    assert verdict(given) == "refused"


def test_every_message_of_the_troubleshooting_page_is_in_the_code():
    page = (REPOSITORY / "docs/TROUBLESHOOTING.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| (?:503 with )?`([^`]+)` \|", page, re.M)
    sources = [
        path for kind in ("scripts/**/*.py", "azureml/**/*.py", "runpod/**/*.sh") for path in REPOSITORY.glob(kind)
    ]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # texts over several lines
    code = re.sub(r"\{CLIENT_KEY_VARIABLE\}", "EXTRACTION_API_KEY", code)
    lost = [m for m in messages for part in m.split("…") if len(part.strip()) > 2 and part.strip() not in code]
    assert len(messages) > 35 and lost == []
