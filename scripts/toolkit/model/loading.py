"""Loading Qwen3-VL (dense and MoE, every size), and what is special about it: LoRA targets, image budget, 4 bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.console import StageError, one_line
from toolkit.files import shown
from toolkit.model.devices import own_device
from toolkit.model.libraries import prepare_model_libraries

# Attention and MLP of the language model, by name. "all-linear" would also take the vision tower and the merger, whose
# LoRA vLLM ignores, and the router of a MoE model.
LORA_TARGETS = r".*model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
LORA_TARGETS_ATTENTION = r".*model\.language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"
# bitsandbytes compares these with full module names: "visual" alone skips nothing.
NF4_SKIPPED = ["model.visual", "lm_head"]
MODEL_TYPES = ("qwen3_vl", "qwen3_vl_moe")
MIN_PIXELS = 4 * 32 * 32


def load_config(model: str) -> Any:
    """The model's configuration. Raises StageError where the folder or name holds no Qwen3-VL."""
    from transformers import AutoConfig

    folder = Path(model)
    if folder.exists() and not (folder / "config.json").is_file():
        hint = (
            "it is an adapter; give the base model with --model and this folder with --adapter"
            if (folder / "adapter_config.json").is_file()
            else "give a model folder"
        )
        raise StageError(f"{model}: no config.json here; {hint}")
    if not folder.exists() and (model.startswith((".", "/")) or "\\" in model or model.count("/") != 1):
        raise StageError(f"model folder not found: {model}")
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise StageError(f"{model}: the model cannot be loaded: {one_line(error)}") from None
    if config.model_type not in MODEL_TYPES:
        raise StageError(
            f"{model}: this is a {config.model_type} model; the project is made for {' and '.join(MODEL_TYPES)}"
        )
    return config


def is_moe(config: Any) -> bool:
    """Whether a transformers configuration is Qwen3-VL's mixture of experts."""
    return bool(config.model_type == "qwen3_vl_moe")


def load_processor(model: str, image_max_tokens: int) -> Any:
    """The model's processor with the one resolution limit: `image_max_tokens` vision tokens of 32 x 32 px a page."""
    prepare_model_libraries()
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise StageError(f"{model}: the processor cannot be loaded: {one_line(error)}") from None
    processor.image_processor.size = {"shortest_edge": MIN_PIXELS, "longest_edge": image_max_tokens * 32 * 32}
    processor.image_processor.min_pixels = MIN_PIXELS
    processor.image_processor.max_pixels = image_max_tokens * 32 * 32
    return processor


def load_model(
    model: str,
    *,
    nf4: bool = False,
    device: str | None = None,
    dtype: Any = None,
    attention: str = "sdpa",
    fsdp: bool = False,
) -> Any:
    """The model in bfloat16 on this process's GPU, in float32 on a CPU (or `dtype`); with `nf4` in 4 bit, vision tower
    and head excepted.

    `fsdp`: left in main memory, from where accelerate gives each GPU its shards. Weights in 4 bit are not cut into
    shards and go onto the GPU.
    """
    prepare_model_libraries()
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    device = device or own_device()
    dtype = dtype or compute_dtype(device)
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention}
    if device != "cpu" and (nf4 or not fsdp):
        options["device_map"] = {"": device}
    if nf4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=NF4_SKIPPED,
        )
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(model, **options)
    except (OSError, ValueError) as error:
        raise StageError(f"{model}: the weights cannot be loaded: {one_line(error)}") from None
    if not nf4 and hasattr(loaded, "hf_device_map"):
        del loaded.hf_device_map  # llm-compressor takes a model with a map for one that is spread over devices
    return loaded


def compute_dtype(device: str) -> Any:
    """float32 on the CPU, whose bfloat16 is slow; bfloat16 elsewhere."""
    import torch

    return torch.float32 if device == "cpu" else torch.bfloat16


def load_adapter(model: Any, adapter: Path) -> Any:
    """`model` with a LoRA adapter. Raises StageError where a weight of either finds no place in the other."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    if not (adapter / "adapter_config.json").is_file():
        raise StageError(f"{shown(adapter)}: no adapter_config.json here; give the folder that train_lora.py wrote")
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter))
    except (ValueError, RuntimeError, OSError) as error:
        raise StageError(f"{shown(adapter)}: the adapter does not fit this base model: {one_line(error)}") from None
    # peft passes over weights that find no place, and then answers as the base model would.
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    loaded = {name: tuple(weight.shape) for name, weight in get_peft_model_state_dict(adapted).items()}
    if stored != loaded:
        odd = sorted(set(stored.items()) ^ set(loaded.items()))[0][0]
        raise StageError(f"{shown(adapter)}: the adapter does not fit this base model: {odd} has no counterpart")
    return adapted


def stored_dtype(config: Any) -> Any:
    """The dtype that a model folder says its weights are in; bfloat16 where it does not say."""
    import torch

    return getattr(config, "dtype", None) or config.text_config.dtype or torch.bfloat16


def set_stored_dtype(config: Any, dtype: Any) -> None:
    """The dtype in every part of a configuration: a server may read any of them."""
    for part in (config, config.text_config, config.vision_config):
        part.dtype = dtype


def save_model(model: Any, folder: Path) -> None:
    """Write weights and config in the layout of the hub, which servers expect.

    transformers 5 keeps a MoE's fused experts transposed against the hub (`gate_up_proj` [experts, 2 I, H] instead of
    [experts, H, 2 I]); vLLM reads the hub's.
    """
    state = model.state_dict()
    if is_moe(model.config):
        text = model.config.text_config
        inside = (text.num_experts, 2 * text.moe_intermediate_size, text.hidden_size)
        for name, weight in state.items():
            if name.endswith(("mlp.experts.gate_up_proj", "mlp.experts.down_proj")):
                state[name] = weight.transpose(1, 2).contiguous()
            if name.endswith("mlp.experts.gate_up_proj") and tuple(weight.shape) != inside:
                raise StageError(
                    f"{name} is {list(weight.shape)}, {list(inside)} expected: another transformers layout"
                )
    # As given: the conversion that transformers applies when it saves would turn the experts back.
    model.save_pretrained(folder, state_dict=state, save_original_format=False)
