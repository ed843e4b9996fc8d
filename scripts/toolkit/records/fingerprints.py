"""Signs that two documents are the same, or nearly: keys of page images and labels, sketches of texts and pictures.

Equal keys decide. Sketches only report: a similarity hash calls many *different* invoices of one template alike.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import threading
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from toolkit.pages.pictures import (
    DEFAULT_MAX_DECODED_MB,
    UnreadablePicture,
    eight_bit,
    file_problem,
    is_white_zero,
    on_ground,
    opened_picture,
)
from toolkit.pages.rendered_page import is_blank

SKETCH_HASHES = 64  # of 16 bits each; four neighbours are one band of the search
IDENTIFYING_VALUES = 3  # an answer that says less is shared by documents that have nothing else in common
LARGE_PIXELS = 8_000_000  # larger pages are decoded one at a time, however many threads there are
LARGE = threading.Lock()
STRIP = 256  # rows of a page that are hashed at once
LOOK_SIDE = 16  # 16 x 16 comparisons of neighbouring cells: 256 bits


def key_of(kind: str, value: str | bytes) -> int:
    """A 64-bit key. Among ten million values two different ones share a key with probability 3e-6."""
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=kind.encode()[:16]).digest(), "big")


@dataclass(frozen=True)
class PageFingerprint:
    """`key` is equal for equal pages; None for a blank page, which identifies nothing.

    `look` is the page's difference hash of 32 bytes (see `look_of`); None where it was not computed.
    """

    key: int | None
    look: bytes | None = None


def page_fingerprint(path: Path, compare: str, max_decoded_mb: float = DEFAULT_MAX_DECODED_MB) -> PageFingerprint:
    """The fingerprint of one page image, by what `compare` names.

    `pixels`: the decoded image, so that a PNG and its lossless copy are equal; `bytes`: the file; `names`: its name.

    Raises OSError (and Pillow's errors) where the image cannot be read, UnreadablePicture where it is no file or
    decodes to more than `max_decoded_mb`.
    """
    if compare == "names":
        return PageFingerprint(key_of("image", path.as_posix()))
    if problem := file_problem(path):
        raise UnreadablePicture(problem)
    if compare == "bytes":
        with path.open("rb") as file:
            return PageFingerprint(key_of("image", hashlib.file_digest(file, "sha256").digest()))
    with opened_picture(path, max_decoded_mb) as opened:
        with LARGE if opened.width * opened.height > LARGE_PIXELS else contextlib.nullcontext():
            return _pixel_fingerprint(opened)


def _pixel_fingerprint(opened: Any) -> PageFingerprint:
    image = eight_bit(opened, white_is_zero=is_white_zero(opened))
    image.load()
    gray = on_ground(image).convert("L") if image.has_transparency_data else image.convert("L")
    if is_blank(gray):
        return PageFingerprint(None)
    digest = hashlib.sha256(f"{image.size}".encode())
    for top in range(0, image.height, STRIP):  # a gray sheet takes three times as much as RGB
        strip = image.crop((0, top, image.width, min(image.height, top + STRIP)))
        digest.update(on_ground(strip).tobytes())
    return PageFingerprint(key_of("image", digest.digest()), look_of(gray))


def look_of(image: Any) -> bytes:
    """A difference hash of 256 bits (32 bytes).

    A bit says whether a cell of the grey page, cut into 16 x 16 cells, is darker than its right neighbour.
    """
    import numpy
    from PIL import Image

    small = image.convert("L").resize((LOOK_SIDE + 1, LOOK_SIDE), Image.Resampling.BOX)
    cells = numpy.asarray(small, dtype=numpy.int16)
    return numpy.packbits(cells[:, 1:] > cells[:, :-1]).tobytes()


def free_values(value: Any, choices: frozenset[tuple[str, ...]], path: tuple[str, ...] = ()) -> set[str]:
    """The different values of an answer that are not chosen from a few: no absent ones, no true or false, none of the
    fields in `choices` (their paths, without places in lists)."""
    if isinstance(value, dict):
        return set().union(*(free_values(item, choices, (*path, name)) for name, item in value.items()))
    if isinstance(value, list):
        return set().union(*(free_values(item, choices, path) for item in value))
    if value is None or isinstance(value, bool) or path in choices:
        return set()
    return {" ".join(str(value).casefold().split())} - {""}


def words_of(value: Any) -> set[str]:
    """The words of every value of an answer, and each pair of neighbours; keys of the JSON do not count."""
    found: set[str] = set()
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack += item.values()
        elif isinstance(item, list):
            stack += item
        elif item is not None:
            words = re.findall(r"\w+", str(item).casefold())
            found.update(words)
            found.update(f"{a} {b}" for a, b in itertools.pairwise(words))
    return found


@cache
def _hash_family() -> tuple[Any, Any]:
    import numpy

    draw = numpy.random.default_rng(20240229)
    multipliers = draw.integers(1, 2**61, SKETCH_HASHES, dtype=numpy.uint64) | numpy.uint64(1)
    return multipliers, draw.integers(0, 2**63, SKETCH_HASHES, dtype=numpy.uint64)


def text_sketch(words: Iterable[str]) -> bytes | None:
    """MinHash of a set of words: 64 values of 16 bits.

    The share of equal values of two sketches estimates the share of words in common (Jaccard index; Broder 1997).

    None for fewer than four words: too little to tell anything.
    """
    import numpy

    hashes = numpy.fromiter((zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words), dtype=numpy.uint64)
    if len(hashes) < 4:
        return None
    multipliers, offsets = _hash_family()
    mixed = (hashes[:, None] * multipliers + offsets) >> numpy.uint64(32)
    return mixed.min(axis=0).astype(numpy.uint16).tobytes()
