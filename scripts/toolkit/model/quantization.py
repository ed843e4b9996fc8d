"""Smaller weights: AWQ and GPTQ in 4 bit, FP8 in 8, by llm-compressor (maintained) or AutoAWQ (not maintained any more).

Only the language model's linear layers are quantized: the vision tower (its 4,304-wide MLP does not divide by 64) and the
head stay as they are, on a MoE the router too. Calibration data are the user's own records, pages and answers included,
encoded as training encodes them.
"""

from __future__ import annotations

import logging
import sys
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
    from llmcompressor import oneshot
    from llmcompressor.modeling.moe.linearize import linearize_moe
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier
    from loguru import logger

    quiet(logger)
    moe = model.config.model_type == "qwen3_vl_moe"
    if moe:
        # 3-D expert weights become linear layers, one an expert: a layout that vLLM loads, and all of them are calibrated.
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
    """llm-compressor 0.14 pins calibration tensors in memory, which needs an accelerator; without one there is nothing to
    pin them for."""
    from llmcompressor.pipelines.cache import IntermediatesCache

    IntermediatesCache.pin_memory = lambda self, *_, **__: None  # type: ignore[method-assign]


def with_autoawq(model: Any, processor: Any, records: list[dict[str, Any]], root: Path) -> Any:
    """`model` with AutoAWQ's GEMM layers, in memory. AutoAWQ 0.2.9 knows no Qwen3-VL: class and image calibration are here."""
    if model.config.model_type != "qwen3_vl":
        raise StageError("AutoAWQ cannot quantize the fused experts of a MoE model; use --backend llmcompressor")
    import warnings

    import torch

    with warnings.catch_warnings(record=True):  # its farewell, at every import
        from awq.models.base import BaseAWQForCausalLM
        from awq.modules.linear import gemm
        from awq.quantize.quantizer import AwqQuantizer

    if not torch.cuda.is_available():
        gemm.TRITON_AVAILABLE = False  # its kernels want a GPU; without them the layers dequantize in plain torch
    layers = model.model.language_model.layers

    class Qwen3VLAWQ(BaseAWQForCausalLM):
        layer_type = "Qwen3VLTextDecoderLayer"
        modules_to_not_convert: ClassVar[list[str]] = ["visual", "lm_head"]

        @staticmethod
        def get_model_layers(_: Any) -> Any:
            return layers

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
            """Pairs of (what can absorb a scale, layers whose input it scales), as in the AWQ paper (arXiv 2306.00978)."""
            attention, mlp = module.self_attn, module.mlp
            pairs = [
                {
                    "prev_op": module.input_layernorm,
                    "layers": [attention.q_proj, attention.k_proj, attention.v_proj],
                    "inp": features["self_attn.q_proj"],
                    "module2inspect": attention,
                    "kwargs": kwargs,
                },
                {
                    "prev_op": module.post_attention_layernorm,
                    "layers": [mlp.gate_proj, mlp.up_proj],
                    "inp": features["mlp.gate_proj"],
                    "module2inspect": mlp,
                },
                {"prev_op": mlp.up_proj, "layers": [mlp.down_proj], "inp": features["mlp.down_proj"]},
            ]
            if attention.v_proj.weight.shape == attention.o_proj.weight.shape:
                inner = {"prev_op": attention.v_proj, "layers": [attention.o_proj], "inp": features["self_attn.o_proj"]}
                pairs.insert(1, inner)
            return pairs

    class ImageQuantizer(AwqQuantizer):
        """AutoAWQ calibrates on texts; this one on whole records: pages, prompt and answer in one padded batch.

        Qwen3-VL adds vision features behind its first layers too (deepstack), so each layer's own input is captured from a
        full forward pass instead of running the layers one by one from the embeddings.
        """

        def init_quant(self, n_samples: int = 0, max_seq_len: int = 0) -> tuple[Any, dict[str, Any], Any]:
            from torch.nn.functional import pad

            inputs: list[list[Any]] = [[] for _ in layers]
            rotary: list[tuple[Any, Any]] = []

            def keep(index: int) -> Any:
                def hook(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
                    inputs[index].append((args[0] if args else named["hidden_states"])[0].detach().cpu())
                    if index == 0:
                        rotary.append(tuple(part[0].cpu() for part in named["position_embeddings"]))

                return hook

            hooks = [layer.register_forward_pre_hook(keep(i), with_kwargs=True) for i, layer in enumerate(layers)]
            with torch.no_grad():
                for record in records:
                    batch = collate([encode_record(processor, record, root)], 0)
                    batch.pop("labels")
                    # Without the head: its logits over the vocabulary would be the largest tensor of all.
                    model.model(**{name: value.to(model.device) for name, value in batch.items()}, use_cache=False)
            for hook in hooks:
                hook.remove()
            length = max(len(hidden) for hidden in inputs[0])
            # Padded with zeros, which add nothing to any mean; behind the text, where causal attention never looks.
            self.layer_inputs = [torch.stack([pad(h, (0, 0, 0, length - len(h))) for h in found]) for found in inputs]
            angles = tuple(
                torch.stack([pad(both[part], (0, 0, 0, length - len(both[part]))) for both in rotary]).to(model.device)
                for part in (0, 1)
            )
            return layers, {"position_embeddings": angles, "attention_mask": None}, self.layer_inputs[0]

        def _get_input_feat(self, layer: Any, named_linears: Any) -> Any:
            index = next(i for i, known in enumerate(layers) if known is layer)
            self.inps = self.layer_inputs[index]
            return super()._get_input_feat(layer, named_linears)

    group = group_size_of(model.config)
    config = {"zero_point": True, "q_group_size": group, "w_bit": 4, "version": "GEMM"}
    wrapped = Qwen3VLAWQ(model, "qwen3_vl", False, model.config, config, processor)
    wrapped.quantize(processor.tokenizer, quant_config=config, quantizer_cls=ImageQuantizer)
    model.config.quantization_config = wrapped.quant_config.to_transformers_dict()
    set_stored_dtype(model.config, torch.float16)  # AutoAWQ's kernels take nothing else
    return model.half()


def save_quantized(model: Any, folder: Path, backend: str) -> None:
    """Write the weights in the form that vLLM reads: compressed-tensors (llm-compressor) or AutoAWQ's GEMM layout."""
    if backend == "autoawq":
        model.save_pretrained(folder, state_dict=model.state_dict(), save_original_format=False)
    else:
        model.save_pretrained(folder, save_compressed=True)
