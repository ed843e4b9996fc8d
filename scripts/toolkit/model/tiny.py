"""A miniature Qwen3-VL: the real architecture, processor, chat template and token rules, small enough for a CPU.

Used by `make_tiny_model.py` (random weights, dense or MoE, for tests) and `train_reading_base.py` (the reading base that
the quickstart fine-tunes). Every class comes from transformers; only the sizes and the vocabulary are ours, so the same
scripts and code paths run on this model and on Qwen3-VL-8B.
"""

from __future__ import annotations

from typing import Any

# Special tokens with Qwen's names and Qwen's order; the ids differ, because the vocabulary is smaller.
SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]

# The same turns as Qwen3-VL's published template for the messages this project sends: text and images, no tools.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}"
    "{%- else -%}"
    "{%- for item in message.content -%}"
    "{%- if item.type == 'image' or 'image' in item or 'image_url' in item -%}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif 'text' in item -%}{{- item.text -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)

# One token per digit, as in Qwen's tokenizer. Capitals are single tokens too, so that one printed character of the easy
# layout is one token; lower-case words (field names, prompts) and punctuation runs (JSON) are merged as usual.
PRE_TOKENIZER_PATTERN = r"[a-z_]+|\p{N}|\p{Lu}|\s|[^\s\p{L}\p{N}]+|\p{L}"

# Text the vocabulary is trained on: the words of the schemas and prompts of this project, JSON, English in lower case.
VOCABULARY_TEXT = """
role system user assistant
you read documents and return one json object that follows the given fields exactly
read the page images and extract the fields of the bill of lading as compact json
extract the invoice receipt bank statement form document fields from pages image images json only
copy values exactly as printed use null when a value is not printed one row per container line item transaction
string number integer boolean array object date value one of items fields rows description title format null true false
value line pairs table count several first last row column words none of the page says which what how many list
consignee_name bl_number vessel_name port_of_loading port_of_discharge detention_free_days demurrage_free_days
combined_free_days container_summary containers container_number container_size container_type
invoice_number invoice_date due_date seller_name buyer_name currency subtotal tax_total total lines description quantity
unit_price amount company date address total account_number account_holder bank_name statement_date period_start
period_end opening_balance closing_balance transactions balance form_title form_date fields name checked label entries
name size type number
"""
JSON_SNIPPETS = [
    '{"',
    '":"',
    '","',
    '":',
    ',"',
    '":[',
    '":[{"',
    '"},{"',
    '"}]}',
    '"}',
    '"]',
    '["',
    '"],["',
    '":null,"',
    '":null}',
    "}]}",
    "]]",
    "[[",
]


def build_tokenizer(vocab_size: int = 768) -> Any:
    """Train the byte-level BPE tokenizer of the tiny model on `VOCABULARY_TEXT`; any text encodes and decodes exactly.

    Returns a `Qwen2Tokenizer` whose special tokens carry Qwen's names.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENIZER_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=SPECIAL_TOKENS,
        show_progress=False,
    )
    tokenizer.train_from_iterator([VOCABULARY_TEXT] * 3 + JSON_SNIPPETS * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL_TOKENS[1:],
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: Any, *, moe: bool = False) -> Any:
    """Configuration of the miniature: 5 text layers of width 128, 2 vision layers of width 96, patch 16, merge 2.

    The rules that a Qwen3-VL configuration must keep: `sum(mrope_section) == head_dim // 2`, a square
    `num_position_embeddings`, vision `out_hidden_size` equal to the text width, `tie_word_embeddings` at both levels.
    """
    import transformers

    text: dict[str, Any] = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "max_position_embeddings": 32768,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
        "initializer_range": 0.05,
        "attention_bias": False,
        "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
    }
    if moe:
        # Neither 2*I == H nor I == H, so that transposed expert layouts cannot be mistaken for each other.
        text |= {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 192,
            "decoder_sparse_step": 1,
            "norm_topk_prob": True,  # transformers always does; vLLM reads it from the hub's configuration
            "mlp_only_layers": [],
        }
    vision = {
        "depth": 2,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 4,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_channels": 3,
        "out_hidden_size": 128,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [0],
        "initializer_range": 0.05,
    }
    ids = {
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }
    config_class = transformers.Qwen3VLMoeConfig if moe else transformers.Qwen3VLConfig
    return config_class(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def build_processor(tokenizer: Any) -> Any:
    """Qwen3-VL's own processor (patch 16, merge 2, mean and deviation 0.5) around the tiny tokenizer."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    image_processor = Qwen2VLImageProcessor(
        patch_size=16,
        temporal_patch_size=2,
        merge_size=2,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        size={"shortest_edge": 4 * 1024, "longest_edge": 16384 * 1024},
    )
    video_processor = Qwen3VLVideoProcessor(patch_size=16, temporal_patch_size=2, merge_size=2)
    return Qwen3VLProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        video_processor=video_processor,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(config: Any, *, seed: int) -> Any:
    """A random-weight model of `config` in float32; the same seed gives the same weights."""
    import torch
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config)
    model.generation_config.eos_token_id = config.text_config.eos_token_id
    model.generation_config.pad_token_id = config.text_config.pad_token_id
    model.generation_config.do_sample = False
    return model.float()
