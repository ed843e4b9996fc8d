"""Check a training JSONL: the record's form, the roles, and that every answer is JSON that keeps its target schema.

Reads one or more JSONL files. The target schema is each record's meta.schema, or --schema. Prints one line per problem:
FILE:LINE: path: sentence. Exit code 0: valid; 1: problems; 2: unreadable.

Business checks that the schema declares (container check digits, printed totals, date order) are warnings unless the
schema says otherwise. --fix-out writes the valid records, and the problems beside them, so that you can train on a set
with a few bad labels.

    python scripts/validate_jsonl.py data/train.jsonl
    python scripts/validate_jsonl.py data/train.jsonl --fix-out data/train_valid.jsonl
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import ExitCode, StageError, first_few, say
from toolkit.files import argument_path, atomic, decode_text, expand_inputs, iter_data_lines, shown, write_problems
from toolkit.json_text import strict_json
from toolkit.records.record_check import RecordCheck
from toolkit.schema.checks import Problem


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("files", nargs="*", help="JSONL files or patterns")
    parser.add_argument("--in", dest="more", action="append", default=[], help="the same as a positional file")
    parser.add_argument(
        "--schema", type=argument_path, help="target schema for all records (default: each record's meta.schema)"
    )
    parser.add_argument(
        "--fix-out", type=argument_path, metavar="FILE", help="write the valid records, and .problems.jsonl"
    )
    parser.add_argument("--limit", type=int, default=50, help="problems to print a file; all are counted (default: 50)")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    patterns = args.files + args.more
    if not patterns:
        raise StageError("name a JSONL file, for example: python scripts/validate_jsonl.py data/train.jsonl")
    files = files_of(patterns)
    check = RecordCheck(args.schema)
    tally = Tally(args.limit)
    with contextlib.ExitStack() as stack:
        valid = stack.enter_context(atomic(args.fix_out, "wb")) if args.fix_out else None
        for path in files:
            count = 0
            name = shown(path)  # once: it asks the file system
            for line_number, data in iter_data_lines(path):
                count += 1
                found = check.problems(data, f"{name}:{line_number}")
                if found:
                    tally.add(path, line_number, found)
                if valid and not any(severity == "error" for _, _, severity in found):
                    valid.write(data + b"\n")
            if count == 0:
                raise StageError(f"{shown(path)}: no records")
            tally.end_of_file(path, count)
        if valid and (twice := check.ids.suspects()):
            named = first_few(repeated(files, twice))
            sentence = f"ids stand twice ({named}); --fix-out cannot choose one: remove or rename them first"
            raise StageError(sentence, ExitCode.PROBLEMS)
    for sentence in repeated(files, check.ids.suspects()):
        tally.add_plain(sentence)
    if args.fix_out:
        write_problems(args.fix_out.with_suffix(".problems.jsonl"), tally.filed, say)
        say(f"{tally.records - tally.invalid} valid records -> {shown(args.fix_out)}")
    counts = f"{tally.records - tally.invalid} valid, {tally.invalid} invalid, {tally.warnings} warnings"
    print(f"{tally.records} records, {counts}")
    return console.finish(args, tally.result(), ExitCode.PROBLEMS if tally.invalid else ExitCode.OK)


class Tally:
    """Counts, the lines that are printed (--limit a file), and the problems that --fix-out files."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.records = self.invalid = self.errors = self.warnings = self.here = 0
        self.filed: list[dict[str, Any]] = []

    def add(self, path: Path, line: int, found: list[Problem]) -> None:
        errors = sum(severity == "error" for _, _, severity in found)
        self.errors += errors
        self.warnings += len(found) - errors
        self.invalid += errors > 0
        for where, sentence, severity in found:
            self.here += 1
            text = f"{shown(path)}:{line}: {where}: {'' if severity == 'error' else 'warning: '}{sentence}"
            if self.here <= self.limit:
                print(text)
            if severity == "error" and len(self.filed) < 100_000:
                self.filed.append({"file": shown(path), "line": line, "path": where, "problem": sentence})

    def add_plain(self, sentence: str) -> None:
        self.errors += 1
        self.invalid += 1
        print(sentence)

    def end_of_file(self, path: Path, count: int) -> None:
        if self.here > self.limit:
            print(f"{shown(path)}: {self.here - self.limit} more problems (--limit {self.here} prints all)")
        self.records += count
        self.here = 0

    def result(self) -> dict[str, int]:
        names = {"records": self.records, "valid": self.records - self.invalid, "invalid": self.invalid}
        return names | {"errors": self.errors, "warnings": self.warnings}


def repeated(files: list[Path], suspects: set[int]) -> list[str]:
    """One sentence for every second and further use of an id; reads the files again, for the suspects' sake only."""
    if not suspects:
        return []
    first: dict[str, str] = {}
    sentences = []
    for path in files:
        for number, data in iter_data_lines(path):
            with contextlib.suppress(ValueError, StageError):
                identity = strict_json(decode_text(data, shown(path))).get("id")
                if not isinstance(identity, str) or hash(identity) not in suspects:
                    continue
                here = f"{shown(path)}:{number}"
                if identity in first:
                    sentences.append(f"{here}: $.id: the id {identity!r} stands twice, first in {first[identity]}")
                first.setdefault(identity, here)
    return sentences


def files_of(patterns: list[str]) -> list[Path]:
    """Files as named; only patterns are expanded, so that a missing file is named as such."""
    files: list[Path] = []
    for pattern in patterns:
        path = argument_path(pattern)
        files += expand_inputs([path], [".jsonl"]) if any(c in pattern for c in "*?[") or path.is_dir() else [path]
    return files


if __name__ == "__main__":
    sys.exit(main())
