"""What the stages survive: Ctrl-C in the middle, a full disk, consoles that cannot print, schemas and tables that are none."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and tmpfs of Linux")


def begin(script: str, *arguments: object, cwd: Path) -> subprocess.Popen:
    words = [sys.executable, str(REPOSITORY / "scripts" / f"{script}.py"), *map(str, arguments)]
    return subprocess.Popen(
        words,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where the tests run in the background of a shell, interrupts are ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )


def interrupt_when(process: subprocess.Popen, ready) -> tuple[int, str]:
    """Send Ctrl-C to the whole group, as a terminal does, as soon as `ready()` holds."""
    limit = time.monotonic() + 60
    while not ready() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()[1]
    for _ in range(4):
        os.killpg(process.pid, signal.SIGINT)
        try:
            _, err = process.communicate(timeout=15)
            return process.returncode, err
        except subprocess.TimeoutExpired:
            continue  # Python drops an interrupt that falls into a destructor; people press again
    process.kill()
    raise AssertionError("Ctrl-C did not end it")


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*.part")]


def assert_interrupted(code: int, err: str, folder: Path) -> None:
    assert code == 130, err
    assert "Traceback" not in err and "interrupted" in err
    assert leftovers(folder) == []


def test_ctrl_c_while_making_samples(workspace):
    (workspace / "s").mkdir()
    (workspace / "s/results.json").write_text("old")
    process = begin("make_sample_documents", "--out-dir", "s", "--documents", 5000, cwd=workspace)
    assert_interrupted(*interrupt_when(process, lambda: any(workspace.glob("s/pdfs/*"))), workspace)
    assert (workspace / "s/results.json").read_text() == "old"


def test_ctrl_c_while_rendering_keeps_what_is_done_and_the_next_run_goes_on(run, workspace):
    run("make_sample_documents", "--out-dir", "s", "--documents", 45, "--no-mess")
    process = begin("pdf_to_images", "--in", "s/pdfs", "--out-dir", "img", "--image-max-tokens", 3000, cwd=workspace)
    assert_interrupted(*interrupt_when(process, lambda: len(list(workspace.glob("img/*.png"))) > 2), workspace)
    again = run("pdf_to_images", "--in", "s/pdfs", "--out-dir", "img", "--image-max-tokens", 3000, "--json")
    assert again.code == 0 and again.json["documents"] == 15 and 0 < again.json["unchanged"] < 15


def test_ctrl_c_while_extracting_a_zip(run, workspace):
    import zipfile

    with zipfile.ZipFile(workspace / "big.zip", "w") as archive:
        for number in range(40):
            archive.writestr(f"{number:02d}.png", os.urandom(8_000_000))
    process = begin("extract_combined_zip", "--zip", "big.zip", cwd=workspace)
    assert_interrupted(*interrupt_when(process, lambda: (workspace / "data/raw/big/02.png").exists()), workspace)
    done = run("extract_combined_zip", "--zip", "big.zip", "--json")
    assert done.code == 0 and done.json["unchanged"] >= 3 and done.json["extracted"] + done.json["unchanged"] == 40


@pytest.mark.slow
def test_ctrl_c_while_training_and_then_resume(run, easy_dataset, tiny_model, tmp_path):
    common = [
        "--model",
        tiny_model,
        "--train",
        easy_dataset / "data/train.jsonl",
        "--root",
        easy_dataset,
        "--schema",
        easy_dataset / "data/train.schema.json",
        "--image-max-tokens",
        384,
        "--limit",
        4,
        "--batch-size",
        2,
        "--accumulate",
        1,
        "--save-each",
        1,
        "--log-each",
        1,
        "--out",
        tmp_path / "o",
    ]
    process = begin("train_lora", *common, "--epochs", 400, cwd=tmp_path)
    code, err = interrupt_when(process, lambda: any(tmp_path.glob("o/checkpoint-*/trainer_state.json")))
    assert_interrupted(code, err, tmp_path)
    assert not (tmp_path / "o/adapter_config.json").exists()
    # Checkpoints hold the total; a resumed run with fewer steps than done just finishes.
    done = run("train_lora", *common, "--epochs", 6, "--resume", "--json")
    assert done.code == 0, done.err
    assert done.json["steps"] >= 1 and (tmp_path / "o/adapter_model.safetensors").exists()


@pytest.fixture
def full_disk(tmp_path):
    """A real file system of 300 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], capture_output=True
        ).returncode
    ):
        pytest.skip("no permission to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_the_old_output_stays(run, workspace, full_disk):
    run("make_sample_documents", "--out-dir", "s", "--documents", 12, "--no-mess")
    (full_disk / "train.jsonl").write_text("old\n")
    for script, arguments in (
        ("extract_combined_zip", ["--zip", "s/combined.zip", "--out-dir", full_disk]),
        ("pdf_to_images", ["--in", "s/pdfs", "--out-dir", full_disk]),
        ("make_sample_documents", ["--out-dir", full_disk]),
    ):
        done = run(script, *arguments)
        assert done.code == 2 and "no space left on the disk" in done.err and "Traceback" not in done.err, (
            script,
            done.err,
        )
    assert (full_disk / "train.jsonl").read_text() == "old\n" and leftovers(full_disk) == []


def test_a_console_that_cannot_print_a_name_still_works(workspace):
    (workspace / "Übersicht 提單.jsonl").write_text('{"id": \n', encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "cp437"}
    words = [sys.executable, str(REPOSITORY / "scripts/validate_jsonl.py"), "Übersicht 提單.jsonl"]
    done = subprocess.run(words, cwd=workspace, capture_output=True, env=environment)
    assert done.returncode == 1 and b"Traceback" not in done.stderr and b"bersicht ??" in done.stdout


@pytest.mark.parametrize(
    "content", ["", "[1]", "{}", '{"type": "object"}', "not json", '{"type": "object", "properties": {"a": 1}}']
)
def test_a_schema_that_is_none_is_one_sentence(run, workspace, content):
    (workspace / "s.json").write_text(content)
    (workspace / "r.json").write_text(json.dumps([{"Filename": "a.pdf"}]))
    (workspace / "img").mkdir()
    done = run("build_jsonl_from_results", "--results", "r.json", "--schema", "s.json", "--images-dir", "img")
    assert done.code == 2 and done.err.startswith("error: s.json") and done.err.count("\n") == 1, done.err


def test_settings_that_make_no_sense_are_one_sentence(run, workspace):
    for script, arguments in (
        ("split_jsonl", ["--in", "x", "--ratios", "1/2"]),
        ("build_jsonl_from_results", ["--pages", "some"]),
        ("pdf_to_images", ["--in", ".", "--image-max-tokens", "0"]),
        ("make_sample_documents", ["--documents", "0"]),
        ("make_sample_documents", ["--layout", "easy", "--type", "invoice"]),
    ):
        done = run(script, *arguments)
        assert done.code == 2 and done.err.count("\n") == 1, done.err
