"""Worker processes for documents: a worker that is killed is replaced, and its document is tried once more.

Each worker has a pipe of its own, and one thread in this process that watches it. So a worker may be killed at any
time, idle or busy (the kernel does that when memory is short), and no other worker notices.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from multiprocessing.connection import Connection, wait
from typing import Any

from toolkit.console import ExitCode, StageError

TRIES = 2  # of a job whose worker dies while it works on it
LOSSES = 5  # of a job that was handed to a worker which died without beginning it
GRACE = 1.0  # seconds in which a job may still finish that nobody waits for any more
START_SECONDS = 60.0  # a worker that has not reported by then is started anew
FAILED_STARTS = 3  # in a row, with no worker alive: then waiting jobs are given up
LONGEST_PAUSE = 5.0  # seconds between two starts that fail


class WorkerDied(Exception):
    """The job's worker was killed, every time; the message is one sentence."""


class NoWorkers(StageError):
    """No worker process can be started: this machine's fault, never a document's; the message is one sentence."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.DEPENDENCY)


class Job(Future[Any]):
    """A call in a worker. `cancel` also ends one that runs: within `GRACE` seconds its worker is killed and replaced.

    Callbacks of a job that runs are called when its worker has let go of it, never earlier.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> None:
        super().__init__()
        self.function, self.arguments, self.seconds = function, arguments, seconds
        self.deaths = self.losses = 0
        self.abandoned = False

    def begin(self) -> bool:
        """Marks the job as running, also when it is tried again; False where it was cancelled before."""
        return self.running() or self.set_running_or_notify_cancel()

    def cancel(self) -> bool:
        self.abandoned = True
        return super().cancel()


class WorkerPool:
    """`workers` processes that run what is scheduled, in order. `prepare` runs in each worker before its first job.

    On Linux a worker has at most `memory_mb` of its own memory (MB of 2**20 bytes); beyond, its job gets a MemoryError.
    """

    def __init__(
        self, workers: int, prepare: Callable[[], None] | None = None, *, memory_mb: float | None = None
    ) -> None:
        self.prepare, self.memory_mb = prepare, memory_mb
        # Spawned, not forked: this process may run an event loop, threads and CUDA.
        self.context = multiprocessing.get_context("spawn")
        self.changed = threading.Condition()
        self.jobs: deque[Job] = deque()
        self.closed = False
        self.failed_starts = 0
        self.complaint = ""
        self._keepers = [_Keeper(self) for _ in range(workers)]
        for keeper in self._keepers:
            keeper.start()

    def schedule(self, function: Callable[..., Any], args: Iterable[Any] = (), *, timeout: float) -> Job:
        """A future of `function(*args)`. It raises TimeoutError after `timeout` seconds, WorkerDied, NoWorkers, or the
        function's own error."""
        job = Job(function, tuple(args), timeout)
        with self.changed:
            if self.closed:
                raise RuntimeError("the pool is closed")
            self.jobs.append(job)
            self.changed.notify()
        return job

    def trouble(self) -> str:
        """Why no worker can be had now; empty where one can."""
        with self.changed:
            return "" if any(keeper.alive for keeper in self._keepers) else self.complaint

    def process_ids(self) -> list[int]:
        return [keeper.process.pid for keeper in self._keepers if keeper.alive and keeper.process.pid]

    def stop(self) -> None:
        """End: kill the workers; jobs that are not done are cancelled."""
        with self.changed:
            self.closed = True
            waiting = list(self.jobs)
            self.jobs.clear()
            self.changed.notify_all()
        for job in waiting:
            job.abandoned = True
            _give_up(job, CancelledError())
        for keeper in self._keepers:
            keeper.join()

    def take(self, seconds: float) -> Job | None:
        """The next job; None after `seconds`, or when the pool is closed."""
        with self.changed:
            if not self.jobs and not self.closed:
                self.changed.wait(seconds)
            return self.jobs.popleft() if self.jobs and not self.closed else None

    def put_back(self, job: Job) -> None:
        """A job whose worker died goes first."""
        with self.changed:
            if not self.closed:
                self.jobs.appendleft(job)
                self.changed.notify()
                return
        _give_up(job, CancelledError())

    def started(self, complaint: str = "") -> int:
        """A worker started, or did not and said why; how many starts failed in a row."""
        with self.changed:
            self.complaint = complaint
            self.failed_starts = self.failed_starts + 1 if complaint else 0
            given_up: list[Job] = []
            if self.failed_starts >= FAILED_STARTS and not any(keeper.alive for keeper in self._keepers):
                given_up = list(self.jobs)
                self.jobs.clear()
        for job in given_up:
            _give_up(job, NoWorkers(complaint))
        return self.failed_starts


class _Keeper(threading.Thread):
    """Keeps one worker alive and hands it jobs."""

    # multiprocessing's list of children is not made for several threads.
    starting = threading.Lock()

    def __init__(self, pool: WorkerPool) -> None:
        super().__init__(name="worker-keeper", daemon=True)
        self.pool = pool
        self.alive = False
        self.process: Any = None
        self.pipe: Connection[Any, Any] | None = None

    def run(self) -> None:
        while not self.pool.closed:
            if not self.alive and not self._start():
                continue
            job = self.pool.take(0.5)
            if job is not None:
                self._work(job)
            elif self._is_dead():
                self._end()
        self._end()

    def _start(self) -> bool:
        """A new worker that is ready for jobs; False where there is none, after a pause."""
        try:
            with self.starting:
                self.pipe, theirs = self.pool.context.Pipe()
                with theirs:
                    arguments = (theirs, self.pool.prepare, self.pool.memory_mb)
                    self.process = self.pool.context.Process(
                        target=_worker, args=arguments, daemon=True, name="page-worker"
                    )
                    self.process.start()
            complaint = self._ready()
        except Exception as error:  # no memory, no process, no file handle: whatever it is, it may pass
            complaint = f"no worker process can be started ({type(error).__name__}: {error})"
        if self.pool.closed:
            return False
        self.alive = not complaint
        failed = self.pool.started(complaint)
        if complaint:
            self._end()
            with self.pool.changed:
                self.pool.changed.wait_for(lambda: self.pool.closed, min(LONGEST_PAUSE, 0.1 * 2**failed))
        return not complaint

    def _ready(self) -> str:
        """Waits for the worker's first word; a sentence where it does not come."""
        assert self.pipe is not None
        deadline = time.monotonic() + START_SECONDS
        while not self.pool.closed and time.monotonic() < deadline:
            if wait([self.pipe, self.process.sentinel], 0.2):
                try:
                    self.pipe.recv()
                except (EOFError, OSError):
                    return f"no worker process can be started (it ended {self._how()})"
                return ""
        return f"no worker process can be started (not ready after {START_SECONDS:g} s)"

    def _is_dead(self) -> bool:
        return bool(wait([self.process.sentinel], 0))

    def _how(self) -> str:
        """How the worker ended."""
        with self.starting:
            self.process.join(5)
            code = self.process.exitcode
        return f"by signal {-code}" if code is not None and code < 0 else f"with code {code}"

    def _end(self) -> None:
        self.alive = False
        if self.process is not None and self.process.pid is not None:
            with self.starting:
                self.process.kill()
                self.process.join(5)
        if self.pipe is not None:
            self.pipe.close()
        self.process = self.pipe = None

    def _work(self, job: Job) -> None:
        """Run the job in the worker. Whatever happens: the job is settled or back in the queue, and no worker hangs."""
        if not job.begin():
            return
        try:
            self._run(job)
        except Exception as error:
            self._end()
            job.set_exception(error)

    def _run(self, job: Job) -> None:
        assert self.pipe is not None
        try:
            self.pipe.send((job.function, job.arguments))
        except OSError:
            self._died(job, begun=False)
            return
        except Exception as error:  # the arguments cannot be sent to another process
            job.set_exception(error)
            return
        deadline = time.monotonic() + job.seconds
        given_up_at = float("inf")
        begun = False
        while not self.pool.closed:
            now = time.monotonic()
            if job.abandoned:
                given_up_at = min(given_up_at, now + GRACE)
            if now >= min(deadline, given_up_at):
                self._end()
                job.set_exception(TimeoutError() if now >= deadline else CancelledError())
                return
            if wait([self.pipe, self.process.sentinel], min(0.1, deadline - now)):
                if begun:
                    self._answered(job)
                    return
                if not self._began(job):
                    return
                begun = True
        self._end()
        job.set_exception(CancelledError())

    def _began(self, job: Job) -> bool:
        """Takes the worker's word that it has the job; False where it died before."""
        assert self.pipe is not None
        try:
            self.pipe.recv()
        except (EOFError, OSError):
            self._died(job, begun=False)
            return False
        return True

    def _answered(self, job: Job) -> None:
        assert self.pipe is not None
        try:
            fine, value = self.pipe.recv()
        except (EOFError, OSError):
            self._died(job, begun=True)
            return
        except Exception as error:  # an exception that does not survive the way from its process
            fine, value = False, RuntimeError(f"{type(error).__name__}: {error}")
        if isinstance(value, MemoryError):
            self._end()  # what its engines still hold would be missing to the next job
        if job.abandoned:
            job.set_exception(CancelledError())
        elif fine:
            job.set_result(value)
        else:
            job.set_exception(value)

    def _died(self, job: Job, *, begun: bool) -> None:
        if begun:
            job.deaths += 1
        else:  # it was killed while it was idle, which is not the job's doing
            job.losses += 1
        how = self._how()
        self._end()
        if job.abandoned:
            job.set_exception(CancelledError())
        elif job.deaths < TRIES and job.losses < LOSSES:
            self.pool.put_back(job)
        else:
            times = max(job.deaths, job.losses)
            job.set_exception(WorkerDied(f"the process that worked on it ended {how}, {times} times"))


def _give_up(job: Job, error: BaseException) -> None:
    """Settle a job that no worker has."""
    if job.begin():
        job.set_exception(error)


def _worker(pipe: Connection[Any, Any], prepare: Callable[[], None] | None, memory_mb: float | None) -> None:
    """The worker's process: runs jobs from the pipe until that closes. Ends with its parent, also in a job."""
    import signal

    if memory_mb is not None:
        limit_memory(memory_mb)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        with contextlib.suppress(Exception):  # the first job will meet it, and say it
            prepare()
    with contextlib.suppress(EOFError, OSError):
        pipe.send("ready")
        while True:
            _send(pipe, _outcome(pipe))


def memory_for_pictures(max_decoded_mb: float) -> float:
    """Megabytes for a worker: a picture is there up to four times while it is turned, scaled and coloured."""
    return 1024 + 4 * max_decoded_mb


def limit_memory(megabytes: float) -> None:
    """Let this process have so much memory of its own (Linux; elsewhere nothing happens).

    RLIMIT_DATA counts what is allocated, and not the files that are mapped, such as libraries.
    """
    if sys.platform != "linux":
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = int(megabytes * 2**20)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _outcome(pipe: Connection[Any, Any]) -> tuple[bool, Any]:
    try:
        function, arguments = pipe.recv()
    except (EOFError, OSError):
        raise
    except Exception as error:  # what was sent cannot be made here
        pipe.send("begun")
        return False, error
    pipe.send("begun")
    try:
        return True, function(*arguments)
    except BaseException as error:
        return False, error


def _send(pipe: Connection[Any, Any], outcome: tuple[bool, Any]) -> None:
    import pickle

    fine, value = outcome
    try:
        data = pickle.dumps(outcome)
        if not fine:
            pickle.loads(data)  # an exception with arguments of its own may go out and not come in
    except Exception:
        said = type(value).__name__ if fine else f"{type(value).__name__}: {value}"
        data = pickle.dumps((False, RuntimeError(said[:300])))
    pipe.send_bytes(data)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
