"""Long runs over the page stages: killed at any moment, fed with mutated files, and bombs that are real."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY
from hostile_archives import hostile_zips, zipped
from hostile_documents import good_pictures, hostile_documents, small_pdf, with_image

pytestmark = [pytest.mark.soak, pytest.mark.skipif(os.name == "nt", reason="SIGKILL, RLIMIT")]
MOMENTS = 10


def words(script: str, *arguments: object) -> list[str]:
    return [sys.executable, str(REPOSITORY / f"scripts/{script}.py"), *map(str, arguments)]


def finished(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def killed_after(command: list[str], seconds: float) -> bool:
    """Start the command, kill it and its workers after so many seconds; whether it still ran."""
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def times(folder: Path, pattern: str) -> dict[str, int]:
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob(pattern)}


def done_pages(folder: Path) -> set[str]:
    """The page images of the documents that the journal, or the manifest, of a killed run calls done."""
    found: dict[str, list[str]] = {}
    manifest, journal = folder / "manifest.jsonl", folder / "manifest.journal"
    if manifest.exists():
        for line in map(json.loads, manifest.read_text().splitlines()):
            found.setdefault(line["source"], []).append(Path(line["image"]).name)
    if journal.exists():
        for raw in journal.read_text().splitlines(keepends=True):
            if raw.endswith("\n") and (entry := json.loads(raw))["state"] == "done":
                found[entry["source"]] = [Path(page["image"]).name for page in entry["pages"]]
    return {name for names in found.values() for name in names}


def test_rendering_killed_at_random_moments_does_no_finished_work_again_and_ends_the_same(run, workspace):
    run("make_sample_documents", "--out-dir", "s", "--documents", 90, "--no-mess")
    render = words(
        "pdf_to_images", "--in", "s/pdfs", "--text-layer", "--image-max-tokens", 700, "--workers", 2, "--json"
    )
    folder, layers = workspace / "data/images", workspace / "data/ocr"
    started = time.monotonic()
    assert finished(render).returncode == 0
    whole = time.monotonic() - started
    wanted = contents(workspace / "data")
    draw, cut, kept = random.Random(20), 0, 0
    while cut < MOMENTS:
        for path in [*folder.rglob("*"), *layers.rglob("*")]:
            if path.is_file():
                path.unlink()
        if not killed_after(render, draw.uniform(0.1, 0.9) * whole):
            continue
        cut += 1
        before, done = times(folder, "*.png"), done_pages(folder)
        again = finished(render)
        after = times(folder, "*.png")
        result = json.loads(again.stdout.splitlines()[-1])
        assert again.returncode == 0 and "Traceback" not in again.stderr
        assert {name: after[name] for name in done} == {name: before[name] for name in done}
        assert contents(workspace / "data") == wanted
        kept += result["unchanged"]
    print(f"rendering: killed {cut} times, {kept} of {cut * 30} documents were kept; the same bytes each time")
    assert kept


def test_extraction_killed_at_random_moments_does_no_finished_work_again_and_ends_the_same(workspace):
    draw = random.Random(21)
    members = [(f"{number:03d}.png", draw.randbytes(100_000)) for number in range(150)]
    (workspace / "z.zip").write_bytes(zipped(members))
    extract = words("extract_combined_zip", "--zip", "z.zip", "--json")
    folder = workspace / "data/raw/z"
    started = time.monotonic()
    assert finished(extract).returncode == 0
    whole = time.monotonic() - started
    wanted, cut, kept = contents(folder), 0, 0
    while cut < MOMENTS:
        for path in folder.rglob("*"):
            path.unlink()
        if not killed_after(extract, draw.uniform(0.2, 0.95) * whole):
            continue
        cut += 1
        before = times(folder, "[0-9]*.png")
        again = finished(extract)
        assert again.returncode == 0 and json.loads(again.stdout.splitlines()[-1])["unchanged"] == len(before)
        assert {name: times(folder, "*.png")[name] for name in before} == before and contents(folder) == wanted
        kept += len(before)
    print(f"extraction: killed {cut} times, {kept} of {cut * 150} members were kept; the same bytes each time")


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The file with some of its bytes changed, cut, doubled, or taken from elsewhere in it."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        if not changed:
            break
        at, length = draw.randrange(len(changed)), draw.choice((1, 1, 2, 4, 16, 300))
        match draw.randrange(6):
            case 0:
                changed[at : at + length] = draw.randbytes(length)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[at : at + length]
            case 3:
                other = draw.randrange(len(changed))
                changed[at : at + length] = changed[other : other + length]
            case 4:
                changed[at] ^= 1 << draw.randrange(8)
            case 5:
                changed[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"9999"))
    return bytes(changed[: draw.randrange(len(changed) + 1)] if draw.random() < 0.1 else changed)


def seeds(run, workspace: Path) -> dict[str, bytes]:
    """Good files of every kind: generated bills, pictures of every form, and small PDFs."""
    run("make_sample_documents", "--out-dir", "s", "--documents", 9, "--no-mess", "--layout", "realistic")
    found = {path.name: path.read_bytes() for path in (workspace / "s/pdfs").iterdir()}
    found |= {name: data for name, (data, _) in good_pictures().items()}
    return found | {"small.pdf": small_pdf(), "image.pdf": with_image(b"/BitsPerComponent 8 /ColorSpace /DeviceGray")}


@pytest.mark.parametrize("seed", range(4))
def test_mutated_documents_are_rendered_or_named_within_time_and_memory(run, workspace, seed):
    draw = random.Random(seed)
    good = seeds(run, workspace)
    (workspace / "in").mkdir()
    for number in range(400):
        name = draw.choice(sorted(good))
        (workspace / f"in/{number:03d}{Path(name).suffix}").write_bytes(mutated(good[name], draw))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    started = time.monotonic()
    done = finished(words("pdf_to_images", "--in", "in", "--image-max-tokens", 256, "--time-limit", 20, "--json"))
    seconds, peak = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    result = json.loads(done.stdout.splitlines()[-1])
    print(
        f"400 mutated documents: {result['documents']} rendered, {result['problems']} named, {seconds:.0f} s, "
        f"largest process {max(before, peak) // 1024} MB"
    )
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr
    assert result["documents"] + result["problems"] == 400
    named = [json.loads(line)["problem"] for line in Path("data/images/problems.jsonl").read_text().splitlines()]
    assert not [sentence for sentence in named if "\n" in sentence or "Error:" in sentence]
    assert peak < 2_300_000  # KB: a worker's limit, and the libraries
    images = sorted(p for p in (workspace / "in").iterdir() if p.suffix != ".pdf")
    answer = {"role": "assistant", "content": [{"type": "text", "text": "{}"}]}
    parts = [{"type": "image", "image": f"in/{path.name}"} for path in images]
    record = {"id": "a", "messages": [{"role": "user", "content": parts}, answer], "meta": {}}
    Path("all.jsonl").write_text(json.dumps(record) + "\n")
    checked = finished(words("verify_image_paths", "--in", "all.jsonl", "--report", "bad.jsonl", "--json"))
    assert checked.returncode in (0, 1) and "Traceback" not in checked.stderr, checked.stderr
    assert json.loads(checked.stdout.splitlines()[-1])["images"] == len(images)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_zips_come_out_or_are_named_member_by_member(run, workspace, seed):
    draw = random.Random(seed)
    good = [hostile_zips()[name] for name in ("name_27", "beside_twice", "beside_lzma_garbage", "bomb_bz2")]
    good += [
        zipped([(name, data) for name, (data, _) in good_pictures().items()], compress=kind) for kind in (0, 8, 12, 14)
    ]
    accounted = 0
    for number in range(300):
        (workspace / "z.zip").write_bytes(mutated(draw.choice(good), draw))
        started = time.monotonic()
        done = run("extract_combined_zip", "--zip", "z.zip", "--out-dir", f"out/{number}", "--json")
        assert time.monotonic() - started < 20 and "Traceback" not in done.err, done.err
        if done.code == 2:
            assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
            continue
        counts = done.json
        assert counts["members"] == sum(counts[n] for n in ("extracted", "unchanged", "other_files", "problems"))
        accounted += counts["members"]
    outside = [
        p for p in workspace.rglob("*") if p.is_file() and p.parts[len(workspace.parts)] not in ("out", "schemas")
    ]
    assert [p.name for p in outside] == ["z.zip"]
    print(f"300 mutated zips: {accounted} members accounted for")


def test_real_bombs_are_refused_before_they_take_the_memory(workspace):
    """576 megapixels of gray in 0.6 MB, and 400 of colour in 1.6 MB: they took 3.4 and 6.8 GB a worker."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    (workspace / "in").mkdir()
    Image.new("L", (24_000, 24_000), 128).save("in/gray.png")
    Image.new("RGBA", (12_000, 12_000), "white").save("in/colour.png")
    Image.new("L", (15_000, 15_000), 200).save("in/allowed.png")  # 215 MB decoded
    (workspace / "in/many.pdf").write_bytes(hostile_documents()["inflate_bomb.pdf"])
    command = words("pdf_to_images", "--in", "in", "--image-max-tokens", 256, "--json")
    measured = (
        "import resource,subprocess,sys;subprocess.run(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss//1024)"
    )
    done = finished([sys.executable, "-c", measured, *command])
    result, peak = done.stdout.splitlines()[0], int(done.stdout.splitlines()[1])
    print(f"bombs: {result}; largest process {peak} MB")
    assert json.loads(result)["documents"] == 2 and json.loads(result)["problems"] == 2 and peak < 1500
