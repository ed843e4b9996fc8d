"""Mutation testing: put one small bug at a time into the library and see whether the fast tests notice it.

Each module of MODULES is changed in a copy of the repository; the test files named beside it run until one test fails.
A mutant that no test notices survives. Those that change nothing that anybody could see stand, each with its reason,
in benchmarks/equivalent_mutants.jsonl and are not counted. The same seed draws the same mutants of the same source.
`python scripts/run_tests.py --soak -- -k mutants` runs it and keeps the result.

    python benchmarks/mutation.py --sample 6 --seed 1 --out benchmarks/results/mutation.txt
    python benchmarks/mutation.py --module evaluation/scoring.py --sample 40
    python benchmarks/mutation.py --module evaluation/scoring.py --show
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.jsonl")
WANTED = 0.85

# Module (below scripts/toolkit or scripts) and the files of fast tests that specify it, the most telling first.
MODULES: dict[str, str] = {
    "toolkit/outputs.py": "hostile_tables build_sources record_validation survival",
    "toolkit/files.py": "windows build_sources serving lone_surrogates full_disk survival",
    "toolkit/schema/target.py": "target_schema optional_fields label_join wire_format serving",
    "toolkit/schema/validation.py": "business_checks optional_fields record_validation hostile_tables",
    "toolkit/schema/checks.py": "business_checks target_schema confidence",
    "toolkit/schema/values.py": "target_schema scoring number_text label_tables",
    "toolkit/schema/number_text.py": "number_text number_columns",
    "toolkit/pages/images.py": "page_images label_tables rendering",
    "toolkit/pages/manifest.py": "page_manifest rendering label_tables",
    "toolkit/pages/evidence.py": "label_audit confidence report",
    "toolkit/records/fingerprints.py": "splits split_places",
    "toolkit/records/splits.py": "splits split_places",
    "toolkit/records/split_documents.py": "splits split_places",
    "toolkit/records/earlier_split.py": "split_places splits",
    "toolkit/records/label_table.py": "label_tables absent_labels number_columns label_join",
    "toolkit/records/label_join.py": "label_join label_tables absent_labels build_sources",
    "toolkit/records/label_shape.py": "label_join label_tables absent_labels",
    "toolkit/records/record_check.py": "record_validation lone_surrogates business_checks",
    "toolkit/evaluation/scoring.py": "scoring optional_fields failed_answers number_columns",
    "toolkit/evaluation/score_table.py": "scoring failed_answers gates report",
    "toolkit/evaluation/gates.py": "gates report",
    "toolkit/answers/wire_format.py": "wire_format row_shards token_confidence",
    "toolkit/answers/row_shards.py": "row_shards gateway_lines",
    "toolkit/answers/page_windows.py": "united_windows failed_answers confidence server_client server_retries",
    "toolkit/answers/confidence.py": "values_on_pages confidence",
    "toolkit/answers/token_confidence.py": "token_confidence values_on_pages confidence",
    "toolkit/answers/predictions.py": "confidence import_predictions report lone_surrogates server_client",
    "toolkit/model/contract.py": "refused_adapters serving server_client",
    "toolkit/model/adapters.py": "training serving models",
    "toolkit/model/folder.py": "serving refused_adapters models",
    "toolkit/model/quantization.py": "merge_gate serving",
    "toolkit/model/shapes.py": "plans latency",
    "toolkit/extraction/documents.py": "arriving_documents server_retries server_client row_shards full_disk",
    "toolkit/extraction/run.py": "row_shards confidence gateway_lines server_retries server_client",
    "toolkit/extraction/chat_request.py": "turned_photos server_client gateway",
    "toolkit/extraction/server_client.py": "server_retries turned_photos gateway_lines server_client latency",
    "toolkit/training/token_batches.py": "training_batches training",
    "toolkit/training/plan.py": "plans",
    "toolkit/latency/predicted.py": "plans latency",
    "toolkit/latency/measured.py": "latency",
    "toolkit/pages/zips.py": "zips hostile_zips hostile_files",
    "merge_adapter.py": "refused_adapters merge_gate serving",
}
# What only slow tests run (a real quantization takes minutes), so that no fast test could notice a bug in it.
NOT_LOOKED_AT = {"toolkit/model/quantization.py": ("with_llmcompressor", "quiet", "let_cpu_calibrate", "with_autoawq")}

COMPARISONS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
LISTS = (ast.List, ast.Tuple, ast.ListComp)  # as texts: `-` cannot take them away, its mutants all crash


@dataclass(frozen=True)
class Mutant:
    """One small change of a module: in line `line`, which reads `text`, `before` becomes `after`.

    `nth` tells changes of one line apart that read alike, from 0.
    """

    module: str
    line: int
    text: str
    before: str
    after: str
    nth: int
    make: Callable[[], str]

    @property
    def name(self) -> tuple[str, str, str, str, int]:
        """What it is called while other lines come and go."""
        return self.module, self.text, self.before, self.after, self.nth

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.before} -> {self.after}\n    {self.text}"


def changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """The mutants of one node: what it is replaced by, or `(field, value)` of what changes in it."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield "ops", [COMPARISONS[type(node.ops[0])]()]
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        if not any(isinstance(side, LISTS) or is_text(side) for side in (node.left, node.right)):
            yield "op", ARITHMETIC[type(node.op)]()
    elif isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
        if not (isinstance(node.value, LISTS) or is_text(node.value)):
            yield "op", ARITHMETIC[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        yield "op", ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "", node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "value", not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield "value", node.value + 1 if isinstance(node.value, int) else node.value * 2 + 0.5
    elif isinstance(node, ast.Name) and node.id in NAMES and isinstance(node.ctx, ast.Load):
        yield "id", NAMES[node.id]
    elif isinstance(node, ast.Continue):
        yield "", ast.Break()
    elif isinstance(node, ast.Break):
        yield "", ast.Continue()
    elif isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield "", ast.Pass()
    if isinstance(node, ast.If | ast.While | ast.IfExp) and isinstance(node.test, ast.Name | ast.Attribute | ast.Call):
        yield "test", ast.UnaryOp(ast.Not(), node.test)


def is_text(node: ast.AST) -> bool:
    """Whether the node is a text on the face of it."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in ("join", "format", "strip")
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """All nodes but those of messages, annotations and decorators, as `(parent, field, index)`."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "exc"):
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(node, ast.AST) and not isinstance(node, ast.JoinedStr):
                yield tree, name, index
                yield from places(node)


def put(parent: ast.AST, field: str, index: int | None, node: Any) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def mutants_of(module: str, source: str) -> list[Mutant]:
    tree, lines = ast.parse(source), source.splitlines()
    found = []
    seen: dict[tuple[int, str, str], int] = {}
    left_out = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in NOT_LOOKED_AT.get(module, ())
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    for parent, field, index in list(places(tree)):
        node = getattr(parent, field) if index is None else getattr(parent, field)[index]
        for what, value in changes(node) if getattr(node, "lineno", 0) not in left_out else ():
            mutated = value
            if what:
                mutated = copy.copy(node)
                setattr(mutated, what, value)
            ast.fix_missing_locations(ast.copy_location(mutated, node))

            def make(at=(parent, field, index), node=node, mutated=mutated) -> str:
                put(*at, mutated)
                text = ast.unparse(tree)
                put(*at, node)
                return text

            before, after = (ast.unparse(each).splitlines()[0] for each in (node, mutated))
            alike = (node.lineno, before, after)
            seen[alike] = seen.get(alike, -1) + 1
            text = lines[node.lineno - 1].strip()
            found.append(Mutant(module, node.lineno, text, before, after, seen[alike], make))
    return found


def read_equivalent() -> dict[tuple[str, str, str, str, int], str]:
    """The mutants that change nothing, and why."""
    lines = EQUIVALENT.read_text(encoding="utf-8").splitlines() if EQUIVALENT.exists() else []
    values = [json.loads(line) for line in lines if line.strip()]
    return {(v["module"], v["text"], v["before"], v["after"], v["nth"]): v["reason"] for v in values}


def copy_of_the_repository(folder: Path) -> Path:
    """Its files, without what git ignores; links to what is large."""
    words = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True).stdout.decode().split("\0")
    for name in filter(None, listed):
        if (REPOSITORY / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, target)
    return folder


def run_tests(folder: Path, tests: str, seconds: float, *, keep_bytecode: bool = False) -> str:
    """passed, failed or "too long"; errors while the tests are collected are failures."""
    files = [f"tests/test_{name}.py" for name in tests.split()]
    words = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not soak", *files]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "" if keep_bytecode else "1"}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        return "too long"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode == 5:
        raise SystemExit(f"no test in {' '.join(files)}")
    if keep_bytecode and process.returncode:
        raise SystemExit(f"the tests fail without any mutant:\n{output.decode(errors='replace')[-3000:]}")
    return "failed" if process.returncode else "passed"


class Limits:
    """How long the tests may take with a bug in the library; each file runs once without any, which it must pass."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}

    def of(self, tests: str) -> float:
        for name in tests.split():
            if name not in self.seconds:
                began = time.monotonic()
                run_tests(self.folder, name, 900, keep_bytecode=True)
                self.seconds[name] = time.monotonic() - began
        return 30 + 3 * sum(self.seconds[name] for name in tests.split())


def examine(
    module: str, sample: int, seed: int, folder: Path, limits: Limits, say: Callable[[str], None]
) -> dict[str, list[Mutant]]:
    """Mutants of a module by outcome: killed, survived, equivalent."""
    path = folder / "scripts" / module
    source = path.read_text(encoding="utf-8")
    mutants = mutants_of(module, source)
    drawn = random.Random(f"{seed} {module}").sample(mutants, min(sample, len(mutants)))
    equivalent = read_equivalent()
    outcome: dict[str, list[Mutant]] = {"killed": [], "survived": [], "equivalent": []}
    limit = limits.of(MODULES[module])
    began = time.monotonic()
    for mutant in sorted(drawn, key=lambda mutant: mutant.line):
        if mutant.name in equivalent:
            outcome["equivalent"].append(mutant)
            continue
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()
        path.write_text(mutant.make(), encoding="utf-8")
        result = run_tests(folder, MODULES[module], limit)
        outcome["survived" if result == "passed" else "killed"].append(mutant)
        if result == "passed":
            say(f"survived: {mutant}")
    path.write_text(source, encoding="utf-8")
    counts = ", ".join(f"{len(found)} {name}" for name, found in outcome.items())
    say(f"{module}: {counts} of {len(mutants)} possible ({time.monotonic() - began:.0f} s)")
    return outcome


def table(outcomes: dict[str, dict[str, list[Mutant]]]) -> tuple[str, float]:
    """Counts by package, and the share of the counted mutants that were killed."""
    rows: dict[str, list[int]] = {}
    for module, outcome in outcomes.items():
        package = module.removeprefix("toolkit/").partition("/")[0] if module.startswith("toolkit/") else "scripts"
        for name in (package, "all"):
            row = rows.setdefault(name, [0, 0, 0])
            for at, found in enumerate(outcome.values()):
                row[at] += len(found)
    rows["all"] = rows.pop("all")
    lines = ["| package | killed | survived | equivalent | score |", "|---|---|---|---|---|"]
    for name, (killed, survived, equal) in rows.items():
        score = killed / max(1, killed + survived)
        lines.append(f"| {name.removesuffix('.py')} | {killed} | {survived} | {equal} | {score:.0%} |")
    return "\n".join(lines), score


def measure(
    modules: list[str], sample: int, seed: int, say: Callable[[str], None] = print
) -> tuple[float, dict[str, dict[str, list[Mutant]]]]:
    """The share of killed mutants in a sample of each module; says what survives as it is found, then the table."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copied = copy_of_the_repository(Path(folder))
        limits = Limits(copied)
        outcomes = {module: examine(module, sample, seed, copied, limits, say) for module in modules}
    text, score = table(outcomes)
    say(f"\nseed {seed}, up to {sample} mutants a module, {os.cpu_count()} cores, Python {platform.python_version()}")
    say(f"{text}\n")
    return score, outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", action="append", help="words that the modules' names hold (default: all modules)")
    parser.add_argument("--sample", type=int, default=6, help="mutants a module (default: 6)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="list all mutants and run nothing")
    parser.add_argument("--out", type=Path, help="file that the output is added to")
    args = parser.parse_args()
    chosen = [name for name in MODULES if not args.module or any(word in name for word in args.module)]
    if args.show:
        for name in chosen:
            print(*mutants_of(name, (REPOSITORY / "scripts" / name).read_text(encoding="utf-8")), sep="\n")
        return 0

    def say(text: str) -> None:
        print(text, flush=True)
        if args.out:
            with args.out.open("a", encoding="utf-8") as file:
                file.write(text + "\n")

    score, _ = measure(chosen, args.sample, args.seed, say)
    return 0 if score >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
