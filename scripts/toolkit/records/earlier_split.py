"""The split that a folder already holds: where its documents lie, and whether it is a split of the same data.

`removed.jsonl` beside the three files remembers the places of documents that have left the input since.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.console import StageError
from toolkit.files import read_json, read_jsonl, shown
from toolkit.records.fingerprints import key_of
from toolkit.records.record import answer_text, images_of, read_records
from toolkit.records.splits import NAMES

REMOVED = "removed.jsonl"
Mark = tuple[int, int]  # of a record: keys of its image paths and of its answer


@dataclass(frozen=True)
class EarlierSplit:
    """`places` and `removed`: index of NAMES by id; `report`: what its report.json says, empty without one.

    `twice`: ids that lie in two of its files; the earliest of train, val, test counts.
    """

    folder: Path
    places: dict[str, int]
    removed: dict[str, int]
    report: dict[str, Any]
    twice: list[str] = field(default_factory=list)

    @property
    def remembered(self) -> dict[str, int]:
        """Every place it knows, those of documents that have left the input too."""
        return self.removed | self.places


def split_files(folder: Path) -> list[Path]:
    """Those of train.jsonl, val.jsonl and test.jsonl that are there."""
    return [path for name in NAMES if (path := folder / f"{name}.jsonl").is_file()]


def holds_split(folder: Path) -> bool:
    """Whether the folder holds a split: two of its three files, or one beside a split's report (a lone train.jsonl is
    the build's)."""
    files = split_files(folder)
    return len(files) > 1 or (bool(files) and bool(report_of(folder)))


def report_of(folder: Path) -> dict[str, Any]:
    """The report of the split in this folder; empty where there is none."""
    path = folder / "report.json"
    value = read_json(path) if path.is_file() else None
    return value if isinstance(value, dict) and {"ratios", "input"} <= set(value) else {}


def read_split(folder: Path) -> EarlierSplit:
    """Raises StageError where there is none, or where a line is no record."""
    files = split_files(folder)
    if not files:
        raise StageError(f"{shown(folder)}: no {', '.join(f'{name}.jsonl' for name in NAMES)} there")
    places: dict[str, int] = {}
    twice: list[str] = []
    for path in files:
        for record in records_of(path):
            if record["id"] in places:
                twice.append(record["id"])
            else:
                places[record["id"]] = NAMES.index(path.stem)
    removed = {}
    if (folder / REMOVED).is_file():
        for number, line in read_jsonl(folder / REMOVED):
            if not isinstance(line, dict) or not isinstance(line.get("id"), str) or line.get("split") not in NAMES:
                raise StageError(f"{shown(folder / REMOVED)}:{number}: a line needs 'id' and 'split'")
            removed[line["id"]] = NAMES.index(line["split"])
    return EarlierSplit(folder, places, removed, report_of(folder), twice)


def records_of(path: Path) -> Iterator[dict[str, Any]]:
    """The records of one file of a split, which may hold none."""
    for number, record in read_jsonl(path):
        if not isinstance(record, dict) or not isinstance(record.get("id"), str):
            raise StageError(f"{shown(path)}:{number}: no record of a split; it needs an 'id'")
        yield record


def mark_of(record: dict[str, Any]) -> Mark:
    """What a document is known by, besides its id: its images and its answer, as two keys."""
    try:
        return key_of("images", "\0".join(images_of(record))), key_of("answer", answer_text(record))
    except (KeyError, TypeError, AttributeError):
        return 0, 0  # no messages: nothing to know the document by but its id


def same_documents(earlier: EarlierSplit, source: Path) -> set[str]:
    """Ids of the earlier split that are in `source` as the same document: with the same images or the same answer."""
    marks = {record["id"]: mark_of(record) for path in split_files(earlier.folder) for record in records_of(path)}
    same = set()
    for record in read_records(source):
        mark = marks.get(record["id"])
        if mark and any(a == b for a, b in zip(mark, mark_of(record), strict=True)):
            same.add(record["id"])
    return same


def check_same_data(earlier: EarlierSplit, source: Path) -> set[str] | None:
    """None where `source` holds the data of the earlier split, grown or changed; else the ids that both hold as the
    same document.

    It does where it is the file that the split was made of, or where at least half of the split's documents are in it
    with the same images or the same answer. An id alone says little: many sets count from 0001.
    """
    if not earlier.places or earlier.report.get("input") == shown(source):
        return None
    same = same_documents(earlier, source)
    return None if 2 * len(same) >= len(earlier.places) else same


def removed_lines(removed: Iterable[tuple[str, int]]) -> list[dict[str, str]]:
    """The documents that are gone, by id, with the split they were in."""
    return [{"id": identity, "split": NAMES[place]} for identity, place in sorted(removed)]


def other_settings(earlier: EarlierSplit, settings: Mapping[str, Any]) -> list[str]:
    """What the earlier split was made with that differs, as `--ratios 80/10/10`."""
    known = {name: earlier.report[name] for name in settings if name in earlier.report}
    return [f"--{name} {known[name]}" for name in known if json.dumps(known[name]) != json.dumps(settings[name])]
