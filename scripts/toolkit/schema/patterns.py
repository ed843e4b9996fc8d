"""Which patterns of texts a served grammar forces exactly as a JSON Schema validator reads them."""

from __future__ import annotations

import re

# After a back slash: a digit or a letter (both ASCII), or a character that stands for itself. xgrammar knows neither
# word boundaries nor back references, and would let \s be a line break inside a JSON text.
PLAIN_ESCAPES = set("dw.+*?^$()[]{}|/-")
# They would have to be written with a back slash before them, which a pattern of the grammar does not know.
ESCAPED_IN_JSON = set('"\\')

# xgrammar 0.2.8 cannot compile a class that repeats up to 200 times ("per_rule_fsm_hashes"), and takes half a minute
# to say so at 4,000. 128 compile.
MOST_REPEATS = 128
_COUNTS = re.compile(r"\{(\d*,?\d*)\}")


def is_for_grammar(pattern: str) -> bool:
    """Whether xgrammar takes just the texts that `pattern` takes.

    It reads every pattern as one of the whole text, so only patterns from `^` to `$` are alike. A point and a class of
    what must not stand would take quotes, which end a JSON text.
    """
    if not (pattern.startswith("^") and pattern.endswith("$") and not pattern.endswith("\\$")):
        return False
    if any(int(count or 0) > MOST_REPEATS for count in re.findall(r"\d+", " ".join(_COUNTS.findall(pattern)))):
        return False
    depth, in_class, place, body = 0, False, 0, pattern[1:-1]
    while place < len(body):
        character = body[place]
        if character == "\\":
            place += 1
            if place == len(body) or body[place] not in PLAIN_ESCAPES:
                return False
        elif character in ESCAPED_IN_JSON or ord(character) < 32:
            return False
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
            if body[place + 1 : place + 2] in ("^", "]"):
                return False
        elif character in ".^$" or (character == "|" and depth == 0) or body.startswith("(?", place):
            return False
        else:
            depth += {"(": 1, ")": -1}.get(character, 0)
        place += 1
    return True
