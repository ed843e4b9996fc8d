"""Serve a model with vLLM behind an OpenAI-compatible endpoint that answers strict JSON only.

Reads the contract beside the model (or beside the adapter) and sets every option of `vllm serve` from it, each printed
with its reason. Checks driver, memory, model files and port first. Starts the real server, waits until it is healthy,
sends warm-up requests in the served shape, and says "ready". Ctrl-C or SIGTERM stops it cleanly. Arguments after -- are
passed to vLLM. The API key, if you want one, is the environment variable VLLM_API_KEY.

    python scripts/serve_vllm.py outputs/bl-8b-merged
    python scripts/serve_vllm.py outputs/bl-8b-awq --profile throughput --gpu a6000 --dry-run
    python scripts/serve_vllm.py models/Qwen3-VL-8B-Instruct --adapter invoices=outputs/invoices-8b
    python scripts/serve_vllm.py models/Qwen3-VL-8B-Instruct --schema schemas/invoice.schema.json
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit import console, options
from toolkit.console import ExitCode, StageError, say
from toolkit.files import argument_path, shown, write_json
from toolkit.model.contract import UNTRAINED_ANSWER_TOKENS, Untrained, chosen_contract, load_contract
from toolkit.model.cuda import cuda_of, environment_for
from toolkit.model.folder import check_adapter_folder, check_model_folder, model_shapes
from toolkit.model.gpus import GPUS, Gpu, installed_driver, known_gpu
from toolkit.pages.images import DEFAULT_MAX_TOKENS
from toolkit.project import environments
from toolkit.serving import vllm_plan as serving


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("model", type=argument_path, help="model folder: merged, quantized, or a base with --adapter")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="serve this LoRA adapter live under NAME (default: its folder's name); repeat for more",
    )
    options.add_untrained(parser, DEFAULT_MAX_TOKENS, UNTRAINED_ANSWER_TOKENS)
    parser.add_argument(
        "--profile",
        choices=["latency", "throughput"],
        default="latency",
        help="few requests as fast as possible, or many (default: latency)",
    )
    parser.add_argument(
        "--gpu", choices=sorted(GPUS), default=None, help="plan for this GPU (default: the one that is here)"
    )
    parser.add_argument("--name", default=None, help="model name that requests give (default: the folder's name)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="(default: 8000)")
    parser.add_argument(
        "--max-pages", type=int, default=None, help="pages of a request (default: the longest training document)"
    )
    parser.add_argument(
        "--python", type=argument_path, default=None, help="Python whose vLLM to use (default: .venv-serve and so on)"
    )
    parser.add_argument("--log", type=argument_path, default=None, help="vLLM's log (default: outputs/vllm-PORT.log)")
    parser.add_argument("--start-timeout", type=float, default=1800, help="seconds to become healthy (default: 1800)")
    parser.add_argument("--warm-up", type=int, default=3, help="requests before it is called ready (default: 3)")
    parser.add_argument("--dry-run", action="store_true", help="print settings and command, check, start nothing")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    # argparse gives what follows -- to the first positional that takes many; here it belongs to vLLM as it stands.
    cut = words.index("--") if "--" in words else len(words)
    args = build_parser().parse_args(words[:cut])
    args.vllm = words[cut + 1 :]
    config = check_model_folder(args.model, contract=not (args.adapter or args.schema))
    adapters = live_adapters(args)
    contract_folder = next(iter(adapters.values()))[0] if adapters else args.model
    contract = chosen_contract(contract_folder, Untrained(args.schema, args.image_max_tokens, args.max_answer_tokens))
    python = vllm_python(args)
    wheel_cuda = cuda_of(python) if python else None
    driver = installed_driver()
    libraries = environment_for(driver, wheel_cuda) if python else {}
    gpu = GPUS[args.gpu] if args.gpu else known_gpu(driver) if driver and wheel_cuda else None
    name = args.name or args.model.resolve().name
    plan = serving.plan_serving(
        args.model,
        config,
        contract,
        profile=args.profile,
        gpu=gpu,
        adapters=adapters,
        served_name=name,
        host=args.host,
        port=args.port,
        max_pages=args.max_pages,
    )
    tell(plan, args, gpu)
    if driver and wheel_cuda:
        serving.check_memory(plan, driver.free_gib, driver.gpu)
    elif gpu:
        serving.check_memory(plan, gpu.memory_gib, gpu.name)
    else:
        serving.check_memory(plan, serving.free_memory_gib(), "this machine's memory")
    serving.check_port(args.host, args.port)
    result: dict[str, Any] = {
        "url": f"http://{args.host}:{args.port}/v1",
        "models": [name, *adapters],
        "context": plan.context,
        "sequences": plan.sequences,
        "weights_gib": round(plan.weights_gib, 3),
        "kv_gib_per_request": round(plan.kv_gib_per_request, 4),
        "arguments": plan.arguments + args.vllm,
        "environment": {**plan.environment, **libraries},
    }
    if args.dry_run:
        return console.finish(args, result)
    if python is None:
        command = "python scripts/make_environment.py serve (on a GPU) or serve-cpu"
        raise StageError(f"vLLM is not installed; make its environment: {command}", ExitCode.DEPENDENCY)
    return serve(args, plan, python, contract, result)


def live_adapters(args: Any) -> dict[str, tuple[Path, dict[str, Any]]]:
    """`{name: (folder, LoRA config)}`; each must fit the base model, and not be what vLLM would ignore silently."""
    adapters: dict[str, tuple[Path, dict[str, Any]]] = {}
    for text in args.adapter:
        name, equals, folder_text = text.partition("=")
        folder = argument_path(folder_text if equals else text)
        name = name if equals else folder.resolve().name
        if name in adapters:
            raise StageError(f"two adapters are called {name!r}; name them: --adapter NAME=FOLDER")
        lora = check_adapter_folder(folder, model_shapes(args.model))
        load_contract(folder)
        if lora.get("target_parameters"):
            raise StageError(
                f"{shown(folder)}: LoRA on a MoE's experts cannot be served live; merge it with merge_adapter.py"
            )
        adapters[name] = (folder, lora)
    return adapters


def vllm_python(args: Any) -> Path | None:
    """The Python that has vLLM: --python, this one, .venv-serve, .venv-serve-cpu; None where there is none."""
    import importlib.util

    if args.python:
        if not args.python.is_file():
            raise StageError(f"--python: not found: {args.python}")
        return Path(args.python).absolute()
    if importlib.util.find_spec("vllm"):
        return Path(sys.executable)
    return next((environments.python_of(n) for n in ("serve", "serve-cpu") if environments.python_of(n).exists()), None)


def tell(plan: serving.Plan, args: Any, gpu: Gpu | None) -> None:
    """Every setting with its reason."""
    cache = f"{plan.kv_gib_per_request * 1024:.0f} MiB of cache a request"
    memory = f"weights {plan.weights_gib:.2f} GiB, {cache}, {plan.sequences} requests at once"
    say(f"{shown(args.model)} for {gpu.name if gpu else 'the CPU'}, profile {args.profile}: {memory}")
    for setting in plan.settings:
        text = " ".join((setting.flag, *setting.words))
        say(f"  {text:56s}  {setting.reason}".rstrip())
    if args.vllm:
        say(f"  {' '.join(args.vllm):56s}  as given")


def serve(args: Any, plan: serving.Plan, python: Path, contract: Any, result: dict[str, Any]) -> int:
    """Start vLLM, wait, warm up, say ready, and stay until it ends or is stopped."""
    log = args.log or Path(f"outputs/vllm-{args.port}.log")
    # As a module: in a container the program may lie in another folder than its Python.
    command = [str(python), "-m", "vllm.entrypoints.cli.main", "serve", str(args.model)]
    command += [*plan.arguments, *args.vllm]
    say(f"starting vLLM; its log: {shown(log)}")
    began = time.monotonic()
    with running(command, result["environment"], log) as process:
        wait_until_healthy(process, args, log)
        healthy = time.monotonic() - began
        seconds = warm_up(args, contract, result["models"])
        took = ", ".join(f"{s:.2f}" for s in seconds)
        models = ", ".join(result["models"])
        say(f"healthy after {healthy:.0f} s; warm-up requests took {took} s; models: {models}")
        say(f"ready: {result['url']}")
        result |= {"start_seconds": round(healthy, 1), "warm_up_seconds": [round(s, 3) for s in seconds]}
        write_json(log.with_suffix(".json"), result | {"pid": process.pid})
        code = process.wait()
    log.with_suffix(".json").unlink(missing_ok=True)
    raise StageError(f"vLLM ended by itself with code {code}; its log: {shown(log)}", ExitCode.PROBLEMS)


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server's process; whatever ends this block ends the server and its workers too."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # Ctrl-C reaches only this process, which then stops the server in order.
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **environment}, start_new_session=True
        )
    previous = signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        yield process
    except KeyboardInterrupt:
        say("stopping vLLM")
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
        for stop, patience in ((signal.SIGTERM, 30), (signal.SIGKILL, 10)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, stop)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                break
        log.with_suffix(".json").unlink(missing_ok=True)


def wait_until_healthy(process: subprocess.Popen[bytes], args: Any, log: Path) -> None:
    """Return once the server is healthy. Raises StageError if it ends before, or takes longer than --start-timeout."""
    import httpx

    deadline = time.monotonic() + args.start_timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StageError(serving.failure_sentence(log), ExitCode.DEPENDENCY)
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://{args.host}:{args.port}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.5)
    raise StageError(
        f"vLLM is not healthy after {args.start_timeout:g} s; its log: {shown(log)}; "
        "a large model on a slow disk wants a longer --start-timeout",
        ExitCode.DEPENDENCY,
    )


def warm_up(args: Any, contract: Any, models: list[str]) -> list[float]:
    """Send requests in the served shape (largest pages, grammar); returns the seconds of each.

    Raises StageError where an adapter's answer is the base model's own.
    An adapter that vLLM does not apply answers as the base does, to the last digit of its log-probabilities.
    """
    from toolkit.extraction.chat_request import blank_request, post

    base, *adapters = models
    seconds = []
    for _ in range(args.warm_up):
        began = time.monotonic()
        post(args.host, args.port, blank_request(contract, adapters[0] if adapters else base, max_tokens=16))
        seconds.append(time.monotonic() - began)

    def first_tokens(model: str) -> Any:
        answer = post(args.host, args.port, blank_request(contract, model, max_tokens=4, grammar=False, logprobs=True))
        return [(t["token"], t["logprob"]) for t in answer["choices"][0]["logprobs"]["content"]]

    for adapter in adapters:
        if first_tokens(adapter) == first_tokens(base):
            same = f"the adapter {adapter!r} answers exactly as its base model does: vLLM did not apply it"
            raise StageError(f"{same}; merge it with merge_adapter.py", ExitCode.PROBLEMS)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
