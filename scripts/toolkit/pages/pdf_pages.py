"""The pages of a PDF as images: PyMuPDF, and pypdfium2 where that one fails, shows nothing, or doubts itself."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.files import escaped, with_replacement, with_whole_pairs
from toolkit.pages.images import DEFAULT_MAX_TOKENS, PageShape, fitted_size
from toolkit.pages.rendered_page import MAX_DPI, RenderedPage, UnreadableDocument, is_blank, said

# What MuPDF warns of where it could not read a page, or an image on it, to the end.
DOUBTFUL = ("page may not be correct", "padding truncated image")
# Two engines' pages differ where more than DIFFERING_PART of the pixels differ by more than DIFFERING_STEP of 255, and
# ink is missing in more than MISSING_PART: another font's edges are not missing ink. Compared at COMPARED_TOKENS.
DIFFERING_PART = 0.02
DIFFERING_STEP = 63
MISSING_PART = 0.005
COMPARED_TOKENS = DEFAULT_MAX_TOKENS


def pdf_page_images(
    path: Path, image_max_tokens: int, passwords: tuple[str, ...] = (), *, text: bool = False
) -> Iterator[RenderedPage]:
    """Every page of a PDF, with its words where `text` is given.

    A page that PyMuPDF cannot render, or renders blank, goes to the second engine. Each engine renders a few files that
    the other cannot (JBIG2 refinement pages come out blank in MuPDF). A page that PyMuPDF calls doubtful is rendered by
    both: where they differ, nobody knows what the page shows, and the document is refused.
    """
    import pymupdf

    pymupdf.TOOLS.mupdf_display_errors(False)
    pymupdf.TOOLS.mupdf_warnings()  # what is left of the last document, also what MuPDF has not counted to its end yet
    try:
        document = pymupdf.open(path)
    except Exception:
        yield from pdfium_page_images(path, image_max_tokens, passwords)
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(document)
        if not document.is_pdf:
            raise UnreadableDocument("it is not a PDF, whatever its name says")
        content: Path | bytes = path
        password = None
        if document.needs_pass:
            password = next((word for word in passwords if document.authenticate(word)), None)
            if password is None and encrypts_attachments_only(document):
                content = without_encryption(path)
                document = stack.enter_context(pymupdf.open(stream=content, filetype="pdf"))
            elif password is None:
                raise UnreadableDocument(
                    "it is protected by a password; give it with --password-file, or remove the protection"
                )
        if page_count(document) == 0:
            yield from pdfium_page_images(path, image_max_tokens, passwords)
            return
        second = SecondOpinion(content, password, stack)
        for number in range(document.page_count):
            try:
                yield one_page(document, number, image_max_tokens, second, text=text)
            except PageShape as error:
                raise UnreadableDocument(f"page {number + 1}: {error}") from None
        # MuPDF keeps up to 256 MB of glyphs and images for later; the next document has its own.
        pymupdf.TOOLS.store_shrink(100)


def one_page(document: Any, number: int, image_max_tokens: int, second: SecondOpinion, *, text: bool) -> RenderedPage:
    """Page `number` (from 0) of a PyMuPDF document. Raises PageShape, or UnreadableDocument where it cannot be had."""
    import pymupdf

    image, blank, words, complaint = None, True, [], ""
    try:
        page = document.load_page(number)
        image = page_image(page, image_max_tokens)
        blank = is_blank(image)
        words = page_words(page, image) if text else []
    except (PageShape, MemoryError):
        raise
    except Exception as error:
        complaint = f"PyMuPDF cannot {'read its text' if image else 'render it'}: {said(error, 120)}"
    # MuPDF quotes the file's bytes, whatever they are.
    told = [escaped(line) for line in pymupdf.TOOLS.mupdf_warnings().splitlines()]
    doubtful = any(mark in line for line in told for mark in DOUBTFUL)
    warnings = sorted(set(told))[:5]
    engine = "pymupdf"
    if blank or doubtful:
        other = second.page(number, image_max_tokens)
        if blank and other is not None and (image is None or not is_blank(other)):
            image, engine, blank = other, "pypdfium2", is_blank(other)
            warnings.append(complaint or "blank in PyMuPDF, rendered by the second engine")
        elif image is not None and doubtful:
            first = image if image_max_tokens == COMPARED_TOKENS else page_image(page, COMPARED_TOKENS)
            pymupdf.TOOLS.mupdf_warnings()  # said already
            check_doubtful(number, first, second.page(number, COMPARED_TOKENS), second.trouble)
        elif second.trouble:
            warnings.append(second.trouble)
    if image is None:
        raise UnreadableDocument(f"page {number + 1}: {complaint}; nor can the second engine")
    if complaint and complaint not in warnings:
        warnings.append(complaint)
    return RenderedPage(image, engine, blank, warnings, words)


def check_doubtful(number: int, image: Any, other: Any, trouble: str) -> None:
    """Raises UnreadableDocument where nothing confirms a page that PyMuPDF itself calls doubtful."""
    if other is None:
        why = trouble or "the second engine cannot render it"
        raise UnreadableDocument(f"page {number + 1}: it is damaged, and what PyMuPDF shows may be wrong ({why})")
    part = differing_part(image, other)
    if part > DIFFERING_PART and missing_part(image, other) > MISSING_PART:
        raise UnreadableDocument(
            f"page {number + 1}: it is damaged, and the two engines show different pages "
            f"({part:.1%} of the pixels differ); save the PDF again with the program that made it"
        )


def differing_part(first: Any, second: Any) -> float:
    """The part of the pixels in which two renderings of a page differ by more than DIFFERING_STEP in any channel."""
    from PIL import ImageChops

    if second.size != first.size:
        second = second.resize(first.size)
    red, green, blue = ImageChops.difference(first, second).split()
    return part_over_step(ImageChops.lighter(ImageChops.lighter(red, green), blue))


def missing_part(first: Any, second: Any) -> float:
    """The part of the pixels that are darker or lighter in one rendering than anything within a pixel in the other."""
    from PIL import ImageChops, ImageFilter

    if second.size != first.size:
        second = second.resize(first.size)
    first, second = first.convert("L"), second.convert("L")
    most = ImageChops.subtract(first, first)
    for one, other in ((first, second), (second, first)):
        darker = ImageChops.subtract(other.filter(ImageFilter.MinFilter(3)), one)
        lighter = ImageChops.subtract(one, other.filter(ImageFilter.MaxFilter(3)))
        most = ImageChops.lighter(most, ImageChops.lighter(darker, lighter))
    return part_over_step(most)


def part_over_step(steps: Any) -> float:
    """The part of a gray image's pixels above DIFFERING_STEP."""
    counts = steps.histogram()
    return float(sum(counts[DIFFERING_STEP + 1 :]) / sum(counts))


def encrypts_attachments_only(document: Any) -> bool:
    """Whether an encrypted PDF leaves its streams and texts as they are: a password opens its attached files only.

    Source: ISO 32000-2, 7.6.6: the crypt filters StmF and StrF are Identity, also where they are not given.
    """
    try:
        version = int(document.xref_get_key(-1, "Encrypt/V")[1])
        filters = [document.xref_get_key(-1, f"Encrypt/{name}")[1] for name in ("StmF", "StrF")]
    except Exception:
        return False
    return version in (4, 5) and all(name in ("/Identity", "null") for name in filters)


def without_encryption(path: Path) -> bytes:
    """The PDF with its Encrypt entry renamed, which engines do not know: they read what is not encrypted anyway."""
    return re.sub(rb"/Encrypt(?![A-Za-z])", b"/Encrypx", path.read_bytes())


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


class SecondOpinion:
    """The second engine for single pages of a document, opened when first needed, closed with `stack`.

    `trouble`: why it cannot open the document; that is no reason to refuse what the first engine renders.
    """

    def __init__(self, content: Path | bytes, password: str | None, stack: contextlib.ExitStack) -> None:
        self.content, self.password, self.stack = content, password, stack
        self.trouble = ""
        self._engine: SecondEngine | None = None

    def page(self, number: int, image_max_tokens: int) -> Any:
        """Page `number` (from 0) as an RGB image, or None where the engine cannot render it. Raises PageShape."""
        if self._engine is None and not self.trouble:
            try:
                self._engine = self.stack.enter_context(SecondEngine(self.content, self.password))
            except UnreadableDocument as error:
                self.trouble = str(error).replace("neither engine can", "the second engine cannot")
        return None if self._engine is None else self._engine.page(number, image_max_tokens)


class SecondEngine:
    """pypdfium2 on one file. Raises UnreadableDocument where it cannot open it either; use as a context."""

    def __init__(self, content: Path | bytes, password: str | None = None) -> None:
        import pypdfium2

        try:
            self.document = pypdfium2.PdfDocument(content, password=password)
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
