"""The sizes of Qwen3-VL as their published configurations give them, and what follows: parameters, bytes, work per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VOCABULARY = 151_936
IMAGE_TOKEN = 151_655  # <|image_pad|>
PATCHES_PER_TOKEN = 4  # the merger takes 2 x 2 patches to one vision token


@dataclass(frozen=True)
class ModelShape:
    """Widths of the language model (`hidden`, `intermediate` per MLP or expert) and of the vision tower; `experts` 0: dense."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vision_hidden: int
    vision_layers: int
    vision_intermediate: int
    tied: bool = False
    experts: int = 0
    active_experts: int = 1
    head_width: int = 128
    vocabulary: int = VOCABULARY

    @property
    def attention(self) -> int:
        """Attention weights of one layer."""
        return self.hidden * self.head_width * (2 * self.heads + 2 * self.kv_heads)

    def layer_weights(self, experts: int) -> int:
        router = self.hidden * self.experts
        return self.attention + 3 * self.hidden * self.intermediate * experts + router

    @property
    def linear(self) -> int:
        """Weights of all linear layers of the language model: what a 4-bit form stores in 4 bit."""
        return self.layers * self.layer_weights(self.experts or 1)

    @property
    def active(self) -> int:
        """Linear weights that one token passes through."""
        return self.layers * self.layer_weights(self.active_experts)

    @property
    def head(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def embeddings(self) -> int:
        """Weights of the embedding and the head; one table where they are tied."""
        return self.head * (1 if self.tied else 2)

    @property
    def vision(self) -> int:
        """Weights of the vision tower with its merger and the three deepstack mergers."""
        wide = 4 * self.vision_hidden
        block = 4 * self.vision_hidden**2 + 2 * self.vision_hidden * self.vision_intermediate
        merger = wide * wide + wide * self.hidden
        return self.vision_layers * block + 4 * merger + 1536 * self.vision_hidden + 2304 * self.vision_hidden

    @property
    def parameters(self) -> int:
        return self.linear + self.embeddings + self.vision

    def kv_bytes(self, bytes_per_value: float = 2) -> float:
        """Keys and values of one token in all layers (147,456 on the 8B in bf16)."""
        return 2 * self.layers * self.kv_heads * self.head_width * bytes_per_value

    def lora_weights(self, rank: int) -> int:
        """Weights of a LoRA on attention and MLP; on attention alone where the model is a mixture of experts."""
        q, kv = self.heads * self.head_width, self.kv_heads * self.head_width
        attention = 2 * (self.hidden + q) + 2 * (self.hidden + kv)
        mlp = 0 if self.experts else 3 * (self.hidden + self.intermediate)
        return self.layers * rank * (attention + mlp)


SHAPES = {
    "2b": ModelShape("Qwen3-VL-2B", 2048, 28, 16, 8, 6144, 1024, 24, 4096, tied=True),
    "4b": ModelShape("Qwen3-VL-4B", 2560, 36, 32, 8, 9728, 1024, 24, 4096, tied=True),
    "8b": ModelShape("Qwen3-VL-8B", 4096, 36, 32, 8, 12288, 1152, 27, 4304),
    "32b": ModelShape("Qwen3-VL-32B", 5120, 64, 64, 8, 25600, 1152, 27, 4304),
    "30b-a3b": ModelShape("Qwen3-VL-30B-A3B", 2048, 48, 32, 4, 768, 1152, 27, 4304, experts=128, active_experts=8),
}


def shape_of_config(config: dict[str, Any], name: str) -> ModelShape:
    """The shape of a model folder's `config.json`. Raises KeyError where that is no Qwen3-VL's."""
    text, vision = config["text_config"], config["vision_config"]
    experts = int(text.get("num_experts") or 0)
    return ModelShape(
        name,
        text["hidden_size"],
        text["num_hidden_layers"],
        text["num_attention_heads"],
        text["num_key_value_heads"],
        text["moe_intermediate_size"] if experts else text["intermediate_size"],
        vision["hidden_size"],
        vision["depth"],
        vision["intermediate_size"],
        tied=bool(config.get("tie_word_embeddings")),
        experts=experts,
        active_experts=text["num_experts_per_tok"] if experts else 1,
        head_width=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
        vocabulary=text["vocab_size"],
    )


def config_of(shape: ModelShape) -> Any:
    """A transformers configuration of this shape, as the published ones have it, for a model of random weights (dense sizes only)."""
    import transformers

    if shape.experts:
        raise ValueError("only the dense sizes are built from their shape")
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_width,
        "max_position_embeddings": 262144,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5000000.0,
            "mrope_interleaved": True,
            "mrope_section": [
                shape.head_width // 2 - 2 * (shape.head_width * 5 // 32),
                shape.head_width * 5 // 32,
                shape.head_width * 5 // 32,
            ],
        },
        "tie_word_embeddings": shape.tied,
        "attention_bias": False,
    }
    third = max(1, shape.vision_layers // 3)
    vision = {
        "depth": shape.vision_layers,
        "hidden_size": shape.vision_hidden,
        "intermediate_size": shape.vision_intermediate,
        "num_heads": 16,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_channels": 3,
        "out_hidden_size": shape.hidden,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [third - 1, 2 * third - 1, 3 * third - 1] if shape.vision_layers >= 3 else [0],
    }
    return transformers.Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=shape.tied,
        image_token_id=IMAGE_TOKEN,
        video_token_id=151656,
        vision_start_token_id=151652,
        vision_end_token_id=151653,
    )
