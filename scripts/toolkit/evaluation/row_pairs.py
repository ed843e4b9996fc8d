"""Which row of a prediction is which row of gold: equal keys first, then Hungarian assignment on similarity.

`similarity` defines how alike two rows are. `similarities` computes the same for many rows at once; for rows that hold
lists it gives an upper bound, and `best_pairs` looks at the exact value only of the pairs that are chosen.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from toolkit.evaluation.comparison import agree, normal_form, number_or_none, outcome
from toolkit.schema.answer_values import as_rows
from toolkit.schema.target import Leaf, RowList, value_at
from toolkit.schema.values import as_text, is_absent

SAME_ROW = 0.5  # keys less alike than this belong to different rows
FEW = 9  # pairs of rows up to which each is looked at by itself
# Pairs of rows up to which the pairing is the best of all (3,000 rows against 3,000: some seconds and 300 MB). Beyond,
# equal rows pair first, and the others within groups of rows that stand near each other when sorted by their contents.
EXACT = 9_000_000
ROUNDS = 100  # assignments until the pairing of rows that hold lists is taken as it is


def same_key(rows: RowList, gold: Any, predicted: Any) -> bool:
    """Whether the keys of two rows agree and are present."""
    assert rows.key is not None
    return outcome(rows.key, value_at(gold, rows.key.path), value_at(predicted, rows.key.path)) == "tp"


def pair_rows(rows: RowList, gold: list[Any], predicted: list[Any]) -> list[tuple[int, int]]:
    """`(gold row, predicted row)`: rows of equal keys first, then the rest, each by Hungarian assignment; rows
    without an agreeing cell stay unpaired. Which rows pair does not depend on their order.
    """
    if not gold or not predicted:
        return []
    pairs: list[tuple[int, int]] = []
    free_gold, free_predicted = list(range(len(gold))), list(range(len(predicted)))
    if rows.key is not None:
        by_key = keyed(rows.key, gold), keyed(rows.key, predicted)
        for value, of_gold in by_key[0].items():
            of_predicted = by_key[1].get(value, [])
            if len(of_gold) == len(of_predicted) == 1:
                pairs.append((of_gold[0], of_predicted[0]))
            else:
                pairs += assigned(rows, gold, predicted, of_gold, of_predicted)
        taken = {g for g, _ in pairs}, {p for _, p in pairs}
        free_gold = [g for g in free_gold if g not in taken[0]]
        free_predicted = [p for p in free_predicted if p not in taken[1]]
    return sorted(pairs + assigned(rows, gold, predicted, free_gold, free_predicted))


def keyed(key: Leaf, items: list[Any]) -> dict[Any, list[int]]:
    """Row numbers by the normal form of their key; rows without one are left out."""
    form = normal_form(key)
    numbers: dict[Any, list[int]] = {}
    for number, item in enumerate(items):
        value = value_at(item, key.path)
        if not is_absent(value):
            numbers.setdefault(hashable(form(value)), []).append(number)
    return numbers


def hashable(form: Any) -> Any:
    """A normal form as it can be looked up; an object or a list where a value should be, as its JSON text."""
    return ("JSON", json.dumps(form, sort_keys=True)) if isinstance(form, dict | list) else form


def canonical(rows: RowList, row: Any) -> str:
    """A text that two rows share if they hold the same, whatever the order of the lists inside them."""
    return json.dumps(sorted_lists(row) if rows.lists else row, sort_keys=True)


def sorted_lists(value: Any) -> Any:
    """A JSON value with every list in it sorted."""
    if isinstance(value, dict):
        return {key: sorted_lists(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted(map(sorted_lists, value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


def assigned(
    rows: RowList, gold: list[Any], predicted: list[Any], of_gold: Sequence[int], of_predicted: Sequence[int]
) -> list[tuple[int, int]]:
    """The pairing of these rows with the highest similarity in all; between equally good ones the rows' contents
    decide.
    """
    if not of_gold or not of_predicted:
        return []
    if len(of_gold) == len(of_predicted) == 1:
        (g,), (p,) = of_gold, of_predicted
        return [(g, p)] if similarity(rows, gold[g], predicted[p]) > 0 else []
    texts = {g: canonical(rows, gold[g]) for g in of_gold}, {p: canonical(rows, predicted[p]) for p in of_predicted}
    of_gold, of_predicted = sorted(of_gold, key=texts[0].__getitem__), sorted(of_predicted, key=texts[1].__getitem__)
    pairs: list[tuple[int, int]] = []
    if len(of_gold) * len(of_predicted) > EXACT:
        pairs = equal_rows(texts[0], texts[1], of_gold, of_predicted)
        taken = {g for g, _ in pairs}, {p for _, p in pairs}
        of_gold = [g for g in of_gold if g not in taken[0]]
        of_predicted = [p for p in of_predicted if p not in taken[1]]
    for some_gold, some_predicted in groups(of_gold, of_predicted):
        found = best_pairs(rows, [gold[g] for g in some_gold], [predicted[p] for p in some_predicted])
        pairs += [(some_gold[i], some_predicted[j]) for i, j in found]
    return pairs


def equal_rows(
    gold: dict[int, str], predicted: dict[int, str], of_gold: Iterable[int], of_predicted: Iterable[int]
) -> list[tuple[int, int]]:
    """Pairs of rows that hold the same."""
    by_text: dict[str, list[int]] = defaultdict(list)
    for p in of_predicted:
        by_text[predicted[p]].append(p)
    return [(g, by_text[gold[g]].pop(0)) for g in of_gold if by_text[gold[g]]]


def groups(gold: Sequence[int], predicted: Sequence[int]) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Both sequences in as many parts as it takes for none to have more than EXACT pairs."""
    count = 1
    while -(-len(gold) // count) * -(-len(predicted) // count) > EXACT:
        count += 1
    cuts = [(len(gold) * part // count, len(predicted) * part // count) for part in range(count + 1)]
    for (gold_from, predicted_from), (gold_to, predicted_to) in pairwise(cuts):
        if gold_from < gold_to and predicted_from < predicted_to:
            yield gold[gold_from:gold_to], predicted[predicted_from:predicted_to]


def best_pairs(rows: RowList, gold: list[Any], predicted: list[Any]) -> list[tuple[int, int]]:
    """Hungarian assignment on the rows' similarity; pairs of similarity 0 are left out."""
    import numpy
    from scipy.optimize import linear_sum_assignment

    if len(gold) * len(predicted) <= FEW:
        alike = numpy.array([[similarity(rows, g, p) for p in predicted] for g in gold])
        known = numpy.ones(alike.shape, bool)
    else:
        alike = similarities(rows, gold, predicted)
        known = numpy.full(alike.shape, not rows.lists)
    for _ in range(ROUNDS):
        chosen = list(zip(*(numbers.tolist() for numbers in linear_sum_assignment(-alike)), strict=True))
        # What is not known is an upper bound: a pairing of known pairs that is the best under it is the best of all.
        unknown = [(i, j) for i, j in chosen if not known[i, j] and alike[i, j] > 0]
        before = [float(alike[i, j]) for i, j in unknown]
        for i, j in unknown:
            alike[i, j], known[i, j] = similarity(rows, gold[i], predicted[j]), True
        if all(alike[i, j] == value for (i, j), value in zip(unknown, before, strict=True)):
            break
    return [(i, j) for i, j in chosen if alike[i, j] > 0]


def similarity(rows: RowList, gold: Any, predicted: Any) -> float:
    """Agreeing cells of two rows and of the lists inside them plus how alike their keys are (0 to 1); 0 where they are
    not the same row at all.

    Two rows whose keys are both there and less than half alike are different rows: a misread container number
    keeps most of its characters, and without this rule guessed sizes and types of other containers would score by
    chance. What settles ties between pairings: rows that agree as a whole, then cells that both leave empty, then
    which fields agree, the first ones first.
    """
    outcomes = [outcome(leaf, value_at(gold, leaf.path), value_at(predicted, leaf.path)) for leaf in rows.leaves]
    right, empty = outcomes.count("tp"), outcomes.count("tn")
    whole = right + empty == len(outcomes)
    total = float(right)
    if rows.key is not None:
        keys = value_at(gold, rows.key.path), value_at(predicted, rows.key.path)
        if not any(is_absent(key) for key in keys):
            alike = 1.0 if agree(rows.key, *keys) else text_similarity(as_text(keys[0]), as_text(keys[1]))
            if alike < SAME_ROW:
                return 0.0
            total += alike
    if rows.lists:
        inside, inside_whole = agreeing_inside(rows.lists, gold, predicted)
        total, whole = total + inside, whole and inside_whole
    if not (total or whole):
        return 0.0
    first = sum(0.5**place for place, result in enumerate(outcomes) if result == "tp")
    return total + 0.01 * whole + 1e-4 * empty + 1e-6 * first


def agreeing_inside(lists: Iterable[RowList], gold: Any, predicted: Any) -> tuple[int, bool]:
    """`(agreeing cells, whether all agree)` of the lists inside two rows."""
    cells, whole = 0, True
    for rows in lists:
        gold_rows, predicted_rows = as_rows(value_at(gold, rows.path)), as_rows(value_at(predicted, rows.path))
        pairs = pair_rows(rows, gold_rows, predicted_rows)
        whole = whole and len(gold_rows) == len(predicted_rows) == len(pairs)
        for g, p in pairs:
            for leaf in rows.leaves:
                result = outcome(leaf, value_at(gold_rows[g], leaf.path), value_at(predicted_rows[p], leaf.path))
                cells += result == "tp"
                whole = whole and result in ("tp", "tn")
            if rows.lists:
                inside, inside_whole = agreeing_inside(rows.lists, gold_rows[g], predicted_rows[p])
                cells, whole = cells + inside, whole and inside_whole
    return cells, whole


def text_similarity(one: str, other: str) -> float:
    """1 minus the Levenshtein distance as a share of the longer text."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.normalized_similarity(one, other)


def similarities(rows: RowList, gold: list[Any], predicted: list[Any]) -> Any:
    """`similarity` of every gold row and every predicted row, float64 [gold, predicted]; an upper bound of it where
    rows hold lists.
    """
    import numpy

    shape = len(gold), len(predicted)
    right, empty = numpy.zeros(shape, numpy.int32), numpy.zeros(shape, numpy.int32)
    first = numpy.zeros(shape)
    unlike = numpy.zeros(shape, bool)
    key_alike = numpy.zeros(shape)
    for place, leaf in enumerate(rows.leaves):
        values = [value_at(item, leaf.path) for item in gold], [value_at(item, leaf.path) for item in predicted]
        there = [numpy.array([not is_absent(value) for value in some]) for some in values]
        both = there[0][:, None] & there[1][None, :]
        agreeing = both & agreements(leaf, *values)
        right += agreeing
        empty += ~(there[0][:, None] | there[1][None, :])
        first += numpy.where(agreeing, 0.5**place, 0.0)
        if leaf is rows.key:
            key_alike = numpy.where(agreeing, 1.0, key_similarities(*values)) * both
            unlike = both & (key_alike < SAME_ROW)
    whole = right + empty == len(rows.leaves)
    total = right + key_alike
    if rows.lists:
        inside, sizes = agreeing_inside_at_most(rows, gold, predicted)
        total += inside
        whole &= (inside == sizes[0][:, None]) & (inside == sizes[1][None, :])
    found = total + 0.01 * whole + 1e-4 * empty + 1e-6 * first
    return numpy.where(unlike | ~((total > 0) | whole), 0.0, found)


def agreements(leaf: Leaf, gold: list[Any], predicted: list[Any]) -> Any:
    """Whether each gold value agrees with each predicted one, bool [gold, predicted]; absent values mean nothing."""
    import numpy

    classes = Classes(leaf)
    numbers = [numpy.array([classes.number(value) for value in some]) for some in (gold, predicted)]
    if leaf.compare != "number":
        return numbers[0][:, None] == numbers[1][None, :]
    table = numpy.eye(len(classes.values), dtype=bool)
    for one, other in classes.alike():
        table[one, other] = table[other, one] = True
    return table[numbers[0][:, None], numbers[1][None, :]]


def key_similarities(gold: list[Any], predicted: list[Any]) -> Any:
    """How alike the texts of keys are, float64 [gold, predicted]."""
    import numpy
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    texts = [["" if is_absent(value) else as_text(value) for value in some] for some in (gold, predicted)]
    return cdist(*texts, scorer=Levenshtein.normalized_similarity, dtype=numpy.float64)


class Classes:
    """Numbers for the values of one field: equal for values that agree because their normal forms are equal."""

    def __init__(self, leaf: Leaf) -> None:
        self.leaf = leaf
        # Numbers of unequal form may agree, so each spelling is looked at by itself.
        self.form: Callable[[Any], Any] = spelling if leaf.compare == "number" else normal_form(leaf)
        self.numbers: dict[Any, int] = {}
        self.values: list[Any] = []

    def number(self, value: Any) -> int:
        form = None if is_absent(value) else hashable(self.form(value))
        if form not in self.numbers:
            self.numbers[form] = len(self.values)
            self.values.append(value)
        return self.numbers[form]

    def alike(self) -> Iterator[tuple[int, int]]:
        """Pairs of numbers whose spellings agree. Spellings that agree share a reading, or their text."""
        shared: dict[Any, list[int]] = defaultdict(list)
        for number, value in enumerate(self.values):
            if not is_absent(value):
                for reading in readings(value):
                    shared[reading].append(number)
        for numbers in shared.values():
            for place, one in enumerate(numbers):
                for other in numbers[:place]:
                    if agree(self.leaf, self.values[one], self.values[other]):
                        yield one, other


def spelling(value: Any) -> Any:
    """What tells two spellings of a number apart: `7` and `"7"` differ."""
    return type(value).__name__, value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True)


def readings(value: Any) -> set[Any]:
    """What a value may be read as: the one or two numbers of its text, and the text."""
    number = number_or_none(value)
    return {as_text(value)} | (set() if number is None else {number.point, number.comma} - {None})


def agreeing_inside_at_most(rows: RowList, gold: list[Any], predicted: list[Any]) -> tuple[Any, tuple[Any, Any]]:
    """An upper bound of the agreeing cells of the lists inside rows, float64 [gold, predicted], and the number of
    present cells inside each gold and each predicted row.

    Of each field the values of two rows are held together as they come, without the rows that they stand in.
    """
    import numpy
    from scipy.sparse import csr_matrix

    columns: dict[Any, int] = {}
    leaves = [leaf for inner in rows.lists for below in inner.every_list for leaf in below.leaves]
    of_each = [[dict(cells_inside(rows.lists, row)) for row in some] for some in (gold, predicted)]
    places: list[list[list[int]]] = [[[] for _ in some] for some in (gold, predicted)]
    for leaf in leaves:
        classes = Classes(leaf)
        numbers = [[[classes.number(v) for v in cells.get(leaf.name, ())] for cells in some] for some in of_each]
        merged = merged_classes(len(classes.values), classes.alike() if leaf.compare == "number" else ())
        for side, some in enumerate(numbers):
            for row, own in enumerate(some):
                for number, count in Counter(merged[n] for n in own).items():
                    places[side][row] += [
                        columns.setdefault((leaf.name, number, nth), len(columns)) for nth in range(count)
                    ]

    def sparse(some: list[list[int]]) -> Any:
        ends = numpy.cumsum([0, *map(len, some)])
        flat = numpy.array([place for own in some for place in own], dtype=numpy.int64)
        return csr_matrix((numpy.ones(len(flat)), flat, ends), shape=(len(some), max(1, len(columns))))

    inside = (sparse(places[0]) @ sparse(places[1]).T).toarray()
    sizes = [numpy.array([len(own) for own in some]) for some in places]
    return inside, (sizes[0], sizes[1])


def cells_inside(lists: Iterable[RowList], row: Any) -> Iterator[tuple[str, list[Any]]]:
    """`(field, present values)` of the lists inside a row, at every depth."""
    found: dict[str, list[Any]] = defaultdict(list)

    def collect(lists: Iterable[RowList], row: Any) -> None:
        for rows in lists:
            for item in as_rows(value_at(row, rows.path)):
                for leaf in rows.leaves:
                    if not is_absent(value := value_at(item, leaf.path)):
                        found[leaf.name].append(value)
                collect(rows.lists, item)

    collect(lists, row)
    yield from found.items()


def merged_classes(count: int, alike: Iterable[tuple[int, int]]) -> list[int]:
    """For each number the least of those that it agrees with, directly or by way of others."""
    least = list(range(count))

    def root(number: int) -> int:
        while least[number] != number:
            number = least[number]
        return number

    for one, other in alike:
        one, other = sorted((root(one), root(other)))
        least[other] = one
    return [root(number) for number in range(count)]
