"""Serve documents from one container: find or fetch the model, start vLLM, put the gateway in front of it, keep both up.

What the images of azureml/ and runpod/ start; it runs as well on any machine whose Python has vLLM. The model is a folder (--model, or
MODEL_DIR, or what Azure ML mounts as AZUREML_MODEL_DIR: the one model folder in it), or an archive (--archive https://... --sha256 ...),
unpacked once under --cache. The gateway answers from the first second (/health/live; /health/ready and /ping say when the model is warm).
A vLLM that ends is started again, as often as --restarts in ten minutes; then, or where the gateway ends, this ends too, with exit code 1,
and the platform starts a new container. SIGTERM lets requests under way finish. What follows -- goes to vLLM.

    python scripts/serve_container.py --model outputs/bl-8b-awq --port 8080
    python scripts/serve_container.py --archive https://storage.example/bl-8b-awq.tgz --sha256 SHA256 --cache /workspace/models --host 0.0.0.0
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
TO_GATEWAY = ("max_bytes", "max_pages", "max_seconds", "concurrency", "queue", "workers", "render_timeout")


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
        gateway.add_argument(
            f"--{name.replace('_', '-')}", default=None, help=f"the gateway's --{name.replace('_', '-')}"
        )
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    cut = words.index("--") if "--" in words else len(words)
    args = build_parser().parse_args(words[:cut])
    stopping = stop_on_signals()
    model = chosen_model(args)
    say(f"model: {shown(model)}")
    contract = model
    if args.adapter:
        name, equals, folder = args.adapter[0].partition("=")
        contract = argument_path(folder if equals else name)
    log = Path(os.environ.get("MODEL_LOG") or f"outputs/vllm-{args.model_port}.log")
    server = [
        sys.executable,
        str(HERE / "serve_vllm.py"),
        str(model),
        "--port",
        str(args.model_port),
        "--profile",
        args.profile,
    ]
    server += ["--start-timeout", str(args.start_timeout), "--log", str(log)]
    server += [word for adapter in args.adapter for word in ("--adapter", adapter)]
    server += ["--", *words[cut + 1 :]] if words[cut + 1 :] else []
    gateway = [
        sys.executable,
        str(HERE / "serve_gateway.py"),
        "--server",
        f"http://127.0.0.1:{args.model_port}/v1",
        "--contract",
        str(contract),
    ]
    # serve_vllm.py writes this file when the model is warm and removes it when the model ends.
    gateway += ["--host", args.host, "--port", str(args.port), "--ready-file", str(log.with_suffix(".json"))]
    gateway += ["--no-key"] if args.no_key else []
    for name in TO_GATEWAY:
        gateway += [f"--{name.replace('_', '-')}", getattr(args, name)] if getattr(args, name) is not None else []
    return supervise(gateway, server, log.with_suffix(".json"), args.restarts, stopping)


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
    gateway_command: list[str], server_command: list[str], ready: Path, restarts: int, stopping: list[int]
) -> int:
    """Both processes until a signal (0), or until one cannot be kept up (StageError). `ready`: the file that exists while the model is warm."""
    ready.unlink(missing_ok=True)  # of a model server that was killed
    # Sessions of their own: Ctrl-C and a platform's signal reach only this process, which ends them in order.
    gateway = subprocess.Popen(gateway_command, start_new_session=True)
    server = subprocess.Popen(server_command, start_new_session=True)
    ended: list[float] = []
    again, was_ready = 0.0, False
    try:
        while not stopping:
            time.sleep(0.2)
            if gateway.poll() is not None:
                raise StageError(
                    f"the gateway ended with code {gateway.returncode}; what it said stands above", ExitCode.PROBLEMS
                )
            if server.poll() is None:
                was_ready = was_ready or ready.is_file()
                continue
            now = time.monotonic()
            if not again:
                # What cannot be cured by starting again (no such model, no memory, no driver) is not tried again.
                if not was_ready and server.returncode in (ExitCode.USAGE, ExitCode.DEPENDENCY):
                    raise StageError(
                        "the model server cannot start; what it said stands above", ExitCode(server.returncode)
                    )
                ended = [moment for moment in ended if now - moment < WINDOW] + [now]
                if len(ended) > restarts:
                    raise StageError(
                        f"the model server ended {len(ended)} times in {WINDOW / 60:.0f} minutes; its log says why",
                        ExitCode.PROBLEMS,
                    )
                again = now + min(30, 2 ** (len(ended) - 1) - 1)
                say(f"the model server ended with code {server.returncode}; starting it again")
            if now >= again:
                again = 0.0
                server = subprocess.Popen(server_command, start_new_session=True)
        say("stopping: requests under way are finished")
        return 0
    finally:
        end(gateway, 60)
        end(server, 45)


def end(process: subprocess.Popen[bytes], patience: float) -> None:
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
