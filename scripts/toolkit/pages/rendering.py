"""PDF and image files become page images at an exact size in vision tokens.

PyMuPDF renders straight to the final pixel size (no resize afterwards) and Pillow encodes. pypdfium2 is the second
engine, for files that PyMuPDF cannot open. Neither engine may be used from several threads: use processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.files import (
    atomic,
    escaped,
    safe_name,
    sha256_of,
    shown,
    with_replacement,
    with_whole_pairs,
    write_json,
    writing,
)
from toolkit.pages.images import IMAGE_SUFFIXES, PageShape, fitted_size, image_tokens
from toolkit.pages.manifest import PageLine

PDF_SUFFIXES = (".pdf",)
HEIC_SUFFIXES = (".heic", ".heif")
SOURCE_SUFFIXES = (*PDF_SUFFIXES, *IMAGE_SUFFIXES, *HEIC_SUFFIXES)
MAX_DPI = 300  # a small page is not enlarged beyond this


@dataclass
class RenderedPage:
    """One page as an RGB image.

    `words` are [x0, y0, x1, y1, text] in pixels of the image; empty where no text layer was asked for.
    """

    image: Any
    engine: str
    blank: bool
    warnings: list[str] = field(default_factory=list)
    words: list[list[Any]] = field(default_factory=list)


class UnreadableDocument(Exception):
    """The document cannot be rendered; the message is one sentence without the file's name."""


def render_document(
    source: str,
    out_dir: str,
    image_max_tokens: int,
    image_format: str,
    text_layer_dir: str | None,
    passwords: tuple[str, ...] = (),
    max_pages: int | None = None,
) -> list[PageLine]:
    """Render every page of one file into `out_dir`; returns manifest lines.

    Raises UnreadableDocument with a sentence (or more than `max_pages`), NotWritten where a page cannot be stored:
    the pages so far stay then, so `out_dir` should be a folder that is thrown away. Runs in worker processes, so
    arguments and result are plain values. `passwords` are tried on a protected PDF.
    """
    path = Path(source)
    digest = sha256_of(path)
    document, shown_source, shown_folder = safe_name(path.stem), shown(path), shown(out_dir)
    layer = None if text_layer_dir is None else Path(text_layer_dir) / f"{document}.json"
    lines: list[PageLine] = []
    words: list[list[list[Any]]] = []
    pages = (
        pdf_page_images(path, image_max_tokens, passwords, text=text_layer_dir is not None)
        if path.suffix.lower() == ".pdf"
        else picture_pages(path, image_max_tokens)
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


def pdf_page_images(
    path: Path, image_max_tokens: int, passwords: tuple[str, ...] = (), *, text: bool = False
) -> Iterator[RenderedPage]:
    """Every page of a PDF, with its words where `text` is given.

    A page that PyMuPDF cannot render, or renders blank, goes to the second engine. Each engine renders a few files that
    the other cannot (JBIG2 refinement pages come out blank in MuPDF).
    """
    import pymupdf

    pymupdf.TOOLS.mupdf_display_errors(False)
    pymupdf.TOOLS.reset_mupdf_warnings()
    try:
        document = pymupdf.open(path)
    except Exception:
        yield from pdfium_page_images(path, image_max_tokens, passwords)
        return
    with document:
        if not document.is_pdf:
            raise UnreadableDocument("it is not a PDF, whatever its name says")
        password = None
        if document.needs_pass:
            password = next((word for word in passwords if document.authenticate(word)), None)
            if password is None:
                raise UnreadableDocument(
                    "it is protected by a password; give it with --password-file, or remove the protection"
                )
        if page_count(document) == 0:
            yield from pdfium_page_images(path, image_max_tokens, passwords)
            return
        with contextlib.ExitStack() as stack:
            second: SecondEngine | None = None
            for number in range(document.page_count):
                image, blank, words, complaint = None, True, [], ""
                try:
                    page = document.load_page(number)
                    image = page_image(page, image_max_tokens)
                    blank = is_blank(image)
                    words = page_words(page, image) if text else []
                except PageShape as error:
                    raise UnreadableDocument(f"page {number + 1}: {error}") from None
                except Exception as error:
                    complaint = f"PyMuPDF cannot {'read its text' if image else 'render it'}: {said(error, 120)}"
                # MuPDF quotes the file's bytes, whatever they are.
                warnings = sorted({escaped(line) for line in pymupdf.TOOLS.mupdf_warnings().splitlines()})[:5]
                engine = "pymupdf"
                if blank:
                    second = second or stack.enter_context(SecondEngine(path, password))
                    try:
                        other = second.page(number, image_max_tokens)
                    except PageShape as error:
                        raise UnreadableDocument(f"page {number + 1}: {error}") from None
                    if other is not None and (image is None or not is_blank(other)):
                        image, engine, blank = other, "pypdfium2", is_blank(other)
                        warnings.append(complaint or "blank in PyMuPDF, rendered by the second engine")
                if image is None:
                    raise UnreadableDocument(f"page {number + 1}: {complaint}; nor can the second engine")
                if complaint and complaint not in warnings:
                    warnings.append(complaint)
                yield RenderedPage(image, engine, blank, warnings, words)
        # MuPDF keeps up to 256 MB of glyphs and images for later; the next document has its own.
        pymupdf.TOOLS.store_shrink(100)


def page_count(document: Any) -> int:
    """The number of pages by PyMuPDF; 0 where it cannot read the page tree (the second engine may be able to)."""
    try:
        return int(document.page_count)
    except Exception:
        return 0


def page_words(page: Any, image: Any) -> list[list[Any]]:
    """The page's words as [x0, y0, x1, y1, text] in pixels of `image`.

    MuPDF's coordinates are those of the page before its rotation; they are turned here.
    """
    import pymupdf

    scale_x, scale_y = image.width / page.rect.width, image.height / page.rect.height
    words = []
    for *box, text, _block, _line, _word in page.get_text("words"):
        x0, y0, x1, y1 = pymupdf.Rect(box) * page.rotation_matrix if page.rotation else box
        box = [round(x0 * scale_x, 1), round(y0 * scale_y, 1), round(x1 * scale_x, 1), round(y1 * scale_y, 1)]
        words.append([*box, readable(text)])
    return words


def readable(text: str) -> str:
    """A word's text; half a surrogate pair (a broken font table) is U+FFFD, as MuPDF writes every unknown character."""
    return with_replacement(with_whole_pairs(text))


def said(error: object, most: int = 200) -> str:
    """What an engine says about a file, as part of a sentence."""
    return escaped(" ".join(str(error).split())[:most])


def page_image(page: Any, image_max_tokens: int) -> Any:
    """One PyMuPDF page as an RGB image, rastered straight to its size in vision tokens. Raises PageShape."""
    import pymupdf
    from PIL import Image

    width, height = fitted_size(page.rect.width, page.rect.height, image_max_tokens, max_scale=MAX_DPI / 72)
    matrix = pymupdf.Matrix(width / page.rect.width, height / page.rect.height)
    pixmap = page.get_pixmap(matrix=matrix, colorspace=pymupdf.csRGB, alpha=False)
    image = Image.new("RGB", (pixmap.width, pixmap.height), None)  # not filled first: every pixel follows
    image.frombytes(pixmap.samples_mv)
    if image.size != (width, height):
        # MuPDF rounds a page box outwards; at most one row or column is off.
        canvas = Image.new("RGB", (width, height), "white")
        canvas.paste(image, (0, 0))
        image = canvas
    return image


class SecondEngine:
    """pypdfium2 on one file. Raises UnreadableDocument where it cannot open it either; use as a context."""

    def __init__(self, path: Path, password: str | None = None) -> None:
        import pypdfium2

        try:
            self.document = pypdfium2.PdfDocument(path, password=password)
        except pypdfium2.PdfiumError as error:
            raise UnreadableDocument(f"neither engine can open it ({said(error).rstrip('.')})") from None

    def __enter__(self) -> SecondEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.document.close()

    def page(self, index: int, image_max_tokens: int) -> Any:
        """Page `index` (from 0) as an RGB image, or None where this engine cannot render it. Raises PageShape."""
        import pypdfium2

        if index >= len(self.document):
            return None
        try:
            page = self.document[index]
            page_width, page_height = page.get_size()
            width, height = fitted_size(page_width, page_height, image_max_tokens, max_scale=MAX_DPI / 72)
            image = page.render(scale=max(width / page_width, height / page_height)).to_pil().convert("RGB")
        except pypdfium2.PdfiumError:
            return None
        return image if image.size == (width, height) else image.resize((width, height))


def pdfium_page_images(path: Path, image_max_tokens: int, passwords: tuple[str, ...]) -> Iterator[RenderedPage]:
    """Every page by the second engine, for files that PyMuPDF does not open. No words."""
    for number, password in enumerate((None, *passwords)):
        try:
            engine = SecondEngine(path, password)
            break
        except UnreadableDocument:
            if number == len(passwords):
                raise
    with engine:
        for index in range(len(engine.document)):
            try:
                image = engine.page(index, image_max_tokens)
            except PageShape as error:
                raise UnreadableDocument(f"page {index + 1}: {error}") from None
            if image is None:
                raise UnreadableDocument(f"page {index + 1}: neither engine can render it")
            yield RenderedPage(image, "pypdfium2", is_blank(image), ["opened by the second engine only"])


def picture_pages(path: Path, image_max_tokens: int) -> Iterator[RenderedPage]:
    """The frames of an image file (a TIFF may hold several), turned as EXIF says and fitted to the token budget."""
    from PIL import Image, ImageOps, ImageSequence

    Image.MAX_IMAGE_PIXELS = 300_000_000
    if path.suffix.lower() in HEIC_SUFFIXES:
        try:
            import pillow_heif
        except ModuleNotFoundError:
            raise UnreadableDocument(
                "HEIC images need the package pillow-heif: python -m pip install pillow-heif"
            ) from None
        pillow_heif.register_heif_opener()
    try:
        with Image.open(path) as opened:
            for frame in ImageSequence.Iterator(opened):
                image = ImageOps.exif_transpose(frame).convert("RGB")
                width, height = fitted_size(image.width, image.height, image_max_tokens, max_scale=1.0)
                if image.size != (width, height):
                    image = image.resize((width, height), Image.Resampling.LANCZOS)
                yield RenderedPage(image, "pillow", is_blank(image))
    except UnreadableDocument:
        raise
    except Exception as error:
        raise UnreadableDocument(f"it cannot be read as an image ({said(error)})") from None


def is_blank(image: Any) -> bool:
    """True where the darkest and the lightest pixel hardly differ.

    Pillow's extrema are used because MuPDF's `is_unicolor` takes 0.2 to 2 s a page. Every eighth pixel is enough for
    almost every page; all pixels are read only where those look alike.
    """
    for view in (image.resize((max(1, image.width // 8), max(1, image.height // 8)), 0), image):  # 0: nearest
        low, high = view.convert("L").getextrema()
        if high - low >= 24:
            return False
    return True


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
