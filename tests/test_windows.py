"""Windows and PowerShell, imitated as far as another system can: how arguments, files, consoles, names and processes differ there."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY, png

from toolkit import files
from toolkit.cloud.powershell import powershell_lines

DOCUMENTS = sorted(
    [
        REPOSITORY / "README.md",
        *REPOSITORY.glob("docs/*.md"),
        *REPOSITORY.glob("azureml/*.md"),
        *REPOSITORY.glob("runpod/*.md"),
    ]
)


def records_of(workspace: Path, name: str = "BL Łódź 1.pdf") -> Path:
    """One labelled page image; the table as given."""
    png(workspace / f"data/images/{Path(name).stem}_page_0001.png")
    table = workspace / "data/results.json"
    table.write_text(
        json.dumps([{"Filename": name, "bl_number": "B1", "Container_Number": "MSKU1234565"}]), encoding="utf-8"
    )
    return table


def started(words: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, env=os.environ | environment)


def test_back_slashes_separate_folders_in_every_argument(workspace, run):
    records_of(workspace)
    assert (
        run(
            "build_jsonl_from_results",
            "--results",
            r"data\results.json",
            "--images-dir",
            r"data\images",
            "--out",
            r"data\\train.jsonl",
        ).code
        == 0
    )
    assert run("validate_jsonl", r"data\train.jsonl").code == 0
    assert run("split_jsonl", "--in", r"data\train.jsonl", "--out-dir", r"data\splits").code == 0
    record = json.loads((workspace / "data/train.jsonl").read_text(encoding="utf-8"))
    assert record["messages"][1]["content"][0]["image"].startswith("data/images/")  # POSIX in files


def test_a_glob_reaches_the_script_unexpanded(workspace, run):
    import pymupdf

    for number in range(3):
        document = pymupdf.open()
        document.new_page().insert_text((72, 72), f"page of {number}")
        (workspace / "data/pdfs").mkdir(parents=True, exist_ok=True)
        document.save(workspace / f"data/pdfs/BL {number}.pdf")
    outcome = run("pdf_to_images", "--in", r"data\pdfs\BL*.pdf", "--json")
    assert outcome.code == 0 and outcome.json["documents"] == 3
    nothing = run("pdf_to_images", "--in", r"data\pdfs\XX*.pdf")
    assert nothing.code == 2 and "nothing found" in nothing.err


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_what_powershell_wrote_is_read(workspace, run, encoding):
    """`>` and Out-File of 5.1 write UTF-16 with CRLF, Set-Content a mark before UTF-8."""
    table = records_of(workspace)
    text = table.read_text(encoding="utf-8").replace("},", "},\r\n") + "\r\n"
    mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
    table.write_bytes((mark + text).encode(encoding))
    assert run("build_jsonl_from_results").code == 0
    written = (workspace / "data/train.jsonl").read_bytes()
    assert b"\r" not in written and not written.startswith(b"\xef\xbb\xbf")


def test_line_ends_of_windows_change_nothing(workspace, run):
    """A JSONL, a schema and a prompt that git checked out with CRLF give the bytes that LF gives."""
    records_of(workspace)
    (workspace / "prompt.txt").write_bytes(b"Read the page.\nAnswer as JSON.\n")
    words = ("--prompt", "prompt.txt", "--out")
    assert run("build_jsonl_from_results", *words, "data/lf.jsonl").code == 0
    for name in ("prompt.txt", "schemas/bill_of_lading.schema.json"):
        (workspace / name).write_bytes((workspace / name).read_bytes().replace(b"\n", b"\r\n"))
    assert run("build_jsonl_from_results", *words, "data/crlf.jsonl").code == 0
    lf, crlf = ((workspace / f"data/{name}.jsonl").read_bytes() for name in ("lf", "crlf"))
    assert lf.replace(b"lf.schema", b"X") == crlf.replace(b"crlf.schema", b"X")
    (workspace / "data/crlf.jsonl").write_bytes(crlf.replace(b"\n", b"\r\n"))
    assert run("validate_jsonl", "data/crlf.jsonl").code == 0


@pytest.mark.parametrize("codec", ["cp1252", "cp437", "ascii"])
def test_a_console_that_lacks_the_characters_ends_nothing(workspace, codec):
    records_of(workspace, "BL Łódź 上海.pdf")
    (workspace / "data/results.json").write_text(
        json.dumps(
            [{"Filename": "BL Łódź 上海.pdf", "bl_number": "B1"}, {"Filename": "Gdańsk.pdf", "bl_number": "B2"}]
        ),
        encoding="utf-8",
    )
    done = started(
        [str(REPOSITORY / "scripts/build_jsonl_from_results.py")],
        workspace,
        PYTHONIOENCODING=f"{codec}:strict",
        PYTHONUTF8="0",
    )
    assert done.returncode == 1 and b"Traceback" not in done.stderr and b"Gda" in done.stderr
    record = json.loads((workspace / "data/train.jsonl").read_text(encoding="utf-8"))
    assert "上海" in record["id"]


def test_workers_that_are_spawned_find_everything(workspace):
    """Windows has no fork: every child starts anew from the script's file."""
    import pymupdf

    (workspace / "pdfs").mkdir()
    for number in range(4):
        document = pymupdf.open()
        document.new_page().insert_text((72, 72), f"page of {number}")
        document.save(workspace / f"pdfs/{number}.pdf")
    wrapper = workspace / "as_on_windows.py"
    wrapper.write_text(
        "import multiprocessing, os, runpy, sys\n"
        "if __name__ == '__main__':\n"
        "    del os.fork\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    sys.argv = sys.argv[1:]\n"
        "    sys.path.insert(0, os.path.dirname(sys.argv[0]))\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = started(
        [str(wrapper), str(REPOSITORY / "scripts/pdf_to_images.py"), "--in", "pdfs", "--workers", "2"], workspace
    )
    assert done.returncode == 0, done.stderr
    assert len(list((workspace / "data/images").glob("*.png"))) == 4


def test_names_that_windows_cannot_store_come_out_under_others(workspace, run):
    """Reserved names, forbidden characters, trailing dots; two names that differ in case only are told, and the first stays."""
    page = workspace / "page.png"
    png(page)
    names = [
        "CON.png",
        "a:b?.png",
        "lpt1.jpg.png",
        "dot./x.png",
        "Same.png",
        "same.PNG",
        r"slash\back.png",
        "é.png",
        "e\u0301.png",
    ]
    with zipfile.ZipFile(workspace / "in.zip", "w") as archive:
        for name in names:
            archive.writestr(name, page.read_bytes())
    outcome = run("extract_combined_zip", "--zip", "in.zip", "--json")
    assert outcome.code == 1 and outcome.json["problems"] == 2  # the two that meet an earlier one
    out = sorted(
        p.relative_to(workspace / "data/raw/in").as_posix() for p in (workspace / "data/raw/in").rglob("*.png")
    )
    assert len(out) == 7 and len({name.casefold() for name in out}) == 7
    for name in out:
        for part in name.split("/"):
            assert not re.search(r'[<>:"|?*\\]', part) and not part.endswith((".", " "))
            assert part.split(".")[0].lower() not in files.WINDOWS_RESERVED


def test_no_path_is_longer_than_windows_can_open(workspace, run):
    """260 characters with the folder of the repository, data/raw/<zip>/ and a temporary file's name: 80 are left for that folder."""
    png(workspace / "page.png")
    deep = "/".join(["a folder with a rather long name indeed"] * 9)
    with zipfile.ZipFile(workspace / "in.zip", "w") as archive:
        for name in (f"{deep}/BL 1.png", f"{deep}/other/BL 1.png", f"{'x' * 240}.png", "short.png"):
            archive.write(workspace / "page.png", name)
    outcome = run("extract_combined_zip", "--zip", "in.zip", "--json")
    assert outcome.code == 0 and outcome.json["extracted"] == 4
    places = [path.relative_to(workspace).as_posix() for path in (workspace / "data/raw").rglob("*.png")]
    assert len(places) == 4 and max(map(len, places)) <= 185
    assert sorted(Path(place).name for place in places)[:2] == ["BL 1.png", "BL 1.png"]  # labels are joined by it
    assert run("extract_combined_zip", "--zip", "in.zip", "--json").json["unchanged"] == 4


def test_a_file_that_is_held_open_is_tried_again(tmp_path, monkeypatch):
    """On Windows a virus scanner or a viewer holds a file for a moment; os.replace then fails."""
    calls, real = [], os.replace

    def held(source, target):
        calls.append(target)
        if len(calls) < 4:
            raise PermissionError(13, "held by another process")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", held)
    files.write_text(tmp_path / "a.txt", "done")
    assert len(calls) == 4 and (tmp_path / "a.txt").read_text() == "done" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_documented_powershell_can_be_typed(document):
    """Every powershell block, without a PowerShell: one command a line, nothing that 5.1 lacks, no variable that is never set."""
    blocks = re.findall(r"^```powershell\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S)
    assert list(powershell_lines("\n".join(blocks))) == []
    for line in "\n".join(blocks).splitlines():
        assert line.count('"') % 2 == 0 and line.isascii() and not line.startswith(("export ", "sudo ")), line
        assert not re.search(r"""'\{.*"|\\"|\{\\?"\w+\\?":""", line), f"inline JSON loses its quotes: {line}"


def test_the_powershell_reader_sees_what_it_should():
    wrong = {
        "cd a && dir": "&& and ||",
        "az login ` \n--x": "blank behind a backtick",
        "az login \\": "back slash",
        "Write-Output $gone": "$gone is used and never set",
        "if ($true) {": "a bracket is not closed",
        "}": "a bracket closes",
    }
    for text, said in wrong.items():
        assert any(said in sentence for _, sentence in powershell_lines(text)), text
    fine = '$a = "x && y"\nWrite-Output "$a is $($a.Length)" # don\'t && here\n$b = @("1")\naz ml job @b\nforeach ($c in $b) { $c }'
    assert list(powershell_lines(fine)) == []
