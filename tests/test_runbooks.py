"""A stranger's dry run: each runbook top to bottom, the clouds' programs replaced by recorders, in both shells' forms.

And every quoted message is in the code.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from test_commands import words_of

from toolkit.cloud.powershell import powershell_lines

RUNBOOKS = ["docs/AZUREML_TRAINING_RUNBOOK.md", "azureml/README.md", "runpod/TRAIN_SERVE_RUNBOOK.md", "docs/COST.md"]
CLOUD = (
    "az",
    "kubectl",
    "docker",
    "runpodctl",
    "hf",
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
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


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
    text = "\n".join(blocks(document, "bash")).replace("cd /workspace", "true")
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
    for script, arguments in re.findall(r"^\.\\(azureml\\\S+\.ps1)(.*)$", shell, re.M):
        text = (REPOSITORY / script.replace("\\", "/")).read_text(encoding="utf-8")
        parameters = set(re.findall(r"\[(?:string|int|switch)\]\$(\w+)", text))
        assert set(re.findall(r"-(\w+)", re.sub(r"(?<= )[\w\\./]+-[\w\\./-]+", "", arguments))) <= parameters, arguments


@pytest.mark.skipif(os.name == "nt", reason="the bash form")
@pytest.mark.parametrize(
    ("status", "absent", "code", "said"),
    [
        ("200", True, 0, "online-deployment create"),
        ("200", False, 0, "online-deployment update"),
        ("424", True, 1, "online-deployment delete"),
    ],
)
def test_deploying_is_idempotent_and_takes_away_what_fails(status, absent, code, said, clone, tmp_path):
    environment, log = recorders(tmp_path, status, absent)
    words = ["bash", "azureml/endpoint/deploy.sh", "blue", "data/pdfs/BL-001.pdf"]
    environment |= {"RESOURCE_GROUP": "rg", "WORKSPACE": "ws"}
    done = subprocess.run(words, cwd=clone, env=environment, capture_output=True, text=True)
    calls = log.read_text()
    assert done.returncode == code, done.stderr
    assert said in calls and ("online-deployment delete" in calls) == (code == 1)
    assert ("online-endpoint create" in calls) == absent and "--traffic" not in calls
    assert "recorded" not in calls  # the key is no argument of any program
    gone = subprocess.run([*words[:3], "gone.pdf"], cwd=clone, env=environment, capture_output=True, text=True)
    assert gone.returncode == 2 and gone.stderr == "error: no such file: gone.pdf\n"


@pytest.mark.skipif(os.name == "nt", reason="the bash form")
def test_traffic_is_shared_out_and_taken_back(clone, tmp_path):
    environment, log = recorders(tmp_path)
    environment |= {"RESOURCE_GROUP": "rg", "WORKSPACE": "ws"}

    def share_out(*words: str) -> subprocess.CompletedProcess:
        command = ["bash", "azureml/endpoint/traffic.sh", *words]
        return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)

    for share, said in (
        ("mirror", "--mirror-traffic green=10"),
        ("10", "--traffic green=10 blue=90"),
        ("0", "--traffic green=0 blue=100"),
        ("100", "--traffic green=100"),
    ):
        done = share_out("green", share)
        assert done.returncode == 0 and said in log.read_text().splitlines()[-1] + " "
    for wrong in (["red", "10"], ["green", "101"], ["green", "half"]):
        done = share_out(*wrong)
        assert done.returncode == 2 and done.stderr.startswith("error: ")


# What needs no GPU, no server and no cloud runs for real.
LOCAL = """
extract_combined_zip pdf_to_images build_jsonl_from_results validate_jsonl verify_image_paths split_jsonl dataset_stats
plan_training estimate_latency
""".split()


def local_commands(document: str, language: str) -> list[list[str]]:
    """The words of each command that runs here, as PowerShell splits them or as bash does."""
    found = []
    for line in "\n".join(blocks(document, language)).splitlines():
        name = re.match(r"python scripts[\\/](\w+)\.py ", line)
        if name and name[1] in LOCAL and "--calibrate" not in line:
            found.append(words_of(line) if language == "powershell" else shlex.split(line)[1:])
    return found


@pytest.mark.slow
def test_the_local_commands_do_what_they_say_in_the_runbooks_order(clone):
    """On generated documents; both shells give a script the same words but for their slashes, so one run is both."""
    samples = ["scripts/make_sample_documents.py", "--zips-to", "data", "--documents", "40", "--seed", "8"]
    assert subprocess.run([sys.executable, *samples], cwd=clone).returncode == 0
    shutil.rmtree(clone / "data/pdfs")
    shutil.copytree(clone / "data/samples/pdfs", clone / "data/pdfs")
    ran = []
    for document in RUNBOOKS:
        commands = local_commands(document, "powershell")
        same = [[word.replace("\\", "/") for word in words] for words in commands]
        assert same == local_commands(document, "bash"), document
        for words in commands:
            done = subprocess.run([sys.executable, *words], cwd=clone, capture_output=True, text=True)
            # 1: documents without images, which this data has, as real exports have.
            accepted = (0, 1) if "build_jsonl" in words[0] else (0,)
            assert done.returncode in accepted, f"{words}: {done.stderr}"
            ran.append(words[0])
    assert len(ran) >= 12 and (clone / "data/splits/train.jsonl").stat().st_size > 0


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
