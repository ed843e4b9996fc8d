"""The target schema: what to extract from one document type, read from `schemas/<document type>.schema.json`.

It is a JSON Schema (draft 2020-12). Our annotations are under the keyword `x-extract`, so other tools still read it.
The schema drives the join of labels, the prompt, the label check, the served grammar, and the scoring.

`x-extract` of a leaf: `column` (a name or several), `compare` (exact, text, id, number, date, enum, skip), `key`
(identifies a list's row; header fields with it identify the document together), `synonyms` ({value: [spellings]}),
`check` (iso6346), `day_first` (dates), `normalise` (iso_date: labels become YYYY-MM-DD in the join), `decimal`
(numbers: point or comma, the decimal sign of texts such as 1,000; without it all values of the field decide),
`afterwards` (keywords that are checked on the finished answer and not forced by the grammar), `default_bound` (its
maxLength or maxItems is a default, which the build raises). Of a list: `map` (its rows are the entries of a map).
`x-extract` of the root: `document_column`, `checks`, `decimal` (of every number that states none of its own),
`original` (the schema as its owner wrote it, to which public answers are mapped back).
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.console import StageError, did_you_mean, say_once
from toolkit.files import MOST_SETTINGS_BYTES, read_json, shown
from toolkit.schema.annotations import annotation_problem
from toolkit.schema.normalise import explicit_schema
from toolkit.schema.number_text import CONVENTIONS, Convention
from toolkit.schema.patterns import MOST_REPEATS
from toolkit.schema.public import PublicForm, date_checker, with_maps, without_maps
from toolkit.schema.validation import explaining_validator, pattern_problem

COMPARE_KINDS = ("exact", "text", "id", "number", "date", "enum", "skip")
PLAIN_KINDS = ("id", "date", "number")  # values of these hold no quote, no back slash, no line break
DEFAULT_SCHEMA = "schemas/bill_of_lading.schema.json"
ANNOTATIONS = {
    "x-extract",
    "title",
    "description",
    "examples",
    "default",
    "$comment",
    "$schema",
    "$id",
    "deprecated",
    "readOnly",
    "writeOnly",
}
# Keywords that xgrammar either refuses or ignores: an answer is held against them when it is finished.
VALIDATED_AFTERWARDS = {
    "uniqueItems",
    "multipleOf",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "dependentRequired",
    "minProperties",
    "maxProperties",
}
# Keywords that `normalise` replaces or refuses: the join, the prompt and the scores do not follow them.
NOT_FOLLOWED = {
    "$ref",
    "$dynamicRef",
    "anyOf",
    "oneOf",
    "allOf",
    "prefixItems",
    "patternProperties",
    "if",
    "not",
    "dependentSchemas",
}


@dataclass(frozen=True)
class Leaf:
    """One value of the schema.

    `path` starts at the value's object: the document, or a row of the list at `list_path`. A list path starts at the
    document; a step that ends in `[]` goes on inside that list's rows. Examples: `("container_size",)` of
    `("containers",)`, `("time",)` of `("age_groups[]", "results")`.
    """

    path: tuple[str, ...]
    schema: dict[str, Any]
    list_path: tuple[str, ...] | None = None
    default_decimal: Convention | None = None  # the root's

    @functools.cached_property
    def name(self) -> str:
        """Dotted name from the root: `containers[].container_size`, `age_groups[].results[].time`."""
        if self.list_path is None:
            return ".".join(self.path)
        inner = ".".join(self.path)
        return ".".join(self.list_path) + "[]" + (f".{inner}" if inner else "")

    @property
    def extract(self) -> dict[str, Any]:
        return self.schema.get("x-extract", {})

    @property
    def types(self) -> set[str]:
        kinds = self.schema.get("type", [])
        return {kinds} if isinstance(kinds, str) else set(kinds)

    @functools.cached_property
    def compare(self) -> str:
        if "compare" in self.extract:
            return str(self.extract["compare"])
        if "enum" in self.schema:
            return "enum"
        return "number" if self.types & {"integer", "number"} else "text"

    @functools.cached_property
    def is_number(self) -> bool:
        """Whether its texts are read as numbers: in the join (a number's type) or in the scores (compare)."""
        return "enum" not in self.schema and (self.compare == "number" or bool(self.types & {"integer", "number"}))

    @property
    def own_decimal(self) -> Convention | None:
        return self.extract.get("decimal")

    @property
    def decimal(self) -> Convention | None:
        """The stated decimal sign of its texts: its own, or the root's."""
        return self.own_decimal or self.default_decimal

    @property
    def columns(self) -> list[str]:
        value = self.extract.get("column", self.path[-1] if self.path else "")
        return [value] if isinstance(value, str) else list(value)

    @functools.cached_property
    def is_key(self) -> bool:
        return bool(self.extract.get("key"))


@dataclass(frozen=True)
class RowList:
    """A list field: the leaves of one row, and the lists inside a row. Their paths are relative to the row.

    `path` starts at the object that holds the list: the document, or a row of the list around it. `parent` leads from
    the document to that object, as in Leaf (`("age_groups[]",)`). A list of plain values has one leaf of an empty path;
    a list of lists has no leaf and one inner list of an empty path.
    """

    path: tuple[str, ...]
    leaves: tuple[Leaf, ...]
    lists: tuple[RowList, ...] = ()
    parent: tuple[str, ...] = ()

    @functools.cached_property
    def place(self) -> tuple[str, ...]:
        """Where the list is, from the document on: the `list_path` of its leaves."""
        return (*self.parent, *self.path)

    @functools.cached_property
    def name(self) -> str:
        """Dotted name from the root: `containers`, `age_groups[].results`."""
        return ".".join(self.place)

    @functools.cached_property
    def key(self) -> Leaf | None:
        return next((leaf for leaf in self.leaves if leaf.is_key), None)

    @functools.cached_property
    def every_list(self) -> tuple[RowList, ...]:
        """The list itself and the lists inside its rows, at every depth, in schema order."""
        return (self, *(inner for rows in self.lists for inner in rows.every_list))


class TargetSchema:
    """A parsed target schema. `raw` is the JSON Schema itself, `source` the path it came from (POSIX)."""

    def __init__(self, raw: dict[str, Any], source: str) -> None:
        # A definition that stands at two places is two fields, of which one can be changed alone.
        self.raw = raw = unshared(raw)
        self.source = source
        self.title = str(raw.get("title", "document"))
        self.decimal: Convention | None = self._stated_decimal(raw, ())
        self.header: list[Leaf] = []
        self.lists: list[RowList] = []  # the outermost ones
        self._walk(raw, (), None, (), self.header, self.lists)
        if not self.header and not self.lists:
            raise StageError(f"{source}: the target schema has no fields; give 'properties'")

    @classmethod
    def load(cls, path: Path | str) -> TargetSchema:
        """Read a schema file, which may be any ordinary JSON Schema, and say in one line what had to be assumed.

        Raises StageError, with all problems at once, where it is no target schema.
        """
        made, assumed = explicit_schema(read_json(path, most=MOST_SETTINGS_BYTES), shown(path))
        if assumed:
            say_once(f"{shown(path)}: assumed: {'; '.join(assumed)}")
        return cls(made, shown(path))

    @classmethod
    def parse(cls, raw: Any, source: str) -> TargetSchema:
        """The target schema of any ordinary JSON Schema. Raises StageError as `load` does."""
        return cls(explicit_schema(raw, source)[0], source)

    @classmethod
    def explicit(cls, raw: Any, source: str) -> TargetSchema:
        """A target schema that is explicit already, such as a contract's, as it stands. Raises StageError if not."""
        import jsonschema

        if not isinstance(raw, dict) or raw.get("type") != "object" or not isinstance(raw.get("properties"), dict):
            told = 'it must be a JSON Schema with "type": "object" and "properties"'
            raise StageError(f"{source}: no target schema; {told}")
        try:
            jsonschema.Draft202012Validator.check_schema(raw)
        except jsonschema.SchemaError as error:
            raise StageError(f"{source}: {error.json_path}: not a valid JSON Schema: {error.message}") from None
        except RecursionError:
            raise StageError(f"{source}: the schema is nested too deep; make it flatter") from None
        if sentence := annotation_problem(raw) or pattern_problem(raw):
            raise StageError(f"{source}: {sentence}")
        return cls(raw, source)

    @property
    def leaves(self) -> list[Leaf]:
        """Every leaf: the header's in schema order, then each list's, an outer list before the lists in its rows."""
        return self.header + [leaf for rows in self.every_list for leaf in rows.leaves]

    @property
    def every_list(self) -> list[RowList]:
        """The lists of every depth; `lists` holds the outermost ones."""
        return [inner for rows in self.lists for inner in rows.every_list]

    @property
    def document_columns(self) -> list[str]:
        value = self.raw.get("x-extract", {}).get("document_column", "Filename")
        return [value] if isinstance(value, str) else list(value)

    @property
    def checks(self) -> list[dict[str, Any]]:
        return list(self.raw.get("x-extract", {}).get("checks", []))

    def _fail(self, path: tuple[str, ...], sentence: str) -> StageError:
        return StageError(f"{self.source}: {'.'.join(('$', *path))}: {sentence}")

    def _walk(
        self,
        schema: dict[str, Any],
        at: tuple[str, ...],
        list_path: tuple[str, ...] | None,
        path: tuple[str, ...],
        leaves: list[Leaf],
        lists: list[RowList],
    ) -> None:
        """Collect the leaves and lists of an object, or of a row of the list at `list_path`.

        `at` leads from the root to `schema` (for messages), `path` from the document or the row.
        """
        if at:
            self._supported(schema, at)
        if "properties" in schema:
            if schema.get("additionalProperties", True) is not False:
                raise self._fail(at, 'an object must be closed; add "additionalProperties": false')
            for name, child in schema["properties"].items():
                self._walk(child, (*at, name), list_path, (*path, name), leaves, lists)
        elif "items" in schema:
            if "maxItems" not in schema:
                raise self._fail(at, 'a list must be bounded; add "maxItems"')
            parent = () if list_path is None else (*list_path[:-1], list_path[-1] + "[]")
            own_leaves: list[Leaf] = []
            own_lists: list[RowList] = []
            row = (*at[:-1], f"{at[-1]}[]")
            self._walk(schema["items"], row, (*parent, *path), (), own_leaves, own_lists)
            lists.append(RowList(path, tuple(own_leaves), tuple(own_lists), parent))
        else:
            self._check_leaf(schema, at)
            leaves.append(Leaf(path, schema, list_path, self.decimal))

    def _supported(self, schema: Any, path: tuple[str, ...]) -> None:
        if not isinstance(schema, dict):
            raise self._fail(path, "a field must be an object with a type")
        for keyword in sorted(NOT_FOLLOWED & set(schema)):
            raise self._fail(path, f"the keyword '{keyword}' is not followed in a target schema; write the field out")

    def _check_leaf(self, schema: dict[str, Any], path: tuple[str, ...]) -> None:
        leaf = Leaf(path, schema)
        if "enum" not in schema and "const" not in schema and not leaf.types:
            raise self._fail(path, 'a value must have a "type" or an "enum"')
        if "string" in leaf.types and "enum" not in schema and "maxLength" not in schema:
            raise self._fail(path, 'a string must be bounded; add "maxLength"')
        if leaf.extract.get("normalise", "iso_date") != "iso_date":
            raise self._fail(path, f"normalise {leaf.extract['normalise']!r} is unknown; iso_date is the one there is")
        if leaf.compare not in COMPARE_KINDS:
            raise self._fail(path, f"compare {leaf.compare!r} is unknown; use one of {', '.join(COMPARE_KINDS)}")
        if self._stated_decimal(schema, path) is not None and not leaf.is_number:
            raise self._fail(path, f'"decimal" says how numbers are written; this field is compared as {leaf.compare}')

    def _stated_decimal(self, schema: dict[str, Any], path: tuple[str, ...]) -> Convention | None:
        stated = schema.get("x-extract", {}).get("decimal")
        if stated is not None and stated not in CONVENTIONS:
            raise self._fail(path, f'"decimal": {json.dumps(stated)} is unknown; use {" or ".join(CONVENTIONS)}')
        return stated

    def without(self, names: set[str]) -> TargetSchema:
        """The same schema less the leaves and lists of these dotted names."""
        raw = unshared(self.raw)

        def kept(schema: dict[str, Any], name: str) -> bool:
            """Whether anything of a field is left; what is pruned inside it is taken out."""
            if name in names:
                return False
            if "items" in schema:
                return kept(schema["items"], f"{name}[]")
            if "properties" not in schema:
                return True
            before = f"{name}." if name else ""
            fields = {child: value for child, value in schema["properties"].items() if kept(value, before + child)}
            schema["properties"] = fields
            if "required" in schema:
                schema["required"] = [child for child in schema["required"] if child in fields]
            return bool(fields)

        kept(raw, "")
        if names:
            checks = [c for c in self.checks if not ({c.get("list"), c.get("field")} & names)]
            if "checks" in raw.get("x-extract", {}):
                raw["x-extract"]["checks"] = checks
        return TargetSchema(raw, self.source)

    def only_numbers(self) -> TargetSchema | None:
        """The same schema with nothing but the leaves whose texts are read as numbers; None where it has none."""
        if not any(leaf.is_number for leaf in self.leaves):
            return None
        return self.without({leaf.name for leaf in self.leaves if not leaf.is_number})

    def grammar(self) -> dict[str, Any]:
        """The schema as the server gets it: annotations stripped, every key required, order of keys as trained.

        `maxLength` of a string is replaced. xgrammar (0.2.8) builds such a string from any characters but quotes and
        back slashes, so that `12" pipe` could not be written and control characters could. Ids, dates and numbers hold
        neither, and get a `pattern`, bounded as far as a grammar can count. Texts become free strings, whose
        length is checked afterwards.
        """

        def strip(value: Any) -> Any:
            if isinstance(value, list):
                return [strip(item) for item in value]
            if not isinstance(value, dict):
                return value
            left_out = ANNOTATIONS | VALIDATED_AFTERWARDS | {"properties", "minLength", "maxLength"}
            left_out |= set((value.get("x-extract") or {}).get("afterwards", ()))
            result = {key: strip(item) for key, item in value.items() if key not in left_out}
            if "properties" in value:
                result["properties"] = {name: strip(child) for name, child in value["properties"].items()}
                result["required"] = list(value["properties"])
            leaf = Leaf((), value)
            if "maxLength" in value and not {"enum", "const", "pattern"} & set(result) and leaf.compare in PLAIN_KINDS:
                most = value["maxLength"] if value["maxLength"] <= MOST_REPEATS else ""
                result["pattern"] = f'^[^"\\\\\\x00-\\x1f]{{{value.get("minLength", 0)},{most}}}$'
            return result

        return strip(self.raw)

    def ordered(self, value: dict[str, Any]) -> dict[str, Any]:
        """`value` with keys in schema order. A missing key becomes null, a missing list [].

        Raises ValueError for an unknown key.
        """

        def order(item: Any, schema: dict[str, Any], where: str) -> Any:
            if "properties" in schema and isinstance(item, dict):
                unknown = set(item) - set(schema["properties"])
                if unknown:
                    raise ValueError(f"{where}: unknown field {sorted(unknown)[0]!r}")
                return {n: order(item.get(n), child, f"{where}.{n}") for n, child in schema["properties"].items()}
            if "properties" in schema and item is None:
                return {n: order(None, child, f"{where}.{n}") for n, child in schema["properties"].items()}
            if "items" in schema:
                return [order(row, schema["items"], f"{where}[{i}]") for i, row in enumerate(item or [])]
            return item

        return order(value, self.raw, "$")

    def with_columns(self, mapping: dict[str, Any], source: str) -> TargetSchema:
        """The same schema reading other columns: `{"document": column(s), "columns": {dotted field name: column(s)}}`.

        Raises StageError for a field that the schema does not have.
        """

        def names_of(value: Any, where: str) -> list[str]:
            names = [value] if isinstance(value, str) else value
            if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
                raise StageError(f"{source}: {where}: a column name or a list of them is needed")
            return names

        unknown = set(mapping) - {"document", "columns"}
        columns = mapping.get("columns", {})
        if unknown or not isinstance(columns, dict):
            form = '{"document": COLUMN, "columns": {FIELD: COLUMN}}'
            raise StageError(f"{source}: a mapping is {form}; {sorted(unknown)[:1] or 'columns'} is not")
        made = TargetSchema(self.raw, self.source)
        leaves = {leaf.name: leaf for leaf in made.leaves}
        for name, value in columns.items():
            if name not in leaves:
                names = ", ".join(list(leaves)[:8]) + (" ..." if len(leaves) > 8 else "")
                hint = did_you_mean(name, leaves)
                raise StageError(f"{source}: columns: the schema has no field {name!r}; {hint}it has {names}")
            leaves[name].schema.setdefault("x-extract", {})["column"] = names_of(value, name)
        if "document" in mapping:
            made.raw.setdefault("x-extract", {})["document_column"] = names_of(mapping["document"], "document")
        return TargetSchema(made.raw, self.source)

    def with_decimals(self, fields: dict[str, Convention], default: Convention | None = None) -> TargetSchema:
        """The same schema with the decimal sign of these dotted fields, and a `default` for all that state none."""
        if not fields and default is None:
            return self
        made = TargetSchema(self.raw, self.source)
        for leaf in made.leaves:
            if leaf.name in fields:
                leaf.schema.setdefault("x-extract", {})["decimal"] = fields[leaf.name]
        if default is not None:
            made.raw.setdefault("x-extract", {})["decimal"] = default
        return TargetSchema(made.raw, self.source)

    @functools.cached_property
    def public_form(self) -> PublicForm | None:
        """The original schema, compiled; None where there is none."""
        return PublicForm(self.original) if self.original else None

    @property
    def original(self) -> dict[str, Any] | None:
        """The schema as its owner wrote it, as JSON Schema; None where this one is as it was written."""
        return (self.raw.get("x-extract") or {}).get("original")

    def public(self, answer: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """An answer as the owner of the original schema expects it, and warnings (see `toolkit.schema.public`)."""
        if self.public_form is None:
            return answer, []
        warnings: list[str] = []
        made, more = self.public_form.fitted(with_maps(answer, self.raw, "$", warnings))
        return made, warnings + more

    def normal(self, public: Any) -> Any:
        """A public answer, or a label shaped like one, as this project works with it: maps are lists of rows."""
        return without_maps(public, self.raw) if self.original else public

    def label_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of a labels table with its maps, if it has any, as lists of rows."""
        return without_maps(row, self.raw, single=False) if self.original else row

    def validator(self) -> Any:
        return explaining_validator(self.raw, formats=date_checker())


def value_at(value: Any, path: tuple[str, ...]) -> Any:
    """The value at `path`, or None where any step is missing."""
    for step in path:
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value


def unshared(value: Any) -> Any:
    """A deep copy of a JSON value in which no object stands at two places, so that one field can be changed alone."""
    if isinstance(value, dict):
        return {key: unshared(item) for key, item in value.items()}
    return [unshared(item) for item in value] if isinstance(value, list) else value


def put_at(target: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Put a value at `path`, making the objects on the way."""
    for step in path[:-1]:
        target = target.setdefault(step, {})
    target[path[-1]] = value


def compact_json(value: Any) -> str:
    """JSON as the model writes it: no white space, keys in the order given, non-ASCII kept."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
