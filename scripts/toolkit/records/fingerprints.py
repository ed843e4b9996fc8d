"""What tells that two documents are the same, or nearly: keys of page images and labels, sketches of texts and of pictures.

Equal keys decide. Sketches only report: a similarity hash calls many *different* invoices of one template near-duplicates.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SKETCH_HASHES = 64  # of 16 bits each; four neighbours are one band of the search
IDENTIFYING_VALUES = 3  # an answer that says less is shared by documents that have nothing else in common
LOOK_SIDE = 16  # 16 x 16 comparisons of neighbouring cells: 256 bits


def key_of(kind: str, value: str | bytes) -> int:
    """A 64-bit key. Among ten million values two different ones share a key with probability 3e-6."""
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=kind.encode()[:16]).digest(), "big")


@dataclass(frozen=True)
class PageFingerprint:
    """`key`: equal for equal pages, None for a blank one (which identifies nothing); `look`: 32 bytes, None where not computed."""

    key: int | None
    look: bytes | None = None


def page_fingerprint(path: Path, compare: str) -> PageFingerprint:
    """One page image by its `pixels` (decoded: a PNG and its lossless copy are equal), its `bytes`, or only its name (`names`).

    Raises OSError (and Pillow's errors) where the image cannot be read.
    """
    if compare == "names":
        return PageFingerprint(key_of("image", path.as_posix()))
    if compare == "bytes":
        with path.open("rb") as file:
            return PageFingerprint(key_of("image", hashlib.file_digest(file, "sha256").digest()))
    from PIL import Image

    from toolkit.pages.rendering import is_blank

    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if is_blank(image):
        return PageFingerprint(None)
    digest = hashlib.sha256(f"{image.size}".encode())
    digest.update(image.tobytes())
    return PageFingerprint(key_of("image", digest.digest()), look_of(image))


def look_of(image: Any) -> bytes:
    """256 bits (32 bytes): is each of 16 x 16 cells of the grey page darker than its right neighbour. A difference hash."""
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
    """MinHash of a set of words: 64 x 16 bits, of which two sets share about as large a part as of their words (Broder 1997).

    None for fewer than four words: too little to tell anything.
    """
    import numpy

    hashes = numpy.fromiter((zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words), dtype=numpy.uint64)
    if len(hashes) < 4:
        return None
    multipliers, offsets = _hash_family()
    mixed = (hashes[:, None] * multipliers + offsets) >> numpy.uint64(32)
    return mixed.min(axis=0).astype(numpy.uint16).tobytes()
