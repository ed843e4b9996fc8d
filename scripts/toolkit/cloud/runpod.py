"""RunPod's files: the hub's, the endpoint's, and the paths of the training pod.

Limits of a load-balancing endpoint: docs.runpod.io/serverless/load-balancing/overview (2026-11). It asks /ping on
PORT_HEALTH, which is PORT, which is 80 unless it is set and exposed; a request may be 30 MB, waits 2 minutes for a
worker and is cut off after 5.5 minutes. The hub's files: docs.runpod.io/hub/publishing-guide (2026-11).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.cloud.templates import Problem
from toolkit.console import one_line

HUB_KEYS = {"title", "description", "type", "category", "config"}
MOST_BYTES, MOST_SECONDS = 30_000_000, 330
TEMPLATE, ENDPOINT, POD = "runpod/serve/template.json", "runpod/serve/endpoint.json", "runpod/train/start.sh"
RUNBOOK = "runpod/TRAIN_SERVE_RUNBOOK.md"


def runpod_files_are_complete(repository: Path) -> list[Problem]:
    """The hub's files: keys, and CUDA versions that the images need; what the hub looks for is where it looks."""
    found = []
    for name in ("Dockerfile", "handler.py", "README.md"):
        if not any((folder / name).is_file() for folder in (repository, repository / ".runpod")):
            found.append(Problem(".runpod", f"the hub looks for {name} here or in the root, and finds none"))
    for name in ("hub.json", "tests.json"):
        path = repository / ".runpod" / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            found.append(Problem(f".runpod/{name}", one_line(error)))
            continue
        found += [Problem(f".runpod/{name}", sentence) for sentence in hub_problems(repository, name, content)]
    return found


def hub_problems(repository: Path, name: str, content: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one of the hub's two JSON files."""
    missing = HUB_KEYS - set(content) if name == "hub.json" else {"tests", "config"} - set(content)
    yield from (f"no {key}" for key in sorted(missing))
    yield from cuda_problems(content.get("config", {}))
    for one in content.get("tests", []):
        if not {"name", "input"} <= set(one):
            yield "a test needs name and input"
    variables = {one["key"] for one in content.get("config", {}).get("env", [])}
    readers = ("scripts/serve_container.py", ".runpod/handler.py", "runpod/serve/start.sh")
    there = (repository / name for name in readers if (repository / name).is_file())
    spoken = "".join(path.read_text(encoding="utf-8") for path in there)
    yield from (f"nothing reads {key}" for key in sorted(variables) if key not in spoken)


def cuda_problems(content: dict[str, Any]) -> Iterator[str]:
    """CUDA versions of machines on which the wheels do not run."""
    versions = content.get("allowedCudaVersions", [])
    if not versions or min(tuple(map(int, version.split("."))) for version in versions) < (13, 0):
        yield "allowedCudaVersions must start at 13.0, which the wheels are built for"


def endpoints_fit_the_load_balancer(repository: Path) -> list[Problem]:
    """Ports, limits and workers of the load-balancing endpoint."""
    template = json.loads((repository / TEMPLATE).read_text(encoding="utf-8"))
    endpoint = json.loads((repository / ENDPOINT).read_text(encoding="utf-8"))
    found = [Problem(ENDPOINT, sentence) for sentence in cuda_problems(endpoint)]
    variables = template["env"]
    port = variables.get("PORT")
    if port is None:
        found.append(Problem(TEMPLATE, "PORT is not set: the load balancer would ask port 80, where nothing listens"))
    elif f"{port}/http" not in template["ports"]:
        found.append(Problem(TEMPLATE, f"port {port} is not exposed: the load balancer cannot reach it"))
    if variables.get("PORT_HEALTH", port) != port:
        found.append(Problem(TEMPLATE, f"PORT_HEALTH is not {port}, where the gateway answers /ping"))
    words = shlex.split(variables.get("SERVE_ARGUMENTS", ""))
    for flag, most, default in (("--max-bytes", MOST_BYTES, 32 * 2**20), ("--max-seconds", MOST_SECONDS, 60)):
        value = float(words[words.index(flag) + 1]) if flag in words else float(default)
        if value > most:
            found.append(Problem(TEMPLATE, f"{flag} {value:g} is above the load balancer's own limit of {most}"))
    if endpoint.get("workersMin", 0) < 1:
        found.append(Problem(ENDPOINT, "workersMin 0: a request waits 2 minutes for a worker, loading takes longer"))
    if endpoint.get("idleTimeout", 5) < 30:
        found.append(Problem(ENDPOINT, "idleTimeout below 30 s: every pause would end in a cold start"))
    return found


def training_pods_cost_no_more_than_they_must(repository: Path) -> list[Problem]:
    """The pod's start script: its paths are the runbook's, and every end packs, sends and stops."""
    text = (repository / POD).read_text(encoding="utf-8")
    runbook = (repository / RUNBOOK).read_text(encoding="utf-8")
    found = []
    volume = re.search(r"VOLUME:-([^}]+)\}", text)
    cloned = re.search(r"^cd (/\S+)\ngit clone \S+ (\w+)$", runbook, re.M)
    if volume and cloned and volume[1] != f"{cloned[1]}/{cloned[2]}":
        found.append(Problem(POD, f"it works in {volume[1]}, the runbook's clone is {cloned[1]}/{cloned[2]}"))
    if not re.search(r"^trap finish EXIT$", text, re.M):
        found.append(Problem(POD, "no trap on EXIT: a training that crashes would leave the pod running, unpacked"))
    send, stop = text.find("runpodctl send"), text.find("runpodctl stop")
    if not 0 <= send < stop:
        found.append(Problem(POD, "runpodctl send must come before the stop: a stopped pod sends nothing"))
    started = re.findall(r"^\s*\S+ \S+scripts/(\w+)\.py", text, re.M)
    if "check_gpu" not in started[: started.index("train_lora") if "train_lora" in started else None]:
        found.append(Problem(POD, "check_gpu.py must come before the training"))
    return found
