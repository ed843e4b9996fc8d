"""One answer, and its confidence, from the answers of overlapping windows of pages."""

import pytest

from toolkit.answers.page_windows import union, united_scores
from toolkit.schema.target import TargetSchema


def text(**extract) -> dict:
    return {"type": ["string", "null"], "maxLength": 9, "x-extract": extract}


def closed(**properties) -> dict:
    return {"type": "object", "additionalProperties": False, "properties": properties}


ROW = closed(key=text(key=True), size=text(), seal=closed(number=text(), state=text()))
KEYED = TargetSchema.parse(closed(name=text(), rows={"type": "array", "maxItems": 9, "items": ROW}), "s")
PLAIN = TargetSchema.parse(closed(rows={"type": "array", "maxItems": 9, "items": text()}), "s")


@pytest.mark.parametrize(
    ("windows", "wanted"),
    [
        (["ab", "bc"], "abc"),  # one row on the shared page
        (["ab", "cd"], "abcd"),
        (["aa", "aa"], "aa"),
        (["ab", "ab", "bc"], "abc"),
        (["", "ab"], "ab"),
        (["ab", "", "bc"], "abc"),
        (["abc", "bcd", "cde"], "abcde"),
    ],
)
def test_rows_without_a_key_that_end_one_window_and_begin_the_next_are_taken_once(windows, wanted):
    merged, _ = union(PLAIN, [{"rows": list(window)} for window in windows])
    assert merged["rows"] == list(wanted)


def test_empty_cells_of_a_row_are_filled_from_the_later_window_also_inside_objects():
    first = {"name": None, "rows": [{"key": "K", "size": "", "seal": {"number": "7", "state": None}}]}
    second = {"name": "N", "rows": [{"key": "k", "size": "20", "seal": {"number": "8", "state": "ok"}}]}
    merged, disagreements = union(KEYED, [first, second])
    assert merged == {"name": "N", "rows": [{"key": "K", "size": "20", "seal": {"number": "7", "state": "ok"}}]}
    assert disagreements == [], "nothing was there to disagree with"


def test_a_row_whose_key_is_absent_is_a_row_of_its_own():
    windows = [{"name": "A", "rows": [{"key": None, "size": size}]} for size in ("20", "40")]
    merged, _ = union(KEYED, windows)
    assert [row["size"] for row in merged["rows"]] == ["20", "40"]


def test_a_value_keeps_the_score_of_the_window_that_gave_it():
    """The first window said nothing, and was sure of it; that says nothing about what the second one read."""
    windows = [
        {"name": None, "rows": [{"key": "K", "size": None}]},
        {"name": "N", "rows": [{"key": "K", "size": "20"}, {"key": "L", "size": "40"}]},
    ]
    scores = [
        {"name": -0.1, "rows[0].key": -0.2, "rows[0].size": -0.3, "rows": -0.4},
        {"name": -1.1, "rows[0].key": -1.2, "rows[0].size": -1.3, "rows[1].key": -1.5, "rows": -1.4},
    ]
    merged, _ = union(KEYED, windows)
    assert united_scores(KEYED, windows, scores, merged) == {
        "name": -1.1,
        "rows[0].key": -0.2,  # read by both: the first
        "rows[0].size": -1.3,
        "rows[1].key": -1.5,
        "rows": -1.4,  # the lowest of both
    }
