"""Two published scores of structured answers, for comparison with other people's tables only: ANLS* and nTED.

Neither knows a field's type or a row's key, both reward near misses, so neither decides here.
"""

from __future__ import annotations

import math
from typing import Any

ANLS_THRESHOLD = 0.5


def anls_star(gold: Any, predicted: Any) -> float:
    """ANLS* of one pair of JSON values, 0 to 1 (Peer et al. 2024, arXiv 2402.03848; as the package `anls_star` 1.0.1 computes it).

    Leaves score their normalised Levenshtein similarity (0 below 0.5), lists pair by Hungarian assignment, dicts by key.
    """
    total, length = _anls(gold, predicted)
    return total / length if length else 1.0


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 1


def _is_none(value: Any) -> bool:
    return value is None or value == "" or value == {} or value == []


def _anls(gold: Any, predicted: Any) -> tuple[float, int]:
    """`(sum of similarities, number of leaves compared)`."""
    if isinstance(gold, dict) and isinstance(predicted, dict):
        total, length = 0.0, 0
        for key in {**gold, **predicted}:
            score, size = _anls(gold.get(key), predicted.get(key))
            # A key that the prediction makes up with nothing in it earns nothing, but counts.
            total += 0.0 if key not in gold and _is_none(predicted[key]) else score
            length += size
        return total, length
    if isinstance(gold, list) and isinstance(predicted, list):
        return _anls_lists(gold, predicted)
    if gold is None:
        return float(_is_none(predicted)), max(1, _size(predicted))
    if isinstance(gold, (dict, list)) or isinstance(predicted, (dict, list)) or predicted is None:
        return 0.0, max(_size(gold), _size(predicted))
    from rapidfuzz.distance import Levenshtein

    a, b = (" ".join(str(value).strip().lower().split()) for value in (gold, predicted))
    alike = 1 - Levenshtein.distance(a, b) / max(len(a), len(b)) if a or b else 1.0
    return (alike if alike >= ANLS_THRESHOLD else 0.0), 1


def _anls_lists(gold: list[Any], predicted: list[Any]) -> tuple[float, int]:
    import numpy
    from scipy.optimize import linear_sum_assignment

    scores = [[_anls(g, p) for p in predicted] for g in gold]
    # Equal items are favoured by the smallest step there is, to settle ties.
    means = numpy.array(
        [
            [
                math.nextafter(s / n if n else 1.0, math.inf) if g == p else (s / n if n else 1.0)
                for p, (s, n) in zip(predicted, row, strict=True)
            ]
            for g, row in zip(gold, scores, strict=True)
        ]
    ).reshape(len(gold), len(predicted))
    rows, columns = linear_sum_assignment(means, maximize=True)
    total = sum(scores[i][j][0] for i, j in zip(rows, columns, strict=True))
    length = sum(scores[i][j][1] for i, j in zip(rows, columns, strict=True))
    length += sum(_size(gold[i]) for i in set(range(len(gold))) - set(rows.tolist()))
    length += sum(_size(predicted[j]) for j in set(range(len(predicted))) - set(columns.tolist()))
    return total, length


def tree_similarity(gold: Any, predicted: Any) -> float:
    """nTED as Donut publishes it (Kim et al. 2022, "TED-based accuracy"): 1 - TED(predicted, gold) / TED(nothing, gold), at least 0.

    Keys cost 1 to insert, remove or rename, values the characters that change; keys stand in order of length, then name.
    """
    nothing = _Tree(_node({}))
    tree = _Tree(_node(gold))
    whole = tree_distance(nothing, tree)
    if whole == 0:
        return float(predicted in ({}, None))
    return max(0.0, 1 - tree_distance(_Tree(_node(predicted)), tree) / whole)


Node = tuple[str, bool, list[Any]]  # label, is it a value, children


def _node(value: Any, label: str = "<root>") -> Node:
    """A JSON value as Donut's tree: a list's rows are nodes <subtree>, a value is a leaf below its key; empty values are left out."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key), key))
        return label, False, [_node(value[key], key) for key in keys if not _is_none(value[key])]
    if isinstance(value, list):
        rows = [item for item in value if not _is_none(item)]
        return (
            label,
            False,
            [_node(item, "<subtree>") if isinstance(item, dict) else (str(item), True, []) for item in rows],
        )
    return label, False, [(str(value), True, [])]


class _Tree:
    """Post-order labels, the leftmost leaf below each node, and the key roots (Zhang and Shasha 1989)."""

    def __init__(self, root: Node) -> None:
        self.labels: list[tuple[str, bool]] = []
        self.leftmost: list[int] = []
        self._walk(root)
        last = {left: index for index, left in enumerate(self.leftmost)}
        self.key_roots = sorted(last.values())

    def _walk(self, node: Node) -> int:
        label, is_value, children = node
        lefts = [self._walk(child) for child in children]
        left = lefts[0] if lefts else len(self.labels)
        self.labels.append((label, is_value))
        self.leftmost.append(left)
        return left


def _cost(label: tuple[str, bool]) -> int:
    return len(label[0]) if label[1] else 1


def _change(a: tuple[str, bool], b: tuple[str, bool]) -> int:
    if a == b:
        return 0
    if a[1] and b[1]:
        from rapidfuzz.distance import Levenshtein

        return int(Levenshtein.distance(a[0], b[0]))
    if not a[1] and not b[1]:
        return 1
    return 1 + len(a[0] if a[1] else b[0])


def tree_distance(a: _Tree, b: _Tree) -> int:
    """Edit distance of two ordered trees (Zhang and Shasha 1989)."""
    remove, insert = [_cost(label) for label in a.labels], [_cost(label) for label in b.labels]
    done = [[0] * len(b.labels) for _ in a.labels]
    for i in a.key_roots:
        for j in b.key_roots:
            left_a, left_b = a.leftmost[i], b.leftmost[j]
            rows, columns = i - left_a + 2, j - left_b + 2
            grid = [[0] * columns for _ in range(rows)]
            for x in range(1, rows):
                grid[x][0] = grid[x - 1][0] + remove[left_a + x - 1]
            for y in range(1, columns):
                grid[0][y] = grid[0][y - 1] + insert[left_b + y - 1]
            for x in range(1, rows):
                node_a = left_a + x - 1
                above, row = grid[x - 1], grid[x]
                for y in range(1, columns):
                    node_b = left_b + y - 1
                    best = min(above[y] + remove[node_a], row[y - 1] + insert[node_b])
                    if a.leftmost[node_a] == left_a and b.leftmost[node_b] == left_b:
                        best = min(best, above[y - 1] + _change(a.labels[node_a], b.labels[node_b]))
                        done[node_a][node_b] = best
                    else:
                        best = min(
                            best, grid[a.leftmost[node_a] - left_a][b.leftmost[node_b] - left_b] + done[node_a][node_b]
                        )
                    row[y] = best
    return done[-1][-1]
