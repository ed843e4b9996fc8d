"""Check a training JSONL: the record's form, the roles, that every answer is only JSON and keeps its target schema.

Reads one or more JSONL files; the target schema comes from each record's meta.schema (or --schema). Prints one line a
problem, FILE:LINE: path: sentence. Exit code 0: valid; 1: problems; 2: unreadable. Business checks declared in the schema
(container check digits, printed totals) are warnings unless the schema says otherwise.

    python scripts/validate_jsonl.py data/train.jsonl
    python scripts/validate_jsonl.py examples/example.jsonl --json
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.checks import business_problems
from toolkit.console import ExitCode, StageError
from toolkit.files import argument_path, expand_inputs, iter_lines, read_json, shown, strict_json
from toolkit.records import RECORD_SCHEMA
from toolkit.target_schema import TargetSchema, compact_json

Problem = tuple[str, str, str]  # JSON path, sentence, severity


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("files", nargs="*", help="JSONL files or patterns")
    parser.add_argument("--in", dest="more", action="append", default=[], help="the same as a positional file")
    parser.add_argument(
        "--schema",
        type=argument_path,
        default=None,
        help="target schema for all records (default: each record's meta.schema)",
    )
    parser.add_argument("--limit", type=int, default=50, help="problems to print a file; all are counted (default: 50)")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    patterns = args.files + args.more
    if not patterns:
        raise StageError("name a JSONL file, for example: python scripts/validate_jsonl.py data/train.jsonl")
    checker = Checker(args.schema)
    records = errors = warnings = invalid = 0
    for path in files_of(patterns):
        count, shown_here = 0, 0
        for line_number, line in iter_lines(path):
            count += 1
            bad = False
            for where, sentence, severity in checker.problems(line):
                errors += severity == "error"
                warnings += severity != "error"
                bad = bad or severity == "error"
                if shown_here < args.limit:
                    print(
                        f"{shown(path)}:{line_number}: {where}: {'' if severity == 'error' else 'warning: '}{sentence}"
                    )
                shown_here += 1
            invalid += bad
        if shown_here > args.limit:
            print(f"{shown(path)}: {shown_here - args.limit} more problems (--limit {shown_here} prints all)")
        if count == 0:
            raise StageError(f"{shown(path)}: no records")
        records += count
    print(f"{records} records, {records - invalid} valid, {invalid} invalid, {warnings} warnings")
    result = {
        "records": records,
        "valid": records - invalid,
        "invalid": invalid,
        "errors": errors,
        "warnings": warnings,
    }
    return console.finish(args, result, ExitCode.PROBLEMS if invalid else ExitCode.OK)


def files_of(patterns: list[str]) -> list[Path]:
    """Files as named; only patterns are expanded, so that a missing file is named as such."""
    files: list[Path] = []
    for pattern in patterns:
        path = argument_path(pattern)
        files += expand_inputs([path], [".jsonl"]) if any(c in pattern for c in "*?[") or path.is_dir() else [path]
    return files


class Checker:
    """Validators made once: the compiled one decides, the plain one explains what it flags."""

    def __init__(self, schema: Path | None) -> None:
        import jsonschema

        record_schema = read_json(RECORD_SCHEMA)
        self.record = jsonschema.Draft202012Validator(record_schema)
        self.record_is_valid = fast_validator(record_schema)
        self.fixed = TargetSchema.load(schema) if schema else None
        self.targets: dict[str, tuple[TargetSchema, Any, Any]] = {}
        self.seen_ids: set[str] = set()

    def target(self, name: str) -> tuple[TargetSchema, Any, Any]:
        if name not in self.targets:
            target = self.fixed or TargetSchema.load(Path(name))
            self.targets[name] = (target, fast_validator(target.raw), target.validator())
        return self.targets[name]

    def problems(self, line: str) -> Iterator[Problem]:
        """Every problem of one line."""
        from jsonschema.exceptions import best_match

        try:
            record = strict_json(line)
        except ValueError as error:
            yield "$", f"not JSON: {error}", "error"
            return
        if not self.record_is_valid(record):
            broken = best_match(self.record.iter_errors(record))
            yield broken.json_path, broken.message[:300], "error"
            return
        if record["id"] in self.seen_ids:
            yield "$.id", f"the id {record['id']!r} stands twice", "error"
        self.seen_ids.add(record["id"])
        yield from self.turn_problems(record["messages"])
        text = "".join(
            item.get("text", "") for m in record["messages"] if m["role"] == "assistant" for item in m["content"]
        )
        try:
            answer = strict_json(text)
        except ValueError as error:
            yield "$.messages[-1]", f"the answer is not only JSON: {error}", "error"
            return
        name = record.get("meta", {}).get("schema")
        if self.fixed is None and name is None:
            return
        target, is_valid, validator = self.target(name or "")
        if not is_valid(answer):
            for broken in sorted(validator.iter_errors(answer), key=lambda e: e.json_path)[:5]:
                yield "answer" + broken.json_path[1:], broken.message[:300], "error"
            return
        ordered = compact_json(target.ordered(answer))
        if ordered != text:
            yield "answer", "not compact JSON in schema order; the server's grammar could not write it", "warning"
        yield from (
            ("answer" + where[1:], sentence, severity)
            for where, sentence, severity in business_problems(target, answer)
        )

    def turn_problems(self, messages: list[dict[str, Any]]) -> Iterator[Problem]:
        roles = [message["role"] for message in messages]
        expected = ["system"] * (roles[0] == "system") + ["user", "assistant"]
        if roles != expected:
            yield (
                "$.messages",
                f"the roles are {', '.join(roles)}; expected an optional system turn, one user turn, one assistant turn",
                "error",
            )
            return
        user = next(message for message in messages if message["role"] == "user")["content"]
        kinds = [item["type"] for item in user]
        if "image" not in kinds:
            yield "$.messages", "the user turn has no image", "error"
        elif "image" in kinds[kinds.index("text") :] if "text" in kinds else False:
            yield "$.messages", "an image stands behind the question; images come first", "error"
        for message in messages:
            if message["role"] != "user" and any(item["type"] == "image" for item in message["content"]):
                yield "$.messages", f"the {message['role']} turn holds an image", "error"
        images = [item["image"] for item in user if item["type"] == "image"]
        if len(set(images)) != len(images):
            yield "$.messages", "the same page image stands twice", "error"
        for image in images:
            if "\\" in image:
                yield "$.messages", f"{image!r}: write image paths with /, a back slash breaks on Linux", "error"


def fast_validator(schema: dict[str, Any]) -> Any:
    """`is_valid` of jsonschema-rs where it is installed, else of jsonschema."""
    try:
        import jsonschema_rs
    except ModuleNotFoundError:
        import jsonschema

        return jsonschema.Draft202012Validator(schema).is_valid
    return jsonschema_rs.Draft202012Validator(schema).is_valid


if __name__ == "__main__":
    sys.exit(main())
