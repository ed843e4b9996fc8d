"""The clouds' runbooks, as far as their commands can be judged without a cloud."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from toolkit.cloud.kubernetes import budget, resources
from toolkit.cloud.templates import Problem

RUNBOOKS = ("docs/AZUREML_TRAINING_RUNBOOK.md", "azureml/README.md", "runpod/TRAIN_SERVE_RUNBOOK.md")
SHELLS = ("bash", "powershell")
# The smoke job must come before the first of these.
COSTS = (
    "train/job.yml",
    "scripts/deploy_endpoint.py",
    "aks/serve/serve.yaml",
    "runpod/train/start.sh",
    "vm/compose.yaml up",
)
SMOKE = re.compile(r"check_gpu\.py|smoke\.ya?ml")
# A key in the words of a command can be read by everybody on the machine, and stands in the shell's history.
OPEN_SECRET = re.compile(r"--from-literal=\S*(?:key|token|secret|password)|Bearer \$|[?&]api_key=", re.I)


def blocks_of(text: str, *languages: str) -> list[str]:
    """The code blocks in these languages; a block in "shell" belongs to both shells."""
    wanted = "|".join((*languages, "shell"))
    return re.findall(rf"^```(?:{wanted})\n(.*?)^```", text, re.M | re.S)


def runbooks_are_safe(repository: Path) -> list[Problem]:
    """Smoke job first, no secret on a command line, node pools that scale, roll-outs waited for, no repeats."""
    found = []
    for name in RUNBOOKS:
        text = (repository / name).read_text(encoding="utf-8")
        found += [Problem(name, sentence) for sentence in problems_of(text)]
        found += [Problem(name, sentence) for sentence in rollout_problems(repository, text)]
    return found


def problems_of(text: str) -> Iterator[str]:
    """What is wrong with a runbook's commands, without looking at other files."""
    commands = "\n".join(blocks_of(text, "bash"))
    smoke = SMOKE.search(commands)
    first = min((commands.find(word) for word in COSTS if word in commands), default=-1)
    if first >= 0 and (smoke is None or smoke.start() > first):
        yield "nothing checks the GPU before the first step that costs: begin with a smoke job (check_gpu.py)"
    for language in SHELLS:
        for line in "\n".join(blocks_of(text, language)).splitlines():
            yield from line_problems(line)
    yield from repeats(text)


def line_problems(line: str) -> Iterator[str]:
    """What is wrong with one command line."""
    if OPEN_SECRET.search(line):
        yield f"a secret on a command line: {line.strip()[:80]}"
    if "az aks nodepool add" in line:
        if "--enable-cluster-autoscaler" not in line:
            yield "the node pool has no autoscaler: a second pod would wait for ever, an idle node bills for ever"
        if re.search(r"--labels \S*kubernetes\.azure\.com/", line):
            yield "the label prefix kubernetes.azure.com/ is AKS's own: the node pool is refused"
    if "az aks create" in line and "--network-policy" not in line:
        yield "the cluster has no network policy engine: NetworkPolicy files would be accepted and do nothing"
    if re.match(r"(?:hf|huggingface-cli) ", line.strip()):
        yield "hf is not on PATH outside the environment: scripts/download_model.py"


def repeats(text: str) -> Iterator[str]:
    """PowerShell blocks that say what the bash block says: both shells take / in paths, so one block is enough."""
    pattern = r"^```powershell\n(.*?)^```\n+^```bash\n(.*?)^```"
    swapped = r"^```bash\n(.*?)^```\n+^```powershell\n(.*?)^```"
    for one, other in [*re.findall(pattern, text, re.M | re.S), *re.findall(swapped, text, re.M | re.S)]:
        if one.replace("\\", "/") == other.replace("\\", "/"):
            yield f"the same block twice, for both shells: {one.splitlines()[0][:60]}"


def rollout_problems(repository: Path, text: str) -> Iterator[str]:
    """Every roll-out that is waited for is waited for as long as it may take."""
    waits = re.findall(r"rollout status .*?--timeout[= ](\d+)m", "\n".join(blocks_of(text, "bash")))
    probes = [
        budget(container["startupProbe"])
        for one in resources(repository)
        if one.kind == "Deployment"
        for container in one.spec["template"]["spec"]["containers"]
        if "startupProbe" in container
    ]
    for minutes in waits:
        if probes and int(minutes) * 60 <= max(probes):
            yield f"the roll-out is waited for {minutes} min, its start may take {max(probes) / 60:.0f} min"
