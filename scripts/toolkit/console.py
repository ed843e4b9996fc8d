"""What every script says and how it ends: exit codes, one-sentence errors, progress, and the `--json` last line.

People's text and progress bars go to stderr; stdout carries results, and with `--json` ends in one compact JSON object.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import functools
import inspect
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from toolkit import interpreter

T = TypeVar("T")


class ExitCode(IntEnum):
    """What a script's exit code means.

    0 done; 1 problems found in the data, each named; 2 usage or unreadable input; 3 a missing dependency;
    130 interrupted.
    """

    OK = 0
    PROBLEMS = 1
    USAGE = 2
    DEPENDENCY = 3
    INTERRUPTED = 130


class StageError(Exception):
    """A failure that a user can cause or cure: the message is one sentence (where, what, what to do)."""

    def __init__(self, message: str, code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.code = code


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors. The description is the script's docstring; every script has `--json`."""

    def __init__(self, docstring: str | None, **options: Any) -> None:
        super().__init__(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.add_argument("--json", action="store_true", help="end stdout with one compact JSON object")

    def error(self, message: str) -> NoReturn:
        self.exit(ExitCode.USAGE, f"{self.prog}: error: {message} (see --help)\n")


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """`did you mean 'consignee_name'?` with a blank behind it, or an empty text where no name is near."""
    names: dict[str, str] = {}
    for name in known:
        names.setdefault(folded_name(name), name)
        names.setdefault(folded_name(name.rpartition(".")[2]), name)
    wanted = folded_name(wrong)
    close = difflib.get_close_matches(wanted, names, n=1)
    # consignee is meant for consignee_name, although hardly half of the two is alike.
    close = close or [
        name for name in names if len(wanted) > 2 and (wanted in name or (len(name) > 2 and name in wanted))
    ]
    return f"did you mean {names[close[0]]!r}? " if close else ""


def folded_name(name: str) -> str:
    """A name without case, blanks, hyphens and the brackets of lists."""
    return re.sub(r"[\s_\-]+", "", name.casefold().replace("[]", ""))


def one_line(message: object, most: int = 200) -> str:
    """What somebody else's error says, as part of a sentence of ours."""
    return " ".join(str(message).split())[:most]


def script(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Decorator of a script's `main(argv=None) -> int`: a failure that a user can cause ends in one sentence.

    Started as a program (argv is None) outside the project's environments, the script starts itself again inside one.
    """
    name = Path(inspect.getfile(main)).stem

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        if argv is None and not {"-h", "--help"} & set(sys.argv[1:]):
            python = interpreter.python_to_start(name)
            if python is not None:
                return interpreter.start_again(python)
        for stream in (sys.stdout, sys.stderr):
            # Windows consoles in cp1252 or cp437 would raise on the first accented file name.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        try:
            return int(main(argv))
        except StageError as error:
            say(f"error: {error}")
            return int(error.code)
        except KeyboardInterrupt:
            kept = "finished files are complete, unfinished ones were not written"
            say(f"interrupted: {kept}; run the same command to go on")
            return int(ExitCode.INTERRUPTED)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            say(f"error: the Python package '{package}' is missing; {interpreter.remedy(name, package)}")
            return int(ExitCode.DEPENDENCY)
        except BrokenPipeError:
            sys.stderr.close()
            return int(ExitCode.OK)
        except OSError as error:
            say(f"error: {sentence_of(error)}")
            return int(ExitCode.USAGE)

    return wrapped


def sentence_of(error: OSError) -> str:
    """An operating-system error as one sentence that names the file and says what to do."""
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return f"no space left on the disk{where}; free some and run the same command again (earlier output is intact)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no permission{where}; close programs that have the file open, or choose another --out"
    if error.errno == errno.ENOENT:
        return f"not found: {error.filename}"
    if error.errno == errno.EISDIR:
        return f"{error.filename} is a folder, a file is needed here"
    return f"{error.strerror or error}{where}"


def say(text: str = "") -> None:
    """One line for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


@functools.lru_cache(maxsize=1024)
def say_once(text: str) -> None:
    """One line for people, on stderr, the first time that it is said."""
    say(text)


def finish(args: argparse.Namespace, result: dict[str, Any], code: ExitCode = ExitCode.OK) -> int:
    """End a script: with `--json` print `result` as the last line of stdout; return the exit code."""
    if args.json:
        print(json.dumps(result, ensure_ascii=True, separators=(",", ":")), flush=True)
    return int(code)


def progress(items: Iterable[T], *, total: int | None = None, what: str = "files") -> Iterator[T]:
    """`items` behind a progress bar on stderr; silent where stderr is no terminal."""
    from tqdm import tqdm

    yield from tqdm(items, total=total, unit=f" {what}", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)


class Meter:
    """Progress of a long run, in documents: a bar on a terminal, elsewhere a line every half minute."""

    EVERY_SECONDS = 30.0

    def __init__(self, total: int | None) -> None:
        self.total, self.count, self.failed = total, 0, 0
        self.began = self.told = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=" documents", file=sys.stderr, leave=False)

    def step(self, *, failed: bool) -> None:
        self.count += 1
        self.failed += failed
        if self._bar is not None:
            self._bar.update()
            if failed:
                self._bar.set_postfix(failed=self.failed)
        elif time.monotonic() - self.told >= self.EVERY_SECONDS:
            self.told = time.monotonic()
            say(self.line())

    def line(self) -> str:
        """`120 of 1000 documents, 85 a minute, about 10 min left, 3 failed`."""
        minutes = max(1e-9, (time.monotonic() - self.began) / 60)
        rate = self.count / minutes
        text = f"{self.count}" + (f" of {self.total}" if self.total else "") + f" documents, {rate:.0f} a minute"
        if self.total and rate:
            left = (self.total - self.count) / rate
            text += f", about {left:.0f} min left" if left >= 1 else f", about {60 * left:.0f} s left"
        return text + (f", {self.failed} failed" if self.failed else "")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def first_few(values: Iterable[str], shown: int = 3) -> str:
    """`a, b, c and 5 more`: many of one kind in one line."""
    values = list(values)
    tail = f" and {len(values) - shown} more" if len(values) > shown else ""
    return ", ".join(values[:shown]) + tail
