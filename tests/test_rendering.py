"""Rendering: pages within the budget, words where their ink is, protected files, shares of the work."""

import codecs
import json
import os
from pathlib import Path

import pytest
from hostile_documents import more_pdfs, odd_entries, small_pdf, with_crypt


def pdf(path: Path, pages: int = 1, size=(595, 842), text="HELLO") -> Path:
    import pymupdf

    path.parent.mkdir(parents=True, exist_ok=True)
    document = pymupdf.open()
    for number in range(pages):
        page = document.new_page(width=size[0], height=size[1])
        if text:
            page.insert_text((50, 80), f"{text} {number}")
    document.save(path)
    document.close()
    return path


def test_pages_are_rendered_to_the_budget_and_bad_files_stop_nothing(run, workspace):
    pdf(workspace / "pdfs/good one.pdf", pages=2)
    pdf(workspace / "pdfs/blank.pdf", text="")
    pdf(workspace / "pdfs/huge.pdf", size=(14000, 14000), text="")
    pdf(workspace / "pdfs/GOOD ONE.PDF" if os.name != "nt" else workspace / "pdfs/other/good one.pdf")
    (workspace / "pdfs/empty.pdf").write_bytes(b"")
    (workspace / "pdfs/page.pdf").write_text("<html><body>no pdf</body></html>")
    (workspace / "pdfs/cut.pdf").write_bytes(pdf(workspace / "whole.pdf", pages=3).read_bytes()[:300])
    import pymupdf

    document = pymupdf.open(workspace / "whole.pdf")
    document.save(workspace / "pdfs/locked.pdf", encryption=pymupdf.PDF_ENCRYPT_AES_256, owner_pw="o", user_pw="u")
    outcome = run("pdf_to_images", "--in", "pdfs", "--image-max-tokens", "300", "--json")
    assert outcome.code == 1
    problems = {
        Path(json.loads(line)["source"]).name: json.loads(line)["problem"]
        for line in (workspace / "data/images/problems.jsonl").read_text().splitlines()
    }
    assert set(problems) - {"GOOD ONE.PDF", "good one.pdf"} == {"empty.pdf", "page.pdf", "cut.pdf", "locked.pdf"}
    assert "password" in problems["locked.pdf"]
    assert "overwrite" in problems.get("GOOD ONE.PDF", problems.get("good one.pdf"))
    manifest = [json.loads(line) for line in (workspace / "data/images/manifest.jsonl").read_text().splitlines()]
    assert all(0 < line["tokens"] <= 300 and line["width"] % 32 == 0 for line in manifest)
    blank = [Path(line["image"]).name for line in manifest if line["blank"]]
    assert blank == ["blank_page_0001.png", "huge_page_0001.png"]


def test_unchanged_documents_are_not_rendered_again(run, workspace):
    source = pdf(workspace / "pdfs/a.pdf")
    run("pdf_to_images", "--in", "pdfs", "--image-max-tokens", "100")
    first = (workspace / "data/images/a_page_0001.png").stat().st_mtime_ns
    assert run("pdf_to_images", "--in", "pdfs", "--image-max-tokens", "100", "--json").json["unchanged"] == 1
    assert (workspace / "data/images/a_page_0001.png").stat().st_mtime_ns == first
    source.unlink()
    pdf(source, text="OTHER")
    assert run("pdf_to_images", "--in", "pdfs", "--image-max-tokens", "100", "--json").json["unchanged"] == 0


def test_the_text_layer_has_word_boxes_in_image_pixels(run, workspace):
    pdf(workspace / "a.pdf")
    run("pdf_to_images", "--in", "a.pdf", "--text-layer", "--image-max-tokens", "300")
    page = json.loads((workspace / "data/ocr/a.json").read_text())["pages"][0]
    x0, y0, x1, y1, word = page["words"][0]
    assert word == "HELLO" and 0 < x0 < x1 < page["width"] and 0 < y0 < y1 < page["height"]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_words_of_turned_pages_lie_where_their_ink_is(workspace, rotation):
    import numpy
    import pymupdf
    from PIL import Image

    from toolkit.pages.rendering import render_document

    document = pymupdf.open()
    page = document.new_page(width=600, height=800)
    page.insert_text((260, 400), "HELLO", fontsize=40)
    page.set_cropbox(pymupdf.Rect(200, 300, 500, 700))
    page.set_rotation(rotation)
    document.save(workspace / "a.pdf")
    line = render_document("a.pdf", "img", 400, "png", "ocr", ())[0]
    ((x0, y0, x1, y1, word),) = json.loads((workspace / "ocr/a.json").read_text())["pages"][0]["words"]
    rows, columns = numpy.where(numpy.asarray(Image.open(line["image"]).convert("L")) < 100)
    assert word == "HELLO" and x0 <= columns.min() < columns.max() <= x1 and y0 <= rows.min() < rows.max() <= y1


def test_a_list_of_inputs_is_an_input(run, workspace):
    for name in ("a", "b", "c"):
        pdf(workspace / f"pdfs/{name}.pdf")
    (workspace / "list.txt").write_bytes(codecs.BOM_UTF8 + b"pdfs/a.pdf\r\n\r\npdfs\\c.pdf\r\n")
    assert run("pdf_to_images", "--in", "list.txt", "--image-max-tokens", 64, "--json").json["documents"] == 2
    (workspace / "list.txt").write_text("\n")
    assert "the list is empty" in run("pdf_to_images", "--in", "list.txt").err


def test_scans_are_taken_as_they_are(run, workspace):
    from PIL import Image

    frames = [Image.new("RGB", (900, 1200), shade) for shade in ("white", "gray")]
    frames[0].save(workspace / "scan.tiff", save_all=True, append_images=frames[1:])
    assert run("pdf_to_images", "--in", "scan.tiff", "--image-max-tokens", "400", "--json").json["pages"] == 2


def protected_pdf(path, password):
    import pymupdf

    document = pymupdf.open()
    document.new_page().insert_text((72, 72), "secret cargo")
    document.save(path, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw=password, owner_pw=password)


def test_a_protected_pdf_opens_with_a_password_of_the_file(run, workspace):
    (workspace / "pdfs").mkdir()
    protected_pdf(workspace / "pdfs/a.pdf", "open sesame")
    protected_pdf(workspace / "pdfs/b.pdf", "unknown")
    (workspace / "words.txt").write_text("wrong\nopen sesame\n")
    without = run("pdf_to_images", "--in", "pdfs", "--out-dir", "img")
    assert without.code == 1 and "--password-file" in without.err
    done = run("pdf_to_images", "--in", "pdfs", "--out-dir", "img", "--password-file", "words.txt", "--json")
    assert done.code == 1 and done.json["documents"] == 1 and "b.pdf" in done.err
    assert (workspace / "img/a_page_0001.png").is_file()
    assert "open sesame" not in (workspace / "img/manifest.jsonl").read_text()


def test_the_shares_of_all_machines_are_the_whole(run, workspace):
    run("make_sample_documents", "--out-dir", "s", "--documents", 12, "--no-mess")
    render = ["pdf_to_images", *"--in s/pdfs --image-max-tokens 64 --json".split()]
    whole = run(*render, "--out-dir", "whole").json
    shares = [run(*render, "--out-dir", "shared", "--shard", f"{n}/3").json for n in (1, 2, 3)]
    counts = [share["documents"] for share in shares]
    assert sum(counts) == whole["documents"] and min(counts) > 0
    images = {p.name: p.read_bytes() for p in (workspace / "whole").glob("*.png")}
    assert images == {p.name: p.read_bytes() for p in (workspace / "shared").glob("*.png")}
    assert len(list((workspace / "shared").glob("manifest.shard-*.jsonl"))) == 3
    assert "give I/N" in run("pdf_to_images", "--in", "s/pdfs", "--shard", "4/3").err


def test_an_azure_ml_parallel_job_calls_the_same_function(run, workspace, monkeypatch):
    """The service calls init() once and run() with the paths of a mini-batch; it appends the rows to one file."""
    import pdf_to_images

    run("make_sample_documents", "--out-dir", "s", "--documents", 4, "--no-mess")
    (workspace / "s/pdfs/broken.pdf").write_text("no pdf")
    whole = run("pdf_to_images", "--in", "s/pdfs", "--out-dir", "whole", "--image-max-tokens", 64)
    assert whole.code == 1
    monkeypatch.setattr("sys.argv", ["driver", "--out-dir", "step", "--image-max-tokens", "64", "--amlbi_unknown", "1"])
    pdf_to_images.init()
    sources = sorted(str(path) for path in (workspace / "s/pdfs").iterdir())
    rows = [row for start in (0, 3) for row in pdf_to_images.run(sources[start : start + 3])]
    expected = (workspace / "whole/manifest.jsonl").read_text().replace("whole/", "step/").splitlines()
    assert sorted(map(json.loads, rows), key=str) == sorted(map(json.loads, expected), key=str)
    assert len(list((workspace / "step").glob("problems_*.jsonl"))) == 1


def test_any_number_of_workers_writes_the_same_bytes(run, workspace):
    run("make_sample_documents", "--out-dir", "s", "--documents", 12, "--no-mess", "--layout", "realistic")
    for workers, order in ((1, 1), (4, -1)):
        sources = sorted((workspace / "s/pdfs").iterdir())[::order]
        words = ["--out-dir", "img", "--text-layer", "--image-max-tokens", 384, "--overwrite"]
        run("pdf_to_images", "--in", *sources, *words, "--workers", workers)
        files = {p: p.read_bytes() for folder in ("img", "data/ocr") for p in (workspace / folder).iterdir()}
        if workers == 1:
            first = files
    assert len(first) > 8 and files == first


def test_a_page_that_one_engine_renders_blank_goes_to_the_other(workspace, monkeypatch):
    """MuPDF leaves some JBIG2 pages blank; none can be made here, so its answer is replaced by a blank one."""
    from PIL import Image

    from toolkit.pages import pdf_pages, rendering

    pdf(workspace / "a.pdf", pages=2)
    monkeypatch.setattr(pdf_pages, "page_image", lambda *_: Image.new("RGB", (64, 96), "white"))
    lines = rendering.render_document(str(workspace / "a.pdf"), str(workspace / "img"), 64, "png", None, ())
    assert [(line["engine"], line["blank"]) for line in lines] == [("pypdfium2", False)] * 2
    assert "rendered by the second engine" in lines[0]["warnings"][-1]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that opens and cannot be read")
def test_a_source_that_cannot_be_read_stops_nothing_and_keeps_its_pages(run, workspace):
    source = pdf(workspace / "pdfs/a.pdf")
    pdf(workspace / "pdfs/b.pdf")
    run("pdf_to_images", "--in", "pdfs", "--image-max-tokens", 64)
    source.unlink()
    source.symlink_to("/proc/self/mem")
    pdf(workspace / "pdfs/c.pdf")
    done = run("pdf_to_images", "--in", "pdfs", "--image-max-tokens", 64, "--json")
    assert (done.code, done.json["documents"], done.json["problems"]) == (1, 2, 1)
    assert "pdfs/a.pdf: it cannot be read" in done.err
    assert (workspace / "data/images/a_page_0001.png").is_file()


def test_pages_that_cannot_be_replaced_stop_no_other_document(run, workspace):
    for name in ("a", "b"):
        pdf(workspace / f"pdfs/{name}.pdf")
    (workspace / "data/images/a_page_0001.png").mkdir(parents=True)
    done = run("pdf_to_images", "--in", "pdfs", "--image-max-tokens", 64, "--json")
    assert (done.code, done.json["documents"], done.json["problems"]) == (1, 1, 1)
    assert "a_page_0001.png cannot be replaced" in done.err


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_two_links_to_one_file_are_two_documents(run, workspace):
    pdf(workspace / "store/x.pdf")
    (workspace / "pdfs").mkdir()
    for name in ("a", "b"):
        (workspace / f"pdfs/{name}.pdf").symlink_to("../store/x.pdf")
    for unchanged in (0, 2):
        done = run("pdf_to_images", "--in", "pdfs", "--image-max-tokens", 64, "--json")
        assert (done.json["documents"], done.json["pages"], done.json["unchanged"]) == (2, 2, unchanged)
    assert len(list((workspace / "data/images").glob("*.png"))) == 2


def test_what_looks_like_a_document_and_is_no_file_is_named(run, workspace):
    pdf(workspace / "in/a.pdf")
    odd = odd_entries(workspace / "in")
    done = run("pdf_to_images", "--in", "in", "--image-max-tokens", 64, "--json")
    lines = [json.loads(line) for line in (workspace / "data/images/problems.jsonl").read_text().splitlines()]
    named = {Path(line["source"]).name: line["problem"] for line in lines}
    assert done.code == 1 and done.json["documents"] == 1 and named.keys() == odd.keys()
    assert all(word in named[name] for name, word in odd.items())


def test_a_pdf_that_encrypts_only_its_attachments_is_rendered_with_its_words(run, workspace):
    (workspace / "a.pdf").write_bytes(with_crypt(b"Identity"))
    assert run("pdf_to_images", "--in", "a.pdf", "--text-layer", "--image-max-tokens", 300).code == 0
    layer = json.loads((workspace / "data/ocr/a.json").read_text())
    assert [word[4] for word in layer["pages"][0]["words"]] == ["HELLO"]


def test_a_blank_page_of_a_file_that_the_second_engine_cannot_open_stays_blank(run, workspace):
    (workspace / "a.pdf").write_bytes(more_pdfs()["blank_no_header.pdf"])
    done = run("pdf_to_images", "--in", "a.pdf", "--json")
    assert (done.code, done.json["blank"]) == (0, 1)
    assert "the second engine cannot open it" in (workspace / "data/images/manifest.jsonl").read_text()


@pytest.mark.parametrize("tokens", [64, 1280])
def test_a_doubtful_page_is_refused_where_the_engines_differ_and_kept_where_they_agree(run, workspace, tokens):
    for name in ("doubtful_alike.pdf", "doubtful_differs.pdf"):
        (workspace / name).write_bytes(more_pdfs()[name])
    done = run("pdf_to_images", "--in", "doubtful_alike.pdf", "doubtful_differs.pdf", "--image-max-tokens", tokens)
    assert done.code == 1 and "doubtful_differs.pdf: page 1: it is damaged, and the two engines show diff" in done.err
    assert (workspace / "data/images/doubtful_alike_page_0001.png").is_file()
    assert not (workspace / "data/images/doubtful_differs_page_0001.png").exists()


def test_what_an_engine_says_of_one_document_does_not_stand_with_the_next(run, workspace):
    noisy = small_pdf(b"BT /F1 24 Tf 50 700 Td (HELLO) Tj ET " + b"Q " * 9)
    (workspace / "a.pdf").write_bytes(noisy)
    (workspace / "broken.pdf").write_bytes(noisy[:600])
    (workspace / "z.pdf").write_bytes(small_pdf())
    run("pdf_to_images", "--in", "a.pdf", "broken.pdf", "z.pdf", "--workers", 1)
    lines = [json.loads(line) for line in (workspace / "data/images/manifest.jsonl").read_text().splitlines()]
    warnings = {line["document"]: line["warnings"] for line in lines}
    assert warnings["a"] and warnings["z"] == []
