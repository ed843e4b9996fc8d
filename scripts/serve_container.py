"""Serve documents from one container: find or fetch the model, start vLLM and the gateway, keep both up.

What the images of azureml/ and runpod/ start; it also runs on any machine whose Python has vLLM. The model is a folder
(--model, or MODEL_DIR, or what Azure ML mounts as AZUREML_MODEL_DIR: the one model folder in it), or an archive
(--archive https://... --sha256 ...), unpacked once under --cache. The gateway answers from the first second
(/health/live); /health/ready and /ping tell when the model is warm. If vLLM ends, it is started again, up to --restarts
times in ten minutes. After that, or if the gateway ends, this script ends with exit code 1, and the platform starts
a new container. SIGTERM lets requests under way finish. Arguments after -- are passed to vLLM.

    python scripts/serve_container.py --model outputs/bl-8b-awq --port 8080
    python scripts/serve_container.py --archive https://storage.example/bl-8b-awq.tgz --sha256 SHA256 --host 0.0.0.0
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from toolkit import console
from toolkit.console import ExitCode, StageError, say
from toolkit.files import argument_path, shown
from toolkit.model.archive import fetched_model, model_folder_in

HERE = Path(__file__).resolve().parent
WINDOW = 600.0  # seconds in which --restarts counts
TO_GATEWAY = "max-bytes max-pages max-seconds concurrency queue workers render-timeout metrics-port".split()


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    source = parser.add_argument_group("the model")
    source.add_argument(
        "--model",
        type=argument_path,
        default=None,
        help="model folder, or a folder that holds one (default: MODEL_DIR, then AZUREML_MODEL_DIR)",
    )
    source.add_argument(
        "--archive",
        default=os.environ.get("MODEL_ARCHIVE") or None,
        metavar="URL",
        help="a .tgz of the model folder: https://, or a file (default: MODEL_ARCHIVE)",
    )
    source.add_argument(
        "--sha256",
        default=os.environ.get("MODEL_SHA256") or None,
        help="of the archive; needed with it (default: MODEL_SHA256)",
    )
    source.add_argument(
        "--cache",
        type=argument_path,
        default=argument_path(os.environ.get("MODEL_CACHE") or "data/models"),
        help="where archives are unpacked; keep it on a volume (default: MODEL_CACHE, then data/models)",
    )
    source.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="serve this adapter live on the model; the gateway speaks its contract",
    )
    server = parser.add_argument_group("the model server")
    server.add_argument("--profile", choices=["latency", "throughput"], default="latency", help="as of serve_vllm.py")
    server.add_argument("--model-port", type=int, default=8000, help="vLLM's port on 127.0.0.1 (default: 8000)")
    server.add_argument("--start-timeout", type=float, default=1800, help="seconds to become healthy (default: 1800)")
    server.add_argument("--restarts", type=int, default=5, help="of vLLM in ten minutes before giving up (default: 5)")
    gateway = parser.add_argument_group("the gateway (see serve_gateway.py)")
    gateway.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 in a container")
    gateway.add_argument(
        "--port", type=int, default=int(os.environ.get("PORT") or 8080), help="(default: PORT, then 8080)"
    )
    gateway.add_argument("--no-key", action="store_true", help="where the platform in front asks for the key")
    for name in TO_GATEWAY:
        gateway.add_argument(f"--{name}", default=None, help=f"the gateway's --{name}")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    cut = words.index("--") if "--" in words else len(words)
    args = build_parser().parse_args(words[:cut])
    stopping = stop_on_signals()
    model = chosen_model(args)
    say(f"model: {shown(model)}")
    log = Path(os.environ.get("MODEL_LOG") or f"outputs/vllm-{args.model_port}.log")
    # serve_vllm.py writes this file when the model is warm and removes it when the model ends.
    ready = log.with_suffix(".json")
    server = server_command(args, model, log, words[cut + 1 :])
    return supervise(gateway_command(args, model, ready), server, ready, args.restarts, stopping)


def server_command(args: Any, model: Path, log: Path, vllm_words: list[str]) -> list[str]:
    """The words that start serve_vllm.py; `vllm_words` are passed to vLLM."""
    command = [sys.executable, str(HERE / "serve_vllm.py"), str(model)]
    command += ["--port", str(args.model_port), "--profile", args.profile]
    command += ["--start-timeout", str(args.start_timeout), "--log", str(log)]
    command += [word for adapter in args.adapter for word in ("--adapter", adapter)]
    return command + (["--", *vllm_words] if vllm_words else [])


def gateway_command(args: Any, model: Path, ready: Path) -> list[str]:
    """The words that start serve_gateway.py; `ready` exists while the model is warm."""
    contract = model
    if args.adapter:
        name, equals, folder = args.adapter[0].partition("=")
        contract = argument_path(folder if equals else name)
    command = [sys.executable, str(HERE / "serve_gateway.py"), "--server", f"http://127.0.0.1:{args.model_port}/v1"]
    command += ["--contract", str(contract), "--host", args.host, "--port", str(args.port), "--ready-file", str(ready)]
    command += ["--no-key"] if args.no_key else []
    for name in TO_GATEWAY:
        value = getattr(args, name.replace("-", "_"))
        command += [f"--{name}", value] if value is not None else []
    return command


def chosen_model(args: Any) -> Path:
    """The folder to serve. Raises StageError where there is none, or more than one."""
    if args.archive:
        if args.model:
            raise StageError("--model and --archive both name a model; give one")
        if not args.sha256:
            raise StageError("--archive needs --sha256: what is served must be what was made")
        return fetched_model(args.archive, args.sha256, args.cache)
    for origin, folder in (
        ("--model", args.model),
        ("MODEL_DIR", os.environ.get("MODEL_DIR")),
        ("AZUREML_MODEL_DIR", os.environ.get("AZUREML_MODEL_DIR")),
    ):
        if folder:
            return model_folder_in(argument_path(str(folder)), origin)
    raise StageError("no model is named: --model FOLDER, --archive URL, or the variable MODEL_DIR")


def stop_on_signals() -> list[int]:
    """A list that holds the signal as soon as SIGTERM or SIGINT came."""
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    return came


def supervise(
    gateway_words: list[str], server_words: list[str], ready: Path, restarts: int, stopping: list[int]
) -> int:
    """Keep both processes up until a signal comes; returns 0 then.

    ready: the file that exists while the model is warm. stopping: holds the signal once it came.
    Raises StageError where a process cannot be kept up.
    """
    ready.unlink(missing_ok=True)  # of a model server that was killed
    # Sessions of their own: Ctrl-C and a platform's signal reach only this process, which ends them in order.
    gateway = subprocess.Popen(gateway_words, start_new_session=True)
    server = subprocess.Popen(server_words, start_new_session=True)
    ended: list[float] = []
    again, was_ready = 0.0, False
    try:
        while not stopping:
            time.sleep(0.2)
            if gateway.poll() is not None:
                sentence = f"the gateway ended with code {gateway.returncode}; what it said stands above"
                raise StageError(sentence, ExitCode.PROBLEMS)
            if server.poll() is None:
                was_ready = was_ready or ready.is_file()
                continue
            now = time.monotonic()
            if not again:
                # What cannot be cured by starting again (no such model, no memory, no driver) is not tried again.
                if not was_ready and server.returncode in (ExitCode.USAGE, ExitCode.DEPENDENCY):
                    sentence = "the model server cannot start; what it said stands above"
                    raise StageError(sentence, ExitCode(server.returncode))
                ended = [moment for moment in ended if now - moment < WINDOW] + [now]
                if len(ended) > restarts:
                    minutes = f"{WINDOW / 60:.0f}"
                    sentence = f"the model server ended {len(ended)} times in {minutes} minutes; its log says why"
                    raise StageError(sentence, ExitCode.PROBLEMS)
                again = now + min(30, 2 ** (len(ended) - 1) - 1)
                say(f"the model server ended with code {server.returncode}; starting it again")
            if now >= again:
                again = 0.0
                server = subprocess.Popen(server_words, start_new_session=True)
        say("stopping: requests under way are finished")
        return 0
    finally:
        end(gateway, 60)
        end(server, 45)


def end(process: subprocess.Popen[bytes], patience: float) -> None:
    """Ask the process to end; kill it and its children after `patience` seconds."""
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
