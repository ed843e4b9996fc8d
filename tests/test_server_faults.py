"""The real vLLM behind a proxy that fails, and killed in the middle: nothing is lost. Slow, as test_servers.py is."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY, free_port, script, server_processes
from fault_server import FaultServer
from real_server import Server, answers, asked, serving

from toolkit.files import read_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="vLLM runs on Linux")]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("servers")


FAULTS = {
    **dict.fromkeys(range(10, 30), "429"),
    **dict.fromkeys(range(34, 46), "500"),
    50: "cut",
    51: "close",
    52: "garbage",
    53: "slow",
}


@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.soak)])
def test_nothing_is_lost_while_everything_fails(vllm_python, merged, held_out, work, count):
    """Bursts of 429 and 500, cut connections, garbage, a slow answer; the server is killed and started anew."""
    many = work / f"{count}.jsonl"
    records = [record for _, record in read_jsonl(held_out)]
    with many.open("w", encoding="utf-8") as file:
        for number in range(count):
            record = records[number % len(records)]
            file.write(json.dumps(record | {"id": f"{number:04d} {record['id']}"}) + "\n")
    out, port = work / f"{count}_predictions.jsonl", free_port()

    def answered() -> int:
        return out.read_bytes().count(b"\n") if out.exists() else 0

    began = time.monotonic()
    with FaultServer(FAULTS.get, target=port) as proxy:
        source = ["--server", proxy.url, "--contract", merged]
        words = [*source, "--in", many, "--out", out, "--concurrency", 16, "--patience", 400]
        with serving(vllm_python, merged, "--profile", "throughput", port=port):
            command = [sys.executable, "scripts/extract_documents.py", *map(str, words), "--json"]
            client = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
            kill_server_when(lambda: answered() >= 0.3 * count or client.poll() is not None, port)
        before = answered()
        with serving(vllm_python, merged, "--profile", "throughput", port=port) as server:
            output, _ = client.communicate(timeout=1500)
            assert client.returncode == 0, output
            lines = [line for _, line in read_jsonl(out)]
            assert len(lines) == len({line["id"] for line in lines}) == count
            assert before < count and {line["status"] for line in lines} == {"ok"}
            assert {kind: proxy.faults[kind] for kind in FAULTS.values()} == {
                kind: list(FAULTS.values()).count(kind) for kind in FAULTS.values()
            }
            seconds = time.monotonic() - began
            print(f"{count} documents in {seconds:.0f} s, {before} before the server was killed; {proxy.faults}")
            check_a_second_run_does_what_is_missing(out, words, count)
            check_what_cannot_be_answered_is_named(server, merged, held_out, work, count)


def kill_server_when(ready: Callable[[], bool], port: int) -> None:
    """The server and its engine, as the kernel does when memory ends."""
    while not ready():
        time.sleep(0.2)
    servers = server_processes(port)
    assert servers, "the server was there when the client had a part of its answers"
    for group in {os.getpgid(process) for process in servers}:
        os.killpg(group, signal.SIGKILL)
    time.sleep(2)


def check_a_second_run_does_what_is_missing(out: Path, words: list[object], count: int) -> None:
    kept = out.read_text(encoding="utf-8").splitlines()
    out.write_text("\n".join(kept[:-5]) + "\n" + kept[-5][:40], encoding="utf-8")
    result = script("extract_documents", *words)
    assert result["documents"] == 5 and result["already_there"] == count - 5


def check_what_cannot_be_answered_is_named(
    server: Server, merged: Path, held_out: Path, work: Path, count: int
) -> None:
    """Truncated answers, and a page that the server refuses, are named and end in exit code 1."""
    short = work / f"short-{count}"
    short.mkdir()
    contract = json.loads((merged / "extraction_config.json").read_text())
    (short / "extraction_config.json").write_text(json.dumps(contract | {"max_answer_tokens": 12}))
    few = ["--limit", 4, "--tries", 2]
    cut = answers(work / f"short-{count}.jsonl", held_out, asked(server, short), *few, code=(1,))
    assert {line["status"] for line in cut.values()} == {"truncated"}
    pages = work / "long.tiff"
    long_document(pages)
    refused = answers(work / f"refused-{count}.jsonl", pages, asked(server, merged), "--window", 6, code=(1,))
    assert refused["long.tiff"]["status"] == "refused" and "HTTP 400" in refused["long.tiff"]["error"]


def long_document(path: Path) -> None:
    from PIL import Image

    frames = [Image.new("RGB", (640, 480), (255, 255 - n, 255)) for n in range(6)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
