"""The contract a model carries: `extraction_config.json` beside the weights (schema, prompt, wire format, vision tokens).

Training writes it, merge and quantize carry it along, extraction and serving read it and take no second opinion.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toolkit.answers.row_shards import AnswerPlan
from toolkit.answers.wire_format import WIRES
from toolkit.console import StageError
from toolkit.files import read_json, shown, write_json
from toolkit.records.prompt import Prompt
from toolkit.schema.target import TargetSchema

FILE_NAME = "extraction_config.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Contract:
    """`image_max_tokens`: vision tokens of one page at most; `max_answer_tokens`: where an answer, or a shard of one, is cut as truncated;
    `rows_per_shard`, `fields_per_shard`: how answers are cut (0: not); `max_shards`: requests of the longest training document at the same time;
    `max_pages`: pages of the longest training document; `prompt_tokens`: text tokens before the answer (0: not counted);
    `confidence`: what calibrate_confidence.py fitted (None: not calibrated).
    """

    schema: dict[str, Any]
    schema_source: str
    system: str
    question: str
    image_max_tokens: int
    max_answer_tokens: int
    wire: str = "json"
    rows_per_shard: int = 0
    fields_per_shard: int = 0
    max_shards: int = 1
    pages: str = "all"
    max_pages: int = 1
    prompt_tokens: int = 0
    base_model: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    confidence: dict[str, Any] | None = None
    format_version: int = FORMAT_VERSION

    @property
    def prompt(self) -> Prompt:
        return Prompt(self.system, self.question)

    @property
    def target(self) -> TargetSchema:
        return TargetSchema.parse(self.schema, self.schema_source)

    @property
    def answer_plan(self) -> AnswerPlan:
        return AnswerPlan(self.target, self.wire, self.rows_per_shard, self.fields_per_shard)

    @property
    def context_tokens(self) -> int:
        """Tokens of the longest request and its answer: prompt, `max_pages` full pages with their two marks, answer."""
        # A token has at least one byte, so without a count the text's bytes are the bound.
        text = self.prompt_tokens or len((self.system + self.question).encode()) + 32
        return text + self.max_pages * (self.image_max_tokens + 2) + self.max_answer_tokens

    def save(self, folder: Path) -> None:
        write_json(folder / FILE_NAME, asdict(self))


def load_contract(folder: Path) -> Contract:
    """The contract of a model or adapter folder. Raises StageError where it is missing or of another version."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise StageError(
            f"{shown(folder)}: no {FILE_NAME} here; give a folder that train_lora.py or merge_adapter.py wrote"
        )
    value = read_json(path)
    known = set(Contract.__dataclass_fields__)
    if not isinstance(value, dict) or value.get("format_version") != FORMAT_VERSION or set(value) - known:
        raise StageError(
            f"{shown(path)}: not a contract of version {FORMAT_VERSION}; it was written by another version of this project"
        )
    contract = Contract(**value)
    if contract.wire not in WIRES:
        raise StageError(f"{shown(path)}: unknown wire form {contract.wire!r}; this version knows {', '.join(WIRES)}")
    return contract


def package_versions(*names: str) -> dict[str, str]:
    """Installed versions of these packages; one that is not installed is left out."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
