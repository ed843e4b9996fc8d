"""The number of tokens of a record: of its pages by their sizes, of its texts exactly or estimated. Also quantiles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.console import StageError
from toolkit.pages.images import image_tokens, processor_size
from toolkit.pages.pictures import picture_size
from toolkit.records.record import answer_text, images_of, prompt_of


def vision_tokens(path: Path, budget: int) -> int:
    """Vision tokens of a page image under a budget. Raises OSError where it cannot be read."""
    return image_tokens(*processor_size(*picture_size(path), budget))


def page_tokens(record: dict[str, Any], root: Path, budget: int) -> int:
    """Vision tokens of all pages of a record. Raises StageError where one cannot be read."""
    try:
        return sum(vision_tokens(root / image, budget) for image in images_of(record))
    except OSError:
        raise StageError(f"record {record['id']!r}: an image cannot be read; run verify_image_paths.py") from None


def exact_tokens(model: Path, image_max_tokens: int) -> Callable[[dict[str, Any]], tuple[int, int]]:
    """`(prompt tokens without its pages, answer tokens with the end mark)` by the model's own processor."""
    from toolkit.model.lengths import answer_lengths, prompt_length
    from toolkit.model.loading import load_processor

    processor = load_processor(str(model), image_max_tokens)
    known: dict[Any, int] = {}

    def tokens(record: dict[str, Any]) -> tuple[int, int]:
        prompt = prompt_of(record)
        if prompt not in known:
            known[prompt] = prompt_length(processor, prompt)
        # A page brings two marks beside its vision tokens.
        return known[prompt] + 2 * len(images_of(record)), answer_lengths(processor, [record])[0]

    return tokens


def estimated_tokens(record: dict[str, Any]) -> tuple[int, int]:
    """The same, estimated for Qwen's tokenizer: each digit is a token, and about four other characters are one."""

    def estimate(text: str) -> int:
        digits = sum(character.isdigit() for character in text)
        return digits + -(-(len(text) - digits) // 4)

    prompt = prompt_of(record)
    prompt_tokens = estimate(prompt.system + prompt.question) + 12 + 2 * len(images_of(record))
    return prompt_tokens, estimate(answer_text(record)) + 1


def rank(values: Any, share: float) -> Any:
    """The value at `share` (0 to 1) of the sorted `values`."""
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))]


def spread(values: Any) -> dict[str, int]:
    """Smallest, median, 95th percentile, largest, by rank; empty for no values."""
    if not values:
        return {}
    ordered = sorted(values)
    return {
        "min": ordered[0],
        "median": ordered[len(ordered) // 2],
        "p95": ordered[int(0.95 * (len(ordered) - 1))],
        "max": ordered[-1],
    }
