"""How a model is served by vLLM: every setting with its reason, the memory it will take, and what must be true before.

Facts about vLLM are of version 0.32.
"""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.console import ExitCode, StageError
from toolkit.files import shown
from toolkit.model.contract import Contract
from toolkit.model.folder import weight_bytes
from toolkit.model.gpus import Gpu

GIB = 2**30
# CUDA context, CUDA graphs, activations of one prefill: an allowance, not a measurement.
GPU_OVERHEAD_GIB = 3.0
SHARD_LINE_TOKENS = 16  # "containers 101-104" and the marks around it
# The one host that media may come from: .invalid never resolves (RFC 2606). Local files stay forbidden (vLLM's default).
NO_HOST = "nothing.invalid"
MOST_SEQUENCES = 1024  # what vLLM's scheduler and CUDA graphs are made for


@dataclass(frozen=True)
class Setting:
    """One flag of `vllm serve`, or one environment variable (upper case); `value` None is a switch."""

    flag: str
    value: str | tuple[str, ...] | None
    reason: str

    @property
    def words(self) -> tuple[str, ...]:
        if self.value is None:
            return ()
        return (self.value,) if isinstance(self.value, str) else self.value


@dataclass(frozen=True)
class Plan:
    """What will be started: settings in order, and predicted memory in GiB."""

    settings: tuple[Setting, ...]
    weights_gib: float
    kv_gib_per_request: float
    sequences: int
    context: int

    @property
    def arguments(self) -> list[str]:
        flags = [s for s in self.settings if s.flag.startswith("-")]
        return [word for s in flags for word in (s.flag, *s.words)]

    @property
    def environment(self) -> dict[str, str]:
        return {s.flag: " ".join(s.words) for s in self.settings if not s.flag.startswith("-")}

    @property
    def smallest_gib(self) -> float:
        """Memory without which not even one request fits."""
        return self.weights_gib + self.kv_gib_per_request + GPU_OVERHEAD_GIB


def kv_bytes_per_token(config: dict[str, Any], bytes_per_value: int = 2) -> int:
    """Keys and values of all layers for one token: 2 x layers x KV heads x head width x bytes (147,456 on the 8B in bf16)."""
    text = config.get("text_config", config)
    width = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    return int(2 * text["num_hidden_layers"] * text["num_key_value_heads"] * width * bytes_per_value)


def lora_rank(adapter_config: dict[str, Any]) -> int:
    """The smallest rank that vLLM's `--max-lora-rank` offers and that holds this adapter."""
    offered = (1, 8, 16, 32, 64, 128, 256, 320, 512)
    rank = int(adapter_config.get("r", 0))
    fitting = [size for size in offered if size >= rank]
    if rank < 1 or not fitting:
        raise StageError(f"the adapter's rank {rank} cannot be served live; merge it with merge_adapter.py")
    return fitting[0]


def plan_serving(
    model: Path,
    config: dict[str, Any],
    contract: Contract,
    *,
    profile: str,
    gpu: Gpu | None,
    adapters: dict[str, tuple[Path, dict[str, Any]]],
    served_name: str,
    host: str,
    port: int,
    max_pages: int | None = None,
) -> Plan:
    """Settings for one model folder and its contract; `gpu` None is a CPU. `adapters`: {name: (folder, LoRA config)}."""
    pages = max_pages or contract.max_pages
    per_page = contract.image_max_tokens + 2
    context = -(-(contract.context_tokens + (pages - contract.max_pages) * per_page) // 128) * 128
    weights = weight_bytes(model) / GIB
    # The shards of a document share the cache of its pages; each holds its own line and answer.
    own = (contract.max_shards - 1) * (contract.max_answer_tokens + SHARD_LINE_TOKENS)
    kv = kv_bytes_per_token(config) * (context + own) / GIB
    quantization = config.get("quantization_config", {})
    method = str(quantization.get("quant_method", ""))
    settings = [
        Setting("--served-model-name", served_name, "the name that requests give"),
        Setting("--host", host, "only this machine unless you say otherwise"),
        Setting("--port", str(port), ""),
        Setting(
            "--max-model-len",
            str(context),
            f"{contract.prompt_tokens or 'at most'} prompt tokens, {pages} pages of {contract.image_max_tokens}, an answer of {contract.max_answer_tokens}: nothing longer can come",
        ),
        Setting(
            "--limit-mm-per-prompt",
            json.dumps({"image": pages, "video": 0}, separators=(",", ":")),
            "pages of a request; longer documents are sent in windows",
        ),
        Setting("--allowed-media-domains", NO_HOST, "pages come with the request: vLLM fetches nothing, from nowhere"),
        Setting("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0", "nor does it follow a redirect"),
        Setting(
            "--mm-processor-kwargs",
            json.dumps(
                {"size": {"shortest_edge": 4096, "longest_edge": contract.image_max_tokens * 1024}},
                separators=(",", ":"),
            ),
            "the contract's vision-token budget: the resolution that the model was trained at",
        ),
        Setting(
            "--structured-outputs-config",
            '{"backend":"xgrammar","disable_any_whitespace":true}',
            "the answer's grammar; free white space lets a model write blanks without end, and it was trained on compact JSON",
        ),
        Setting(
            "--generation-config",
            "vllm",
            "the model's own sampling defaults (temperature 0.7) must not apply to extraction",
        ),
        Setting("--enable-prefix-caching", None, "the instruction is the same for all requests and comes first"),
        Setting("--enable-prompt-tokens-details", None, "usage tells what the cache saved"),
        Setting("--seed", "0", "equal requests, equal answers"),
        Setting("--no-enable-log-requests", None, "nothing of a document goes into a log"),
        Setting("--disable-access-log-for-endpoints", "/health,/metrics", "probes would drown the requests in the log"),
    ]
    if method == "awq":
        settings.append(Setting("--dtype", "float16", "AutoAWQ's kernels take 16-bit floats of this kind"))
    if gpu is None:
        sequences = 4 if profile == "latency" else 16
        needed = kv * sequences
        if not method:
            settings.append(Setting("--dtype", "float32", "a CPU: exact, and the models tried on one are small"))
        settings += [
            Setting("--enforce-eager", None, "a CPU: compiling takes longer than it saves"),
            Setting(
                "VLLM_CPU_KVCACHE_SPACE",
                str(max(1, -(-int(2 * needed * GIB) // GIB))),
                "GiB of cache, twice what the requests need",
            ),
            Setting("VLLM_CPU_OMP_THREADS_BIND", "nobind", "the machine is shared with the client"),
        ]
    else:
        usable = 0.92 * gpu.memory_gib - weights - GPU_OVERHEAD_GIB
        fitting = max(1, int(usable / kv))
        sequences = min(fitting, 8 if profile == "latency" else 256)
        settings.append(
            Setting(
                "--gpu-memory-utilization",
                "0.92",
                f"{gpu.name}, {gpu.memory_gib:g} GiB: weights {weights:.1f}, room for {fitting} requests of full length",
            )
        )
    reason = (
        "few at once: each token costs every running request the same pass"
        if profile == "latency"
        else "as many as the memory holds, 256 at most: the weights are read once for all"
    )
    batched = context if profile == "latency" else max(context, 16384)
    if contract.max_shards > 1:
        sequences = min(sequences * contract.max_shards, MOST_SEQUENCES)
        reason = f"{reason}; {contract.max_shards} shards of a document run together"
    settings += [
        Setting("--max-num-seqs", str(sequences), reason),
        Setting(
            "--max-num-batched-tokens",
            str(max(batched, 2048)),
            "a whole prompt in one pass" if profile == "latency" else "several prompts in one pass",
        ),
    ]
    if adapters:
        ranks = [lora_rank(lora) for _, lora in adapters.values()]
        settings += [
            Setting("--enable-lora", None, "adapters live on their base model"),
            Setting("--max-loras", str(len(adapters)), "all of them in one batch"),
            Setting("--max-lora-rank", str(max(ranks)), "the largest of the adapters"),
            Setting("--lora-modules", tuple(f"{n}={p.resolve()}" for n, (p, _) in adapters.items()), "name=folder"),
        ]
    return Plan(tuple(settings), weights, kv, sequences, context)


def check_memory(plan: Plan, free_gib: float, where: str) -> None:
    if plan.smallest_gib > free_gib:
        raise StageError(
            f"too little memory: {plan.weights_gib:.1f} GiB of weights, {plan.kv_gib_per_request:.1f} for one request and {GPU_OVERHEAD_GIB:g} for the engine do not fit into {free_gib:.1f} GiB ({where}); quantize the model, or stop what else uses it",
            ExitCode.DEPENDENCY,
        )


def check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StageError(f"port {port} on {host} is not free ({error.strerror}); choose another --port") from None


def free_memory_gib() -> float:
    """Memory that this machine can still give, in GiB; a container's limit counts."""
    available = float("inf")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        available = int(found[1]) * 1024 / GIB if found else available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        available = min(available, (int(limit.read_text()) - int(used.read_text())) / GIB)
    return available


# What a log says, and what it means for a user.
FAILURES = (
    (r"out of memory|OutOfMemoryError", "the GPU's memory does not suffice; quantize the model, or lower --max-pages"),
    (r"UnsupportedPtxVersion", "the driver is older than this vLLM's CUDA; update it, or choose another machine"),
    (r"Address already in use", "the port is taken; choose another --port"),
    (
        r"Unknown quantization method: bitsandbytes",
        "this vLLM does not load bitsandbytes checkpoints; quantize with quantize_awq.py",
    ),
    (r"No available memory for the cache blocks", "no memory is left for requests; quantize the model"),
    (r"Free memory on device .* is less than desired", "other programs hold the GPU's memory; stop them first"),
)


def failure_sentence(log: Path) -> str:
    """Why a server did not start, from the end of its log."""
    text = log.read_text(encoding="utf-8", errors="replace")[-200_000:] if log.is_file() else ""
    for pattern, sentence in FAILURES:
        if re.search(pattern, text):
            return f"vLLM did not start: {sentence} (its log: {shown(log)})"
    # The cause stands first, behind the log's own prefix; what follows are the processes that fell with it.
    lines = [line for line in text.splitlines() if " WARNING " not in line and " INFO " not in line]
    causes = (re.search(r"(?:^|\]\s*|\s)((?:[A-Z]\w*(?:Error|Exception): |Value error, ).+)$", line) for line in lines)
    first = next((cause[1][:300] for cause in causes if cause), "it ended without a word")
    return f"vLLM did not start: {first} (its log: {shown(log)})"
