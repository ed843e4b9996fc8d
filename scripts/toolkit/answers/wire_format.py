"""Wire format: the form in which a model writes the public JSON answer with fewer tokens, derived from the target
schema.

`json` is compact JSON in schema order. `positional` drops the field names: an object, or a row, is an array of its
values in schema order. If an enum has choices longer than four characters, its value is the number of the choice,
counted from 1. The result is still JSON: any parser reads it, and a server enforces it with a JSON Schema. Both
forms are lossless: `decoded(encoded(answer)) == answer` for every answer that keeps the schema.

    {"bl_number":"A1","port":"Port Klang","containers":[{"number":"MSKU1234565","size":"40"}]}
    ["A1",3,[["MSKU1234565","40"]]]
"""

from __future__ import annotations

from typing import Any

from toolkit.console import StageError
from toolkit.json_text import strict_json
from toolkit.records.record import answer_text, with_answer
from toolkit.schema.target import TargetSchema, compact_json

WIRES = ("json", "positional")
SHORT_CHOICE = 4  # characters; a longer choice is written as its number


class WireFormat:
    """The wire format of one target schema; `kind` is one of WIRES."""

    def __init__(self, schema: TargetSchema, kind: str) -> None:
        if kind not in WIRES:
            raise ValueError(f"unknown wire form {kind!r}; there are {', '.join(WIRES)}")
        self.schema, self.kind = schema, kind

    def encoded(self, answer: dict[str, Any]) -> str:
        """The answer as the model writes it; missing keys become null.

        Raises ValueError, which names the place, for a value that the schema does not have.
        """
        whole = self.schema.ordered(answer)
        return compact_json(whole if self.kind == "json" else positional(whole, self.schema.raw, "$"))

    def decoded(self, text: str) -> Any:
        """The public answer of a wire text.

        Raises ValueError, which names the place, if the text does not encode one.
        """
        return self.expanded(strict_json(text))

    def expanded(self, value: Any) -> Any:
        """The public answer of a parsed wire text. Raises ValueError, which names the place, if its form is wrong."""
        return value if self.kind == "json" else named(value, self.schema.raw, "$")

    def beginning(self, text: str, values: int) -> Any:
        """The first `values` values (1 or more) of the public answer, from a wire text that is still being written.

        None while they are not complete. Raises ValueError if the text is not in wire format.
        """
        depth = passed = 0
        quoted = escaped = False
        for place, character in enumerate(text):
            if quoted:
                quoted = escaped or character != '"'
                escaped = character == "\\" and not escaped
            elif character == '"':
                quoted = True
            elif character in "[{":
                depth += 1
            elif character in "]}":
                depth -= 1
            elif character == "," and depth == 1:
                passed += 1
                if passed == values:
                    return self._first_of(strict_json(text[:place] + ("}" if self.kind == "json" else "]")), values)
        return None

    def _first_of(self, value: Any, values: int) -> Any:
        if self.kind == "json":
            return value
        fields = dict(list(self.schema.raw["properties"].items())[:values])
        return named(value, {"properties": fields}, "$")

    def choices_of(self, schema: dict[str, Any]) -> list[str]:
        """How the choices of an enum are written; empty if the field is not an enum."""
        numbered = numbered_choices(schema) if self.kind == "positional" else []
        if numbered:
            null = ["null"] if None in schema["enum"] else []
            return [str(number) for number in range(1, len(numbered) + 1)] + null
        return [compact_json(choice) for choice in schema.get("enum", [])]

    def written(self, record: dict[str, Any]) -> dict[str, Any]:
        """A training record (its answer is public JSON) with the answer in wire format.

        Raises StageError if the answer does not keep the schema.
        """
        if self.kind == "json":
            return record
        try:
            return with_answer(record, self.encoded(strict_json(answer_text(record))))
        except ValueError as error:
            problem = f"its answer cannot be written as {self.kind}: {error}"
            raise StageError(f"record {record['id']!r}: {problem}; run validate_jsonl.py") from None

    def grammar(self) -> dict[str, Any]:
        """The JSON Schema that a server enforces on the wire text (see TargetSchema.grammar)."""
        grammar = self.schema.grammar()
        return grammar if self.kind == "json" else positional_grammar(grammar)


def numbered_choices(schema: dict[str, Any]) -> list[Any]:
    """The choices that are written as numbers, in order; empty if the choices are short or the field is not an enum."""
    choices = [choice for choice in schema.get("enum", []) if choice is not None]
    return choices if any(len(str(choice)) > SHORT_CHOICE for choice in choices) else []


def positional(value: Any, schema: dict[str, Any], where: str) -> Any:
    """A public value in positional form. Raises ValueError with the JSON path `where` for an unknown choice."""
    if "properties" in schema:
        return [positional(value[name], child, f"{where}.{name}") for name, child in schema["properties"].items()]
    if "items" in schema:
        return [positional(item, schema["items"], f"{where}[{index}]") for index, item in enumerate(value)]
    choices = numbered_choices(schema)
    if not choices or value is None:
        return value
    if value not in choices:
        raise ValueError(f"{where}: {value!r} is none of the choices")
    return choices.index(value) + 1


def named(value: Any, schema: dict[str, Any], where: str) -> Any:
    """The public value of a positional one. Raises ValueError with the JSON path `where` if the form is wrong."""
    if "properties" in schema:
        fields = schema["properties"]
        if not isinstance(value, list) or len(value) != len(fields):
            raise ValueError(f"{where}: {len(fields)} values in a list are needed")
        pairs = zip(value, fields.items(), strict=True)
        return {name: named(item, child, f"{where}.{name}") for item, (name, child) in pairs}
    if "items" in schema:
        if not isinstance(value, list):
            raise ValueError(f"{where}: a list is needed")
        return [named(item, schema["items"], f"{where}[{index}]") for index, item in enumerate(value)]
    choices = numbered_choices(schema)
    if not choices or value is None:
        return value
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= len(choices):
        raise ValueError(f"{where}: a number from 1 to {len(choices)} is needed, one of the choices")
    return choices[value - 1]


def positional_grammar(schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of the positional form of what `schema` describes."""
    if "properties" in schema:
        places = [positional_grammar(child) for child in schema["properties"].values()]
        count = len(places)
        return {"type": "array", "prefixItems": places, "items": False, "minItems": count, "maxItems": count}
    if "items" in schema:
        return {**schema, "items": positional_grammar(schema["items"])}
    choices = numbered_choices(schema)
    if not choices:
        return schema
    kinds = schema.get("type", [])
    nullable = None in schema["enum"] and (not kinds or "null" in ([kinds] if isinstance(kinds, str) else kinds))
    return {"enum": [*range(1, len(choices) + 1), *([None] if nullable else [])]}
