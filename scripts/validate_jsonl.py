"""Check a training JSONL: the record's form, the roles, and that every answer is JSON that keeps its target schema.

Reads one or more JSONL files. The target schema is each record's meta.schema, or --schema. Prints one line per problem:
FILE:LINE: path: sentence. A file that cannot be read is named and stops no other. Exit code 0: valid; 1: problems;
2: no file could be read.

Business checks that the schema declares (container check digits, printed totals, date order) are warnings unless the
schema says otherwise. --fix-out writes the valid records, and the problems beside them, so that you can train on a set
with a few bad labels. Records whose id stands twice are not written. Only its own output of the same files is replaced.

    python scripts/validate_jsonl.py data/train.jsonl
    python scripts/validate_jsonl.py data/train.jsonl --fix-out data/train_valid.jsonl
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import ExitCode, StageError, say
from toolkit.files import argument_path, atomic, expand_inputs, iter_data_lines, shown, write_problems
from toolkit.outputs import check_outputs
from toolkit.records.line_form import parsed_line
from toolkit.records.origins import Source, noted, refuse_to_replace
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
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a --fix-out that was made from other files, or by hand"
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
    if args.fix_out:
        check_outputs([(args.fix_out, ""), (problems_file(args.fix_out), "")], files)
    check = RecordCheck(args.schema)
    tally = Tally(args.limit)
    readable = [path for path in files if checked_file(path, check, tally)]
    if not readable:
        raise StageError("; ".join(tally.unreadable))
    again = repeated(readable, check.ids.suspects())
    for identity, places in again.items():
        tally.add_repeated(identity, places)
    written = None
    if args.fix_out:
        written = write_valid(args.fix_out, readable, tally, {p for places in again.values() for p in places}, args)
        tally.filed += [{"file": "", "line": 0, "path": "$", "problem": sentence} for sentence in tally.unreadable]
        write_problems(problems_file(args.fix_out), tally.filed, say)
        say(f"{written} valid records -> {shown(args.fix_out)}")
    for sentence in tally.unreadable:
        say(f"not read: {sentence}")
    counts = f"{tally.records - tally.invalid} valid, {tally.invalid} invalid, {tally.warnings} warnings"
    print(f"{tally.records} records, {counts}")
    result = tally.result() | ({} if written is None else {"written": written})
    return console.finish(args, result, ExitCode.PROBLEMS if tally.invalid or tally.unreadable else ExitCode.OK)


def checked_file(path: Path, check: RecordCheck, tally: Tally) -> bool:
    """Check every line of a file; False where it cannot be read, or holds no record, which stops no other file."""
    count = 0
    name = shown(path)  # once: it asks the file system
    try:
        for line_number, data in iter_data_lines(path):
            count += 1
            tally.add(name, line_number, check.problems(data, f"{name}:{line_number}"))
        if count == 0:
            raise StageError(f"{name}: no records")
    except StageError as error:
        tally.unreadable.append(str(error))
        return False
    finally:
        tally.end_of_file(name, count)
    return True


def problems_file(out: Path) -> Path:
    return out.with_suffix(".problems.jsonl")


def write_valid(out: Path, files: list[Path], tally: Tally, repeated_places: set[str], args: Any) -> int:
    """Write the valid records whose id stands once; returns how many. Raises StageError where `out` is of other files,
    unless --overwrite."""
    sources = [Source.of(path) for path in files]
    if not args.overwrite:
        refuse_to_replace(out, sources)
    count = 0
    with noted(out, sources), atomic(out, "wb") as valid:
        for path in files:
            name = shown(path)
            for number, data in iter_data_lines(path):
                if (name, number) not in tally.broken and f"{name}:{number}" not in repeated_places:
                    valid.write(data + b"\n")
                    count += 1
    return count


class Tally:
    """Counts, the lines that are printed (--limit a file), and the problems that --fix-out files."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.records = self.errors = self.warnings = self.here = 0
        self.filed: list[dict[str, Any]] = []
        self.broken: set[tuple[str, int]] = set()  # file and line of every invalid record
        self.unreadable: list[str] = []

    @property
    def invalid(self) -> int:
        return len(self.broken)

    def add(self, name: str, line: int, found: list[Problem]) -> None:
        errors = sum(severity == "error" for _, _, severity in found)
        self.errors += errors
        self.warnings += len(found) - errors
        if errors:
            self.broken.add((name, line))
        for where, sentence, severity in found:
            self.here += 1
            if self.here <= self.limit:
                print(f"{name}:{line}: {where}: {'' if severity == 'error' else 'warning: '}{sentence}")
            if severity == "error" and len(self.filed) < 100_000:
                self.filed.append({"file": name, "line": line, "path": where, "problem": sentence})

    def add_repeated(self, identity: str, places: list[str]) -> None:
        """An id that stands at several places: which of the records is right cannot be told, so none is valid."""
        for index, place in enumerate(places):
            other = places[0] if index else places[1]
            name, _, line = place.rpartition(":")
            sentence = f"the id {identity!r} stands twice, {'first' if index else 'again'} in {other}"
            self.add(name, int(line), [("$.id", sentence, "error")])

    def end_of_file(self, name: str, count: int) -> None:
        if self.here > self.limit:
            print(f"{name}: {self.here - self.limit} more problems (--limit {self.here} prints all)")
        self.records += count
        self.here = 0

    def result(self) -> dict[str, int]:
        names = {"records": self.records, "valid": self.records - self.invalid, "invalid": self.invalid}
        return names | {"errors": self.errors, "warnings": self.warnings, "unreadable_files": len(self.unreadable)}


def repeated(files: list[Path], suspects: set[int]) -> dict[str, list[str]]:
    """`{id: places}` of every id that stands more than once; reads the files again, for the suspects' sake only."""
    places: dict[str, list[str]] = {}
    for path in files if suspects else []:
        name = shown(path)
        for number, data in iter_data_lines(path):
            with contextlib.suppress(ValueError, StageError, AttributeError):
                identity = parsed_line(data, name)[0].get("id")
                if isinstance(identity, str) and hash(identity) in suspects:
                    places.setdefault(identity, []).append(f"{name}:{number}")
    return {identity: found for identity, found in places.items() if len(found) > 1}


def files_of(patterns: list[str]) -> list[Path]:
    """Files as named; only patterns are expanded, so that a missing file is named as such."""
    files: list[Path] = []
    for pattern in patterns:
        path = argument_path(pattern)
        files += expand_inputs([path], [".jsonl"]) if any(c in pattern for c in "*?[") or path.is_dir() else [path]
    return files


if __name__ == "__main__":
    sys.exit(main())
