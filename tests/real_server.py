"""A real vLLM server for a test, and what it answers."""

import contextlib
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from conftest import REPOSITORY, free_port, script, server_processes

from toolkit.files import read_jsonl


@dataclass(frozen=True)
class Server:
    """A running server; its script ends with it."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@contextlib.contextmanager
def serving(vllm_python, model, *arguments, port: int | None = None):
    """serve_vllm.py until it says ready; afterwards stopped as a terminal's Ctrl-C or a container would."""
    server = Server(port or free_port())
    words = ["scripts/serve_vllm.py", model, "--port", server.port, "--python", vllm_python, *arguments]
    process = subprocess.Popen(
        [sys.executable, *map(str, words)], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    lines = []
    try:
        for line in process.stderr:
            lines.append(line.rstrip())
            if line.startswith("ready: "):
                break
        else:
            raise AssertionError("\n".join(lines[-20:]))
        print("\n".join(lines[-3:]))
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=60)
        assert not server_processes(server.port), "the server and its workers end with the script"


def answers(out: Path, documents: Path, source: list[object], *more: object, code=(0, 1)) -> dict[str, dict]:
    """`{id: prediction line}` that extract_documents.py writes; `source`: where the answers come from."""
    script("extract_documents", *source, "--in", documents, "--out", out, *more, code=code)
    return {line["id"]: line for _, line in read_jsonl(out)}


def asked(server: Server, contract: Path) -> list[object]:
    return ["--server", server.url, "--contract", contract]


def scores(predictions: Path, gold: Path) -> dict:
    return script("evaluate_predictions", "--pred", predictions, "--gold", gold)


def first_lines(source: Path, count: int, out: Path) -> Path:
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)[:count]
    out.write_text("".join(lines), encoding="utf-8")
    return out
