"""PDFs and pictures made to do harm, or broken in one way each; each says what must become of it."""

import functools
import io
import os
import random
import struct
import zlib
from pathlib import Path

from hostile_archives import good_png, zipped


def small_pdf(content=b"BT /F1 24 Tf 50 700 Td (HELLO) Tj ET", box=b"0 0 595 842", extra=b"", page=b"") -> bytes:
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R " + extra + b" >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox ["
        + box
        + b"] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> "
        + page
        + b" >>",
        b"<< /Length %d >>\nstream\n" % len(content) + content + b"\nendstream",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = bytearray(b"%PDF-1.7\n"), []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)


def hostile_documents() -> dict[str, bytes]:
    good = small_pdf()
    draw = random.Random(5)
    documents = {
        "empty.pdf": b"",
        "text.pdf": b"hello",
        "html.pdf": b"<html><body>x</body></html>",
        "svg.pdf": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "png.pdf": good_png(),
        "zip.pdf": zipped([("a.png", b"x")]),
        "zeros.pdf": bytes(20_000),
        "header_only.pdf": b"%PDF-1.7\n",
        "no_header.pdf": good[9:],
        "huge_box.pdf": small_pdf(box=b"0 0 1e9 1e9"),
        "big_page.pdf": small_pdf(box=b"0 0 14400 14400"),
        "strip.pdf": small_pdf(box=b"0 0 20000 20"),
        "flat_box.pdf": small_pdf(box=b"0 0 0 0"),
        "negative_box.pdf": small_pdf(box=b"595 842 0 0"),
        "nan_box.pdf": small_pdf(box=b"nan 0 inf 842"),
        "deep_box.pdf": small_pdf(box=b"[" * 500 + b"]" * 500),
        "turned.pdf": small_pdf(page=b"/Rotate 90"),
        "odd_turn.pdf": small_pdf(page=b"/Rotate 17"),
        "user_unit.pdf": small_pdf(page=b"/UserUnit 75000"),
        "crop_outside.pdf": small_pdf(page=b"/CropBox [9000 9000 9001 9001]"),
        "javascript.pdf": small_pdf(extra=b"/OpenAction << /S /JavaScript /JS (app.launchURL('http://x')) >>"),
        "launch.pdf": small_pdf(extra=b"/OpenAction << /S /Launch /F (/bin/sh) >>"),
        "many_operators.pdf": small_pdf(b"0 0 m 9 9 l S " * 300_000),
        "saves.pdf": small_pdf(b"q " * 200_000),
        "inflate_bomb.pdf": small_pdf().replace(
            b"<< /Length 36 >>\nstream\nBT /F1 24 Tf 50 700 Td (HELLO) Tj ET",
            b"<< /Filter /FlateDecode /Length 60000 >>\nstream\n" + zlib.compress(b" " * 50_000_000),
        ),
        "bad_filter.pdf": good.replace(b"<< /Length 36 >>", b"<< /Length 36 /Filter /No >>"),
        "bad_stream.pdf": good.replace(b"<< /Length 36 >>", b"<< /Length 36 /Filter /FlateDecode >>"),
        "wrong_length.pdf": good.replace(b"/Length 36", b"/Length 999999999"),
        "no_xref.pdf": good.replace(b"startxref", b"startxxxx"),
        "pages_loop.pdf": good.replace(b"/Kids [3 0 R]", b"/Kids [2 0 R]"),
        "count_lies.pdf": good.replace(b"/Count 1", b"/Count 2000000000"),
        "no_pages.pdf": good.replace(b"/Kids [3 0 R] /Count 1", b"/Kids [] /Count 0"),
        "parent_loop.pdf": good.replace(b"/Parent 2 0 R", b"/Parent 3 0 R"),
        "null_bytes.pdf": good.replace(b"HELLO", b"\x00" * 5),
        "noise.pdf": b"%PDF-1.4\n" + draw.randbytes(30_000),
        "cut.png": good_png()[:60],
        "bomb.png": bomb_png(),
        "text_jpg.jpg": b"no picture",
        "cut_head.tiff": b"II*\x00\x08\x00\x00\x00",
        "loop.tiff": b"II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00",
        "empty_bmp.bmp": b"BM",
    }
    documents |= more_pdfs()
    for number in range(10):
        damaged = bytearray(good)
        for _ in range(3 * number + 1):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        documents[f"damaged_{number}.pdf"] = bytes(damaged)
    return documents


def slow_pdf() -> bytes:
    """Forms that draw each other ten times a level, nine levels deep: a thousand million texts on one page."""
    levels = 9
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        b"/Resources << /XObject << /F 5 0 R >> >> >>",
        b"<< /Length 5 >>\nstream\n/F Do\nendstream",
    ]
    for level in range(levels):
        body = b"/F Do " * 10 if level < levels - 1 else b"0 0 m 500 800 l S " * 10
        inside = b"/Resources << /XObject << /F %d 0 R >> >>" % (6 + level) if level < levels - 1 else b""
        objects.append(
            b"<< /Type /XObject /Subtype /Form /BBox [0 0 595 842] %b /Length %d >>\nstream\n%b\nendstream"
            % (inside, len(body), body)
        )
    out = b"%PDF-1.7\n"
    for number, body in enumerate(objects, 1):
        out += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    return out + b"trailer\n<< /Root 1 0 R >>\n"


def bomb_png() -> bytes:
    """A PNG whose header promises 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    body = b"IDAT" + zlib.compress(bytes(1000))
    pieces = [chunk, body, b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(piece) - 4) + piece + struct.pack(">I", zlib.crc32(piece)) for piece in pieces
    )


def with_crypt(stream_filter: bytes) -> bytes:
    """A PDF with an Encrypt entry whose password nobody knows; its streams and texts by this crypt filter."""
    crypt = b"/Encrypt << /Filter /Standard /V 4 /R 4 /Length 128 /P -4 /O <%s> /U <%s> " % (b"41" * 32, b"42" * 32)
    crypt += b"/CF << /StdCF << /AuthEvent /EFOpen /CFM /AESV2 /Length 16 >> >> /EFF /StdCF /EncryptMetadata false "
    crypt += b"/StmF /%s /StrF /%s >> /ID [<43> <43>]" % (stream_filter, stream_filter)
    return small_pdf().replace(b"/Root 1 0 R", b"/Root 1 0 R " + crypt)


def with_image(entries: bytes, data: bytes = bytes(10_000)) -> bytes:
    """A PDF page with texts, and over them an image of 100 x 100 pixels with these entries in its dictionary."""
    texts = b"BT /F1 40 Tf 50 750 Td " + b"0 -50 Td (CONSIGNEE AND SHIPPER) Tj " * 12
    texts += b"ET q 500 0 0 700 50 100 cm /I Do Q"
    body = b"<< /Type /XObject /Subtype /Image /Width 100 /Height 100 %b /Length %d >>\nstream\n%b\nendstream"
    page = small_pdf(texts).replace(b"/Font <<", b"/XObject << /I 9 0 R >> /Font <<")
    image = b"9 0 obj\n" + body % (entries, len(data), data) + b"\nendobj\n"
    return page.replace(b"xref\n0 6", image + b"xref\n0 6", 1)


def more_pdfs() -> dict[str, bytes]:
    text = b"BT /F1 24 Tf 50 700 Td (HELLO) Tj ET"
    return {
        "attachments_encrypted.pdf": with_crypt(b"Identity"),
        "all_encrypted.pdf": with_crypt(b"StdCF"),
        "blank_no_header.pdf": small_pdf(b"")[9:],  # blank, and the second engine cannot open it
        "blank_no_table.pdf": small_pdf(b"").replace(b"startxref", b"startxxxx").replace(b"trailer", b"trxiler"),
        "doubtful_alike.pdf": small_pdf(text + b" Q Q ] >> zz (a"),
        "doubtful_differs.pdf": with_image(b"/BitsPerComponent 8 /ColorSpace [/Separation /X /DeviceCMYK 77 0 R]"),
        "image_of_gigabytes.pdf": with_image(b"/BitsPerComponent 8 /ColorSpace /DeviceRGB /Width 60000 /Height 60000"),
        "deep_array.pdf": small_pdf(text + b"[" * 5000),
        "deep_states.pdf": small_pdf(b"q " * 600 + text),
        "long_name.pdf": small_pdf(text + b"/" + b"n" * 70_000 + b" gs"),
        "huge_number.pdf": small_pdf(text + b" 1e999999 0 0 1 0 0 cm"),
        "content_loop.pdf": small_pdf(text).replace(b"/Contents 4 0 R", b"/Contents 3 0 R"),
    }


# What a test knows of them: these must be rendered, with so many pages, and these named, with such words.
RENDERED_PDFS = {"attachments_encrypted.pdf", "blank_no_header.pdf", "blank_no_table.pdf", "doubtful_alike.pdf"}
NAMED_PDFS = {
    "all_encrypted.pdf": "protected by a password",
    "doubtful_differs.pdf": "the two engines show different",
    "image_of_gigabytes.pdf": "the two engines show different",
}


# --- pictures -------------------------------------------------------------------------------------------------------


def sheet(width: int = 320, height: int = 448):
    """A small page with text on it."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for line in range(12):
        draw.text((20, 20 + 34 * line), f"CONTAINER MSKU{1234567 + line} 40HC {line * 1000}", fill=(line, 0, 40))
    return image


def saved(image, kind: str, **options) -> bytes:
    """The image's file. An encoder's settings stay with an image, so copies are saved."""
    if "append_images" in options:
        options["append_images"] = [other.copy() for other in options["append_images"]]
    buffer = io.BytesIO()
    image.copy().save(buffer, kind, **options)
    return buffer.getvalue()


def png_of(chunks: list[bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def large_png(width: int, height: int, colour: int) -> bytes:
    return png_of(
        [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0), b"IDAT" + zlib.compress(b""), b"IEND"]
    )


def tiff_of(packed: bytes, *, said: int, compression: int, width: int, height: int, bits: int, white: int) -> bytes:
    """A TIFF of one strip whose directory stands first, so that a cut file still opens."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, compression), (262, 3, white), (273, 4, 0)]
    tags += [(277, 3, 1), (278, 4, height), (279, 4, said)]
    start = 8 + 2 + 12 * len(tags) + 4
    directory = b"".join(
        struct.pack("<HHII", tag, kind, 1, start if tag == 273 else value) for tag, kind, value in tags
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4) + packed


def gray_16(top: int):
    """The sheet with its white at `top`, in 16 bits."""
    import numpy
    from PIL import Image

    return Image.fromarray(
        (numpy.asarray(sheet().convert("L"), dtype=numpy.float64) * (top / 255)).astype(numpy.uint16)
    )


def on_nothing(ink: tuple[int, int, int] = (0, 0, 0)):
    """Ink on a transparent ground whose hidden colour is black."""
    from PIL import Image, ImageOps

    letters = ImageOps.invert(sheet().convert("L"))
    layer = Image.new("RGBA", letters.size, (*ink, 0))
    layer.putalpha(letters)
    return layer


@functools.cache
def good_pictures() -> dict[str, tuple[bytes, int]]:
    """`{name: (file, pages)}`; each shows the sheet's ink."""
    import numpy
    from PIL import Image

    page, second = sheet(), sheet().rotate(180)
    gray = gray_16(65535)
    inverted = numpy.asarray(gray)
    group4 = saved(page.convert("1"), "TIFF", compression="group4")
    exif = Image.Exif()
    exif[0x0112] = 6
    floating = Image.fromarray(numpy.asarray(page.convert("L"), dtype=numpy.float32) / 255)
    whole = Image.fromarray(numpy.asarray(page.convert("L"), dtype=numpy.int32) * 1000)
    white_zero = tiff_of(
        (65535 - inverted).astype("<u2").tobytes(),
        said=inverted.nbytes,
        compression=1,
        width=320,
        height=448,
        bits=16,
        white=0,
    )
    return {
        "gray16.png": (saved(gray, "PNG"), 1),
        "gray16_tiff.tiff": (saved(gray, "TIFF"), 1),
        "gray12.tif": (saved(gray_16(4095), "TIFF"), 1),
        "white_zero16.tif": (white_zero, 1),
        "float.tiff": (saved(floating, "TIFF"), 1),
        "whole32.tiff": (saved(whole, "TIFF"), 1),
        "clear.png": (saved(on_nothing(), "PNG"), 1),
        "clear.webp.webp": (saved(on_nothing(), "WEBP", lossless=True), 1),
        "clear.tif.tiff": (saved(on_nothing(), "TIFF"), 1),
        "clear_gray.png": (saved(on_nothing().convert("LA"), "PNG"), 1),
        "clear_colour.png": (saved(page.quantize(16), "PNG", transparency=page.quantize(16).getpixel((0, 0))), 1),
        "clear_white_ink.png": (saved(on_nothing((255, 255, 255)), "PNG"), 1),
        "apng.png": (saved(page, "PNG", save_all=True, append_images=[second, second]), 1),
        "phone.jpg": (saved(page, "MPO", save_all=True, append_images=[second]), 1),
        "moving.webp": (saved(page, "WEBP", save_all=True, append_images=[second]), 1),
        "moving_gif.png": (saved(page, "GIF", save_all=True, append_images=[second]), 1),
        "pages.tiff": (saved(page, "TIFF", save_all=True, append_images=[second]), 2),
        "preview.tiff": (with_preview(page), 1),
        "group4.tif": (group4, 1),
        "turned_photo.jpg": (saved(page, "JPEG", exif=exif), 1),
        "cmyk.jpg": (saved(page.convert("CMYK"), "JPEG"), 1),
        "progressive.jpg": (saved(page, "JPEG", progressive=True), 1),
        "restarts.jpg": (saved(page, "JPEG", restart_marker_blocks=7), 1),
        "appended.jpg": (saved(page, "JPEG") + b"camera data" * 500, 1),
        "appended_png.png": (saved(page, "PNG") + b"more" * 500, 1),
        "palette.bmp": (saved(page.quantize(16), "BMP"), 1),
    }


def with_preview(page) -> bytes:
    """A TIFF whose second picture says that it is a smaller copy of the first (NewSubfileType 1)."""
    small = page.resize((32, 45))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    buffer = io.BytesIO()
    page.copy().save(buffer, "TIFF", save_all=True, append_images=[small])
    return buffer.getvalue()


@functools.cache
def bad_pictures() -> dict[str, tuple[bytes, str]]:
    """`{name: (file, a word of the sentence that must name it)}`."""
    from PIL import Image

    page = sheet()
    jpeg, progressive = saved(page, "JPEG"), saved(page, "JPEG", progressive=True)
    png, bmp, webp = saved(page, "PNG"), saved(page, "BMP"), saved(page, "WEBP")
    raw = page.convert("L").tobytes()
    size = {"width": 320, "height": 448}
    fax = saved(page.convert("1"), "TIFF", compression="group4", tiffinfo={278: 448})
    with Image.open(io.BytesIO(fax)) as opened:
        start, length = opened.tag_v2[273][0], opened.tag_v2[279][0]
    packed = fax[start : start + length]
    spoilt = packed[:900] + b"\xff" * 40 + packed[940:]
    lines = zlib.compress(b"".join(b"\0" + bytes(320 * 3) for _ in range(200)))
    short_png = png_of([b"IHDR" + struct.pack(">IIBBBBB", 320, 448, 8, 2, 0, 0, 0), b"IDAT" + lines, b"IEND"])
    end = b"\xff\xd9"
    return {
        "cut_jpg.jpg": (jpeg[: len(jpeg) // 2], "cut off"),
        "cut_ended.jpg": (jpeg[: len(jpeg) // 2] + end, "cut off"),
        "cut_late_ended.jpg": (jpeg[:-200] + end, "cut off"),
        "cut_ended_progressive.jpg": (progressive[: len(progressive) // 2] + end, "cut off"),
        "cut_ended_more.jpg": (jpeg[: len(jpeg) // 2] + end + b"camera data" * 9, "cut off"),
        "cut_half.png": (png[: len(png) // 2], "truncated"),
        "cut_ended_png.png": (png[: len(png) // 2] + png[-12:], ""),
        "few_lines.png": (short_png, "cut off"),
        "cut_raw.tif": (tiff_of(raw, said=len(raw), compression=1, bits=8, white=1, **size)[:-20_000], "cut off"),
        "cut_fax.tif": (tiff_of(packed, said=len(packed), compression=4, bits=1, white=0, **size)[:-300], "cut off"),
        "bad_fax.tif": (tiff_of(spoilt, said=len(spoilt), compression=4, bits=1, white=0, **size), "damaged"),
        "cut_deflate.tif": (tiff_of(zlib.compress(raw)[:900], said=900, compression=8, bits=8, white=1, **size), ""),
        "cut_bmp.bmp": (bmp[:-9000], "truncated"),
        "cut_webp.webp": (webp[: len(webp) // 2], ""),
        "gray_bomb.png": (large_png(24_000, 24_000, 0), "--max-decoded-mb"),
        "colour_bomb.png": (large_png(14_000, 14_000, 6), "--max-decoded-mb"),
        "bomb_bmp.bmp": (bmp[:18] + struct.pack("<ii", 60_000, 60_000) + bmp[26:], "--max-decoded-mb"),
        "bomb_tif.tif": (
            tiff_of(b"", said=9, compression=8, width=60_000, height=60_000, bits=8, white=1),
            "--max-decoded-mb",
        ),
        "strip_png.png": (saved(Image.new("L", (3000, 8), "gray"), "PNG"), "times longer"),
        "program.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\nshowpage\n", "format"),
        "no_area.bmp": (bmp[:18] + struct.pack("<ii", 0, 0) + bmp[26:], ""),
        "header.png": (png[:33], ""),
        "palette_missing.png": (
            png_of(
                [b"IHDR" + struct.pack(">IIBBBBB", 9, 9, 8, 3, 0, 0, 0), b"IDAT" + zlib.compress(bytes(90)), b"IEND"]
            ),
            None,
        ),
    }


def odd_entries(folder: Path) -> dict[str, str]:
    """Make entries that are no files, or whose content cannot be read: `{name: a word of their sentence}`."""
    names = {".pdf": "its whole name", ".PNG": "its whole name", "elsewhere": "link to a folder"}
    for name in (".pdf", ".PNG"):
        (folder / name).write_bytes(good_png())
    if os.name == "nt":
        del names["elsewhere"]
        return names
    for name in ("pipe.pdf", "pipe.png"):
        os.mkfifo(folder / name)
        names[name] = "FIFO"
    (folder / "dangling.pdf").symlink_to("nowhere")
    (folder / "circle.png").symlink_to("circle.png")
    (folder.parent / "other").mkdir()
    (folder / "elsewhere").symlink_to(folder.parent / "other")
    (folder / "silent.pdf").symlink_to("/proc/self/mem")  # opens, and every read fails; also for root
    (folder / "silent_too.png").symlink_to("/proc/self/mem")
    names |= {"dangling.pdf": "not there", "circle.png": "cannot be read"}
    if Path("/proc/self/mem").exists():
        names |= {"silent.pdf": "cannot be read", "silent_too.png": "cannot be read"}
    return names
