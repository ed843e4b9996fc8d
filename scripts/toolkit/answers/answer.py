"""The answer as a model gave it, whoever gave it: this machine's transformers or a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from toolkit.answers.token_confidence import Token
from toolkit.schema.target import TargetSchema, value_at

SHORTEST_LOOP = 120  # characters; shorter repetitions are ordinary in tables
SAME_KEY_TIMES = 5
# Who wants an answer's text while it is written: all of it so far.
Hearing = Callable[[str], None]


@dataclass
class Answer:
    """One answer. `finish_reason` is stop or length; `usage` counts tokens; `seconds` is wall time of its decoding; `tokens` are its
    tokens with their log-probabilities, None where the backend does not tell them; `first_token` seconds to the first text, where
    the answer was streamed."""

    raw: str
    finish_reason: str
    usage: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    tokens: list[Token] | None = None
    first_token: float | None = None


class NoAnswer(Exception):
    """The backend gave none: `status` is http_error (try again later) or refused (this document will not pass)."""

    def __init__(self, status: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def repeated_tail(text: str) -> int:
    """Characters at the end of `text` that are one unit said at least four times over; 0 where there are fewer than 120.

    A model in a loop never comes out of it, so only the end matters. Units up to 400 characters (a long table row) are found.
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
    """A sentence where one row key stands five times or more in a list: a loop that the grammar let end. Else empty.

    Rows without a key may truly repeat (a statement with equal payments), so only keys are looked at.
    """
    for rows in schema.lists:
        key = rows.key
        if key is None:
            continue
        found = Counter(value_at(row, key.path) if key.path else row for row in value_at(prediction, rows.path) or [])
        value, times = found.most_common(1)[0] if found else (None, 0)
        if value is not None and times >= SAME_KEY_TIMES:
            return f"{rows.name} repeats the key {value!r} {times} times"
    return ""
