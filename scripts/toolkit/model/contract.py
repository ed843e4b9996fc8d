"""The contract of a model: `extraction_config.json` beside its weights (schema, prompt, wire format, vision tokens).

Training writes it. Merging and quantizing copy it. Extraction and serving read their settings from it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toolkit.answers.row_shards import AnswerPlan
from toolkit.answers.wire_format import WIRES
from toolkit.console import StageError
from toolkit.files import read_json, shown, write_json
from toolkit.pages.images import DEFAULT_MAX_TOKENS
from toolkit.records.prompt import Prompt, generated_prompt
from toolkit.schema.target import TargetSchema

FILE_NAME = "extraction_config.json"
FORMAT_VERSION = 1
# Of a base model without training: pages of a request, and tokens of an answer.
UNTRAINED_PAGES = 8
UNTRAINED_ANSWER_TOKENS = 4096


@dataclass(frozen=True)
class Untrained:
    """How to ask a base model that was not trained; `schema` None: a contract is there, and says the rest too."""

    schema: Path | None = None
    image_max_tokens: int | None = None  # DEFAULT_MAX_TOKENS
    max_answer_tokens: int | None = None  # UNTRAINED_ANSWER_TOKENS

    def __post_init__(self) -> None:
        given = [n for n in (self.image_max_tokens, self.max_answer_tokens) if n is not None]
        if given and self.schema is None:
            raise StageError("--image-max-tokens and --max-answer-tokens go with --schema; a contract says them itself")
        if given and min(given) < 4:
            raise StageError("--image-max-tokens and --max-answer-tokens must be at least 4")


@dataclass(frozen=True)
class Contract:
    """How a model was trained, and so how it must be asked.

    `image_max_tokens`: most vision tokens of one page. `max_answer_tokens`: most tokens of an answer, or of one shard;
    a longer one is cut and marked as truncated. `rows_per_shard`, `fields_per_shard`: size of the shards of an answer
    (0: one answer). `max_shards`: most shards of a training document, sent at the same time. `max_pages`: most pages
    of a training document. `prompt_tokens`: text tokens before the answer (0: not counted). `confidence`: the
    parameters that calibrate_confidence.py fitted (None: not calibrated).
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
        # As it was trained: a contract's schema is explicit already.
        return TargetSchema.explicit(self.schema, self.schema_source)

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


def untrained_contract(schema: TargetSchema, image_max_tokens: int, max_answer_tokens: int) -> Contract:
    """The contract of a base model that was not trained on the schema: the generated prompt, answers as compact JSON.

    `image_max_tokens`: vision tokens of a page at most. `max_answer_tokens`: a longer answer is cut and marked so.
    """
    prompt = generated_prompt(schema)
    return Contract(
        schema=schema.raw,
        schema_source=schema.source,
        system=prompt.system,
        question=prompt.question,
        image_max_tokens=image_max_tokens,
        max_answer_tokens=max_answer_tokens,
        max_pages=UNTRAINED_PAGES,
    )


def chosen_contract(folder: Path | None, settings: Untrained) -> Contract:
    """The contract of a folder, or one for a base model without training where `settings` name a schema.

    Raises StageError where both are given: a trained model is asked as it was trained.
    """
    if settings.schema is None:
        if folder is None:
            raise StageError("give the contract's folder, or --schema FILE for a base model without training")
        return load_contract(folder)
    if folder is not None and (folder / FILE_NAME).is_file():
        told = f"{shown(folder)} has its own contract ({FILE_NAME}), with its schema"
        raise StageError(f"{told}; leave --schema out, or name a base model")
    pages, answer = settings.image_max_tokens or DEFAULT_MAX_TOKENS, settings.max_answer_tokens
    return untrained_contract(TargetSchema.load(settings.schema), pages, answer or UNTRAINED_ANSWER_TOKENS)


def load_contract(folder: Path) -> Contract:
    """The contract of a model or adapter folder. Raises StageError where it is missing or of another version."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise StageError(
            f"{shown(folder)}: no {FILE_NAME} here; give a folder that train_lora.py or merge_adapter.py wrote, "
            "or, for a base model without training, --schema FILE"
        )
    value = read_json(path)
    known = set(Contract.__dataclass_fields__)
    if not isinstance(value, dict) or value.get("format_version") != FORMAT_VERSION or set(value) - known:
        other = f"not a contract of version {FORMAT_VERSION}; it was written by another version of this project"
        raise StageError(f"{shown(path)}: {other}")
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
