"""Settings of a run from a preset or a file: flags that are given win over the file, the file over the preset."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from toolkit.console import StageError
from toolkit.files import MOST_SETTINGS_BYTES, read_json, shown

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
# What belongs to one run and not to how it is trained.
OF_ONE_RUN = {"train", "val", "out", "root", "settings", "preset", "resume", "overwrite", "json", "limit", "help"}


def preset_for(memory_gib: float | None) -> str:
    """The preset of a GPU of this memory, as the driver reports it (less than the name says); none without a GPU."""
    if memory_gib is None:
        return "none"
    return next((name for name, least in (("141gb", 120), ("80gb", 70), ("48gb", 40)) if memory_gib >= least), "24gb")


def settings_from(path: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Settings of a file that an earlier run or a person wrote.

    Raises StageError for a name that is no setting and for a value that does not fit.
    """
    value = read_json(path, most=MOST_SETTINGS_BYTES)
    if not isinstance(value, dict):
        raise StageError(f"{shown(path)}: settings are an object, for example {{'rank': 32}}")
    actions = {action.dest: action for action in parser._actions}
    found: dict[str, Any] = {}
    for name, given in value.items():
        action = actions.get(name)
        if action is None:
            raise StageError(f"{shown(path)}: {name!r} is no setting of train_lora.py; see --help")
        if name in OF_ONE_RUN:
            continue
        if given is not None and action.type is not None:
            try:
                given = action.type(str(given))  # type: ignore[operator]
            except (ValueError, argparse.ArgumentTypeError):
                raise StageError(f"{shown(path)}: {name}: {given!r} is no value of this setting") from None
        if action.choices is not None and given not in action.choices:
            raise StageError(f"{shown(path)}: {name}: {given!r} is none of {', '.join(map(str, action.choices))}")
        if isinstance(action, argparse._StoreTrueAction) and not isinstance(given, bool):
            raise StageError(f"{shown(path)}: {name}: true or false is needed, not {given!r}")
        found[name] = given
    return found


def parsed(parser: argparse.ArgumentParser, argv: list[str] | None, memory_gib: Any) -> argparse.Namespace:
    """The arguments with preset and file filled in; `memory_gib()` gives the GPU's memory, or None."""
    args = parser.parse_args(argv)
    name = preset_for(memory_gib()) if args.preset == "auto" else args.preset
    defaults = dict(PRESETS.get(name, {}))
    if args.settings:
        defaults |= settings_from(args.settings, parser)
    parser.set_defaults(**defaults)
    args = parser.parse_args(argv)
    args.preset = name
    return args
