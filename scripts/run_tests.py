"""Set up everything and run the tests: lint, types, and pytest. Works from a fresh clone with nothing but Python.

The fast tests take minutes. --slow runs the slow ones instead (real training, real servers, the quickstart),
two at a time. --soak runs what is too long for every change (load, chaos, fuzzing, scale), one after the other, and
adds what the tests print to a file of the day. What follows -- goes to pytest.

    python scripts/run_tests.py
    python scripts/run_tests.py --slow
    python scripts/run_tests.py --soak
    python scripts/run_tests.py -- -k scoring -x
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from toolkit import console
from toolkit.console import say
from toolkit.files import REPOSITORY, argument_path
from toolkit.project import environments

FAST_LANES, SLOW_LANES = 4, 2
SLOWEST = "--durations=10"


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--slow", action="store_true", help="the slow tests instead of the fast ones")
    which.add_argument("--soak", action="store_true", help="the tests that are too long for every change")
    parser.add_argument(
        "--out",
        type=argument_path,
        default=None,
        help="--soak: file that its output is added to (default: benchmarks/results/soak_DATE.txt)",
    )
    parser.add_argument("--here", action="store_true", help="use the current environment as it is")
    parser.add_argument("pytest", nargs="*", metavar="-- PYTEST", help="arguments for pytest")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.out and not args.soak:
        parser.error("--out belongs to --soak")
    if not args.here:
        environments.make("dev")
        if not environments.is_inside("dev"):
            return environments.start_inside("dev", __file__, arguments)
    today = REPOSITORY / f"benchmarks/results/soak_{time.strftime('%Y-%m-%d')}.txt"
    out = args.out.absolute() if args.out else today
    os.chdir(REPOSITORY)
    if args.soak:
        failed = ["pytest"] if run_soak(out, args.pytest) else []
    else:
        steps = slow_steps(args.pytest) if args.slow else fast_steps(args.pytest)
        failed = [step[1] for step in steps if run(step)]
    if failed:
        say(f"failed: {', '.join(failed)}")
    return console.finish(args, {"failed": failed}, console.ExitCode.PROBLEMS if failed else console.ExitCode.OK)


def lanes(most: int) -> list[str]:
    return ["-n", str(min(most, os.cpu_count() or 1))]


def fast_steps(more: list[str]) -> list[list[str]]:
    # Many of the fast tests wait (for processes, for servers), so several at a time; a file's tests stay together.
    tests = ["-m", "not slow and not soak", *lanes(FAST_LANES), "--dist", "worksteal", SLOWEST]
    return [
        ["-m", "ruff", "check", "."],
        ["-m", "ruff", "format", "--check", "."],
        ["-m", "mypy", "scripts"],
        ["-m", "pytest", *tests, *more],
    ]


def slow_steps(more: list[str]) -> list[list[str]]:
    # In the order of the files, except for what tests/conftest.py moves; a group of tests stays in one lane.
    tests = ["-m", "slow and not soak", *lanes(SLOW_LANES), "--dist", "loadgroup", "--no-loadscope-reorder", SLOWEST]
    return [["-m", "pytest", *tests, *more]]


def run(step: list[str]) -> int:
    say("> python " + " ".join(f'"{word}"' if " " in word else word for word in step))
    return subprocess.run([sys.executable, *step], check=False).returncode


def run_soak(out: Path, more: list[str]) -> int:
    """The soak tests one at a time, each with the whole machine; what they print goes to the terminal and to `out`."""
    words = ["-m", "pytest", "-m", "soak", "-s", "-v", "--no-header", "-p", "no:cacheprovider", SLOWEST, *more]
    command = " ".join(["python scripts/run_tests.py --soak", *(["--", *more] if more else [])])
    say("> python " + " ".join(words))
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(f"# {command} ({time.strftime('%Y-%m-%d %H:%M')}, {machine()})\n")
        at_once = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        process = subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, env=at_once, encoding="utf-8", errors="replace"
        )
        for line in process.stdout or ():
            kept = without_folders(line)
            print(kept, end="", flush=True)
            file.write(kept)
            file.flush()
        return process.wait()


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def without_folders(line: str) -> str:
    """A line without the folders of this machine, because the file is kept in the repository."""
    return line.replace(f"{REPOSITORY}{os.sep}", "").replace(f"{Path.home()}{os.sep}", f"~{os.sep}")


if __name__ == "__main__":
    sys.exit(main())
