"""Which place on the page belongs to a value of an answer, and which of its tokens count."""

import pytest
from test_token_confidence import ENUM, LADING, characters

from toolkit.answers.confidence import places_of
from toolkit.answers.token_confidence import value_scores
from toolkit.answers.wire_format import WireFormat
from toolkit.pages.evidence import DocumentWords
from toolkit.schema.target import compact_json


def page(*lines: str) -> DocumentWords:
    """A page of lines of words; a line is 20 high."""
    words = [
        [60 * at, 20 * number, 60 * at + 50, 20 * number + 10, word]
        for number, line in enumerate(lines)
        for at, word in enumerate(line.split())
    ]
    return DocumentWords([{"page": 1, "width": 900, "height": 900, "words": words}])


def boxes(words: DocumentWords, answer: dict) -> dict:
    """The line, by name, in which the first word of a value stands."""
    places = places_of(LADING, LADING.ordered(answer), words)
    return {name: place and words.lines[place.first] for name, place in places.items()}


def test_a_key_that_is_printed_twice_gives_each_of_two_rows_a_place_of_its_own():
    words = page("CSQU3054383 20 GP", "CSQU3054383 40 HC")
    rows = [{"container_number": "CSQU3054383", "container_size": size} for size in ("20", "40")]
    found = boxes(words, {"containers": rows})
    first, second = (found[f"containers[{n}].container_number"] for n in (0, 1))
    assert first != second
    assert found["containers[0].container_size"] == first and found["containers[1].container_size"] == second


def test_more_rows_than_places_share_the_first_place():
    words = page("CSQU3054383 20 GP")
    found = boxes(words, {"containers": [{"container_number": "CSQU3054383"}] * 2})
    assert found["containers[0].container_number"] == found["containers[1].container_number"] is not None


def test_a_cell_is_looked_up_on_the_line_of_its_rows_key_only():
    words = page("20 days free", "CSQU3054383 GP")
    found = boxes(words, {"containers": [{"container_number": "CSQU3054383", "container_size": "20"}]})
    assert "containers[0].container_size" not in found
    assert boxes(page("no such value"), {"bl_number": "A1"}) == {"bl_number": None}


@pytest.mark.parametrize(("days", "counted"), [(7, 2), (14, 3), (1400, 5)])
def test_of_a_number_its_digits_and_the_token_that_ends_it_count_and_no_more(days, counted):
    raw = compact_json(ENUM.ordered({"days": days, "tags": [], "seller": {"name": None}}))
    at = raw.index(str(days))
    tokens = [(n, n + 1, -0.5 if at <= n < at + counted else -9.0) for n in range(len(raw))]
    score = value_scores(WireFormat(ENUM, "json"), raw, tokens)["days"]
    assert score.logprob == pytest.approx(-0.5 * counted) and score.lowest == -0.5


def test_the_least_certain_token_of_a_value_is_its_lowest():
    raw = compact_json(ENUM.ordered({"days": 14, "tags": ["abc"], "seller": {"name": None}}))
    tokens = characters(raw, -0.1)
    at = raw.index("b", raw.index("abc"))
    tokens[at] = (at, at + 1, -3.0)
    scores = value_scores(WireFormat(ENUM, "json"), raw, tokens)
    assert scores["tags[0]"].lowest == -3.0 and scores["days"].lowest == -0.1
