"""Worker processes that are really killed, idle and busy, once and twice; jobs that nobody waits for any more."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import REPOSITORY, png

from toolkit.pages.workers import NoWorkers, WorkerDied, WorkerPool


@contextmanager
def pool_of(workers: int, **more):
    pool = WorkerPool(workers, **more)
    try:
        yield pool
    finally:
        pool.stop()


def until(condition, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


def kill_workers() -> list[int]:
    killed = [p.pid for p in multiprocessing.active_children() if p.name == "page-worker" and p.pid]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    return killed


def test_a_killed_idle_worker_is_replaced():
    with pool_of(2) as pool:
        assert pool.schedule(abs, (-1,), timeout=10).result(20) == 1
        assert until(lambda: len(pool.process_ids()) == 2)
        for round_ in range(2):
            before = pool.process_ids()
            kill_workers()
            assert pool.schedule(abs, (-round_,), timeout=10).result(20) == round_
            assert until(lambda: len(set(pool.process_ids()) - set(before)) == 2)  # noqa: B023
        assert pool.trouble() == ""


def slow_the_first_time(marker: str) -> str:
    if not Path(marker).exists():
        Path(marker).touch()
        time.sleep(60)
    return "done"


def test_the_job_of_a_killed_busy_worker_is_done_by_another_and_its_neighbour_notices_nothing(tmp_path):
    marker = tmp_path / "begun"
    with pool_of(2) as pool:
        job = pool.schedule(slow_the_first_time, (str(marker),), timeout=50)
        assert until(marker.exists)
        neighbour = pool.schedule(time.sleep, (0.5,), timeout=10)
        busy = pool.process_ids()
        os.kill(busy[0], signal.SIGKILL)
        os.kill(busy[1], signal.SIGKILL)
        assert job.result(20) == "done" and neighbour.result(20) is None


def test_a_job_that_kills_its_worker_twice_is_named_and_the_next_one_is_fine():
    with pool_of(1) as pool:
        with pytest.raises(WorkerDied, match=r"ended (by signal 6|with code \d+), 2 times"):
            pool.schedule(os.abort, timeout=20).result(30)
        assert pool.schedule(abs, (-3,), timeout=10).result(20) == 3


def test_a_worker_that_takes_too_long_is_replaced():
    with pool_of(1) as pool:
        with pytest.raises(TimeoutError):
            pool.schedule(time.sleep, (60,), timeout=0.3).result(20)
        assert pool.schedule(abs, (-3,), timeout=10).result(20) == 3


def test_while_no_worker_can_be_started_jobs_are_given_up_and_the_pool_says_why():
    with pool_of(1, prepare=sys.exit) as pool:
        with pytest.raises(NoWorkers, match="no worker process can be started"):
            pool.schedule(abs, (-1,), timeout=10).result(30)
        assert "no worker process can be started (it ended with code 0)" in pool.trouble()
        pool.prepare = None  # what was missing is there again
        assert until(lambda: pool.trouble() == "")
        assert pool.schedule(abs, (-1,), timeout=10).result(20) == 1


def test_a_job_that_nobody_waits_for_is_ended_and_settles_when_its_worker_has_let_go():
    with pool_of(1) as pool:
        running = pool.schedule(time.sleep, (60,), timeout=50)
        assert until(running.running)
        waiting = pool.schedule(abs, (-1,), timeout=10)
        settled = []
        running.add_done_callback(lambda _: settled.append(pool.process_ids()))
        worker = pool.process_ids()
        waiting.cancel()
        running.cancel()
        assert waiting.cancelled() and settled == []
        with pytest.raises(CancelledError):
            running.result(10)
        assert settled == [[]] and not Path(f"/proc/{worker[0]}").exists()
        assert pool.schedule(abs, (-2,), timeout=10).result(20) == 2


class Odd(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def odd() -> None:
    raise Odd(1, 2)


def test_errors_and_results_that_cannot_travel_between_processes_are_errors_of_their_job():
    with pool_of(1) as pool:
        with pytest.raises(RuntimeError, match="Odd: 1 and 2"):
            pool.schedule(odd, timeout=10).result(20)
        with pytest.raises(RuntimeError, match="lock"):
            pool.schedule(threading.Lock, timeout=10).result(20)
        with pytest.raises(Exception, match=r"pickle|local object"):
            pool.schedule(lambda: 1, timeout=10).result(20)
        with pytest.raises(SystemExit):
            pool.schedule(sys.exit, (3,), timeout=10).result(20)
        assert pool.schedule(abs, (-2,), timeout=10).result(20) == 2


PARENT = """
import sys, time
sys.path.insert(0, "scripts")
from toolkit.pages.workers import WorkerPool
if __name__ == "__main__":
    pool = WorkerPool(1)
    pool.schedule(time.sleep, (60,), timeout=50)
    while not pool.process_ids():
        time.sleep(0.02)
    time.sleep(0.3)
    print(pool.process_ids()[0], flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills processes by signal")
def test_a_busy_worker_ends_with_the_process_that_started_it(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()

    def gone() -> bool:
        try:
            return Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z"
        except FileNotFoundError:
            return True

    assert until(gone, 5)


# --- the same in pdf_to_images.py ------------------------------------------------------------------------------------


@contextmanager
def killing(times: float):
    """Kills the workers that there are, `times` times, as soon as there are some."""
    ended, killed = threading.Event(), []

    def kill() -> None:
        while not ended.is_set() and len(killed) < times:
            killed.extend(kill_workers())
            time.sleep(0.03)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def slow_picture(path: Path, frames: int = 2) -> Path:
    """A few kilobytes that take a second and more to render."""
    from PIL import Image

    pictures = [Image.new("L", (8000, 8000), shade) for shade in range(frames)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(path, "TIFF", save_all=True, append_images=pictures[1:], compression="tiff_adobe_deflate")
    return path


def test_a_document_whose_render_worker_was_killed_is_rendered_by_the_next_one(run, workspace):
    slow_picture(workspace / "in/a.tiff")
    for name in "bcd":
        png(workspace / f"in/{name}.png", (64, 96))
    with killing(1) as killed:
        done = run("pdf_to_images", "--in", "in", "--image-max-tokens", 64, "--workers", 2, "--json")
    assert killed and done.code == 0, done.err
    lines = (workspace / "data/images/manifest.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["document"] for line in lines) == ["a", "a", "b", "c", "d"]


def test_a_document_that_loses_its_worker_twice_is_named(run, workspace):
    slow_picture(workspace / "in/a.tiff")
    png(workspace / "in/b.png", (64, 96))
    with killing(1e9):
        done = run("pdf_to_images", "--in", "in/a.tiff", "--image-max-tokens", 64, "--json")
    assert done.code in (1, 3) and ("a.tiff" in done.err or "worker" in done.err) and "Traceback" not in done.err
    assert run("pdf_to_images", "--in", "in/b.png", "--image-max-tokens", 64, "--json").code == 0
