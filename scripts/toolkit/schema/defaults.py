"""What a schema does not say and its users seldom mind: bounds of texts and lists, and how a field is compared."""

from __future__ import annotations

import re
from typing import Any

LIST_BOUND = 2000  # a grammar of 52 lists compiles as fast with it as with 200
TEXT_BOUNDS = {"date": 40, "id": 60, "number": 40}
TEXT_BOUND = 4000
ID_NAME = re.compile(
    r"(^|_)(number|numbers|no|nos|nr|num|id|ids|code|ref|reference|iban|bic|swift|isin|sku|vin|ean|gtin|imo)$"
)
DATE_NAME = re.compile(r"(^|_)(date|dates|dob|birthday|birthdate)(_|$)")
AMOUNT_NAME = re.compile(
    r"(^|_)(amount|amounts|total|subtotal|price|sum|quantity|qty|weight|balance|cost|fee|vat_amount|tax_amount)$"
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NOT_A_WORD = re.compile(r"[^a-z0-9]+")


def words_of(name: str) -> str:
    """A field's name as lower-case words with `_` between: invoiceNumber, Invoice No and invoice-no alike."""
    return _NOT_A_WORD.sub("_", _HUMP.sub("_", name).lower()).strip("_")


def text_bound(compare: str) -> int:
    """The default `maxLength` of a text."""
    return TEXT_BOUNDS.get(compare, TEXT_BOUND)


def compare_by_name(path: str, schema: dict[str, Any]) -> str | None:
    """How a text is compared by its format, else by its name; None: as text."""
    if "format" in schema:
        return "date" if schema["format"] == "date" else "id" if schema["format"] in ("uuid", "email") else None
    name = words_of(path.rsplit(".", 1)[-1].removesuffix("[]"))
    for pattern, kind in ((DATE_NAME, "date"), (AMOUNT_NAME, "number"), (ID_NAME, "id")):
        if pattern.search(name):
            return kind
    return None


def bounded(schema: dict[str, Any], word: str, bound: int) -> dict[str, Any]:
    """The schema with a bound that is marked as a default, so that the build may raise it to its longest label."""
    return {**schema, word: bound, "x-extract": {**(schema.get("x-extract") or {}), "default_bound": True}}
