"""PowerShell commands in documents: what Windows PowerShell 5.1 would stumble over, as far as can be told here."""

from __future__ import annotations

import re
from collections.abc import Iterator


def powershell_lines(code: str) -> Iterator[tuple[int, str]]:
    """`(line, sentence)` of what does not work in Windows PowerShell 5.1.

    Looked for: `&&` and `||`, blanks behind a backtick, brackets that do not close, undefined variables.
    """
    defined = set(re.findall(r"\$(\w+)\s*=", code)) | set(re.findall(r"\[\w+(?:\[\])?\]\$(\w+)", code))
    defined |= set(re.findall(r"foreach\s*\(\s*\$(\w+)", code))
    known = {
        "true",
        "false",
        "null",
        "_",
        "PSScriptRoot",
        "LASTEXITCODE",
        "ErrorActionPreference",
        "env",
        "args",
        "PWD",
        "HOME",
    }
    depth = 0
    for number, line in enumerate(code.splitlines(), 1):
        bare = re.sub(r"'[^']*'", "''", line)
        unquoted = re.sub(r'"(?:[^"`]|`.)*"', '""', bare)
        unquoted = re.sub(r"(?:^|\s)#.*", "", unquoted)
        if "&&" in unquoted or "||" in unquoted:
            yield number, "&& and || do not exist in Windows PowerShell 5.1"
        if re.search(r"`\s+$", line):
            yield number, "a blank behind a backtick breaks the line"
        if unquoted.rstrip().endswith("\\"):
            yield number, "a back slash does not continue a line"
        depth += sum(unquoted.count(c) for c in "({[") - sum(unquoted.count(c) for c in ")}]")
        if depth < 0:
            yield number, "a bracket closes that was not opened"
            depth = 0
        comment = re.sub(r"(?:^|\s)#.*", "", bare)
        used = re.findall(r"\$\{?(\w+)", comment) + re.findall(r"(?<=\s)@(\w+)", comment)
        for name in used:
            if name not in defined | known and not name.isdigit():
                yield number, f"${name} is used and never set"
    if depth:
        yield code.count("\n") + 1, "a bracket is not closed"
