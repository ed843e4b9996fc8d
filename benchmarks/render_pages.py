"""CPU time of rendering pages, against MuPDF's bare raster, the usual 200-dpi PNG, pypdfium2 and pdf2image, in one run.

Generates mixed documents (realistic and scan layouts), or takes a folder of yours. Each way renders every page. A round
is all ways one after the other; the figure is the median over rounds of CPU milliseconds a page (user + system,
children included). Then 1,000 pages with one and with two workers: wall time, and the largest memory of a worker.

    python -m pip install pdf2image   (and poppler's pdftoppm; without them that line is left out and said to be)
    python benchmarks/render_pages.py
    python benchmarks/render_pages.py --pdfs my_pdfs --rounds 5
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import pymupdf  # noqa: E402
import pypdfium2  # noqa: E402

from toolkit.pages.images import fitted_size  # noqa: E402
from toolkit.pages.rendered_page import MAX_DPI  # noqa: E402
from toolkit.pages.rendering import render_document, save_image  # noqa: E402

TOKENS = 1280


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def bare_raster(path: Path, _: Path) -> None:
    """Raster only, at the size that the project renders to: nothing is encoded, nothing written."""
    with pymupdf.open(path) as document:
        for page in document:
            width, height = fitted_size(page.rect.width, page.rect.height, TOKENS, max_scale=MAX_DPI / 72)
            matrix = pymupdf.Matrix(width / page.rect.width, height / page.rect.height)
            page.get_pixmap(matrix=matrix, colorspace=pymupdf.csRGB, alpha=False)


def usual_png(path: Path, out: Path) -> None:
    """What most scripts do: 200 dpi, `pix.save` as PNG."""
    with pymupdf.open(path) as document:
        for page in document:
            page.get_pixmap(dpi=200).save(out / f"{path.stem}_{page.number}.png")


def pdfium(path: Path, out: Path) -> None:
    """pypdfium2 at the project's size, with the project's encoder."""
    document = pypdfium2.PdfDocument(path)
    for number in range(len(document)):
        page = document[number]
        wide, high = page.get_size()
        width, height = fitted_size(wide, high, TOKENS, max_scale=MAX_DPI / 72)
        image = page.render(scale=max(width / wide, height / high)).to_pil().convert("RGB")
        save_image(
            image if image.size == (width, height) else image.resize((width, height)), out / f"{path.stem}_{number}.jpg"
        )
    document.close()


def pdf2image(path: Path, out: Path) -> None:
    """pdf2image as its page says: convert_from_path at 200 dpi, saved as PNG."""
    import pdf2image as peer

    for number, image in enumerate(peer.convert_from_path(path, dpi=200)):
        image.save(out / f"{path.stem}_{number}.png")


def ours(kind: str) -> Callable[[Path, Path], None]:
    """The whole function of pdf_to_images.py: raster, blank test, encoding, file hash, write."""

    def render(path: Path, out: Path) -> None:
        render_document(str(path), str(out), TOKENS, kind, None, ())

    return render


def sample(folder: Path, documents: int) -> list[Path]:
    for layout, seed in (("realistic", 1), ("scan", 2)):
        target = folder / layout
        command = [
            sys.executable,
            SCRIPTS / "make_sample_documents.py",
            "--out-dir",
            target,
            "--documents",
            str(documents),
        ]
        command += ["--layout", layout, "--seed", str(seed), "--no-mess"]
        subprocess.run(command, check=True, capture_output=True, cwd=SCRIPTS.parent)
    return sorted(folder.rglob("*.pdf"))


def workers_run(folder: Path, workers: int) -> tuple[float, int, int]:
    """`(seconds, pages, KiB of the largest process)` of the script itself."""
    program = (
        "import resource, subprocess, sys; quiet = subprocess.DEVNULL; "
        "subprocess.run(sys.argv[1:], check=True, stdout=quiet, stderr=quiet); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [
        sys.executable,
        SCRIPTS / "pdf_to_images.py",
        "--in",
        folder,
        "--out-dir",
        folder.parent / f"out{workers}",
        "--format",
        "jpg",
        "--workers",
        str(workers),
    ]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, command)], check=True, capture_output=True, text=True
    )
    seconds = time.monotonic() - began
    return seconds, len(list((folder.parent / f"out{workers}").glob("*.jpg"))), int(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pdfs", type=Path, default=None, help="folder of PDFs (default: generated ones)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale-pages", type=int, default=1000, help="pages of the two-worker run; 0: none")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pdfs = sorted(args.pdfs.rglob("*.pdf")) if args.pdfs else sample(folder / "pdfs", 48)
        pages = sum(len(pypdfium2.PdfDocument(path)) for path in pdfs)
        ways: dict[str, Callable[[Path, Path], None]] = {
            "MuPDF bare raster, same size": bare_raster,
            "this project, jpg": ours("jpg"),
            "this project, png": ours("png"),
            "pypdfium2, same encoder": pdfium,
            "MuPDF 200 dpi, pix.save png": usual_png,
            "pdf2image 200 dpi, png": pdf2image,
        }
        try:
            pdf2image(pdfs[0], folder)
        except Exception as error:
            print(f"pdf2image is left out: {type(error).__name__}: {str(error)[:100]}")
            del ways["pdf2image 200 dpi, png"]
        figures: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, way in ways.items():
                with tempfile.TemporaryDirectory(dir=folder) as out, contextlib.redirect_stdout(io.StringIO()):
                    began = cpu_seconds()
                    for path in pdfs:
                        way(path, Path(out))
                    figures[name].append(1000 * (cpu_seconds() - began) / pages)
        middle = {name: statistics.median(values) for name, values in figures.items()}
        mine = middle["this project, jpg"]
        about = f"{len(pdfs)} PDFs, {pages} pages, {TOKENS} vision tokens at most, {args.rounds} rounds"
        print(f"{about}, median CPU ms a page")
        for name, value in middle.items():
            print(f"  {name:32s} {value:7.1f}   {value / mine:5.2f} x this project's jpg")
        if args.scale_pages:
            many = folder / "many"
            many.mkdir()
            copies = -(-args.scale_pages // pages)
            for copy in range(copies):
                for path in pdfs:
                    (many / f"{copy}_{path.parent.parent.name}_{path.name}").write_bytes(path.read_bytes())
            runs = {workers: workers_run(many, workers) for workers in (1, 2)}
            for workers, (seconds, count, memory) in runs.items():
                largest = f"{memory / 1024:.0f} MiB the largest process"
                print(f"  {workers} workers: {count} pages in {seconds:.1f} s, {largest}")
            print(f"  speed-up {runs[1][0] / runs[2][0]:.2f}")
        print(json.dumps({name: round(value, 2) for name, value in middle.items()}))


if __name__ == "__main__":
    main()
