"""The instruction: a short text generated from the target schema, or a file's text in its place.

The constant instruction is the system turn and comes first of all, so that a server's prefix cache covers it; the page
images and a fixed question follow in the user turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolkit.schema.target import Leaf, RowList, TargetSchema

QUESTION = "json"


@dataclass(frozen=True)
class Prompt:
    """`system`: the constant instruction; `question`: the text behind the images."""

    system: str
    question: str = QUESTION

    def asking(self, line: str) -> Prompt:
        """The prompt of one shard (see row_shards). Its line comes last, so all shards of a document share a prefix."""
        return Prompt(self.system, f"{self.question}\n{line}") if line else self

    def messages(self, images: list[str]) -> list[dict[str, Any]]:
        """The turns before the answer, for the chat template: images before the question."""
        content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
        content.append({"type": "text", "text": self.question})
        return [
            {"role": "system", "content": [{"type": "text", "text": self.system}]},
            {"role": "user", "content": content},
        ]


def generated_prompt(schema: TargetSchema) -> Prompt:
    """The instruction that the schema's titles, descriptions and enums give."""
    lines = [
        f"Read all pages of the {schema.title} and answer with one compact JSON object, nothing else.",
        "Copy values as printed; null where a value is not on the pages; one row per item, in reading order.",
        "Fields:",
    ]
    lines += [describe(leaf, leaf.name) for leaf in schema.header]
    for rows in schema.lists:
        lines += list_lines(rows, "")
    return Prompt("\n".join(lines))


def list_lines(rows: RowList, indent: str) -> list[str]:
    """A list with its fields below it, and the lists in its rows below those."""
    lines = [f"{indent}{'.'.join(rows.path) or 'value'}: list of"]
    indent += "  "
    lines += [indent + describe(leaf, leaf.path[-1] if leaf.path else "value") for leaf in rows.leaves]
    return lines + [line for inner in rows.lists for line in list_lines(inner, indent)]


def describe(leaf: Leaf, name: str) -> str:
    """What the prompt says of one field."""
    parts = [str(leaf.schema[key]).rstrip(".") for key in ("title", "description") if leaf.schema.get(key)]
    if "enum" in leaf.schema:
        parts.append("one of " + ", ".join(str(choice) for choice in leaf.schema["enum"] if choice is not None))
    elif leaf.types & {"integer", "number"}:
        parts.append("number")
    return name + (": " + "; ".join(parts) if parts else "")
