"""Row shards: cutting and joining lose nothing, and what does not fit together is said."""

import pytest
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.row_shards import cut, joined, shards_of
from toolkit.target_schema import TargetSchema

LADING = TargetSchema.load(REPOSITORY / "schemas/bill_of_lading.schema.json")


def bill(rows: int) -> dict:
    numbers = [
        {"container_number": f"ABCU{n:07d}", "container_size": "20", "container_type": "GP"} for n in range(rows)
    ]
    return LADING.ordered({"bl_number": "B1", "vessel_name": "V", "containers": numbers})


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 20))
def test_joined_shards_are_the_answer(rows, size, more):
    shards = shards_of(LADING, size, {"containers": rows + more})
    parts = cut(LADING, bill(rows), shards)
    for shard, part in zip(shards, parts, strict=True):
        wire = shard.wire("positional")
        assert shard.schema.validator().is_valid(part) and wire.decoded(wire.encoded(part)) == part
    assert joined(LADING, shards, parts) == (bill(rows), [])


def test_the_lines_name_header_and_rows():
    shards = shards_of(LADING, 4, {"containers": 9})
    assert [shard.line for shard in shards] == ["header", "containers 1-4", "containers 5-8", "containers 9-12", "containers 13-16"]  # fmt: skip
    assert shards[0].schema.lists == [] and [leaf.name for leaf in shards[0].schema.header] == [leaf.name for leaf in LADING.header]  # fmt: skip
    assert shards[1].schema.header == [] and shards[1].schema.raw["properties"]["containers"]["maxItems"] == 4
    with pytest.raises(ValueError, match="at least one row"):
        shards_of(LADING, 0, {})


def test_overlaps_gaps_and_overflow_are_said():
    shards = shards_of(LADING, 2, {"containers": 4})
    parts = cut(LADING, bill(4), shards)
    rows = bill(6)["containers"]
    parts[2] = {"containers": [rows[1], rows[3]]}  # row 2 again instead of row 3
    answer, warnings = joined(LADING, shards, parts)
    assert [row["container_number"][-1] for row in answer["containers"]] == ["0", "1", "3"]
    assert len(warnings) == 1 and "taken once" in warnings[0]
    parts = cut(LADING, bill(4), shards)
    parts[1] = {"containers": rows[:1]}
    assert "was not full" in joined(LADING, shards, parts)[1][0]
    parts = cut(LADING, bill(4), shards)
    parts[3] = {"containers": rows[4:]}
    assert "not empty" in joined(LADING, shards, parts)[1][0]
    # A key twice in one shard is what the page says.
    parts[1] = {"containers": [rows[0], rows[0]]}
    assert len(joined(LADING, shards, parts)[0]["containers"]) == 6
