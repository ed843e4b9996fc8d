"""Names of fields that people type, held against the names that there are: a wrong one is an error, not a silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.console import StageError, did_you_mean, first_few
from toolkit.schema.target import TargetSchema, value_at


class AskedFields:
    """Fields of the answer's header or of meta that a flag names; each must occur in some record or in its schema."""

    def __init__(self, flag: str, names: Sequence[str]) -> None:
        self.flag = flag
        self.missing = list(dict.fromkeys(names))
        self.known: dict[str, None] = {}

    def look(self, schema: TargetSchema | None, gold: Any, meta: Mapping[str, Any]) -> None:
        """Take note of the names in one record."""
        if not self.missing:
            return
        there = [leaf.name for leaf in schema.header] if schema else list(gold) if isinstance(gold, dict) else []
        self.known |= dict.fromkeys([*there, *meta])
        self.missing = [
            name
            for name in self.missing
            if name not in self.known and value_at(gold, tuple(name.split("."))) is None and meta.get(name) is None
        ]

    def require(self, where: str) -> None:
        """Raises StageError for a name that no record had."""
        if self.missing:
            wrong = self.missing[0]
            hint, there = did_you_mean(wrong, self.known), first_few(sorted(self.known), 12)
            raise StageError(f"{self.flag} {wrong}: no record of {where} has this field; {hint}there are {there}")
