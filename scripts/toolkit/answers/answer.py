"""A model's raw answer, whether it comes from transformers on this machine or from a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypedDict, cast

from toolkit.answers.token_confidence import Token
from toolkit.schema.answer_values import lists_of
from toolkit.schema.target import TargetSchema, value_at

SHORTEST_LOOP = 120  # characters; shorter repetitions are ordinary in tables
SAME_KEY_TIMES = 5
# A streaming callback, called with the whole text so far each time more of an answer has been written.
OnText = Callable[[str], None]


class Usage(TypedDict, total=False):
    """Token counts of one answer or of several; a backend that does not report a count leaves it out."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # prompt tokens that the server took from its prefix cache


def added(usages: Iterable[Usage]) -> Usage:
    """The sum of several answers' token counts."""
    total: Counter[str] = Counter()
    for usage in usages:
        total.update(cast("dict[str, int]", usage))
    return cast("Usage", dict(total))


@dataclass
class Answer:
    """One answer.

    `finish_reason` is "stop" or "length". `usage` counts tokens. `seconds` is the wall time of decoding. `tokens`
    are the answer's tokens with their log-probabilities; None if the backend does not report them. `first_token`
    is the number of seconds to the first text; None if the answer was not streamed.
    """

    raw: str
    finish_reason: str
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    tokens: list[Token] | None = None
    first_token: float | None = None


class NoAnswer(Exception):
    """The backend gave no answer. `status` is "http_error" (try again later) or "refused" (a retry will not help)."""

    def __init__(self, status: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def repeated_tail(text: str) -> int:
    """How many characters at the end of `text` repeat one unit at least four times; 0 if they are fewer than 120.

    A model that loops never leaves the loop, so only the end matters. Units of up to 400 characters (a long table
    row) are detected.
    """
    longest = 0
    for period in range(1, min(400, len(text) // 4) + 1):
        length = 0
        while length + period < len(text) and text[-1 - length] == text[-1 - length - period]:
            length += 1
        total = length + period
        if total >= 4 * period and total >= SHORTEST_LOOP:
            longest = max(longest, total)
    return longest


def repeated_key(schema: TargetSchema, prediction: dict[str, Any]) -> str:
    """A sentence if one row key occurs five times or more in a list, which is a loop that the grammar ended; else
    empty.

    Only keys are checked: rows without a key may really repeat (a statement with equal payments).
    """
    for found in lists_of(schema, prediction):
        key = found.rows.key
        if key is None:
            continue
        keys = Counter(value_at(row, key.path) for row in found.items)
        value, times = keys.most_common(1)[0] if keys else (None, 0)
        if value is not None and times >= SAME_KEY_TIMES:
            return f"{found.name} repeats the key {value!r} {times} times"
    return ""
