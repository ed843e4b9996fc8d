"""How a model is trained: each setting once, with its default, its limits and its help.

A run's settings come from its flags, then from a file (`--settings`), then from the preset of its GPU, then from the
defaults here. options.py makes the flags from the fields.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from toolkit.answers.wire_format import WIRES
from toolkit.console import StageError
from toolkit.files import MOST_SETTINGS_BYTES, argument_path, read_json, shown
from toolkit.model.adapters import AdapterSettings
from toolkit.pages.images import DEFAULT_MAX_TOKENS

FILE_NAME = "training_settings.json"
# By GPU memory, for the 8B: what its activations leave room for (7 MB a token; 0.3 MB if they are recomputed). In every
# preset an optimizer step has about 32,000 tokens, so that the learning rate means the same.
PRESETS: dict[str, dict[str, Any]] = {
    "24gb": {"method": "qlora", "tokens_per_batch": 8192, "accumulate": 4, "checkpointing": "on", "loader_workers": 4},
    "48gb": {"method": "lora", "tokens_per_batch": 4096, "accumulate": 8, "checkpointing": "auto", "loader_workers": 4},
    "80gb": {"method": "lora", "tokens_per_batch": 6144, "accumulate": 5, "checkpointing": "auto", "loader_workers": 8},
    "141gb": {
        "method": "lora",
        "tokens_per_batch": 16384,
        "accumulate": 2,
        "checkpointing": "auto",
        "loader_workers": 8,
    },
}
# What a settings file also holds and what belongs to one run, not to how it is trained.
OF_ONE_RUN = {
    *("train", "val", "out", "root", "model", "settings", "preset"),
    *("resume", "overwrite", "json", "limit", "help"),
}


@dataclass(frozen=True)
class Setting:
    """What is known of one setting besides its type and default; `least` and `most` are allowed, `above` is not."""

    help: str
    group: str
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    least: float | None = None
    above: float | None = None
    most: float | None = None

    def refusal(self, value: Any) -> str:
        """What is wrong with a value of the right type; empty if nothing is."""
        if self.choices and value not in self.choices:
            return f"{value!r} is none of {', '.join(self.choices)}"
        if value is None or isinstance(value, str | bool | Path):
            return ""
        if not math.isfinite(value):
            return f"a number is needed, not {value}"
        if self.above is not None and value <= self.above:
            return f"a number above {self.above:g} is needed, not {value}"
        if self.least is not None and value < self.least:
            return f"a number from {self.least:g} on is needed, not {value}"
        if self.most is not None and value > self.most:
            return f"a number up to {self.most:g} is needed, not {value}"
        return ""


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained. Raises StageError where a value is out of its range."""

    schema: Annotated[Path | None, Setting("target schema (default: the records' meta.schema)", "data")] = None
    image_max_tokens: Annotated[
        int,
        Setting(
            f"vision tokens of a page at most, 32x32 px each; serving uses the same (default: {DEFAULT_MAX_TOKENS})",
            "data",
            least=1,
        ),
    ] = DEFAULT_MAX_TOKENS
    max_length: Annotated[int, Setting("tokens of a record at most (default: 8192)", "data", least=1)] = 8192
    on_too_long: Annotated[
        str,
        Setting(
            "records over --max-length: stop, or leave them out and list them (default: fail)",
            "data",
            choices=("fail", "skip"),
        ),
    ] = "fail"
    method: Annotated[
        str,
        Setting("qlora keeps the base in 4 bit (default: lora, or the preset's)", "model", choices=("lora", "qlora")),
    ] = "lora"
    wire: Annotated[
        str,
        Setting(
            "what the model writes: the public JSON, or its short positional form (default: json)",
            "model",
            choices=tuple(WIRES),
        ),
    ] = "json"
    rows_per_shard: Annotated[
        int,
        Setting(
            "answer in shards of so many rows, decoded together over the same pages; 0: one answer (default: 0)",
            "model",
            metavar="ROWS",
            least=0,
        ),
    ] = 0
    fields_per_shard: Annotated[
        int, Setting("with it: header fields of a shard; 0: all (default: 0)", "model", metavar="FIELDS", least=0)
    ] = 0
    rank: Annotated[int, Setting("LoRA rank (default: 16)", "model", least=1)] = 16
    alpha: Annotated[int, Setting("LoRA alpha (default: 32)", "model", least=1)] = 32
    dropout: Annotated[float, Setting("LoRA dropout (default: 0)", "model", least=0, most=0.99)] = 0.0
    train_vision: Annotated[
        bool, Setting("LoRA on the vision tower too; such an adapter must be merged to be served", "model")
    ] = False
    train_merger: Annotated[bool, Setting("LoRA on the vision mergers too; must be merged to be served", "model")] = (
        False
    )
    train_experts: Annotated[bool, Setting("MoE: LoRA on the experts too; must be merged to be served", "model")] = (
        False
    )
    epochs: Annotated[float, Setting("passes over the data (default: 3)", "run", above=0)] = 3.0
    max_steps: Annotated[int, Setting("end after so many optimizer steps (default: by --epochs)", "run", least=0)] = 0
    learning_rate: Annotated[float, Setting("peak rate (default: 1e-4)", "run", above=0)] = 1e-4
    vision_rate: Annotated[
        float | None, Setting("with --train-vision (default: a tenth of --learning-rate)", "run", above=0)
    ] = None
    merger_rate: Annotated[
        float | None, Setting("with --train-merger (default: a tenth of --learning-rate)", "run", above=0)
    ] = None
    batch_size: Annotated[
        int, Setting("records a forward pass, without --tokens-per-batch (default: 1)", "run", least=1)
    ] = 1
    tokens_per_batch: Annotated[
        int,
        Setting(
            "as many records a forward pass as fit into this (default: 0, count records; or the preset's)",
            "run",
            metavar="TOKENS",
            least=0,
        ),
    ] = 0
    accumulate: Annotated[
        int, Setting("forward passes an optimizer step (default: 8, or the preset's)", "run", least=1)
    ] = 8
    packing: Annotated[
        str,
        Setting(
            "records one behind the other instead of padded (default: auto, with FlashAttention)",
            "run",
            choices=("auto", "on", "off"),
        ),
    ] = "auto"
    attention: Annotated[
        str,
        Setting(
            "attention kernels (default: auto, FlashAttention where it is installed)",
            "run",
            choices=("auto", "sdpa", "flash_attention_2"),
        ),
    ] = "auto"
    liger: Annotated[bool, Setting("Liger's fused norms and MLP (pip install liger-kernel; a GPU)", "run")] = False
    checkpointing: Annotated[
        str,
        Setting(
            "recompute activations: less memory, slower (default: auto, by a trial of the longest batch)",
            "run",
            choices=("auto", "on", "off"),
        ),
    ] = "auto"
    warmup: Annotated[
        float, Setting("share of the steps that the rate rises over (default: 0.05)", "run", least=0, most=1)
    ] = 0.05
    loader_workers: Annotated[
        int, Setting("processes that decode images (default: 0, or the preset's)", "run", least=0)
    ] = 0
    eval_each: Annotated[
        int, Setting("evaluate each N steps (default: each epoch)", "run", metavar="STEPS", least=0)
    ] = 0
    eval_documents: Annotated[
        int,
        Setting(
            "validation documents answered each time for field scores; 0: loss only (default: 16)",
            "run",
            metavar="N",
            least=0,
        ),
    ] = 16
    patience: Annotated[
        int,
        Setting("stop after N evaluations without a better score; 0: never (default: 0)", "run", metavar="N", least=0),
    ] = 0
    save_each: Annotated[
        int, Setting("checkpoint each N steps (default: each epoch)", "run", metavar="STEPS", least=0)
    ] = 0
    log_each: Annotated[int, Setting("log each N steps (default: 10)", "run", metavar="STEPS", least=1)] = 10
    seed: Annotated[int, Setting("order of the records and initial adapter (default: 0)", "run", least=0)] = 0
    threads: Annotated[int, Setting("CPU threads for torch; 0: its own choice (default: 0)", "run", least=0)] = 0

    def __post_init__(self) -> None:
        for name, known in known_settings().items():
            if sentence := known.refusal(getattr(self, name)):
                raise StageError(f"{flag_of(name)}: {sentence}")

    @property
    def adapter(self) -> AdapterSettings:
        """Which weights are trained, and how fast."""
        vision = (self.vision_rate or self.learning_rate / 10) if self.train_vision else None
        merger = (self.merger_rate or self.learning_rate / 10) if self.train_merger else None
        return AdapterSettings(
            self.rank, self.alpha, self.dropout, self.learning_rate, vision, merger, self.train_experts
        )

    def as_json(self) -> dict[str, Any]:
        """The settings as FILE_NAME holds them."""
        values = dataclasses.asdict(self)
        return {name: value.as_posix() if isinstance(value, Path) else value for name, value in values.items()}


@dataclass(frozen=True)
class Run:
    """One run: its base model (a folder or a hub name), the folder that it writes, and whether it goes on there."""

    model: str
    out: Path
    resume: bool = False


def known_settings() -> dict[str, Setting]:
    """What is known of each setting, by its name, in the order of the fields."""
    return {name: typing.get_args(hint)[1] for name, hint in _hints().items()}


def types_of_settings() -> dict[str, tuple[type, bool]]:
    """The type of each setting and whether it may be None."""
    result: dict[str, tuple[type, bool]] = {}
    for name, hint in _hints().items():
        kind = typing.get_args(hint)[0]
        parts = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        result[name] = (next(part for part in parts if part is not type(None)), type(None) in parts)
    return result


@functools.cache
def _hints() -> dict[str, Any]:
    return typing.get_type_hints(TrainingSettings, include_extras=True)


def flag_of(name: str) -> str:
    """The flag of a setting: `--batch-size` for `batch_size`."""
    return f"--{name.replace('_', '-')}"


def preset_for(memory_gib: float | None) -> str:
    """The preset of a GPU of this memory, as the driver reports it (less than the name says); none without a GPU."""
    if memory_gib is None:
        return "none"
    return next((name for name, least in (("141gb", 120), ("80gb", 70), ("48gb", 40)) if memory_gib >= least), "24gb")


def resolved(given: dict[str, Any], *, preset: str = "none", file: Path | None = None) -> TrainingSettings:
    """The settings of a run: what is `given` (by flags) wins over the file, the file over the preset.

    Raises StageError for a file that is none and for a value out of its range.
    """
    return TrainingSettings(**(PRESETS.get(preset, {}) | (values_of_file(file) if file else {}) | given))


def values_of_file(path: Path) -> dict[str, Any]:
    """Settings of a file that an earlier run or a person wrote.

    Raises StageError for a name that is no setting and for a value that does not fit.
    """
    value = read_json(path, most=MOST_SETTINGS_BYTES)
    if not isinstance(value, dict):
        raise StageError(f"{shown(path)}: settings are an object, for example {{'rank': 32}}")
    known, kinds = known_settings(), types_of_settings()
    result: dict[str, Any] = {}
    for name, given in value.items():
        if name in OF_ONE_RUN:
            continue
        if name not in known:
            raise StageError(f"{shown(path)}: {name!r} is no setting of train_lora.py; see --help")
        where = f"{shown(path)}: {name}"
        result[name] = _typed(given, *kinds[name], where)
        if sentence := known[name].refusal(result[name]):
            raise StageError(f"{where}: {sentence}")
    return result


def _typed(given: Any, kind: type, optional: bool, where: str) -> Any:
    """A value of a file as the setting's type; a number may be written as a text."""
    if given is None and optional:
        return None
    if kind is bool:
        if not isinstance(given, bool):
            raise StageError(f"{where}: true or false is needed, not {given!r}")
        return given
    try:
        if isinstance(given, bool) or not isinstance(given, str | int | float):
            raise ValueError
        return argument_path(str(given)) if kind is Path else kind(str(given))
    except ValueError:
        raise StageError(f"{where}: {given!r} is no value of this setting") from None
