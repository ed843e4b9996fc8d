"""Zips, PDFs and pictures made to do harm, or broken in every way that fits a test: each is named or comes out, none
stops the rest, and the counts say where every one of them went."""

import json
import time
from pathlib import Path

from hostile_archives import good_png, hostile_zips, zipped
from hostile_documents import (
    NAMED_PDFS,
    RENDERED_PDFS,
    bad_pictures,
    good_pictures,
    hostile_documents,
    odd_entries,
    slow_pdf,
    small_pdf,
)


def lines_of(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


# --- zips -----------------------------------------------------------------------------------------------------------


def test_no_zip_crashes_or_writes_outside_its_folder(run, workspace):
    zips = hostile_zips()
    assert len(zips) >= 78
    for name, data in zips.items():
        (workspace / f"{name}.zip").write_bytes(data)
        started = time.monotonic()
        outcome = run("extract_combined_zip", "--zip", f"{name}.zip", "--json")
        assert time.monotonic() - started < 5, name
        assert outcome.code in (0, 1, 2) and "Traceback" not in outcome.err, (name, outcome.err)
        if outcome.code == 2:
            assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1, outcome.err
            continue
        counts = outcome.json
        named = lines_of("data/raw/problems.jsonl") if outcome.code else []
        accounted = counts["extracted"] + counts["unchanged"] + counts["other_files"] + len(named)
        assert counts["members"] == accounted and counts["problems"] == len(named), (name, counts)
        if name.startswith(("name_", "beside_")):
            assert (workspace / f"data/raw/{name}/good.png").is_file(), (name, outcome.err)
    kept = {p for p in workspace.rglob("*") if p.is_file() and p.parent != workspace}
    assert all(p.is_relative_to(workspace / "data/raw") or p.is_relative_to(workspace / "schemas") for p in kept)
    assert not list(workspace.parent.glob("*.png")) and not Path("/abs.png").exists()
    large = [p for p in (workspace / "data/raw").rglob("*") if p.is_symlink() or p.stat().st_size > 1_000_000]
    assert [p.parent.name for p in large] == ["beside_sixty_bombs"]  # the first of sixty, within the allowance


def test_all_zips_at_once_are_each_extracted_or_named(run, workspace):
    for name, data in hostile_zips().items():
        (workspace / f"{name}.zip").write_bytes(data)
    (workspace / "zz_good.zip").write_bytes(zipped([("good.png", good_png())]))
    (workspace / "dangling.zip").symlink_to("nowhere")
    zips = sorted(workspace.glob("*.zip"))
    done = run("extract_combined_zip", *(word for path in zips for word in ("--zip", path.name)), "--json")
    named = lines_of("data/raw/problems.jsonl")
    whole = {line["zip"] for line in named if line["member"] is None}
    assert done.code == 1 and "Traceback" not in done.err
    assert len(done.json["folders"]) + len(whole) == len(zips) == done.json["zips"]
    assert {"dangling.zip", "cut_middle.zip", "zeros.zip"} <= whole
    assert done.json["members"] == done.json["extracted"] + done.json["other_files"] + len(named) - len(whole)
    assert (workspace / "data/raw/zz_good/good.png").is_file()
    again = run("extract_combined_zip", *(word for path in zips for word in ("--zip", path.name)), "--json")
    assert (again.json["extracted"], again.json["unchanged"]) == (0, done.json["extracted"])


# --- PDFs and pictures ------------------------------------------------------------------------------------------------


def test_no_document_crashes_hangs_or_stops_the_others(run, workspace):
    documents = hostile_documents()
    good, bad = good_pictures(), bad_pictures()
    assert len(documents) + len(good) + len(bad) >= 112
    folder = workspace / "in"
    folder.mkdir()
    for name, data in [*documents.items(), *((n, d) for n, (d, _) in (good | bad).items())]:
        (folder / name).write_bytes(data)
    odd = odd_entries(folder)
    (folder / "zz_good.pdf").write_bytes(small_pdf())
    (folder / "hang.pdf").write_bytes(slow_pdf())
    everything = {*documents, *good, *bad, *odd, "zz_good.pdf", "hang.pdf"}
    stems = [Path(name).stem for name in everything - odd.keys()]
    assert len(set(stems)) == len(stems)  # none hides behind another's page names
    started = time.monotonic()
    outcome = run("pdf_to_images", "--in", "in", "--image-max-tokens", 64, "--time-limit", 6, "--workers", 2, "--json")
    assert time.monotonic() - started < 60
    assert outcome.code == 1 and "Traceback" not in outcome.err
    manifest, problems = lines_of("data/images/manifest.jsonl"), lines_of("data/images/problems.jsonl")
    rendered = {Path(line["source"]).name for line in manifest}
    named = {Path(line["source"]).name: line["problem"] for line in problems}
    assert rendered | named.keys() == everything and not rendered & named.keys()
    assert len(rendered) == outcome.json["documents"] and len(problems) == outcome.json["problems"]
    assert "not finished after 6 s" in named["hang.pdf"]
    assert {"zz_good.pdf", *RENDERED_PDFS} <= rendered
    pages = {name: sum(Path(line["source"]).name == name for line in manifest) for name in good}
    assert pages == {name: count for name, (_, count) in good.items()}
    for name, word in [*NAMED_PDFS.items(), *((n, w) for n, (_, w) in bad.items()), *odd.items()]:
        assert word is None or word in named[name], (name, named.get(name))
    blank = {Path(line["source"]).name for line in manifest if line["blank"]}
    assert not blank & good.keys()
    assert all(line["tokens"] <= 64 and Path(line["image"]).is_file() for line in manifest)
    assert all(line["problem"] and "\n" not in line["problem"] for line in problems)
    outside = [
        p
        for p in workspace.rglob("*")
        if p.is_file() and p.parts[len(workspace.parts)] not in ("in", "data", "schemas")
    ]
    assert not outside and not list((workspace / "data/images").glob(".*"))
