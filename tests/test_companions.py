"""ANLS* against its authors' package, nTED against Donut's published definition on the package it uses (zss)."""

import random

import pytest

from toolkit.evaluation.companions import anls_star, tree_similarity

WORDS = ["ACME", "ACMI LTD", "Port Klang", "7", "MSKU1234567", "MSKU1234568", "a b", "x", ""]


def document(draw):
    """A bill of lading as predicted or labelled: closed objects, rows of one shape, absent values."""
    rows = [
        {"number": draw.choice(WORDS), "size": draw.choice(["20", "40", None]), "type": draw.choice(["GP", "HC"])}
        for _ in range(draw.randrange(5))
    ]
    value = {
        "name": draw.choice([*WORDS, None]),
        "days": draw.choice([None, 7, 14, 1.5]),
        "on_board": draw.choice([True, False, None]),
        "party": {"city": draw.choice(WORDS), "code": draw.choice(["1", None])},
        "marks": draw.sample(WORDS, draw.randrange(4)),
        "containers": rows,
    }
    for key in draw.sample(list(value), draw.randrange(3)):
        del value[key]
    return value


def pairs(count):
    draw = random.Random(7)
    return [(document(draw), document(draw)) for _ in range(count)]


def test_anls_star_is_the_package_s():
    from anls_star import anls_score

    for gold, predicted in pairs(200):
        assert anls_star(gold, predicted) == pytest.approx(anls_score(gold, predicted), abs=1e-9), (gold, predicted)


def donut_similarity(gold, predicted):
    """Donut's evaluation, straightforwardly: zss trees with its three costs, after its normalisation."""
    import zss
    from rapidfuzz.distance import Levenshtein

    def tree(value, label):
        node = zss.Node((label, False))
        if isinstance(value, dict):
            for key in sorted(value, key=lambda k: (len(k), k)):
                if value[key] not in (None, "", [], {}):
                    node.addkid(tree(value[key], key))
        elif isinstance(value, list):
            for item in value:
                if item not in (None, "", [], {}):
                    node.addkid(tree(item, "<subtree>") if isinstance(item, dict) else zss.Node((str(item), True)))
        else:
            node.addkid(zss.Node((str(value), True)))
        return node

    def cost(node):
        return len(node.label[0]) if node.label[1] else 1

    def update(a, b):
        (text_a, leaf_a), (text_b, leaf_b) = a.label, b.label
        if leaf_a and leaf_b:
            return Levenshtein.distance(text_a, text_b)
        if leaf_a or leaf_b:
            return 1 + len(text_a if leaf_a else text_b)
        return int(text_a != text_b)

    def distance(a, b):
        return zss.distance(a, b, zss.Node.get_children, cost, cost, update)

    answer = tree(gold, "<root>")
    whole = distance(tree({}, "<root>"), answer)
    return max(0.0, 1 - distance(tree(predicted, "<root>"), answer) / whole) if whole else float(predicted == {})


def test_tree_similarity_is_donut_s():
    for gold, predicted in pairs(200):
        assert tree_similarity(gold, predicted) == pytest.approx(donut_similarity(gold, predicted), abs=1e-9)


def test_companions_of_equal_and_of_empty_answers():
    value = {"a": "1", "rows": [{"b": "2"}, {"b": "3"}]}
    assert anls_star(value, value) == tree_similarity(value, value) == 1
    assert tree_similarity(value, {}) == 0 and anls_star(value, {}) == 0
    assert anls_star({"a": "abcd"}, {"a": "abxx"}) == 0.5 and anls_star({"a": "abcd"}, {"a": "axxx"}) == 0
