"""Labels against their pages: which gold values are printed, where, and which are probably wrong.

What surrounds a field on the page is learned from the dataset: the words before (or above) a field's values are its
anchors. Two values are suspicious: one that is not printed, and one that is printed, but not behind its field's anchor
while another value is.
"""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from toolkit.pages.evidence import DocumentWords, Place, squashed
from toolkit.schema.answer_values import dotted, lists_of
from toolkit.schema.checks import is_container_number
from toolkit.schema.target import Leaf, RowList, TargetSchema, value_at
from toolkit.schema.values import is_absent

ENOUGH = (
    0.8  # share of documents in which a field's values must behave so, before another behaviour is called suspicious
)
FEWEST = 4  # documents that must show it
_CONTAINER = re.compile(r"[a-z]{3}[ujz]\d{7}")  # ISO 6346: the fourth letter says what kind of equipment


@dataclass
class Finding:
    """One gold value held against its page. `status`: exact, normalised, near, elsewhere, missing, not_in_label;
    `suspicion` from 0 (as it should be) to 1."""

    document: str
    field: str
    value: Any
    row: int | None
    status: str
    page: int | None = None
    box: list[float] | None = None
    printed: str | None = None
    suspicion: float = 0.0
    reason: str = ""
    name: str = ""  # of a value in a row, with row numbers: `groups[0].results[2].time`


@dataclass
class Document:
    """One document: its gold answer and its words."""

    identity: str
    gold: dict[str, Any]
    words: DocumentWords

    @functools.cached_property
    def contexts(self) -> list[list[str]]:
        """What stands before each word; every field asks for it."""
        return [context_of(self.words, index) for index in range(len(self.words.texts))]


def context_of(words: DocumentWords, index: int) -> list[str]:
    """What stands before word `index`: one to three words on its line, and the words above it."""
    found = []
    text = ""
    for before in range(index - 1, max(-1, index - 4), -1):
        if words.lines[before] != words.lines[index]:
            break
        text = squashed(words.texts[before]) + text
        found.append(text)
    left, _, right, _ = words.boxes[index]
    line = words.lines[index] - 1
    above = index - 1
    while above >= 0 and words.lines[above] > line:
        above -= 1
    over = []
    while above >= 0 and words.lines[above] == line and words.pages[above] == words.pages[index]:
        box = words.boxes[above]
        if box[0] < right and box[2] > left - 0.1 * (right - left):
            over.append(squashed(words.texts[above]))
        above -= 1
    if over:
        found.append("^" + "".join(reversed(over)))
    return [c for c in found if any(letter.isalpha() for letter in c)]


def audited(schema: TargetSchema, documents: list[Document]) -> list[Finding]:
    """Every gold value's finding, and what is printed but not labelled; most suspicious first."""
    findings: list[Finding] = []
    for leaf in schema.header:
        if leaf.compare != "skip":
            findings += audited_field(leaf, documents)
    for rows in schema.every_list:
        findings += audited_rows(schema, rows, documents)
    return sorted(findings, key=lambda f: (-f.suspicion, f.document, f.field, f.row or 0))


def audited_field(leaf: Leaf, documents: list[Document]) -> list[Finding]:
    """What is wrong with a header field's labels, by what the pages say."""
    labelled = [(d, value_at(d.gold, leaf.path)) for d in documents]
    places = {d.identity: d.words.find(leaf, value) for d, value in labelled if not is_absent(value)}
    found_share = share(bool(found) for found in places.values())
    anchors = anchors_of(documents, places)
    findings = []
    for document, value in labelled:
        behind = behind_anchors(document, anchors)
        if is_absent(value):
            continue
        finding = Finding(document.identity, leaf.name, value, None, "missing")
        found = places[document.identity]
        anchored = [place for place in found if place.first in behind]
        if found:
            best = min(anchored or found, key=lambda place: place.how != "exact")
            place_it(finding, document, best)
            if behind and not anchored:
                finding.status = "elsewhere"
                finding.suspicion = 0.85
                finding.reason = (
                    f"printed, but {phrase(document.words, behind[0])!r} stands where this field's values stand"
                )
                place_it(finding, document, document.words.span(behind[0], behind[0], value, "elsewhere"))
        elif (near := document.words.nearest(value)) is not None:
            place_it(finding, document, near)
            finding.suspicion = 0.9 if found_share >= ENOUGH else 0.3
            finding.reason = f"the page says {near.text!r}"
        else:
            finding.suspicion = 0.95 if found_share >= ENOUGH else 0.2
            finding.reason = "not printed on any page" + (
                f"; {phrase(document.words, behind[0])!r} stands where this field's values stand" if behind else ""
            )
        findings.append(finding)
    findings += unlabelled(leaf, labelled, anchors, places)
    return findings


def behind_anchors(document: Document, anchors: set[str]) -> list[int]:
    """Words that stand behind (or below) an anchor."""
    if not anchors:
        return []
    return [i for i, contexts in enumerate(document.contexts) if not anchors.isdisjoint(contexts)]


def anchors_of(documents: list[Document], places: dict[str, list[Place]]) -> set[str]:
    """Contexts that in most of the documents that have them stand before this field's value."""
    holds: Counter[str] = Counter()
    present: Counter[str] = Counter()
    for document in documents:
        if document.identity not in places:
            continue
        starts = {place.first for place in places[document.identity]}
        here: dict[str, bool] = defaultdict(bool)
        for index, contexts in enumerate(document.contexts):
            for context in contexts:
                here[context] = here[context] or index in starts
        for context, held in here.items():
            present[context] += 1
            holds[context] += held
    return {c for c, count in holds.items() if count >= FEWEST and count >= ENOUGH * present[c]}


def unlabelled(leaf: Leaf, labelled: list[Any], anchors: set[str], places: dict[str, list[Place]]) -> list[Finding]:
    """Documents without a label for a field whose page has the field's anchor and a value of its kind behind it."""
    words_of = {d.identity: d.words for d, _ in labelled}
    shapes = {shape(words_of[name].texts[place.first]) for name, found in places.items() for place in found[:1]} - {""}
    empty = [(d, value) for d, value in labelled if is_absent(value)]
    hits = []
    for document, _ in empty:
        for index, text in enumerate(document.words.texts):
            if shape(text) in shapes and not anchors.isdisjoint(document.contexts[index]):
                hits.append((document, index))
                break
    # Where that is common beside the documents that have a value, what stands there is not this field's value.
    if not hits or len(hits) > 0.4 * len(places) + 1:
        return []
    findings = []
    for document, index in hits:
        finding = Finding(document.identity, leaf.name, None, None, "not_in_label", suspicion=0.8)
        place_it(finding, document, document.words.span(index, index, None, "not_in_label"))
        finding.reason = f"the label is empty, the page says {document.words.texts[index]!r}"
        findings.append(finding)
    return findings


def audited_rows(schema: TargetSchema, rows: RowList, documents: list[Document]) -> list[Finding]:
    """Rows by their key's place; the other cells on the key's line, as far as the dataset's rows stand on lines."""
    leaves = [leaf for leaf in rows.leaves if leaf.compare != "skip"]
    on_line: dict[str, list[bool]] = defaultdict(list)
    pending = []
    findings: list[Finding] = []
    found_keys = []
    for document in documents:
        for number, name, row in numbered_rows(schema, rows, document.gold):
            lines: set[int] = set()
            if rows.key is not None:
                key = value_at(row, rows.key.path)
                places = [] if is_absent(key) else document.words.find(rows.key, key)
                found_keys.append(bool(places))
                if not places and not is_absent(key) and (near := document.words.nearest(key)) is not None:
                    places = [near]  # a misread key still tells its row's line
                lines = {document.words.lines[p.first] for p in places} | {document.words.lines[p.last] for p in places}
            for leaf in leaves:
                value = value_at(row, leaf.path)
                if is_absent(value):
                    continue
                places = document.words.find(leaf, value)
                here = [place for place in places if document.words.lines[place.first] in lines] if lines else places
                if leaf is not rows.key and lines:
                    on_line[leaf.name].append(bool(here))
                pending.append((document, number, dotted(name, leaf.path), leaf, value, places, here, bool(lines)))
    key_share = share(found_keys)
    for document, number, name, leaf, value, places, here, has_line in pending:
        finding = Finding(document.identity, leaf.name, value, number, "missing", name=name)
        usual = key_share if leaf is rows.key or rows.key is None else share(on_line[leaf.name])
        if here:
            place_it(finding, document, here[0])
        elif places and (leaf is rows.key or not has_line):
            place_it(finding, document, places[0])
        else:
            near = document.words.nearest(value) if leaf is rows.key or not has_line else None
            finding.status = "elsewhere" if places else "missing"
            if near is not None:
                place_it(finding, document, near)
            finding.suspicion = (0.95 if leaf is rows.key else 0.85) if usual >= ENOUGH else 0.2
            # A row whose key is not on the page is named by its key alone.
            if leaf is not rows.key and rows.key is not None and not has_line:
                finding.suspicion = min(finding.suspicion, 0.25)
            finding.reason = (
                f"the page says {near.text!r}"
                if near
                else ("not on its row's line" if has_line else "not printed on any page")
            )
        findings.append(finding)
    if rows.key is not None and rows.key.extract.get("check") == "iso6346":
        for document in documents:
            findings += unlabelled_containers(schema, rows, rows.key, document)
    return findings


def numbered_rows(schema: TargetSchema, rows: RowList, gold: Any) -> list[tuple[int, str, Any]]:
    """`(number in its list, name, row)` of every row of `rows`, wherever in the answer."""
    found = [one for one in lists_of(schema, gold) if one.rows is rows]
    return [(number, one.row_name(number), row) for one in found for number, row in enumerate(one.items)]


def unlabelled_containers(schema: TargetSchema, rows: RowList, key: Leaf, document: Document) -> list[Finding]:
    """Container numbers with a right check digit that are printed below or above the labelled ones and stand in no row.

    A booking reference may look like one; it does not stand in their column.
    """
    values = [value_at(row, key.path) for _, _, row in numbered_rows(schema, rows, document.gold)]
    labelled = {squashed(value) for value in values}
    column = [
        document.words.boxes[place.first][0] for value in values if value for place in document.words.find(key, value)
    ]
    findings = []
    seen = set()
    for match in _CONTAINER.finditer(document.words.squash):
        text = match[0]
        if (
            text in labelled
            or text in seen
            or match.start() not in document.words.bounds
            or not is_container_number(text.upper())
        ):
            continue
        if match.end() not in document.words.bounds:
            continue
        first, last = document.words.word_at(match.start()), document.words.word_at(match.end() - 1)
        left, top, _, bottom = document.words.boxes[first]
        if (
            not any(abs(left - x) < bottom - top for x in column)
            or document.words.lines[first] != document.words.lines[last]
        ):
            continue
        seen.add(text)
        finding = Finding(document.identity, key.name, None, None, "not_in_label", suspicion=0.9)
        place_it(finding, document, document.words.span(first, last, None, "not_in_label"))
        finding.reason = f"{text.upper()} is printed and stands in no row"
        findings.append(finding)
    return findings


def place_it(finding: Finding, document: Document, place: Place) -> None:
    """Note where on the pages the finding's value stands, and how it is printed."""
    finding.page, finding.box = document.words.box(place)
    finding.printed = place.text
    finding.status = place.how


def phrase(words: DocumentWords, index: int) -> str:
    """The word at `index` and what follows it on its line, as far as one blank's width tells that it belongs to it."""
    last = index
    while last + 1 < len(words.texts) and words.lines[last + 1] == words.lines[index]:
        height = words.boxes[last][3] - words.boxes[last][1]
        if words.boxes[last + 1][0] - words.boxes[last][2] > 0.8 * height:
            break
        last += 1
    return " ".join(words.texts[index : last + 1])


def shape(text: str) -> str:
    """What kind of word it is: digits, letters, or both; empty for what people write where there is nothing."""
    if text.strip(".,:;").casefold() in ("-", "--", "n/a", "none", "nil", "na"):
        return ""
    return ("digits" if any(c.isdigit() for c in text) else "") + ("letters" if any(c.isalpha() for c in text) else "")


def share(values: Any) -> float:
    """The share of values that are true; 0 where there are none."""
    values = list(values)
    return sum(values) / len(values) if values else 0.0
