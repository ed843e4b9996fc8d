"""Set up everything and run the tests: lint, types, and pytest. Works from a fresh clone with nothing but Python.

The fast tests take under two minutes; --slow runs the slow ones instead (minutes: real training, the quickstart). What
follows -- goes to pytest.

    python scripts/run_tests.py
    python scripts/run_tests.py --slow
    python scripts/run_tests.py -- -k scoring -x
"""

from __future__ import annotations

import os
import subprocess
import sys

from toolkit import console
from toolkit.console import say
from toolkit.project import environments


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--slow", action="store_true", help="the slow tests instead of the fast ones")
    parser.add_argument("--here", action="store_true", help="use the current environment as it is")
    parser.add_argument("pytest", nargs="*", metavar="-- PYTEST", help="arguments for pytest")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(arguments)
    if not args.here:
        environments.make("dev")
        if not environments.is_inside("dev"):
            return environments.start_inside("dev", __file__, arguments)
    os.chdir(environments.REPOSITORY)
    if args.slow:
        steps = [["-m", "pytest", "-m", "slow", *args.pytest]]
    else:
        steps = [
            ["-m", "ruff", "check", "."],
            ["-m", "ruff", "format", "--check", "."],
            ["-m", "mypy", "scripts"],
            # Many of the fast tests wait (for processes, for servers), so several at a time; the slow ones need the whole machine.
            ["-m", "pytest", "-n", "auto", "--maxprocesses", "4", "-m", "not slow", *args.pytest],
        ]
    failed = []
    for step in steps:
        say("> python " + " ".join(step))
        if subprocess.run([sys.executable, *step], check=False).returncode:
            failed.append(step[1])
    if failed:
        say(f"failed: {', '.join(failed)}")
    return console.finish(args, {"failed": failed}, console.ExitCode.PROBLEMS if failed else console.ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
