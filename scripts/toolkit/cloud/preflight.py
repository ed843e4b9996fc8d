"""Questions to a cloud before anything is made there, by its own command line: sizes, quota, driver, image tags.

Each answer is a Finding: whether it holds, what was found, and what to do where it does not. Fields of the answers: the
Azure CLI's pages on `az vm list-skus` and `az ml compute list-usage`, runpodctl's page (2026-11).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.cloud.templates import azure_files, in_templates
from toolkit.console import one_line

CUDA_13_DRIVER = 580
# Sizes with a GRID driver: no compatibility libraries, so images for CUDA 12.9 (see toolkit/model/cuda.py).
GRID = re.compile(r"Standard_NV\d+ads_A10_v5", re.I)


@dataclass(frozen=True)
class Finding:
    """One question and its answer; `good` None: it could not be asked."""

    question: str
    good: bool | None
    sentence: str

    def __str__(self) -> str:
        mark = {True: "good", False: "PROBLEM", None: "not asked"}[self.good]
        return f"{self.question}: {mark}, {self.sentence}"


def asked(program: str, *words: str, seconds: float = 120) -> tuple[Any, str]:
    """`(answer, complaint)`: the JSON that the program prints, or its text; a complaint where it fails."""
    path = shutil.which(program)
    if path is None:
        return None, f"{program} is not installed"
    try:
        done = subprocess.run(
            [path, *words], capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"{program} {words[0]} gave no answer in {seconds:g} s"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return None, f"{program} {' '.join(words[:2])} failed: {one_line(last, 300)}"
    try:
        return json.loads(done.stdout), ""
    except ValueError:
        return done.stdout, ""


def azure_size(size: str, region: str) -> tuple[Finding, str, int]:
    """Whether the region has the size for this subscription; its quota family and vCPUs."""
    question = f"{size} in {region}"
    given, complaint = asked(
        "az", "vm", "list-skus", "--location", region, "--size", size, "--all", "--resource-type", "virtualMachines"
    )
    if complaint:
        return Finding(question, None, complaint), "", 0
    found = next((one for one in given if one.get("name", "").lower() == size.lower()), None)
    if found is None:
        return Finding(question, False, "the region does not offer it; take another region or size"), "", 0
    family = str(found.get("family", ""))
    values = {one["name"]: one["value"] for one in found.get("capabilities", [])}
    cores = int(values.get("vCPUs", 0))
    if found.get("restrictions"):
        why = ", ".join(str(one.get("reasonCode", "restricted")) for one in found["restrictions"])
        return Finding(question, False, f"your subscription may not use it there ({why}); ask support"), family, cores
    return Finding(question, True, f"family {family}, {cores} vCPUs, {values.get('GPUs', '?')} GPUs"), family, cores


def azure_quota(usages: list[dict[str, Any]], family: str, cores: int, machines: int, spot: bool) -> Finding:
    """Whether the quota of the family (or, for spot, the one number for all low-priority machines) is enough."""
    name = "low priority" if spot else family
    question = f"quota for {machines} x {cores} vCPUs ({name})"

    def key(one: dict[str, Any]) -> str:
        text = str(one["name"].get("value") or one["name"].get("localized_value") or "")
        return re.sub(r"[\W_]|family|standard|cluster|dedicated|vcpus", "", text.lower())

    wanted = "lowpriority" if spot else re.sub(r"[\W_]|family|standard", "", family.lower())
    found = next((one for one in usages if wanted and wanted in key(one)), None)
    if found is None:
        return Finding(question, False, "the workspace's list has no such quota; ask for it, which takes days")
    free = int(found["limit"]) - int(found.get("current_value", found.get("currentValue", 0)))
    enough = free >= machines * cores
    todo = "" if enough else f"; ask for {machines * cores}, which takes days"
    return Finding(question, enough, f"{free} of {found['limit']} free{todo}")


def azure_driver(size: str) -> Finding:
    """What is known of the size's driver without a machine."""
    question = f"driver of {size}"
    if GRID.fullmatch(size):
        sentence = "GRID, seen at 550 and 570: build with --build-arg BASE=vllm/vllm-openai:v0.32.0-cu129"
    else:
        sentence = f"Azure ML was seen at 535, CUDA 13 wants {CUDA_13_DRIVER}: the smoke job shows it"
    return Finding(question, None, sentence)


def azure_findings(
    size: str, region: str, *, machines: int, spot: bool, resource_group: str = "", workspace: str = ""
) -> list[Finding]:
    """All questions to Azure."""
    account, complaint = asked("az", "account", "show")
    if complaint:
        return [Finding("Azure account", False, f"{complaint}; az login")]
    found = [Finding("Azure account", True, str(account.get("name", "")))]
    offered, family, cores = azure_size(size, region)
    found.append(offered)
    at = ["--resource-group", resource_group] if resource_group else []
    at += ["--workspace-name", workspace] if workspace else []
    usages, complaint = asked("az", "ml", "compute", "list-usage", "--location", region, *at)
    if complaint:
        found.append(Finding("quota", None, complaint))
    elif family:
        found.append(azure_quota(usages, family, cores, machines, spot))
    return [*found, azure_driver(size)]


def runpod_findings(gpu: str) -> list[Finding]:
    """Whether runpodctl is set up and RunPod's secure cloud offers the GPU now."""
    text, complaint = asked("runpodctl", "get", "cloud", "--secure")
    if complaint:
        return [Finding("RunPod account", False, f"{complaint}; runpodctl config asks for the key")]
    lines = [" ".join(line.split()) for line in str(text).splitlines() if gpu.lower() in line.lower()]
    if not lines:
        return [Finding(f"{gpu} on RunPod", False, "not offered now; take another GPU or data centre")]
    return [
        Finding(f"{gpu} on RunPod", True, lines[0]),
        Finding(
            "driver", None, "choose CUDA 13.0 or newer in the filter (allowedCudaVersions); the smoke job shows it"
        ),
    ]


def images_of(repository: Path) -> list[str]:
    """Base images of all Dockerfiles in the templates."""
    texts = (path.read_text(encoding="utf-8") for path in in_templates(repository, "Dockerfile"))
    return sorted({image for text in texts for image in re.findall(r"^ARG BASE=(\S+)", text, re.M)})


def image_findings(repository: Path) -> list[Finding]:
    """Whether every base image's tag exists, and its digest to pin."""
    found = []
    for image in images_of(repository):
        text, complaint = asked("docker", "buildx", "imagetools", "inspect", image)
        if complaint:
            missing = "not found" in complaint or "manifest unknown" in complaint
            found.append(Finding(image, False if missing else None, complaint))
            continue
        digest = re.search(r"^Digest:\s*(sha256:\w+)", str(text), re.M)
        found.append(Finding(image, True, digest[1] if digest else "there"))
    return found


def default_size(repository: Path) -> str:
    """The size of the endpoint's deployment."""
    sizes = [c["instance_type"] for _, kind, c in azure_files(repository) if kind == "managedOnlineDeployment"]
    return str(sizes[0])
