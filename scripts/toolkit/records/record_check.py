"""Every check of one training record. Compiled parsers and validators decide; plain ones explain what is wrong.

jsonschema-rs decides whether a record or an answer is valid;
jsonschema says why not.
"""

from __future__ import annotations

import itertools
from array import array
from pathlib import Path
from typing import Any

from toolkit.console import StageError
from toolkit.records.line_form import RECORD_SCHEMA, LineForm, parsed_line
from toolkit.records.record import answer_text, outside_root
from toolkit.schema.checks import Problem, business_problems
from toolkit.schema.target import TargetSchema
from toolkit.schema.validation import fast_validator

ROLES = (["user", "assistant"], ["system", "user", "assistant"])


class SeenIds:
    """Which ids stand more than once, in 8 bytes a record: hashes first, the few that collide are looked at again."""

    def __init__(self) -> None:
        self.hashes = array("q")

    def add(self, identity: str) -> None:
        self.hashes.append(hash(identity))

    def suspects(self) -> set[int]:
        """Hashes that came more than once (the same id, or, once in billions, two ids)."""
        ordered = sorted(self.hashes)
        return {a for a, b in itertools.pairwise(ordered) if a == b}


class RecordCheck:
    """The checks for a run; `schema` is the one target schema, or None: each record's own meta.schema."""

    def __init__(self, schema: Path | None) -> None:
        self.form = LineForm.of(RECORD_SCHEMA)
        self.fixed = TargetSchema.load(schema) if schema else None
        self.targets: dict[str, tuple[TargetSchema, Any, Any, KeyOrder] | StageError] = {}
        self.ids = SeenIds()

    def target(self, name: str) -> tuple[TargetSchema, Any, Any, KeyOrder]:
        """The target schema of a record. Raises StageError, each time, where it cannot be used."""
        if name not in self.targets:
            try:
                target = self.fixed or TargetSchema.load(Path(name))
                self.targets[name] = (target, fast_validator(target.raw), target.validator(), KeyOrder(target))
            except StageError as error:
                self.targets[name] = error
        found = self.targets[name]
        if isinstance(found, StageError):
            raise found
        return found

    def problems(self, data: bytes, where: str = "record") -> list[Problem]:
        """Every problem of one line (UTF-8, without its line end)."""
        try:
            record, _ = parsed_line(data, where)
        except (ValueError, StageError) as error:
            return [("$", f"not JSON: {error}", "error")]
        if broken := self.form.problem(record):
            return [(*broken, "error")]
        self.ids.add(record["id"])
        messages = record["messages"]
        found = self.turn_problems(messages)
        content = messages[-1]["content"]
        # More than one assistant turn, or an image in it, is named above; the texts are still held against the schema.
        text = content[0]["text"] if len(content) == 1 and not found else answer_text(record)
        meta = record.get("meta")
        return found + self.answer_problems(text, meta.get("schema") if meta else None)

    def answer_problems(self, text: str, name: str | None) -> list[Problem]:
        """The answer: only JSON, under its target schema, compact and in order, and what the schema's checks say."""
        try:
            answer, compact = parsed_line(text.encode("utf-8", "surrogatepass"), "answer")
        except (ValueError, StageError) as error:
            return [("$.messages[-1]", f"the answer is not only JSON: {error}", "error")]
        if self.fixed is None and name is None:
            return []
        try:
            target, is_valid, validator, in_order = self.target(name or "")
        except StageError as error:
            return [("$.meta.schema", f"the schema it names cannot be used: {error}", "error")]
        if not is_valid(answer):
            broken = sorted(validator.iter_errors(answer), key=lambda e: e.json_path)[:5]
            return [("answer" + error.json_path[1:], error.message[:300], "error") for error in broken]
        found: list[Problem] = []
        if not compact or not in_order(answer):
            found.append(
                ("answer", "not compact JSON in schema order; the server's grammar could not write it", "warning")
            )
        found += [
            ("answer" + where[1:], sentence, severity)
            for where, sentence, severity in business_problems(target, answer)
        ]
        return found

    @staticmethod
    def turn_problems(messages: list[dict[str, Any]]) -> list[Problem]:
        roles = [message["role"] for message in messages]
        if roles not in ROLES:
            named = ", ".join(roles)
            sentence = f"the roles are {named}; expected an optional system turn, one user turn, one assistant turn"
            return [("$.messages", sentence, "error")]
        found: list[str] = []
        images: list[str] = []
        kinds = [item["type"] for item in messages[-2]["content"]]
        count = kinds.count("image")
        if kinds[:count].count("image") != count:
            found.append("an image stands behind the question; images come first")
        if not count:
            found.append("the user turn has no image")
        for message in (messages[0], messages[-1]):
            for item in message["content"]:
                if item["type"] == "image" and message["role"] != "user":
                    found.append(f"the {message['role']} turn holds an image")
                    break
        images = [item["image"] for item in messages[-2]["content"] if item["type"] == "image"]
        if len(set(images)) != len(images):
            found.append("the same page image stands twice")
        found += [
            f"{image!r}: write image paths with /, a back slash breaks on Linux" for image in images if "\\" in image
        ]
        problems = [("$.messages", sentence, "error") for sentence in found]
        for image in images:
            if "\0" in image:
                problems.append(("$.messages", f"{image!r}: no file name holds a NUL character", "error"))
            elif sentence := outside_root(image):
                problems.append(("$.messages", f"{image!r}: {sentence}", "warning"))
        return problems


class KeyOrder:
    """Whether an answer has every key of its schema, in the schema's order; compiled to tuples of names once."""

    def __init__(self, target: TargetSchema) -> None:
        self.plan = self._plan(target.raw)

    def _plan(self, schema: dict[str, Any]) -> Any:
        """None: no order to keep; ("list", plan of an item); or (names, plans of the fields that have one)."""
        if "properties" in schema:
            names = list(schema["properties"])
            nested = [(name, self._plan(child)) for name, child in schema["properties"].items()]
            return names, [(name, plan) for name, plan in nested if plan is not None]
        if "items" in schema:
            inner = self._plan(schema["items"])
            return None if inner is None else ("list", inner)
        return None

    def __call__(self, answer: Any) -> bool:
        return self._fits(answer, self.plan)

    def _fits(self, value: Any, plan: Any) -> bool:
        names, inner = plan
        if names == "list":
            return all(self._fits(item, inner) for item in value or ())
        if value is None or list(value) != names:
            return False
        return all(self._fits(value[name], child) for name, child in inner)
