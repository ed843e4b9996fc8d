"""Quantized weights: AWQ and GPTQ in 4 bit, FP8 in 8 bit, by llm-compressor or AutoAWQ (no longer maintained).

Only the linear layers of the language model are quantized. The vision tower (its MLP is 4,304 wide, which 64 does not
divide), the head and the router of a MoE model stay as they are. Calibration uses the user's own records, with pages
and answers, encoded as for training.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from toolkit.console import StageError
from toolkit.model.encoding import collate, encode_record
from toolkit.model.loading import set_stored_dtype

METHODS = ("awq", "gptq", "fp8")
GROUP_SIZE = 128
IGNORED_MODULES = ["re:.*lm_head", "re:.*visual.*", r"re:.*mlp\.gate$"]
DECODER_LAYER = {"qwen3_vl": "Qwen3VLTextDecoderLayer", "qwen3_vl_moe": "Qwen3VLMoeTextDecoderLayer"}
LAYER = r"re:.*language_model\.layers\.\d+\."


def check_divisible(config: Any, method: str) -> None:
    """Widths must divide into groups of 128. Raises StageError where one does not."""
    if method == "fp8":
        return
    text = config.text_config
    widths = {"hidden_size": text.hidden_size, "intermediate_size": text.intermediate_size}
    if hasattr(text, "moe_intermediate_size"):
        widths["moe_intermediate_size"] = text.moe_intermediate_size
    for name, width in widths.items():
        if width % 64:
            raise StageError(f"the model's {name} {width} does not divide by 64; use --method fp8")


def group_size_of(config: Any) -> int:
    """128, or 64 where a width asks for it."""
    text = config.text_config
    widths = [text.hidden_size, getattr(text, "moe_intermediate_size", None) or text.intermediate_size]
    return GROUP_SIZE if all(width % GROUP_SIZE == 0 for width in widths) else GROUP_SIZE // 2


def with_llmcompressor(
    model: Any, processor: Any, method: str, records: list[dict[str, Any]], root: Path, *, seed: int
) -> Any:
    """`model` quantized in memory, ready to answer and to save with `save_pretrained(..., save_compressed=True)`."""
    import torch
    from llmcompressor.entrypoints.oneshot import oneshot
    from llmcompressor.modeling.moe.linearize import linearize_moe
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier
    from loguru import logger

    quiet(logger)
    moe = model.config.model_type == "qwen3_vl_moe"
    if moe:
        # Each expert's 3-D weights become linear layers: vLLM loads this layout, and every expert is calibrated.
        model = linearize_moe(model)
    group = group_size_of(model.config)
    scheme: dict[str, Any] = {"targets": ["Linear"], "ignore": IGNORED_MODULES}
    if method == "fp8":
        recipe: list[Any] = [QuantizationModifier(scheme="FP8_DYNAMIC", **scheme)]
        oneshot(model=model, recipe=recipe, processor=processor, pipeline="datafree")
        return model
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    if method == "gptq":
        recipe = [GPTQModifier(config_groups=groups, ignore=IGNORED_MODULES)]
    else:
        mlp = r"mlp\.experts\.\d+\." if moe else r"mlp\."
        mappings = [
            AWQMapping(f"{LAYER}input_layernorm$", [f"{LAYER}self_attn\\.{p}_proj$" for p in "qkv"]),
            AWQMapping(f"{LAYER}self_attn\\.v_proj$", [f"{LAYER}self_attn\\.o_proj$"]),
            AWQMapping(
                f"{LAYER}post_attention_layernorm$",
                [f"{LAYER}{mlp}gate_proj$", f"{LAYER}{mlp}up_proj$", *([f"{LAYER}mlp\\.gate$"] if moe else [])],
            ),
            AWQMapping(f"{LAYER}{mlp}up_proj$", [f"{LAYER}{mlp}down_proj$"]),
        ]
        asymmetric = {"group_0": {"targets": ["Linear"], "weights": weights | {"symmetric": False}}}
        recipe = [
            AWQModifier(mappings=mappings),
            QuantizationModifier(config_groups=asymmetric, ignore=IGNORED_MODULES),
        ]
    if not torch.accelerator.is_available():
        let_cpu_calibrate()
    torch.manual_seed(seed)
    examples = [collate([encode_record(processor, record, root)], 0) for record in records]
    for example in examples:
        example.pop("labels")
    loader: Any = torch.utils.data.DataLoader(examples, batch_size=None)  # type: ignore[arg-type]
    oneshot(
        model=model,
        processor=processor,
        recipe=recipe,
        dataset=loader,
        num_calibration_samples=len(examples),
        max_seq_length=max(example["input_ids"].shape[1] for example in examples),
        pipeline="sequential",
        sequential_targets=[DECODER_LAYER[model.config.model_type]],
        moe_calibrate_all_experts=True,
    )
    return model


def quiet(logger: Any) -> None:
    """llm-compressor reports through loguru; only errors are shown."""
    logger.remove()
    logger.add(sys.stderr, level="ERROR")
    logging.getLogger("compressed_tensors").setLevel(logging.ERROR)


def let_cpu_calibrate() -> None:
    """Let llm-compressor 0.14 calibrate on a CPU: it pins tensors in memory, which fails without an accelerator."""
    from llmcompressor.pipelines.cache import IntermediatesCache

    IntermediatesCache.pin_memory = lambda *_, **__: None  # type: ignore[method-assign]


def with_autoawq(model: Any, processor: Any, records: list[dict[str, Any]], root: Path) -> Any:
    """`model` with AutoAWQ's GEMM layers, in memory.

    AutoAWQ 0.2.9 does not know Qwen3-VL, so the model class and the calibration on images are here.
    """
    if model.config.model_type != "qwen3_vl":
        raise StageError("AutoAWQ cannot quantize the fused experts of a MoE model; use --backend llmcompressor")
    import warnings

    import torch

    with warnings.catch_warnings(record=True):  # AutoAWQ warns at every import that it is no longer maintained
        from awq.modules.linear import gemm

    if not torch.cuda.is_available():
        gemm.TRITON_AVAILABLE = False  # its kernels need a GPU; without them the layers dequantize in plain torch
    group = group_size_of(model.config)
    config = {"zero_point": True, "q_group_size": group, "w_bit": 4, "version": "GEMM"}
    wrapped = autoawq_class(model)(model, "qwen3_vl", False, model.config, config, processor)
    quantizer = image_quantizer_class(model, processor, records, root)
    wrapped.quantize(processor.tokenizer, quant_config=config, quantizer_cls=quantizer)
    model.config.quantization_config = wrapped.quant_config.to_transformers_dict()
    set_stored_dtype(model.config, torch.float16)  # the only dtype of AutoAWQ's kernels
    return model.half()


def autoawq_class(model: Any) -> type:
    """AutoAWQ's description of Qwen3-VL: its layers, what stays as it is, and which layers share a scale."""
    from awq.models.base import BaseAWQForCausalLM

    class Qwen3VLAWQ(BaseAWQForCausalLM):
        layer_type = DECODER_LAYER["qwen3_vl"]
        modules_to_not_convert: ClassVar[list[str]] = ["visual", "lm_head"]

        @staticmethod
        def get_model_layers(_: Any) -> Any:
            return model.model.language_model.layers

        @staticmethod
        def get_act_for_scaling(_: Any) -> dict[str, Any]:
            return {"is_scalable": False}

        @staticmethod
        def move_embed(whole: Any, device: str) -> None:
            whole.model.language_model.embed_tokens.to(device)
            whole.model.language_model.rotary_emb.to(device)
            whole.model.visual.to(device)

        @staticmethod
        def get_layers_for_scaling(module: Any, features: Any, kwargs: Any) -> list[dict[str, Any]]:
            return scaling_pairs(module, features, kwargs)

    return Qwen3VLAWQ


def scaling_pairs(layer: Any, features: Any, kwargs: Any) -> list[dict[str, Any]]:
    """For each scale of a decoder layer: the module that absorbs it and the layers whose input it scales.

    Source: AWQ (arXiv 2306.00978). Values of attention share a scale with its output only where their shapes agree,
    which grouped queries rule out. `features` holds the inputs of each linear layer by its name.
    """
    attention, mlp = layer.self_attn, layer.mlp
    pairs = [
        {
            "prev_op": layer.input_layernorm,
            "layers": [attention.q_proj, attention.k_proj, attention.v_proj],
            "inp": features["self_attn.q_proj"],
            "module2inspect": attention,
            "kwargs": kwargs,
        }
    ]
    if attention.v_proj.weight.shape == attention.o_proj.weight.shape:
        inputs = features["self_attn.o_proj"]
        pairs.append({"prev_op": attention.v_proj, "layers": [attention.o_proj], "inp": inputs})
    pairs.append(
        {
            "prev_op": layer.post_attention_layernorm,
            "layers": [mlp.gate_proj, mlp.up_proj],
            "inp": features["mlp.gate_proj"],
            "module2inspect": mlp,
        }
    )
    pairs.append({"prev_op": mlp.up_proj, "layers": [mlp.down_proj], "inp": features["mlp.down_proj"]})
    return pairs


def image_quantizer_class(model: Any, processor: Any, records: list[dict[str, Any]], root: Path) -> type:
    """AutoAWQ's quantizer, which calibrates on texts, changed to calibrate on whole records: pages, prompt, answer."""
    from awq.quantize.quantizer import AwqQuantizer

    layers = model.model.language_model.layers

    class ImageQuantizer(AwqQuantizer):
        def init_quant(self, *_: Any, **__: Any) -> tuple[Any, dict[str, Any], Any]:
            examples = (encode_record(processor, record, root) for record in records)
            self.layer_inputs, angles = calibration_inputs(model, examples)
            return layers, {"position_embeddings": angles, "attention_mask": None}, self.layer_inputs[0]

        def _get_input_feat(self, layer: Any, named_linears: Any) -> Any:
            index = next(i for i, known in enumerate(layers) if known is layer)
            self.inps = self.layer_inputs[index]
            return super()._get_input_feat(layer, named_linears)

    return ImageQuantizer


def calibration_inputs(model: Any, examples: Iterable[dict[str, Any]]) -> tuple[list[Any], tuple[Any, Any]]:
    """The input of every decoder layer, [examples, tokens, hidden] each, and the rotary embedding's cosines and sines.

    They are recorded in full forward passes. Running the layers one by one from the embeddings would miss the vision
    features that Qwen3-VL also adds behind its first layers (deepstack). Shorter examples are padded with zeros on
    the right: zeros add nothing to a mean, and causal attention never looks there.
    """
    import torch
    from torch.nn.functional import pad

    layers = model.model.language_model.layers
    hidden: list[list[Any]] = [[] for _ in layers]
    rotary: list[tuple[Any, Any]] = []

    def keep(index: int) -> Any:
        def hook(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            hidden[index].append((args[0] if args else named["hidden_states"])[0].detach().cpu())
            if index == 0:
                rotary.append(tuple(part[0].cpu() for part in named["position_embeddings"]))

        return hook

    hooks = [layer.register_forward_pre_hook(keep(i), with_kwargs=True) for i, layer in enumerate(layers)]
    with torch.no_grad():
        for example in examples:
            batch = collate([example], 0)
            batch.pop("labels")
            # Without the head: its logits over the vocabulary would be the largest tensor of all.
            model.model(**{name: value.to(model.device) for name, value in batch.items()}, use_cache=False)
    for hook in hooks:
        hook.remove()
    length = max(len(states) for states in hidden[0])

    def stacked(tensors: list[Any]) -> Any:
        return torch.stack([pad(tensor, (0, 0, 0, length - len(tensor))) for tensor in tensors])

    cosines, sines = (stacked([both[part] for both in rotary]).to(model.device) for part in (0, 1))
    return [stacked(states) for states in hidden], (cosines, sines)


def save_quantized(model: Any, folder: Path, backend: str) -> None:
    """Write the weights in the form that vLLM reads: compressed-tensors (llm-compressor) or AutoAWQ's GEMM layout."""
    if backend == "autoawq":
        model.save_pretrained(folder, state_dict=model.state_dict(), save_original_format=False)
    else:
        model.save_pretrained(folder, save_compressed=True)
