"""Where on its page a value stands: a document's words with their boxes, and values found among them.

A text layer is what `pdf_to_images.py --text-layer` writes (or an OCR file of the same form): pages of words
`[x0, y0, x1, y1, text]` in pixels of the page image. Values are compared as scoring compares them: ids without
separators, numbers by value, dates by day, texts without case and punctuation.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from toolkit.console import StageError
from toolkit.files import read_json, shown
from toolkit.pages.images import document_key
from toolkit.schema.number_text import Convention, number_of
from toolkit.schema.target import Leaf
from toolkit.schema.values import iso_date

_PIECES = re.compile(r"\d+|[^\W\d_]+")
_AROUND_NUMBER = re.compile(r"^[^\d]*|[^\d]*$")
_DECIMAL = re.compile(r"\d[.,]\d")
_WRITTEN_DATE = re.compile(r"\d.*\bof\b.*\d[.,;:]?")  # 16th day of August 2019: more than three words
NEAR = 0.7  # alike from here on; below, two texts are different ones


def squashed(text: Any) -> str:
    """Letters and digits only, NFKC, casefold."""
    return "".join(_PIECES.findall(unicodedata.normalize("NFKC", str(text)).casefold()))


def readings(value: Any, decimal: Convention | None = None) -> set[Decimal]:
    """Every number that a value or a printed word can be: a page need not be written as the labels are."""
    try:
        number = number_of(value)
    except ValueError:
        return set()
    both = (number.point, number.comma) if number.value(decimal) is None else (number.value(decimal),)
    return {reading for reading in both if reading is not None}


def numbers_of_word(text: str) -> set[Decimal]:
    """The numbers that a printed word can be, alone or within punctuation and letters: `27,800.45;`, `14DAYS`."""
    found = readings(text.strip(".,;:"))
    return found or readings(_AROUND_NUMBER.sub("", text))


@dataclass(frozen=True)
class Place:
    """Words `first` to `last` of the document (both included), as printed, and how they agree with the value:
    exact, normalised or near (`alike` from 0 to 1)."""

    first: int
    last: int
    text: str
    how: str
    alike: float = 1.0


class DocumentWords:
    """All words of a document in reading order, with page and line of each, searchable in squashed form."""

    def __init__(self, pages: list[dict[str, Any]]) -> None:
        self.texts: list[str] = []
        self.boxes: list[tuple[float, float, float, float]] = []
        self.pages: list[int] = []
        self.lines: list[int] = []
        self.sizes = {page["page"]: (float(page["width"]), float(page["height"])) for page in pages if "width" in page}
        if not all(side > 0 for size in self.sizes.values() for side in size):
            raise ValueError("a page has no size")
        line = 0
        for page in pages:
            for words in in_lines(page["words"]):
                line += 1
                for x0, y0, x1, y1, text in words:
                    self.texts.append(str(text))
                    self.boxes.append((x0, y0, x1, y1))
                    self.pages.append(int(page["page"]))
                    self.lines.append(line)
        self.squash = ""
        self.starts: list[int] = []  # offset of each word in the squash
        bounds = set()
        for text in self.texts:
            self.starts.append(len(self.squash))
            for piece in _PIECES.findall(unicodedata.normalize("NFKC", text).casefold()):
                bounds.add(len(self.squash))
                self.squash += piece
                bounds.add(len(self.squash))
        self.bounds = bounds
        self.numbers: dict[Decimal, list[int]] = {}
        for index, text in enumerate(self.texts):
            if any(c.isdigit() for c in text):
                for number in numbers_of_word(text):
                    self.numbers.setdefault(number, []).append(index)

    def word_at(self, offset: int) -> int:
        return bisect_right(self.starts, offset) - 1

    def box(self, place: Place) -> tuple[int, list[float]]:
        """`(page, [x0, y0, x1, y1])` around the place's words on their first page."""
        page = self.pages[place.first]
        boxes = [self.boxes[i] for i in range(place.first, place.last + 1) if self.pages[i] == page]
        columns = list(zip(*boxes, strict=True))
        return page, [min(columns[0]), min(columns[1]), max(columns[2]), max(columns[3])]

    def span(self, first: int, last: int, value: Any, how: str = "", alike: float = 1.0) -> Place:
        text = " ".join(self.texts[first : last + 1])
        return Place(first, last, text, how or ("exact" if text == str(value) else "normalised"), alike)

    def find(self, leaf: Leaf, value: Any) -> list[Place]:
        """Every place where the value stands, exactly or as it is compared."""
        if leaf.compare == "number":
            places = sorted({i for number in readings(value, leaf.decimal) for i in self.numbers.get(number, [])})
            return [self.span(i, i, value) for i in places]
        found: dict[tuple[int, int], Place] = {}
        spellings = [value, *leaf.extract.get("synonyms", {}).get(str(value), [])]
        for spelling in spellings:
            wanted = squashed(spelling)
            for first, last in self.spans_of(wanted):
                # 20 is not found in 20.980, nor 45 in 27800.45.
                if wanted.isdigit() and _DECIMAL.search(self.texts[first]) and squashed(self.texts[first]) != wanted:
                    continue
                found[first, last] = self.span(first, last, value)
        if leaf.compare == "date" and (day := iso_date(str(value), day_first=bool(leaf.extract.get("day_first")))):
            for first, last, text in self.short_spans(6):
                if last - first > 2 and not _WRITTEN_DATE.fullmatch(text):
                    continue
                if (first, last) not in found and iso_date(
                    text.strip(".,;:"), day_first=bool(leaf.extract.get("day_first", True))
                ) == day:
                    found[first, last] = self.span(first, last, value, "normalised")
        return list(found.values())

    def spans_of(self, wanted: str) -> Iterator[tuple[int, int]]:
        """Words that a squashed text covers; it starts and ends where a run of letters or digits does."""
        at = self.squash.find(wanted) if wanted else -1
        while at >= 0:
            end = at + len(wanted)
            if at in self.bounds and end in self.bounds:
                yield self.word_at(at), self.word_at(end - 1)
            at = self.squash.find(wanted, at + 1)

    def short_spans(self, longest: int) -> Iterator[tuple[int, int, str]]:
        for first, text in enumerate(self.texts):
            if not any(c.isdigit() for c in text) and not text.isalpha():
                continue
            for last in range(first, min(first + longest, len(self.texts))):
                if self.lines[last] == self.lines[first]:
                    yield first, last, " ".join(self.texts[first : last + 1])

    def nearest(self, value: Any) -> Place | None:
        """The place that is most like the value, where any is at least NEAR."""
        from rapidfuzz.distance import Levenshtein

        wanted = squashed(value)
        if len(wanted) < 4:
            return None
        best: Place | None = None
        words = max(1, len(str(value).split()))
        for length in {max(1, words - 1), words, words + 1}:
            for first in range(len(self.texts) - length + 1):
                last = first + length - 1
                start = self.starts[first]
                end = self.starts[last + 1] if last + 1 < len(self.starts) else len(self.squash)
                if abs((end - start) - len(wanted)) > 0.3 * len(wanted) + 1:
                    continue
                alike = Levenshtein.normalized_similarity(wanted, self.squash[start:end], score_cutoff=NEAR)
                if alike >= NEAR and (best is None or alike > best.alike):
                    best = self.span(first, last, value, "near", alike)
        return best


def in_lines(words: list[list[Any]]) -> list[list[list[Any]]]:
    """Words by line, top to bottom, each line left to right.

    A word belongs to a line if the middle of its height lies within the line's height.
    """
    lines: list[list[list[Any]]] = []
    for word in sorted(words, key=lambda w: ((w[1] + w[3]) / 2, w[0])):
        middle = (word[1] + word[3]) / 2
        for line in reversed(lines[-6:]):
            top, bottom = line[0][1], line[0][3]
            if top < middle < bottom and abs(middle - (top + bottom) / 2) < 0.6 * (bottom - top):
                line.append(word)
                break
        else:
            lines.append([word])
    return [joined(sorted(line, key=lambda w: w[0])) for line in lines]


def joined(line: list[list[Any]]) -> list[list[Any]]:
    """Letter-spaced text (a word a letter) as words: letters that stand one pitch apart belong together."""
    single = sum(len(str(word[4])) == 1 for word in line)
    if len(line) < 4 or single < 0.7 * len(line):
        return line
    middles = [(word[0] + word[2]) / 2 for word in line]
    pitch = sorted(b - a for a, b in itertools.pairwise(middles))[(len(line) - 1) // 4]
    result = [list(line[0])]
    for (before, after), word in zip(itertools.pairwise(middles), line[1:], strict=True):
        last = result[-1]
        if after - before <= 1.4 * pitch:
            last[:] = [last[0], min(last[1], word[1]), word[2], max(last[3], word[3]), f"{last[4]}{word[4]}"]
        else:
            result.append(list(word))
    return result


def read_words(path: Path) -> DocumentWords:
    """The words of a text-layer or OCR file. Raises StageError where it is none."""
    return DocumentWords(read_layer(path))


def read_layer(path: Path) -> list[dict[str, Any]]:
    """The pages of a text-layer or OCR file. Raises StageError where it is none."""
    value = read_json(path)
    try:
        DocumentWords(value["pages"])
        return list(value["pages"])
    except (LookupError, TypeError, ValueError, AttributeError):
        raise StageError(
            f"{shown(path)}: no text layer; it needs pages of words, as pdf_to_images.py --text-layer writes them"
        ) from None


class TextLayers:
    """The text layers of a folder, by document. Raises StageError where the folder is not there."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise StageError(
                f"text-layer folder not found: {shown(folder)}; make it with pdf_to_images.py --text-layer"
            )
        self.files = {document_key(path.stem): path for path in sorted(folder.glob("*.json"))}

        self.broken: list[str] = []  # a sentence for each that `readable` could not read

    def readable(self, record: dict[str, Any]) -> DocumentWords | None:
        """As `of`; a text layer that cannot be read is noted in `broken`, and stops nothing."""
        try:
            return self.of(record)
        except StageError as error:
            self.broken.append(str(error))
            return None

    def path_of(self, record: dict[str, Any]) -> Path | None:
        return self.files.get(document_key(record.get("meta", {}).get("source") or record["id"]))

    def of(self, record: dict[str, Any]) -> DocumentWords | None:
        """The record's words; None where it has no text layer, or an empty one (a scan)."""
        path = self.path_of(record)
        words = read_words(path) if path else None
        return words if words is not None and words.squash else None


def evidence_of(words: DocumentWords, place: Place) -> dict[str, Any]:
    """A place as it is written to files.

    `page` counts from 1. `box` is left, top, width, height as shares of the page; None where the page's size is not
    known. `text` is what is printed there, `how` says how it agrees with the value.
    """
    page, (x0, y0, x1, y1) = words.box(place)
    box = None
    if page in words.sizes:
        wide, high = words.sizes[page]
        box = [round(share, 4) for share in (x0 / wide, y0 / high, (x1 - x0) / wide, (y1 - y0) / high)]
    return {"page": page, "box": box, "text": place.text, "how": place.how}


def evidence_boxes(words: DocumentWords, leaves: Iterable[tuple[Leaf, Any]]) -> list[tuple[str, int, list[float]]]:
    """`(field, page from 1, [left, top, width, height])` of the first place of each value that is found on a page.

    The box is in shares of the page.
    """
    found = []
    for leaf, value in leaves:
        places = [] if value in (None, "") else words.find(leaf, value)
        if places and (evidence := evidence_of(words, places[0]))["box"] is not None:
            found.append((leaf.name, evidence["page"], evidence["box"]))
    return found
