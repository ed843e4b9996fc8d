"""Picture files: what they are, how large they are decoded, whether they are whole, and their pixels as RGB on white.

A picture is untrusted. Its header is read first, so that a small file which unpacks to gigabytes is refused before it
is decoded. Decoders accept many cut files and fill the missing part with gray; `damage` finds these.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import random
import re
import stat
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# What Pillow says about a file goes into our own sentences (see `messages`), not beside them.
warnings.filterwarnings("ignore", module=r"PIL\b")

DEFAULT_MAX_DECODED_MB = 256
HEIC_SUFFIXES = (".heic", ".heif")
# Others that Pillow knows are no page images; EPS would start a program.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF", "HEIF")
PAGED_FORMATS = ("TIFF", "HEIF")  # further frames are pages; elsewhere an animation, or a phone's second view
_PIXEL_BYTES = {"1": 1, "L": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
_PNG_END = b"IEND\xaeB`\x82"
_PNG_CHANNELS = {2: 3, 4: 2, 6: 4}  # by the header's colour type; the others have one
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_ARITHMETIC_JPEG = (0xC9, 0xCA, 0xCB)
# Stands for scan data: no marker in it, and decoded it looks like nothing else.
_NOISE = bytes(byte if byte != 0xFF else 7 for byte in random.Random(3).randbytes(4096))


class UnreadablePicture(OSError):
    """The file is no picture that can be taken; the message is one sentence part without the file's name.

    An OSError without a number, as Pillow's own errors are.
    """


def file_problem(path: Path) -> str:
    """Why this path cannot be opened as a file: a FIFO or a device would block for ever. Empty where it can.

    Raises FileNotFoundError, or what else the system says.
    """
    mode = path.stat().st_mode
    return "" if stat.S_ISREG(mode) else f"it is {_KINDS.get(stat.S_IFMT(mode), 'a device')}, not a file"


_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO (named pipe)", stat.S_IFSOCK: "a socket"}


@contextlib.contextmanager
def opened_picture(path: Path, max_decoded_mb: float = DEFAULT_MAX_DECODED_MB) -> Iterator[Any]:
    """The picture as a PIL image of its first frame, not decoded yet.

    Raises UnreadablePicture where it is none of FORMATS or too large; OSError where the file cannot be opened.
    """
    from PIL import Image

    if problem := file_problem(path):
        raise UnreadablePicture(problem)
    Image.MAX_IMAGE_PIXELS = None  # `check_size` is the limit, and says which
    _register_formats()
    try:
        image = Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        # Pillow's own sentence repeats the path.
        reason = "its format is none of the supported ones" if "cannot identify" in str(error) else _said(error)
        raise UnreadablePicture(f"it cannot be read as an image ({reason})") from None
    with image:
        check_size(image, max_decoded_mb)
        yield image


@functools.cache
def _register_formats() -> None:
    """Load Pillow's readers of FORMATS, and none of its others. HEIF's is a package of its own (see picture_pages)."""
    for name in ("Png", "Jpeg", "WebP", "Tiff", "Bmp", "Gif", "Jpeg2K", "Avif"):
        with contextlib.suppress(ImportError):  # AVIF: since Pillow 11.3
            importlib.import_module(f"PIL.{name}ImagePlugin")


def check_size(image: Any, max_decoded_mb: float) -> None:
    """Raises UnreadablePicture where the frame takes more than `max_decoded_mb` (MB of 2**20 bytes) in memory."""
    decoded = image.width * image.height * _PIXEL_BYTES.get(image.mode, 4) / 2**20
    if decoded > max_decoded_mb:
        pixels = f"{image.width} x {image.height} pixels"
        raise UnreadablePicture(
            f"its {pixels} take {decoded:.0f} MB decoded, more than {max_decoded_mb:g} MB; "
            "scale it down, or give a larger --max-decoded-mb"
        )


def picture_size(path: Path) -> tuple[int, int]:
    """`(width, height)` in pixels from the file's header. Raises as `opened_picture`."""
    with opened_picture(path) as image:
        return int(image.width), int(image.height)


# --- pixels ---------------------------------------------------------------------------------------------------------


def eight_bit(image: Any, *, white_is_zero: bool = False) -> Any:
    """Gray of 16 or 32 bits scaled to 8 bits, so that no ink is lost; other pictures as they are.

    Pillow's own conversion turns everything above 255 white. The scale is that of the bits in use (8, 10, 12 or 16),
    since scanners store 12 bits in 16.
    """
    from PIL import ImageOps

    mode = image.mode
    if not (mode.startswith("I") or mode == "F"):
        return image
    if mode not in ("I;16", "I", "F"):
        image = image.convert("I")
    low, high = image.getextrema()
    if mode == "F" and low >= 0 and high <= 1:
        low, high = 0, 1
    elif low >= 0 and high <= 65535:
        low, high = 0, next(2**bits - 1 for bits in (8, 10, 12, 16) if high <= 2**bits - 1)
    scale = 255 / ((high - low) or 1)
    gray = image.point(lambda value: value * scale + (0.5 - low * scale)).convert("L")
    return ImageOps.invert(gray) if white_is_zero else gray


def is_white_zero(image: Any) -> bool:
    """Whether a TIFF stores white as zero. Pillow turns that round for 8 bits, and for more bits it does not."""
    return bool(getattr(image, "tag_v2", {}).get(262) == 0)


def on_ground(image: Any, ground: str = "white") -> Any:
    """An image of 8 bits as RGB; what is transparent shows the ground, white paper."""
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    page = Image.new("RGB", layer.size, ground)
    page.paste(layer, mask=layer.getchannel("A"))
    return page


def as_page(image: Any) -> Any:
    """The opened picture as an 8-bit RGB page on white."""
    return on_ground(eight_bit(image, white_is_zero=is_white_zero(image)))


# --- damage ---------------------------------------------------------------------------------------------------------


def damage(path: Path, image: Any) -> str:
    """Why the opened picture is not whole, as a sentence part; empty where it is. Decodes the frame.

    Decoders take many cut files for whole ones: a JPEG with an end mark, a TIFF whose strips lie behind its end.
    """
    with messages() as said:
        try:
            if image.format == "TIFF" and (problem := cut_tiff(path, image)):
                return problem
            if image.format in ("JPEG", "MPO"):
                return cut_jpeg(path)
            image.load()
        except MemoryError:
            raise
        except Exception as error:
            return f"it cannot be decoded ({_said(error)})"
    if image.format == "TIFF" and said:
        return f"it is damaged ({said[0]})"
    if image.format == "PNG" and (not _ends_with(path, _PNG_END) or lacks_lines(path.read_bytes())):
        return "the PNG is cut off"
    return ""


def _ends_with(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))  # some programs append data of their own
        return mark in file.read()


def lacks_lines(data: bytes) -> bool:
    """Whether a PNG's compressed data ends before its last line; Pillow leaves such lines black."""
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    depth = bits * _PNG_CHANNELS.get(colour, 1)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in passes]
    missing = sum(rows * (1 + (columns * depth + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)
    inflater, at = zlib.decompressobj(), 8
    while missing > 0 and at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        piece = data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        while piece and missing > 0:
            missing -= len(inflater.decompress(piece, 1 << 20))
            piece = inflater.unconsumed_tail
        at += 12 + length
    return missing > 0


def cut_tiff(path: Path, image: Any) -> str:
    """A sentence part where the opened frame's strips or tiles lie behind the end of the file; else empty."""
    size, tags = path.stat().st_size, image.tag_v2
    for places, lengths in ((273, 279), (324, 325)):
        for start, length in zip(tags.get(places) or (), tags.get(lengths) or (), strict=False):
            if isinstance(start, int) and isinstance(length, int) and start + length > size:
                return "the TIFF is cut off"
    return ""


def cut_jpeg(path: Path) -> str:
    """A sentence part where a JPEG's scan data ends too early; else empty.

    libjpeg fills what is missing with gray, also where an end mark follows. So it decodes the file twice, the second
    time with noise before the end mark: a whole picture looks the same, because nothing of the noise is needed.
    """
    from PIL import Image

    data = path.read_bytes()
    end, frame = _end_of_jpeg(data)
    if end < 0:
        return "the JPEG is cut off"
    if frame in _ARITHMETIC_JPEG:
        return ""

    def pixels(content: bytes) -> bytes:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            if frame < 0xC2:  # every eighth pixel is enough; a progressive picture's last scans refine all of them
                image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
            return bytes(image.tobytes())

    try:
        whole = pixels(data[:end] + b"\xff\xd9") == pixels(data[:end] + _NOISE + b"\xff\xd9")
    except MemoryError:
        raise
    except Exception as error:
        return f"it cannot be decoded ({_said(error)})"
    return "" if whole else "the JPEG is cut off"


def _end_of_jpeg(data: bytes) -> tuple[int, int]:
    """`(offset of the end mark, or -1; kind of frame: the low byte of its SOF marker)`, for the first picture."""
    at, frame = 2, 0
    while True:
        found = _JPEG_MARKER.search(data, at)
        if found is None:
            return -1, frame
        kind, at = found[1][0], found.end()
        if kind == 0xD9:
            return found.start(), frame
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            frame = kind
        if kind not in (0x01, 0xD8):
            at += int.from_bytes(data[at : at + 2], "big")


@contextlib.contextmanager
def messages() -> Iterator[list[str]]:
    """What Pillow warns of and libtiff prints on the process's stderr while the block runs; filled at its end.

    Not for several threads: stderr belongs to the process.
    """
    found: list[str] = []
    with tempfile.TemporaryFile() as caught, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        before = os.dup(2)
        try:
            os.dup2(caught.fileno(), 2)
            yield found
        finally:
            os.dup2(before, 2)
            os.close(before)
            caught.seek(0)
            printed = caught.read(20_000).decode("utf-8", "replace").splitlines()
            found += dict.fromkeys(_one_line(line) for line in printed if line.strip())
            found += dict.fromkeys(_one_line(str(warning.message)) for warning in warned)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:160]


def _said(error: BaseException) -> str:
    return _one_line(str(error)) or type(error).__name__
