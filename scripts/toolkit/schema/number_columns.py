"""How each field's numbers are written, decided from all its values together: one decimal sign that fits every one.

The join runs twice. First the texts are only learnt (`learning`); then each is read as its whole field is written.
Where the values leave it open, or contradict one another, the texts that depend on it are refused with a sentence.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

from toolkit.schema.number_text import Convention, read_number
from toolkit.schema.target import Leaf, TargetSchema
from toolkit.schema.units import dimension

SAY_IT = 'say "decimal": "point" or "comma" under x-extract in the schema, or --decimal'
SIGNS = {"point": "a decimal point", "comma": "a decimal comma"}
OTHER: dict[Convention, Convention] = {"point": "comma", "comma": "point"}


@dataclass
class NumberColumn:
    """One field: its `stated` decimal sign, the first text that needs each sign, the first `open` one (two numbers),
    the units beside the numbers, and the first text of each dimension and unit."""

    stated: Convention | None = None
    needing: dict[Convention, str] = field(default_factory=dict)
    open: str | None = None
    units: Counter[str] = field(default_factory=Counter)
    measured: dict[str, dict[str, str]] = field(default_factory=dict)

    def learn(self, text: str) -> None:
        try:
            number = read_number(text.strip())
        except ValueError:
            return
        if number.needs is not None:
            self.needing.setdefault(number.needs, text)
        elif number.ambiguous and self.open is None:
            self.open = text
        if number.unit:
            self.units[number.unit] += 1
        if (kind := dimension(number.unit)) is not None:
            self.measured.setdefault(kind, {}).setdefault(number.unit, text)

    @property
    def decimal(self) -> Convention | None:
        """The stated sign, or the only one that fits; None where both do, or neither does."""
        if self.stated is not None or len(self.needing) != 1:
            return self.stated
        return next(iter(self.needing))

    def read(self, text: str) -> Decimal:
        """The number of a text that was learnt. Raises ValueError where it is none, or does not fit its field."""
        number = read_number(text.strip())
        if number.needs is not None and number.needs != self.decimal:
            other = OTHER[number.needs]
            because = f"{self.needing.get(other)!r} in the same field needs {SIGNS[other]}"
            if self.stated is not None:
                because = f"the field is stated to have {SIGNS[other]}"
            raise ValueError(f"{text!r} needs {SIGNS[number.needs]}, but {because}; write the field in one way")
        value = number.value(self.decimal)
        if value is None:
            both = f"{number.point:f} with {SIGNS['point']}, {number.comma:f} with {SIGNS['comma']}"
            if self.needing:
                both += f" (the field has both: {self.needing['point']!r} and {self.needing['comma']!r})"
            raise ValueError(f"{text!r} is two numbers: {both}; {SAY_IT}")
        if (kind := dimension(number.unit)) is not None:
            for unit, other_text in self.measured.get(kind, {}).items():
                if unit != number.unit:
                    raise ValueError(
                        f"{text!r} and {other_text!r} in the same field differ in unit, which no number can hold; "
                        'use one unit, or make the field a string with "compare": "number"'
                    )
        return value


class NumberColumns:
    """The columns of one table, by field name.

    `default` is the decimal sign of the command line. It wins over the schema's default; a field's own wins over it.
    """

    def __init__(self, default: Convention | None = None) -> None:
        self.default = default
        self.learning = False
        self.fields: dict[str, NumberColumn] = {}
        self.kept_as_text: set[str] = set()

    def of(self, leaf: Leaf) -> NumberColumn:
        column = self.fields.get(leaf.name)
        if column is None:
            column = self.fields[leaf.name] = NumberColumn(leaf.own_decimal or self.default or leaf.decimal)
            if not leaf.types & {"integer", "number"}:
                self.kept_as_text.add(leaf.name)
        return column

    def take(self, leaf: Leaf, text: str) -> None:
        """Learn a text. Raises ValueError while learning: no text has a value before every text is known."""
        if self.learning:
            self.of(leaf).learn(text)
            raise ValueError("not read before the whole field is known")

    def read(self, leaf: Leaf, text: str) -> Decimal:
        """The number of a text. Raises ValueError with a sentence where it is none, or could be two."""
        return self.of(leaf).read(text)

    def stored_in(self, schema: TargetSchema) -> TargetSchema:
        """The schema that goes beside the records: fields kept as text carry what was decided, and scores read them so.

        Fields of JSON numbers do not need it, and other services' answers to them may be written in another way.
        """
        decided = {name: self.fields[name].decimal for name in sorted(self.kept_as_text)}
        return schema.with_decimals({name: decimal for name, decimal in decided.items() if decimal is not None})

    def notes(self) -> list[str]:
        """Sentences about what is no problem of a document: open texts that are kept, units that no number can hold."""
        found = []
        for name, column in self.fields.items():
            if name not in self.kept_as_text:
                if column.units:
                    counted = ", ".join(f"{unit} ({count})" for unit, count in column.units.most_common(6))
                    found.append(f"{name}: numbers hold no unit; left out beside them: {counted}")
            elif column.open is not None and column.decimal is None:
                found.append(
                    f"{name}: texts like {column.open!r} are kept, but are two numbers to the scores; {SAY_IT}"
                )
        return found


def read_alone(leaf: Leaf, text: str) -> Decimal:
    """The number of a text of which no column is known. Raises ValueError as `NumberColumn.read` does."""
    column = NumberColumn(leaf.decimal)
    column.learn(text)
    return column.read(text)
