"""What the client adds to a request's time: benchmark_latency.py and `vllm bench serve`, each against the server.

Both send the same pages to the same server, in turns. Each one's mean seconds a request are compared with the server's
own: vLLM's histogram of whole requests, over the same requests. A vLLM that answers whole must run already.

    python scripts/serve_vllm.py outputs/bl-8b-merged
    python benchmarks/client_overhead.py --server http://127.0.0.1:8000/v1 --contract outputs/bl-8b-merged \\
        --in data/splits/val.jsonl --python .venv-serve/bin/python
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from toolkit import console
from toolkit.console import StageError, say
from toolkit.extraction.chat_request import page_url, request_body
from toolkit.files import argument_path
from toolkit.model.contract import load_contract
from toolkit.records.record import read_records

REPOSITORY = Path(__file__).resolve().parents[1]
WHOLE = "vllm:e2e_request_latency_seconds"


def main(argv: list[str] | None = None) -> int:
    parser = console.Parser(__doc__)
    parser.add_argument("--server", required=True, help="the vLLM, up to /v1")
    parser.add_argument("--contract", type=argument_path, required=True, help="the model folder that it serves")
    parser.add_argument("--in", dest="input", type=argument_path, required=True, help="JSONL of records")
    parser.add_argument("--python", type=argument_path, required=True, help="Python whose vLLM has `bench serve`")
    parser.add_argument("--requests", type=int, default=40, help="requests of each tool in each turn (default: 40)")
    parser.add_argument("--turns", type=int, default=3, help="(default: 3)")
    args = parser.parse_args(argv)
    contract = load_contract(args.contract)
    if contract.rows_per_shard or contract.fields_per_shard:
        raise StageError("give a model with whole answers: a document must be one request")
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        dataset = as_their_dataset(args, Path(folder))
        for _ in range(args.turns):
            ours.append(added(args.server, lambda: our_mean(args, Path(folder))))
            theirs.append(added(args.server, lambda: their_mean(args, contract, dataset, Path(folder))))
    result: dict[str, Any] = {}
    for name, found in (("benchmark_latency.py", ours), ("vllm bench serve", theirs)):
        for client, server in found:
            times = f"client {client:.4f} s, server {server:.4f} s a request"
            say(f"{name:22s} {times}: {1000 * (client - server):5.1f} ms, {client / server - 1:.2%}")
        result[name] = round(sum(c for c, _ in found) / sum(s for _, s in found) - 1, 5)
    say(f"over all turns: {', '.join(f'{name} adds {share:.2%}' for name, share in result.items())}")
    return console.finish(args, result)


def as_their_dataset(args: Any, folder: Path) -> Path:
    """The records' pages and questions in the form of `--dataset-name custom_image`."""
    path = folder / "pages.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for record in read_records(args.input, args.requests):
            (user,) = [message for message in record["messages"] if message["role"] == "user"]
            images = [page_url(Path(part["image"])) for part in user["content"] if part["type"] == "image"]
            text = " ".join(part["text"] for part in user["content"] if part["type"] == "text")
            file.write(json.dumps({"prompt": text, "image_files": images}) + "\n")
    return path


def server_totals(url: str) -> tuple[float, int]:
    """Seconds and number of all requests that the server has ended."""
    import httpx

    text = httpx.get(f"{url.rstrip('/').removesuffix('/v1')}/metrics", timeout=10).text
    seconds, count = (
        sum(float(v) for v in re.findall(rf"^{WHOLE}_{kind}(?:{{[^}}]*}})? ([0-9.eE+-]+)$", text, re.M))
        for kind in ("sum", "count")
    )
    return seconds, int(count)


def added(url: str, measure: Any) -> tuple[float, float]:
    """`(client's mean seconds, server's mean seconds)` of the requests that `measure` made."""
    before = server_totals(url)
    mean = measure()
    after = server_totals(url)
    if after[1] <= before[1]:
        raise StageError("the server counted no request: is it a vLLM, and used by nobody else?")
    return mean, (after[0] - before[0]) / (after[1] - before[1])


def our_mean(args: Any, folder: Path) -> float:
    out = folder / "ours.json"
    words = [
        sys.executable,
        str(REPOSITORY / "scripts/benchmark_latency.py"),
        "--server",
        args.server,
        "--contract",
        str(args.contract),
    ]
    words += [
        "--in",
        str(args.input),
        "--limit",
        str(args.requests),
        "--requests",
        str(args.requests),
        "--out",
        str(out),
        "--overwrite",
    ]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise StageError(f"benchmark_latency.py failed: {console.one_line(done.stderr[-400:], 400)}")
    run = json.loads(out.read_text(encoding="utf-8"))["runs"][0]
    # The first of all warms nothing here, and the server counted it.
    seconds = [one["seconds"] for one in run["documents"]]
    return sum(seconds) / len(seconds)


def their_mean(args: Any, contract: Any, dataset: Path, folder: Path) -> float:
    body = request_body(contract, "any", [])
    extra = {name: body[name] for name in ("response_format", "temperature") if name in body}
    address = re.match(r"(https?://[^/]+)", args.server)
    words = [
        str(args.python),
        "-m",
        "vllm.entrypoints.cli.main",
        "bench",
        "serve",
        "--backend",
        "openai-chat",
        "--base-url",
        str(address[1] if address else args.server),
    ]
    words += [
        "--endpoint",
        "/v1/chat/completions",
        "--model",
        args.contract.resolve().name,
        "--tokenizer",
        str(args.contract),
    ]
    words += [
        "--dataset-name",
        "custom_image",
        "--dataset-path",
        str(dataset),
        "--num-prompts",
        str(args.requests),
        "--custom-output-len",
        str(contract.max_answer_tokens),
    ]
    words += [
        "--max-concurrency",
        "1",
        "--num-warmups",
        "0",
        "--disable-shuffle",
        "--percentile-metrics",
        "e2el",
        "--extra-body",
        json.dumps(extra),
    ]
    words += ["--save-result", "--result-dir", str(folder), "--result-filename", "theirs.json"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise StageError(f"vllm bench serve failed: {console.one_line(done.stderr[-400:], 400)}")
    found = json.loads((folder / "theirs.json").read_text(encoding="utf-8"))
    if found["completed"] < args.requests:
        count = f"{found['completed']} of {args.requests} requests"
        raise StageError(f"vllm bench serve had answers to {count}: {console.one_line(done.stdout, 400)}")
    return float(found["mean_e2el_ms"]) / 1000


if __name__ == "__main__":
    sys.exit(console.script(main)())
