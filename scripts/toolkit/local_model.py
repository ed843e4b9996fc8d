"""Answers from a model on this machine: transformers' greedy generate under the same grammar as the server (xgrammar)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.batches import collate, encode_prompt
from toolkit.contract import Contract
from toolkit.target_schema import compact_json


@dataclass
class Answer:
    """One answer as the model gave it. `finish_reason` is stop or length; `usage` counts tokens; `seconds` is wall time of
    the batch it was decoded in."""

    raw: str
    finish_reason: str
    usage: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


class LocalModel:
    """A base model, or a base model with an adapter, that answers as its contract says."""

    def __init__(self, model: str, adapter: Path | None, contract: Contract, *, grammar: bool = True) -> None:
        from toolkit.qwen3vl import load_adapter, load_config, load_model, load_processor

        self.contract = contract
        self.config = load_config(model)
        self.processor = load_processor(str(adapter) if adapter else model, contract.image_max_tokens)
        self.processor.tokenizer.padding_side = "left"
        self.model = load_model(model)
        if adapter:
            self.model = load_adapter(self.model, adapter)
        self.model.eval()
        self.end_id = self.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.grammar = self._compiled_grammar() if grammar else None
        self.suppressed = control_tokens(self.processor.tokenizer) if grammar else None

    def _compiled_grammar(self) -> Any:
        import xgrammar

        info = xgrammar.TokenizerInfo.from_huggingface(
            self.processor.tokenizer, vocab_size=self.config.text_config.vocab_size, stop_token_ids=[self.end_id]
        )
        # The same form that the server compiles with its white-space switch: separators without spaces, keys in order.
        return xgrammar.GrammarCompiler(info).compile_json_schema(
            compact_json(self.contract.target.grammar()), any_whitespace=False, separators=(",", ":"), strict_mode=True
        )

    def answers(self, documents: list[list[Any]]) -> list[Answer]:
        """One answer per document, decoded in one batch; a document is the list of its page images (PIL, RGB)."""
        import torch
        import xgrammar.contrib.hf

        started = time.monotonic()
        inputs = [encode_prompt(self.processor, self.contract.prompt, pages) for pages in documents]
        batch = {
            name: value.to(self.model.device)
            for name, value in collate(inputs, self.processor.tokenizer.pad_token_id, left=True).items()
        }
        processors = [xgrammar.contrib.hf.LogitsProcessor(self.grammar)] if self.grammar is not None else []
        with torch.inference_mode():
            output = self.model.generate(
                **batch, max_new_tokens=self.contract.max_answer_tokens, do_sample=False, logits_processor=processors,
                eos_token_id=self.end_id, pad_token_id=self.processor.tokenizer.pad_token_id, suppress_tokens=self.suppressed,
            )  # fmt: skip
        seconds = time.monotonic() - started
        result = []
        for number, row in enumerate(output[:, batch["input_ids"].shape[1] :].tolist()):
            stopped = self.end_id in row
            tokens = row[: row.index(self.end_id)] if stopped else row
            usage = {"prompt_tokens": len(inputs[number]["input_ids"]), "completion_tokens": len(tokens) + stopped}
            text = self.processor.tokenizer.decode(tokens, skip_special_tokens=False)
            result.append(Answer(text, "stop" if stopped else "length", usage, round(seconds, 3)))
        return result


def control_tokens(tokenizer: Any) -> list[int] | None:
    """Tokens that hold a control character; compact JSON has none, but xgrammar lets them into a string with a `maxLength`.

    Byte-level vocabularies (Qwen's) write the bytes 0x00 to 0x1F as the characters U+0100 to U+011F.
    """
    found = [
        number
        for token, number in tokenizer.get_vocab().items()
        if any("\u0100" <= character <= "\u011f" for character in token)
    ]
    return sorted(found) or None


def batches_of(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
