"""Random target schemas with lists in lists, values for them, and a plain reference scorer to hold ours against."""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections import Counter
from typing import Any

from hypothesis import strategies

from toolkit.evaluation.comparison import outcome
from toolkit.schema.target import RowList, TargetSchema, value_at

TEXT = {"type": ["string", "null"], "maxLength": 20}


def closed(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(fields), "properties": fields}


def many(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "maxItems": 30, "items": items}


def key(**more: Any) -> dict[str, Any]:
    return TEXT | {"x-extract": {"key": True, **more}}


# Three levels: groups with a key, results with a key, plain texts, an enum list, and a list of lists of numbers.
MEET = TargetSchema.parse(
    closed(
        title=TEXT,
        age_groups=many(
            closed(
                group=key(),
                results=many(
                    closed(
                        swimmer=key(),
                        time=TEXT,
                        records=many({"enum": ["WR", "CR", None]}),
                        splits=many(closed(metres={"type": ["integer", "null"]}, time=TEXT)),
                    )
                ),
            )
        ),
        notes=many(TEXT),
        grid=many(many({"type": ["number", "null"]})),
    ),
    "meet",
)

leaves = strategies.sampled_from(
    [
        TEXT,
        {"type": "string", "maxLength": 20},
        {"type": ["integer", "null"]},
        {"type": ["number", "null"]},
        {"type": "boolean"},
        {"enum": ["HC", "GP", None]},
        {"enum": ["Port Klang", "Penang", "Singapore", None]},
        key(),
        TEXT | {"x-extract": {"compare": "id", "key": True}},
    ]
)
names = strategies.sampled_from(["a", "b", "c", "d_e", "f"])


def objects(values: Any) -> Any:
    return strategies.dictionaries(names, values, min_size=1, max_size=3).map(lambda fields: closed(**fields))


anything = strategies.recursive(leaves, lambda inner: objects(inner) | inner.map(many), max_leaves=8)
schemas = objects(anything)
# Ids are served without quotes and back slashes (see TargetSchema.grammar).
texts = strategies.text(strategies.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'), max_size=6)
few = strategies.sampled_from(["MSKU1", "MSKU2", "HLXU9", "a", ""])


def values_of(schema: dict[str, Any], most: int = 3) -> Any:
    """Values of a schema; texts are often equal, so that rows can be taken for one another."""
    if "properties" in schema:
        fields = {name: values_of(child, most) for name, child in schema["properties"].items()}
        return strategies.fixed_dictionaries(fields)
    if "items" in schema:
        return strategies.lists(values_of(schema["items"], most), max_size=most)
    if "enum" in schema:
        return strategies.sampled_from(schema["enum"])
    made = {
        "string": few | texts,
        "integer": strategies.integers(0, 3),
        "boolean": strategies.booleans(),
        "null": strategies.none(),
        "number": strategies.sampled_from([0, 0.5, 12, 1e6]),
    }
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return strategies.one_of(*(made[kind] for kind in kinds))


cases = schemas.flatmap(lambda raw: strategies.tuples(strategies.just(raw), values_of(raw)))
pairs = schemas.flatmap(lambda raw: strategies.tuples(strategies.just(raw), values_of(raw), values_of(raw)))


def shuffled(value: Any, draw: random.Random) -> Any:
    """The same value with the rows of every list in another order."""
    if isinstance(value, dict):
        return {name: shuffled(item, draw) for name, item in value.items()}
    if isinstance(value, list):
        return [shuffled(item, draw) for item in draw.sample(value, len(value))]
    return value


def mutated(value: Any, draw: random.Random, rate: float = 0.15) -> Any:
    """A value as a model may misread it: values changed or lost, rows lost or doubled."""
    if isinstance(value, dict):
        return {name: mutated(item, draw, rate) for name, item in value.items()}
    if isinstance(value, list):
        rows = [mutated(item, draw, rate) for item in value if draw.random() >= rate / 2]
        return rows + ([copy.deepcopy(draw.choice(rows))] if rows and draw.random() < rate else [])
    if value is None or draw.random() >= rate:
        return value
    return None if draw.random() < 0.4 else f"{value}9" if isinstance(value, str) else value


# The reference: every pairing is tried. It shares the comparison of two values with ours and nothing else.


def cells(rows: RowList, gold: Any, predicted: Any) -> list[str]:
    return [outcome(leaf, value_at(gold, leaf.path), value_at(predicted, leaf.path)) for leaf in rows.leaves]


def row_likeness(rows: RowList, gold: Any, predicted: Any) -> float:
    from rapidfuzz.distance import Levenshtein

    from toolkit.schema.values import as_text, is_absent

    outcomes = cells(rows, gold, predicted)
    total = float(outcomes.count("tp"))
    whole = total + outcomes.count("tn") == len(outcomes)
    if rows.key is not None:
        keys = value_at(gold, rows.key.path), value_at(predicted, rows.key.path)
        if not any(is_absent(one) for one in keys):
            texts = [as_text(one) for one in keys]
            equal = outcome(rows.key, *keys) == "tp"
            alike = 1.0 if equal else Levenshtein.normalized_similarity(*texts)
            if alike < 0.5:
                return 0.0
            total += alike
    for inner in rows.lists:
        counts, _, exact = reference_list(
            inner, value_at(gold, inner.path) or [], value_at(predicted, inner.path) or []
        )
        total += sum(outcomes_of["tp"] for outcomes_of in counts.values())
        whole = whole and exact
    if not (total or whole):
        return 0.0
    first = sum(0.5**place for place, result in enumerate(outcomes) if result == "tp")
    return total + 0.01 * whole + 1e-4 * outcomes.count("tn") + 1e-6 * first


def all_pairings(rows: RowList, gold: list[Any], predicted: list[Any], of_gold: list[int], of_predicted: list[int]):
    """The best pairing of these rows: every one is looked at."""
    short, long, turned = (
        (of_gold, of_predicted, False) if len(of_gold) <= len(of_predicted) else (of_predicted, of_gold, True)
    )
    likeness = {(g, p): row_likeness(rows, gold[g], predicted[p]) for g in of_gold for p in of_predicted}
    best: tuple[float, list[tuple[int, int]]] = (-1.0, [])
    for chosen in itertools.permutations(long, len(short)):
        tried = [(b, a) if turned else (a, b) for a, b in zip(short, chosen, strict=True)]
        best = max(best, (sum(likeness[pair] for pair in tried), tried), key=lambda one: one[0])
    return [pair for pair in best[1] if likeness[pair] > 0]


def reference_list(rows: RowList, gold: list[Any], predicted: list[Any]) -> tuple[dict[str, Counter], list[int], bool]:
    """`(outcomes by field, [gold rows, predicted rows, right rows], whether the lists are equal)`."""
    free_gold, free_predicted, paired = list(range(len(gold))), list(range(len(predicted))), []
    if rows.key is not None:
        equal = [
            (g, p)
            for g in free_gold
            for p in free_predicted
            if outcome(rows.key, value_at(gold[g], rows.key.path), value_at(predicted[p], rows.key.path)) == "tp"
        ]
        for g in list(free_gold):
            partners = [p for one, p in equal if one == g and p in free_predicted]
            group = [one for one in free_gold if any((one, p) in equal for p in partners)]
            found = all_pairings(rows, gold, predicted, group, partners) if g in free_gold and partners else []
            paired += found
            free_gold = [one for one in free_gold if one not in {a for a, _ in found}]
            free_predicted = [one for one in free_predicted if one not in {b for _, b in found}]
    paired += all_pairings(rows, gold, predicted, free_gold, free_predicted)
    counts: dict[str, Counter] = {}
    totals, exact = [len(gold), len(predicted), 0], len(gold) == len(predicted) == len(paired)
    lone = [(gold[g], None) for g in range(len(gold)) if g not in {a for a, _ in paired}]
    lone += [(None, predicted[p]) for p in range(len(predicted)) if p not in {b for _, b in paired}]
    for one, other, is_pair in [(gold[g], predicted[p], True) for g, p in paired] + [(*pair, False) for pair in lone]:
        outcomes = cells(rows, one, other)
        for leaf, result in zip(rows.leaves, outcomes, strict=True):
            counts.setdefault(leaf.name, Counter())[result] += 1
        clean = all(result in ("tp", "tn") for result in outcomes)
        whole = clean
        for inner in rows.lists:
            below = reference_list(inner, value_at(one, inner.path) or [], value_at(other, inner.path) or [])
            for name, found_counts in below[0].items():
                counts.setdefault(name, Counter()).update(found_counts)
                clean = clean and not (found_counts["wrong"] + found_counts["miss"] + found_counts["spurious"])
            totals = [a + b for a, b in zip(totals, below[1], strict=True)]
            whole = whole and below[2]
        if is_pair:
            exact = exact and whole
            keys = (value_at(one, rows.key.path), value_at(other, rows.key.path)) if rows.key else (None, None)
            keyless = all(value in (None, "") or not str(value).strip() for value in keys)
            totals[2] += clean if keyless else outcome(rows.key, *keys) == "tp"
    return counts, totals, exact


def reference(schema: TargetSchema, gold: Any, predicted: Any) -> tuple[Counter, list[int]]:
    """`(outcomes of all cells, [gold rows, predicted rows, right rows])` of a document."""
    outcomes = Counter(
        outcome(leaf, value_at(gold, leaf.path), value_at(predicted, leaf.path)) for leaf in schema.header
    )
    totals = [0, 0, 0]
    for rows in schema.lists:
        counts, found, _ = reference_list(rows, value_at(gold, rows.path) or [], value_at(predicted, rows.path) or [])
        for one in counts.values():
            outcomes.update(one)
        totals = [a + b for a, b in zip(totals, found, strict=True)]
    return outcomes, totals


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
