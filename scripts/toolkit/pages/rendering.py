"""PDF and image files become page images at an exact size in vision tokens.

PyMuPDF renders straight to the final pixel size (no resize afterwards) and Pillow encodes. pypdfium2 is the second
engine, for files that PyMuPDF cannot open. Neither engine may be used from several threads: use processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.files import atomic, safe_name, sha256_of, shown, write_json, writing
from toolkit.pages.images import IMAGE_SUFFIXES, image_tokens
from toolkit.pages.manifest import VERSION, PageLine
from toolkit.pages.pdf_pages import pdf_page_images
from toolkit.pages.picture_pages import picture_pages
from toolkit.pages.pictures import DEFAULT_MAX_DECODED_MB, HEIC_SUFFIXES, file_problem
from toolkit.pages.rendered_page import UnreadableDocument

PDF_SUFFIXES = (".pdf",)
SOURCE_SUFFIXES = (*PDF_SUFFIXES, *IMAGE_SUFFIXES, *HEIC_SUFFIXES)


def render_document(
    source: str,
    out_dir: str,
    image_max_tokens: int,
    image_format: str,
    text_layer_dir: str | None,
    passwords: tuple[str, ...] = (),
    max_pages: int | None = None,
    max_decoded_mb: float = DEFAULT_MAX_DECODED_MB,
) -> list[PageLine]:
    """Render every page of one file into `out_dir`; returns manifest lines.

    Raises UnreadableDocument with a sentence (or more than `max_pages`), NotWritten where a page cannot be stored:
    the pages so far stay then, so `out_dir` should be a folder that is thrown away. Runs in worker processes, so
    arguments and result are plain values. `passwords` are tried on a protected PDF. A picture of more than
    `max_decoded_mb` in memory is refused.
    """
    path = Path(source)
    if problem := file_problem(path):
        raise UnreadableDocument(problem)
    digest = sha256_of(path)
    document, shown_source, shown_folder = safe_name(path.stem), shown(path), shown(out_dir)
    layer = None if text_layer_dir is None else Path(text_layer_dir) / f"{document}.json"
    lines: list[PageLine] = []
    words: list[list[list[Any]]] = []
    pages = (
        pdf_page_images(path, image_max_tokens, passwords, text=text_layer_dir is not None)
        if path.suffix.lower() == ".pdf"
        else picture_pages(path, image_max_tokens, max_decoded_mb)
    )
    for number, page in enumerate(pages, 1):
        if max_pages is not None and number > max_pages:
            raise UnreadableDocument(f"it has more than {max_pages} pages")
        name = f"{document}_page_{number:04d}.{image_format}"
        with writing():
            save_image(page.image, Path(out_dir) / name)
        width, height = page.image.size
        line: PageLine = {
            "document": document,
            "source": shown_source,
            "source_sha256": digest,
            "page": number,
            "pages": 0,
            "image": (Path(shown_folder) / name).as_posix(),
            "width": width,
            "height": height,
            "tokens": image_tokens(width, height),
            "blank": page.blank,
            "engine": page.engine,
            "image_max_tokens": image_max_tokens,
            "warnings": page.warnings,
            "text_layer": None if layer is None else shown(layer),
            "version": VERSION,
        }
        lines.append(line)
        words.append(page.words)
    if not lines:
        raise UnreadableDocument("it has no pages (a truncated or damaged file)")
    for line in lines:
        line["pages"] = len(lines)
    if layer is not None:
        with writing():
            write_text_layer(layer, shown_source, lines, words)
    return lines


def save_image(image: Any, target: Path) -> None:
    """PNG (level 1) or JPEG (4:4:4, quality 90: small coloured text keeps its edges)."""
    with atomic(target, "wb") as file:
        if target.suffix == ".png":
            image.save(file, "PNG", compress_level=1)
        else:
            image.save(file, "JPEG", quality=90, subsampling=0)


def write_text_layer(path: Path, source: str, lines: list[PageLine], words: list[list[list[Any]]]) -> None:
    """Write the words of a document's pages with their boxes in pixels of the page images."""
    pages = [
        {"page": line["page"], "width": line["width"], "height": line["height"], "words": found}
        for line, found in zip(lines, words, strict=True)
    ]
    write_json(path, {"source": source, "pages": pages})
