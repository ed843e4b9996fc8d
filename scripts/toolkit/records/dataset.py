"""Labelled documents joined with their page images: which become training records, and what is left over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.console import StageError, first_few, sentence_of
from toolkit.files import escaped, is_temporary, name_problem, read_jsonl, sha256_of, shown
from toolkit.pages.images import IMAGE_SUFFIXES, DocumentImages, match_images, page_gaps
from toolkit.pages.manifest import PageCatalog, path_in_records
from toolkit.records.label_account import LabelledDocument
from toolkit.records.labels import Labels
from toolkit.records.origins import Source, origin_of, why_not_replace
from toolkit.records.prompt import Prompt
from toolkit.records.record import make_record
from toolkit.schema.target import compact_json


@dataclass(frozen=True)
class PageChoice:
    """Which images a record takes: of the kind to `prefer`, `most_pages` at most, for the first `limit` documents."""

    prefer: str | None = None
    most_pages: int | None = None
    limit: int | None = None


@dataclass
class ImageJoin:
    """The `records`, and what became of the labels and images that are in none.

    Documents by their file name: `without_images`; `cut` to the pages at most; `problems`, each `{"document",
    "problems"}`. Images by their path: `without_labels`; `leftover`, which their document's manifest does not list.
    Counts of images: `not_used` (another kind or a copy), `not_listed` (in a record, in no manifest). `values` counts
    the table's values of documents without a problem: used, without_images, beyond_limit.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    without_images: list[str] = field(default_factory=list)
    without_labels: list[str] = field(default_factory=list)
    leftover: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    problems: list[dict[str, Any]] = field(default_factory=list)
    not_used: int = 0
    not_listed: int = 0
    values: Counter[str] = field(default_factory=Counter)

    @property
    def is_complete(self) -> bool:
        """Whether every label and every image is in a record, with all its pages."""
        return not (self.without_images or self.without_labels or self.problems or self.cut or self.leftover)

    def account(self, labels: Labels) -> dict[str, int]:
        """What became of every value of the table; the parts add up to `given`."""
        book = labels.join.account
        mapped = sum(document.values for document in labels.documents)
        return {
            "given": book.given,
            "used": self.values["used"],
            "not_mapped": sum(note.values for note in book.not_used.values()),
            "with_problems": mapped - self.values.total(),
            "without_images": self.values["without_images"],
            "beyond_limit": self.values["beyond_limit"],
            "blank": book.blank,
        }


def join_images(
    labels: Labels, folders: list[Path], choice: PageChoice, prompt: Prompt, schema_name: str, other_keys: Iterable[str]
) -> ImageJoin:
    """Join the labels with the images below the folders.

    `schema_name` stands in each record's meta.schema. `other_keys`: documents of records that only stay, so that their
    images are not reported as without a label.
    """
    join = ImageJoin()
    images, unnameable = list_images(folders)
    catalog = PageCatalog(folders)
    documents, ambiguous = unambiguous(labels.documents)
    join.problems += ambiguous + unnameable
    keys = {document.key for document in documents} | set(other_keys)
    # Listed pages whose file is gone are matched too: they are a problem of their document.
    matched, unmatched = match_images(sorted({*images, *catalog.by_image}), keys)
    on_disk = set(images)
    join.without_labels = [path for path in unmatched if path in on_disk]
    for document in documents:
        if document.key in matched:
            add_document(join, document, matched[document.key], choice, catalog, on_disk, prompt, schema_name)
        else:
            join.without_images.append(document.file_name)
            join.values["without_images"] += document.values
    return join


def add_document(
    join: ImageJoin,
    document: LabelledDocument,
    images: DocumentImages,
    choice: PageChoice,
    catalog: PageCatalog,
    on_disk: set[str],
    prompt: Prompt,
    schema_name: str,
) -> None:
    """Add a document that has images: as a record, or to what is left over. `on_disk`: paths of all images."""
    pictures = [path for kind in images.kinds.values() for paths in kind.values() for path in paths]
    kind, pages, leftover, problems = choose_pages(images, choice.prefer, catalog)
    join.leftover += leftover
    join.not_used += len(on_disk.intersection(pictures) - {*pages, *leftover})
    if problems := document.problems + problems:
        join.problems.append({"document": document.file_name, "problems": problems})
        return
    if choice.most_pages is not None and len(pages) > choice.most_pages:
        join.cut.append(document.file_name)
        pages = pages[: choice.most_pages]
    if choice.limit is not None and len(join.records) >= choice.limit:
        join.values["beyond_limit"] += document.values
        return
    join.values["used"] += document.values
    join.not_listed += sum(page not in catalog.by_image for page in pages)
    meta = {"schema": schema_name, "source": document.file_name, "pages": len(pages), "images": kind}
    join.records.append(make_record(document.file_name, pages, prompt, compact_json(document.answer), meta))


def list_images(folders: list[Path]) -> tuple[list[str], list[dict[str, Any]]]:
    """POSIX paths of every image below the folders, sorted; a problem for each that no record can hold (its path is not
    UTF-8, it is no file) and for each folder that cannot be read."""
    images: set[str] = set()
    unusable: dict[str, str] = {}
    waiting = list(folders)
    for folder in folders:
        if not folder.is_dir():
            raise StageError(f"image folder not found: {shown(folder)}")
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
        except OSError as error:
            unusable[shown(folder)] = f"the folder cannot be read ({error.strerror})"
            continue
        for entry in found:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                waiting += [path] if not is_temporary(Path(entry.name)) else []
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                if problem := name_problem(path) or ("" if entry.is_file() else "no file: a pipe, or a dead link"):
                    unusable[escaped(path.as_posix())] = problem
                else:
                    images.add(path_in_records(path))
    problems = [{"document": path, "problems": [problem]} for path, problem in sorted(unusable.items())]
    return sorted(images), problems


def unambiguous(documents: list[LabelledDocument]) -> tuple[list[LabelledDocument], list[dict[str, Any]]]:
    """Documents whose names differ for matching; two labels that want the same images are a problem that names both."""
    owners: dict[str, list[LabelledDocument]] = {}
    for document in documents:
        owners.setdefault(document.key, []).append(document)
    problems = []
    for first, *others in owners.values():
        if others:
            sentences = [f"its images cannot be told from those of {other.file_name!r}" for other in others]
            problems.append({"document": first.file_name, "problems": sentences})
    return [same[0] for same in owners.values() if len(same) == 1], problems


def choose_pages(
    images: DocumentImages, prefer: str | None, catalog: PageCatalog
) -> tuple[str, list[str], list[str], list[str]]:
    """`(kind, page images in order, leftover images, problems)` of one document.

    Where a manifest lists its pages, exactly these are used; its other page images are leftovers of an earlier one.
    """
    kind = images.choose(prefer)
    leftover, problems = catalog.settle(images) if kind == "pages" else ([], [])
    if problems:
        return kind, [], leftover, problems
    numbers = images.kinds[kind]
    pages = []
    for number in sorted(numbers):
        paths = numbers[number]
        try:
            if len(paths) > 1 and len({sha256_of(path) for path in paths}) > 1:
                problems.append(f"page {number}: {paths[0]} and {paths[1]} differ and both claim to be it")
        except OSError as error:
            problems.append(f"page {number}: {sentence_of(error)}")
        pages.append(paths[0])
    if kind == "pages" and (gaps := page_gaps(numbers)):
        problems.append(f"page {first_few(map(str, gaps))} missing before {Path(pages[-1]).name}")
    return kind, pages, leftover, problems


def replaced_ids(out: Path, source: Source, labelled: list[LabelledDocument]) -> list[str]:
    """Ids of the records in `out` that a build from `source` would replace.

    Raises StageError where those records came from another table.
    """
    origin = origin_of(out)
    if origin is None:
        return []
    reason = why_not_replace(origin, source)
    before: list[str] = []
    if not reason:
        before = [str(record.get("id")) if isinstance(record, dict) else "" for _, record in read_jsonl(out)]
        names = {document.file_name for document in labelled}
        if before and names.isdisjoint(before) and all(known.sha256 != source.sha256 for known in origin.sources):
            reason = f"holds records of other documents, from an earlier {source.name}"
    if reason:
        raise StageError(
            f"{shown(out)} {reason}; merge {source.name} into it with --update, replace it with --overwrite, "
            "or choose another --out"
        )
    return before
