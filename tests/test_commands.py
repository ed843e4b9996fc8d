"""Every script from outside: its help, its errors, and each command line that the documents print."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

SCRIPTS = sorted((REPOSITORY / "scripts").glob("*.py"))
DOCUMENTS = sorted(
    [
        REPOSITORY / "README.md",
        REPOSITORY / "CONTRIBUTING.md",
        *REPOSITORY.glob("docs/*.md"),
        *REPOSITORY.glob("azureml/*.md"),
        *REPOSITORY.glob("runpod/*.md"),
        REPOSITORY / "data/README.md",
    ]
)

# The commands of the scaffold's README, exactly as it prints them.
SEED_COMMANDS = (
    r"""
python scripts\make_example_jsonl.py
python scripts\validate_jsonl.py examples\example.jsonl
python scripts\\extract_combined_zip.py --zip data\\combined.zip
python scripts\\extract_combined_zip.py --zip data\\combined.zip --zip data\\bls_another.zip
python scripts\\build_jsonl_from_results.py --images-dir data\\raw\\combined FOLDER_OF_THE_OTHER_ZIP --limit 50
python scripts\\validate_jsonl.py data\\train.jsonl
python scripts\\verify_image_paths.py --in data\\train.jsonl
python scripts\\dataset_stats.py --in data\\train.jsonl
python scripts\\split_jsonl.py --in data\\train.jsonl --out-dir data\\splits
""".replace("FOLDER_OF_THE_OTHER_ZIP", r"--images-dir data\\raw\\bls_another")
    .strip()
    .splitlines()
)
SEED_FILES = """
schemas/qwen_vl_pdf_extract.schema.json examples/example.jsonl docs/TRAINING_QWEN3_VL_8B.md
docs/QUANTIZATION_AND_SERVING.md docs/LATENCY_UNDER_1S.md docs/AZUREML_TRAINING_RUNBOOK.md azureml/README.md
runpod/TRAIN_SERVE_RUNBOOK.md data/README.md
""".split()


def start(words: list[str], cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, encoding="utf-8")


def words_of(line: str) -> list[str]:
    """A command line as PowerShell splits it: back slashes are ordinary characters.

    Where the script itself is named with back slashes, Windows opens it; here the path is translated, the arguments are
    left as they are.
    """
    words = shlex.split(line.replace("\\", "\\\\"))
    assert words[0] == "python"
    return [re.sub(r"\\+", "/", words[1]), *words[2:]]


@pytest.fixture
def clone(tmp_path) -> Path:
    """What git would give a stranger: tracked files only; each test has its own."""
    folder = tmp_path / "clone"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in tracked:
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, folder / name)
    return folder


def test_each_command_of_the_seed_works_as_printed(clone):
    made = start(["scripts/make_sample_documents.py", "--zips-to", "data", "--documents", "30", "--seed", "8"], clone)
    assert made.returncode == 0, made.stderr
    for line in SEED_COMMANDS:
        done = start(words_of(line), clone)
        # 1: documents without images, which this data has, as real exports have; anything else is a failure.
        expected = (0, 1) if "build_jsonl" in line else (0,)
        assert done.returncode in expected, f"{line}: {done.stderr}"
    assert len((clone / "data/train.jsonl").read_text().splitlines()) > 10
    for name in SEED_FILES:
        assert (clone / name).is_file(), name


def cpu_of_children() -> float:
    """Seconds that ended child processes have computed; where there is no such count, the clock.

    Other work on the machine does not stretch them as it does the clock's.
    """
    times = os.times()
    return times.children_user + times.children_system if os.name == "posix" else time.perf_counter()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_help_is_ascii_and_quick_and_errors_are_one_sentence(script, tmp_path):
    times = []
    for _ in range(3):
        began = cpu_of_children()
        shown = start([str(script), "--help"], tmp_path)
        times.append(cpu_of_children() - began)
        if times[-1] < 0.5:
            break
    assert shown.returncode == 0 and shown.stdout.isascii() and "python scripts/" in shown.stdout
    assert min(times) < 0.5, f"{min(times):.2f} s"
    wrong = start([str(script), "--no-such-flag"], tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "Traceback" not in wrong.stderr


# A script, and arguments that name a file that is not there.
MISSING_FILE = """
validate_jsonl gone.jsonl
verify_image_paths --in gone.jsonl
dataset_stats --in gone.jsonl
split_jsonl --in gone.jsonl
extract_combined_zip --zip gone.zip
pdf_to_images --in gone.pdf
build_jsonl_from_results --results gone.json
make_schema --from gone.csv --out o.json
train_lora --model x --train gone.jsonl --out o
extract_documents --model gone --in gone.jsonl --out o.jsonl
evaluate_predictions --pred gone.jsonl --gold gone.jsonl
merge_adapter --adapter gone.tgz --out o
import_predictions --in gone --gold gone.jsonl --out p.jsonl
review_predictions --pred gone.jsonl --images-dir x --out r.html
plan_training --in gone.jsonl
estimate_latency --in gone.jsonl
audit_labels --in gone.jsonl
quantize_awq --model gone --out o --method fp8
serve_vllm gone
""".strip().splitlines()


@pytest.mark.parametrize("line", MISSING_FILE, ids=lambda line: line.split()[0])
def test_a_missing_file_is_one_sentence_that_names_it(line, tmp_path):
    name, *arguments = line.split()
    done = start([str(REPOSITORY / "scripts" / f"{name}.py"), *arguments], tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "gone" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_the_readme_lists_every_script():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert [s.name for s in SCRIPTS if s.name not in readme] == []


def commands(document: Path) -> list[str]:
    """The `python ...` lines of a document's fenced blocks."""
    blocks = re.findall(
        r"```(?:powershell|bash|shell|text)?\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.S
    )
    # An environment's own Python is a python like any other here.
    lines = [
        re.sub(r"^\.venv[\w-]*/bin/python ", "python ", line.strip()) for block in blocks for line in block.splitlines()
    ]
    return [line for line in lines if line.startswith("python ")]


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What scripts answer to --help, as far as they were asked."""
    return {}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_documented_commands_name_scripts_and_flags_that_exist(document, helps):
    """No line joins commands or continues, and every flag is one the script's parser knows."""
    text = document.read_text(encoding="utf-8")
    assert "&&" not in re.sub(r"`&&`", "", text)
    for line in commands(document):
        assert not line.endswith(("\\", "`", " ")), line
        script, *arguments = words_of(line)
        if script == "-m":
            continue
        assert (REPOSITORY / script).is_file(), line
        if script not in helps:
            helps[script] = start([script, "--help"], REPOSITORY).stdout
        for flag in (word.split("=")[0] for word in arguments if word.startswith("--") and len(word) > 2):
            assert re.search(rf"{re.escape(flag)}\b", helps[script]), f"{line}: {flag}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_links_between_documents_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.slow
def test_the_readme_s_own_road_works_as_printed(clone, tiny_model):
    """Every command of "With your own documents", in order; the 8B, which needs a hub, is the tiny model."""
    # As many as give each split a document.
    words = ["--zips-to", "data", "--out-dir", "data", "--documents", "9", "--seed", "4"]
    made = start(["scripts/make_sample_documents.py", *words], clone)
    assert made.returncode == 0, made.stderr
    text = (clone / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## With your own documents") :]
    lines = [line for line in re.search(r"```powershell\n(.*?)```", section, flags=re.S)[1].splitlines() if line]
    assert len(lines) == 10
    for line in lines:
        words = [str(tiny_model) if word == "Qwen/Qwen3-VL-8B-Instruct" else word for word in words_of(line)]
        if "train_lora" in line:
            # A model of random weights never ends an answer: minutes for each evaluation.
            words += ["--eval-documents", "0"]
        done = start(words, clone)
        # 1: labels without images at the build, and answers of an untrained model that are cut off.
        expected = (0, 1) if "build_jsonl" in line or "extract_documents" in line else (0,)
        assert done.returncode in expected, f"{line}: {done.stderr}"
    assert json.loads((clone / "data/reports/test.json").read_text())["predictions"]["documents"] > 0
    assert (clone / "data/reports/test.html").stat().st_size > 10_000
