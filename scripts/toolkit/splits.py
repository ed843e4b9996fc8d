"""Which documents must stay together, and in which split a group lies: by hash, so that adding documents moves none."""

from __future__ import annotations

import hashlib
from typing import Any

from toolkit.files import sha256_of
from toolkit.records import answer_text, images_of
from toolkit.target_schema import value_at


class Groups:
    """Union-find over record numbers; two records that share any identity are one group."""

    def __init__(self, count: int) -> None:
        self.parents = list(range(count))

    def find(self, item: int) -> int:
        while self.parents[item] != item:
            self.parents[item] = self.parents[self.parents[item]]
            item = self.parents[item]
        return item

    def join(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        # The lower number leads, so the result does not depend on the order of joins.
        self.parents[max(a, b)] = min(a, b)


def identities(record: dict[str, Any], root: Any, gold: dict[str, Any], group_by: str | None) -> list[str]:
    """What makes two records the same document: a page image's bytes, the whole answer, the --group-by field."""
    found = [f"image {sha256_of(root / image)}" for image in images_of(record)]
    found.append("answer " + hashlib.sha256(answer_text(record).encode()).hexdigest())
    if group_by is not None:
        value = value_at(gold, tuple(group_by.split(".")))
        if value is None:
            value = record.get("meta", {}).get(group_by)
        if value is not None:
            found.append(f"{group_by} {' '.join(str(value).casefold().split())}")
    return found


def position(name: str, seed: int) -> float:
    """A number in [0, 1) that depends on the name and the seed only."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
