"""Model and adapter folders as files: completeness, fit of adapter and base, files that are copied along, provenance.

No model is loaded. Only the headers of safetensors files are read, so checking 60 GB takes milliseconds.
"""

from __future__ import annotations

import json
import shutil
import struct
import tarfile
from pathlib import Path
from typing import Any

from toolkit.console import StageError
from toolkit.files import read_json, sha256_of, shown, write_json
from toolkit.model.contract import FILE_NAME as CONTRACT

PROVENANCE = "provenance.json"
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Everything that a server needs beside weights and config; a merge or a quantizer that leaves one out breaks serving.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
)
MAX_ARCHIVE_BYTES = 40 * 2**30
MAX_HEADER_BYTES = 100 * 2**20  # the safetensors format's own limit


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """`{tensor name: shape}` of a safetensors file, from its header. Raises StageError where it is cut or damaged.

    Format: 8 bytes little-endian header length, a JSON header with `data_offsets`, the data
    (https://github.com/huggingface/safetensors#format).
    """
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            if length > MAX_HEADER_BYTES:
                raise ValueError("header too long")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if path.stat().st_size != 8 + length + end:
            raise ValueError(f"{path.stat().st_size} bytes, {8 + length + end} expected")
        return {name: tuple(entry["shape"]) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        if isinstance(error, FileNotFoundError):
            raise StageError(f"{shown(path)}: the weights file is missing; copy the model folder again") from None
        reason = " ".join(str(error).split())[:100]
        raise StageError(f"{shown(path)}: the weights file is cut off or damaged ({reason}); copy it again") from None


def weight_files(folder: Path) -> list[Path]:
    """The model's safetensors files by its index. Raises StageError where one is missing."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / WEIGHTS_INDEX).is_file():
        raise StageError(
            f"{shown(folder)}: no {WEIGHTS} and no {WEIGHTS_INDEX} here; the copy of the model is not complete"
        )
    index = read_json(folder / WEIGHTS_INDEX)
    names = sorted(set(index.get("weight_map", {}).values())) if isinstance(index, dict) else []
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        count = f"{len(missing)} of {len(names)} weight files are missing ({', '.join(missing[:3])})"
        raise StageError(f"{shown(folder)}: {count}; copy the model folder again")
    return [folder / name for name in names]


def model_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of every weight of a model folder; each file is checked on the way."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        shapes |= tensor_shapes(path)
    return shapes


def weight_bytes(folder: Path) -> int:
    """Bytes of all weight files in the folder."""
    return sum(path.stat().st_size for path in weight_files(folder))


def check_model_folder(folder: Path, *, contract: bool = True) -> dict[str, Any]:
    """The config of a complete model folder. Raises StageError for the first part that is missing."""
    if not folder.is_dir():
        hub_name = folder.as_posix()
        hint = f"; a hub's model is downloaded first: hf download {hub_name} --local-dir models/{folder.name}"
        raise StageError(f"model folder not found: {shown(folder)}{hint if hub_name.count('/') == 1 else ''}")
    if not (folder / "config.json").is_file():
        hint = (
            "this is an adapter; merge it with merge_adapter.py, or serve its base model with --adapter"
            if (folder / ADAPTER_CONFIG).is_file()
            else "give a folder that merge_adapter.py or quantize_awq.py wrote"
        )
        raise StageError(f"{shown(folder)}: no config.json here; {hint}")
    config = read_json(folder / "config.json")
    model_shapes(folder)
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise StageError(f"{shown(folder)}: no tokenizer.json here; the copy of the model is not complete")
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise StageError(f"{shown(folder)}: no processor here (preprocessor_config.json); the copy is not complete")
    if not has_chat_template(folder):
        raise StageError(f"{shown(folder)}: no chat template here (chat_template.jinja); the copy is not complete")
    if contract and not (folder / CONTRACT).is_file():
        hint = (
            "give a folder that merge_adapter.py or quantize_awq.py wrote, or a base model with --adapter or --schema"
        )
        raise StageError(f"{shown(folder)}: no {CONTRACT} here; {hint}")
    return dict(config)


def has_chat_template(folder: Path) -> bool:
    """Whether the folder brings a chat template, in a file of its own or in the tokenizer's configuration."""
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and "chat_template" in read_json(path)


def check_adapter_folder(folder: Path, base: dict[str, tuple[int, ...]] | None) -> dict[str, Any]:
    """The LoRA config of a complete adapter. With `base` (weight shapes) every LoRA pair must find its weight there.

    Raises StageError: not an adapter, damaged, a DoRA adapter, made for another base or for a text-only model.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        raise StageError(f"{shown(folder)}: no {ADAPTER_CONFIG} here; give the folder that train_lora.py wrote")
    config = dict(read_json(folder / ADAPTER_CONFIG))
    if config.get("use_dora"):
        advice = "its magnitudes are lost in a merge and in serving; train without DoRA"
        raise StageError(f"{shown(folder)}: a DoRA adapter: {advice}")
    shapes = tensor_shapes(folder / ADAPTER_WEIGHTS)
    if not shapes:
        raise StageError(f"{shown(folder)}: the adapter holds no weights")
    if not any(".language_model." in name for name in shapes):
        raise StageError(
            f"{shown(folder)}: a text-only adapter: no weight of it belongs to Qwen3-VL's language model, "
            "and a server would ignore it silently"
        )
    for name, shape in shapes.items() if base is not None else ():
        module, _, part = name.removeprefix("base_model.model.").partition(".lora_")
        side = part[:1]
        weight = (base or {}).get(f"{module}.weight") or expert_weight(base or {}, module, side, shape)
        if side not in ("A", "B") or weight is None:
            raise StageError(f"{shown(folder)}: the adapter does not fit this base model: {name} has no counterpart")
        fits = shape[1] == weight[-1] if side == "A" else shape[0] == weight[-2]
        if not fits:
            sizes = f"{name} is {list(shape)}, the base's weight {list(weight)}"
            raise StageError(f"{shown(folder)}: the adapter is of another base model: {sizes}")
    return config


def expert_weight(
    base: dict[str, tuple[int, ...]], module: str, side: str, shape: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Shape [experts, out, in] of the fused experts' weight that a LoRA pair belongs to; None where there is none.

    peft names the pair after its module, and adds one `base_layer` for each further parameter of that module, so only
    the sizes tell which parameter it is.
    """
    place = -1 if side == "A" else -2
    size = shape[1] if side == "A" else shape[0]
    own = module.replace(".base_layer", "") + "."
    return next((s for n, s in base.items() if n.startswith(own) and len(s) == 3 and s[place] == size), None)


def copy_companions(source: Path, target: Path) -> list[str]:
    """Copy tokenizer, processor, template, generation config and contract to `target` where it lacks them.

    Returns the names of the copied files.
    """
    copied = []
    for name in (*COMPANIONS, CONTRACT):
        if (source / name).is_file() and not (target / name).is_file():
            shutil.copyfile(source / name, target / name)
            copied.append(name)
    return copied


def write_provenance(folder: Path, made_by: str, sources: dict[str, Path | str], **more: Any) -> None:
    """Write `provenance.json`: the script, its sources (SHA-256 of every weights file) and the package versions."""
    from toolkit.model.contract import package_versions

    described: dict[str, Any] = {}
    for role, source in sources.items():
        path = Path(source)
        entry: dict[str, Any] = {"path": shown(path) if path.exists() else str(source)}
        if path.is_dir():
            files = [path / ADAPTER_WEIGHTS] if (path / ADAPTER_WEIGHTS).is_file() else weight_files(path)
            entry["sha256"] = {file.name: sha256_of(file) for file in files}
            if (path / PROVENANCE).is_file():
                entry["provenance"] = read_json(path / PROVENANCE)
        described[role] = entry
    versions = package_versions("torch", "transformers", "peft", "llmcompressor", "compressed-tensors", "autoawq")
    write_json(folder / PROVENANCE, {"made_by": made_by, "sources": described, "versions": versions, **more})


def unpacked_adapter(path: Path, scratch: Path) -> Path:
    """The adapter's folder: `path` itself, or what a `.tgz` / `.tar.gz` / `.tar` of one unpacks to below `scratch`."""
    if path.is_dir():
        return path
    if not path.is_file():
        raise StageError(f"adapter not found: {shown(path)}")
    unpack(path, scratch, "an adapter")
    folders = sorted({config.parent for config in scratch.rglob(ADAPTER_CONFIG)})
    if len(folders) != 1:
        raise StageError(f"{shown(path)}: {len(folders)} adapters inside ({ADAPTER_CONFIG}); it must hold exactly one")
    return folders[0]


def unpack(path: Path, folder: Path, what: str) -> None:
    """Unpack a .tgz, .tar.gz or .tar into `folder`.

    A name or link that leaves the folder is refused, and leading slashes are removed (tarfile's "data" filter).
    """
    try:
        with tarfile.open(path) as archive:
            size = 0
            for member in archive:
                size += member.size
                if size > MAX_ARCHIVE_BYTES:
                    raise StageError(f"{shown(path)}: unpacks to more than {MAX_ARCHIVE_BYTES >> 30} GB; not {what}")
                archive.extract(member, folder, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise StageError(f"{shown(path)}: not {what} archive ({' '.join(str(error).split())[:120]})") from None
