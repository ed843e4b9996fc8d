"""Lengths of records in tokens, counted by the model's own processor without decoding an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.console import StageError
from toolkit.model.encoding import END_OF_ANSWER, prompt_ids, shard_prompts
from toolkit.pages.images import image_tokens, processor_size
from toolkit.pages.pictures import picture_size
from toolkit.records.record import answer_text, images_of, prompt_of


def answers_of(record: dict[str, Any]) -> list[str]:
    """What the model writes for one record: its answer, or that of each shard."""
    return [text for _, text in record["parts"]] if "parts" in record else [answer_text(record)]


def answer_lengths(processor: Any, records: list[dict[str, Any]]) -> list[int]:
    """Tokens of each record's longest answer with its end mark."""
    return [
        max(len(processor.tokenizer.encode(text + END_OF_ANSWER, add_special_tokens=False)) for text in answers_of(r))
        for r in records
    ]


def prompt_length(processor: Any, prompt: Any) -> int:
    """Text tokens of a request without its pages."""
    return len(prompt_ids(processor, prompt, 0))


def record_length(processor: Any, record: dict[str, Any], root: Path, image_max_tokens: int) -> int:
    """Tokens of a whole record without decoding its images: their headers tell their sizes."""

    def ids(text: str) -> int:
        return len(processor.tokenizer.encode(text, add_special_tokens=False))

    if "parts" in record:
        texts, common = shard_prompts(processor, record)
        total = common + sum(len(text) - common for text in texts)
    else:
        total = len(prompt_ids(processor, prompt_of(record), len(images_of(record))))
    total += sum(ids(text + END_OF_ANSWER) for text in answers_of(record))
    for image in images_of(record):
        try:
            total += image_tokens(*processor_size(*picture_size(root / image), image_max_tokens)) - 1
        except OSError:
            raise StageError(
                f"record {record['id']!r}: the image {image} cannot be read; run verify_image_paths.py"
            ) from None
    return total
