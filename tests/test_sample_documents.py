"""Sample documents: the same seed makes the same bytes, and every kind goes through the data stages."""

from pathlib import Path

import pytest


@pytest.mark.usefixtures("workspace")
def test_the_same_seed_makes_the_same_documents(run):
    for folder in ("one", "two"):
        run("make_sample_documents", "--out-dir", folder, "--documents", "4", "--layout", "realistic", "--seed", "4")
    names = sorted(p.relative_to("one").as_posix() for p in Path("one").rglob("*") if p.is_file())
    assert names == sorted(p.relative_to("two").as_posix() for p in Path("two").rglob("*") if p.is_file())
    assert all(Path("one", n).read_bytes() == Path("two", n).read_bytes() for n in names)


@pytest.mark.parametrize("kind", ["invoice", "receipt"])
@pytest.mark.parametrize("layout", ["realistic", "scan"])
@pytest.mark.usefixtures("workspace")
def test_other_document_types_go_through_the_data_stages(run, kind, layout):
    run("make_sample_documents", "--out-dir", "s", "--documents", "4", "--type", kind, "--layout", layout, "--no-mess")
    run("extract_combined_zip", "--zip", "s/combined.zip", "--zip", "s/bls_another.zip")
    run("pdf_to_images", "--in", "s/pdfs", "--image-max-tokens", 384)
    words = (
        f"--results s/results.json --schema schemas/{kind}.schema.json --images-dir data/raw --images-dir data/images"
    )
    built = run("build_jsonl_from_results", *words.split(), "--json")
    assert (built.code, built.json["records"]) == (0, 4), built.err
    assert run("validate_jsonl", "data/train.jsonl", "--json").json["warnings"] == 0
