"""Which documents must stay together, in which split each group lies, and what is alike on both sides of the split.

All of it is arrays of numbers, about 300 bytes a document: a million documents fit into a small machine.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

NAMES = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)
KINDS = ("image", "label", "answer", "group-by")
# A page that more than this many documents with different answers have is a form's back or a cover, no identity.
COMMON_PAGE = 5
# What a document is known by, the surest first. Its place comes from the first of these that it has, else from its id.
IDENTITIES = ("group-by", "label", "image", "answer")
ROW_BOUNDS = (0, 5, 20, 50)
PAGE_BOUNDS = (1, 2, 5)
COMPARISONS = 50  # of one held-out document with candidates of one band
PICTURE_PAIRS = 4 * 10**9  # compared in about a minute


@dataclass
class Documents:
    """What the split knows of each record, in file order.

    `keys` (64 bits), `owners` (record numbers) and `kinds` (indices of KINDS) run in parallel, several per record.
    `answers` holds a key of each whole answer, also of one that says too little to identify a document; 0 where there
    is none. `sketches` holds 128 bytes and `looks` 32 bytes a record, zeros where there is none.
    """

    ids: list[str] = field(default_factory=list)
    keys: array[int] = field(default_factory=lambda: array("Q"))
    owners: array[int] = field(default_factory=lambda: array("I"))
    kinds: array[int] = field(default_factory=lambda: array("B"))
    answers: array[int] = field(default_factory=lambda: array("Q"))
    strata: list[str] = field(default_factory=list)
    sketches: bytearray = field(default_factory=bytearray)
    looks: bytearray = field(default_factory=bytearray)

    def __len__(self) -> int:
        return len(self.ids)

    def add(
        self,
        identity: str,
        stratum: str,
        keys: Iterable[tuple[str, int]],
        sketch: bytes | None = None,
        look: bytes | None = None,
        answer: int = 0,
    ) -> None:
        for kind, key in keys:
            self.keys.append(key)
            self.owners.append(len(self.ids))
            self.kinds.append(KINDS.index(kind))
        self.ids.append(identity)
        self.answers.append(answer)
        self.strata.append(stratum)
        self.sketches += sketch or bytes(128)
        self.looks += look or bytes(32)


def stratum_of(pages: int, rows: int) -> str:
    """The bucket of a document by its pages and its longest list, e.g. `2 pages, 6-20 rows`."""
    return f"{bucket(pages, PAGE_BOUNDS, 1)} pages, {bucket(rows, ROW_BOUNDS, 0)} rows"


def bucket(value: int, bounds: Sequence[int], low: int) -> str:
    """`0`, `1-5`, `6-20`, `>50`: the interval of `bounds` (upper ends) in which `value` lies; the first starts at `low`."""
    for bound in bounds:
        if value <= bound:
            return str(bound) if low == bound else f"{low}-{bound}"
        low = bound + 1
    return f">{bounds[-1]}"


class Groups:
    """Union-find over record numbers; two records that share any identity are one group."""

    def __init__(self, count: int) -> None:
        self.parents = array("L", range(count))

    def find(self, item: int) -> int:
        while self.parents[item] != item:
            self.parents[item] = self.parents[self.parents[item]]
            item = self.parents[item]
        return item

    def join(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        # The lower number leads, so the result does not depend on the order of joins.
        self.parents[max(a, b)] = min(a, b)


@dataclass(frozen=True)
class Grouping:
    """`groups` of record numbers; `joins`: how many joins each kind of key made, and how many pages are `common_pages`;
    `common`: the keys of those pages."""

    groups: list[list[int]]
    joins: dict[str, int]
    common: frozenset[int]


def grouped(documents: Documents) -> Grouping:
    """Documents that share a page image, a label key, the whole answer or a --group-by value are one group.

    A page that many documents with different answers share is common: it joins nothing.
    """
    import numpy

    groups = Groups(len(documents))
    joins: Counter[str] = Counter(dict.fromkeys([*KINDS, "common_pages"], 0))
    common: set[int] = set()
    keys, owners = numpy.asarray(documents.keys), numpy.asarray(documents.owners)
    kinds, answers = numpy.asarray(documents.kinds), numpy.asarray(documents.answers)
    order = numpy.lexsort((owners, keys))
    for run in runs(keys[order]):
        members = owners[order[run]]
        kind = KINDS[kinds[order[run.start]]]
        if kind == "image" and len(numpy.unique(answers[members])) > COMMON_PAGE:
            joins["common_pages"] += 1
            common.add(int(keys[order[run.start]]))
            continue
        for member in members[1:]:
            if groups.find(int(members[0])) != groups.find(int(member)):
                groups.join(int(members[0]), int(member))
                joins[kind] += 1
    by_leader: dict[int, list[int]] = {}
    for number in range(len(documents)):
        by_leader.setdefault(groups.find(number), []).append(number)
    return Grouping(list(by_leader.values()), dict(joins), frozenset(common))


def runs(ordered: Any) -> list[slice]:
    """The slices of two or more equal neighbours in a sorted array."""
    import numpy

    if len(ordered) == 0:
        return []
    starts = numpy.flatnonzero(numpy.r_[True, ordered[1:] != ordered[:-1]])
    ends = numpy.r_[starts[1:], len(ordered)]
    return [slice(int(a), int(b)) for a, b in zip(starts, ends, strict=True) if b - a > 1]


def position(name: str, seed: int) -> float:
    """A number in [0, 1) that depends on the name and the seed only."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def own_positions(documents: Documents, common: frozenset[int], seed: int) -> array[float]:
    """Where each document would lie alone, in [0, 1): by what it is known by, so that a copy under another name lies
    where its original does. That is the first --group-by value, the label key, the first page that is not common, or
    the answer that it has; a document without any goes by its id."""
    ranks = [IDENTITIES.index(kind) for kind in KINDS]
    best = bytearray([len(IDENTITIES)]) * len(documents)
    known = array("Q", bytes(8 * len(documents)))
    for key, owner, kind in zip(documents.keys, documents.owners, documents.kinds, strict=True):
        if ranks[kind] < best[owner] and key not in common:
            best[owner], known[owner] = ranks[kind], key
    return array(
        "d",
        (
            position(f"{IDENTITIES[rank]}\0{key:016x}" if rank < len(IDENTITIES) else identity, seed)
            for rank, key, identity in zip(best, known, documents.ids, strict=True)
        ),
    )


@dataclass(frozen=True)
class Move:
    """A document that an earlier split had on another side; indices of NAMES."""

    identity: str
    before: int
    after: int


def assign(
    documents: Documents,
    grouping: Grouping,
    ratios: Sequence[float],
    seed: int,
    *,
    balanced: bool,
    kept: dict[str, int],
    held_out: set[str],
) -> tuple[bytearray, list[Move]]:
    """`(index of NAMES per record, documents that could not stay where `kept` has them)`.

    One rule decides for a group: the earliest of train, val, test among the places of its members. What a model was
    trained on must not come back as a test. A member's place is the one that `kept`, an earlier split, has for it; in
    a group that it does not know, each member's own position and the ratios give it. So a document moves only where a
    new one joins its group whose place is another, and then towards train. `balanced` meets the ratios in every
    stratum as nearly as whole groups allow; there only `kept` keeps old documents where they were.
    """
    places = bytearray(len(documents))
    moved: list[Move] = []
    free: list[tuple[float, list[int]]] = []
    filled: dict[str, list[float]] = {}
    positions = own_positions(documents, grouping.common, seed)

    def put(group: list[int], place: int) -> None:
        for member in group:
            places[member] = place
            filled.setdefault(documents.strata[member], [0.0, 0.0, 0.0])[place] += 1

    for group in grouping.groups:
        earlier = {kept[documents.ids[m]] for m in group if documents.ids[m] in kept}
        if any(documents.ids[m] in held_out for m in group):
            put(group, TEST)
        elif earlier:
            put(group, min(earlier))
        else:
            free.append((min(positions[m] for m in group), group))
            continue
        for identity, side in ((documents.ids[m], places[m]) for m in group):
            if kept.get(identity, side) != side:
                moved.append(Move(identity, kept[identity], side))
    if not balanced:
        for place, group in free:
            put(group, TRAIN if place < ratios[0] else VAL if place < ratios[0] + ratios[1] else TEST)
        return places, moved

    by_stratum: dict[str, list[tuple[float, list[int]]]] = {}
    for place, group in free:
        by_stratum.setdefault(documents.strata[min(group)], []).append((place, group))
    owed = [0.0, 0.0, 0.0]  # what rounding kept back in the strata before: many small strata must not all go to train
    for stratum in sorted(by_stratum):
        waiting = sorted(by_stratum[stratum], key=lambda item: (item[0], min(documents.ids[m] for m in item[1])))
        there = filled.get(stratum, [0.0, 0.0, 0.0])
        whole = sum(there) + sum(len(group) for _, group in waiting)
        owed = [ratio * whole - have + debt for ratio, have, debt in zip(ratios, there, owed, strict=True)]
        for _, group in waiting:
            place = max((TRAIN, VAL, TEST), key=lambda index: owed[index])
            owed[place] -= len(group)
            put(group, place)
    return places, moved


@dataclass(frozen=True)
class Near:
    """A held-out document and the training document that it is most alike; `text` is the share of common words (0 to 1),
    `bits` the differing bits of 256 of their first pages; None where that was not found near."""

    held_out: int
    train: int
    text: float | None
    bits: int | None


def near_duplicates(
    documents: Documents, places: bytearray, *, text: float, bits: int
) -> tuple[list[Near], dict[str, int]]:
    """What lies on both sides and is alike, the most alike training document of each; `(pairs, counts)`. Nothing is moved.

    `counts["pictures_compared"]` of `counts["pictures"]` held-out pages were compared: all of them up to four thousand million pairs.
    """
    import numpy

    side = numpy.frombuffer(bytes(places), dtype=numpy.uint8)
    found: dict[tuple[int, int], list[Any]] = {}
    for held, train, share in near_texts(documents.sketches, side, text):
        found[held, train] = [share, None]
    pictures, compared, of_all = near_pictures(documents.looks, side, bits)
    for held, train, distance in pictures:
        found.setdefault((held, train), [None, None])[1] = distance
    pairs = [Near(held, train, share, distance) for (held, train), (share, distance) in sorted(found.items())]
    return pairs, {
        "near_duplicates": len({pair.held_out for pair in pairs}),
        "pictures_compared": compared,
        "pictures": of_all,
    }


def near_texts(sketches: bytearray, side: Any, least: float) -> list[tuple[int, int, float]]:
    """`(held out, train, share)` by bands of four hashes: pairs of at least 0.8 are found with probability 0.9998, where a
    band's texts are not shared by more than 50 training documents."""
    import numpy

    table = numpy.frombuffer(bytes(sketches), dtype=numpy.uint16).reshape(len(side), -1)
    known: Any = table.any(axis=1)
    best: dict[int, tuple[float, int]] = {}
    for band in range(table.shape[1] // 4):
        keys = numpy.ascontiguousarray(table[:, 4 * band : 4 * band + 4]).view(numpy.uint64)[:, 0]
        order = numpy.argsort(keys, kind="stable")
        order = order[known[order]]
        for run in runs(keys[order]):
            members = order[run]
            train = members[side[members] == TRAIN][:COMPARISONS]
            if not len(train):
                continue
            for held in members[side[members] != TRAIN]:
                shares = (table[train] == table[held]).mean(axis=1)
                at = int(shares.argmax())
                candidate = (round(float(shares[at]), 3), -int(train[at]))
                if candidate[0] >= least and candidate > best.get(int(held), (0.0, 0)):
                    best[int(held)] = candidate
    return [(held, -train, share) for held, (share, train) in sorted(best.items())]


def near_pictures(looks: bytearray, side: Any, most: int) -> tuple[list[tuple[int, int, int]], int, int]:
    """`(held out, train, differing bits)`, how many held-out pages were compared with every training page, and how many there are."""
    import numpy

    table = numpy.frombuffer(bytes(looks), dtype=numpy.uint64).reshape(len(side), 4)
    known: Any = table.any(axis=1)
    train = numpy.flatnonzero(known & (side == TRAIN))
    held = numpy.flatnonzero(known & (side != TRAIN))
    if not len(train) or not len(held):
        return [], 0, 0
    step = -(-len(held) * len(train) // PICTURE_PAIRS)
    of_all = len(held)
    held = held[::step]
    found = []
    reference = table[train]
    for number in held:
        distances: Any = numpy.bitwise_count(reference ^ table[number]).sum(axis=1, dtype=numpy.uint16)
        at = int(distances.argmin())
        if distances[at] <= most:
            found.append((int(number), int(train[at]), int(distances[at])))
    return found, len(held), of_all
