"""PowerShell scripts: what Windows PowerShell 5.1 would stumble over, as far as can be told without one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from toolkit.cloud.templates import Problem


def powershell_can_be_read(repository: Path) -> list[Problem]:
    """What PowerShell 5.1 would stumble over, as far as it can be told without one."""
    found = []
    for path in sorted(top for folder in ("azureml", "runpod") for top in (repository / folder).rglob("*.ps1")):
        where = path.relative_to(repository).as_posix()
        text = path.read_text(encoding="utf-8")
        if not text.isascii():
            found.append(
                Problem(where, "not ASCII: PowerShell 5.1 reads a file without a mark in the console's code page")
            )
        code = re.sub(r"<#.*?#>", "", text, flags=re.S)
        if '$ErrorActionPreference = "Stop"' not in code or "Set-StrictMode" not in code:
            found.append(Problem(where, "it must stop at the first failure and at undefined variables"))
        found += [Problem(f"{where}:{n}", sentence) for n, sentence in powershell_lines(code)]
        found += [
            Problem(f"{where}:{n}", "this is not PowerShell: something is not closed, or stands where it cannot")
            for n in syntax_errors(text)
        ]
    return found


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


def syntax_errors(code: str) -> list[int]:
    """Lines (from 1) at which PowerShell's grammar (tree-sitter's) finds an error.

    For scripts only: of the arguments of programs in documents the grammar knows too little.
    """
    import tree_sitter
    import tree_sitter_powershell

    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    found, nodes = set(), [parser.parse(code.encode()).root_node]
    while nodes:
        node = nodes.pop()
        if node.type == "ERROR" or node.is_missing:
            found.add(node.start_point[0] + 1)
        nodes += [child for child in node.children if child.has_error or child.is_missing]
    return sorted(found)
