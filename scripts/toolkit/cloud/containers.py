"""Images, Dockerfiles and Kubernetes files: pinned, linted, valid by the published schemas."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from toolkit.cloud.templates import Problem, leaves, routes_of_the_gateway, yaml_of
from toolkit.console import one_line

NEEDS_HEALTH = {"Deployment"}


def images_are_pinned(repository: Path) -> list[Problem]:
    """No image without a tag, none called latest."""
    found = []
    for path in sorted([*(repository / "azureml").rglob("*"), *(repository / "runpod").rglob("*")]):
        images: list[str] = []
        if path.name == "Dockerfile":
            text = path.read_text(encoding="utf-8")
            images = re.findall(r"^ARG BASE=(\S+)", text, re.M) + [
                i for i in re.findall(r"^FROM (\S+)", text, re.M) if i != "${BASE}"
            ]
        elif path.suffix == ".yaml":
            images = [value for document in yaml_of(path) for key, value in leaves(document) if key == "image"]
        for image in images:
            tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
            if not tag or tag == "latest":
                found.append(Problem(path.relative_to(repository).as_posix(), f"the image {image} is not pinned"))
    return found


def kubernetes_by_its_schemas(repository: Path) -> list[Problem]:
    """Each Kubernetes file against the published schemas, unknown fields refused.

    Beyond the schemas: probes on the gateway's routes, equal GPU requests and limits, memory limits.
    """
    import kubernetes_validate

    found = []
    for path in sorted((repository / "azureml/aks").rglob("*.yaml")):
        where = path.relative_to(repository).as_posix()
        for document in yaml_of(path):
            if document["apiVersion"].startswith("keda.sh/"):
                continue  # a custom resource; its schema comes with the KEDA add-on
            try:
                kubernetes_validate.validate(document, max(kubernetes_validate.latest_version(), ""), strict=True)
            except kubernetes_validate.ValidationError as error:
                found.append(Problem(where, f"{document['kind']}: {one_line(error, 300)}"))
                continue
            pod = document.get("spec", {}).get("template", {}).get("spec") or (
                document["spec"] if document["kind"] == "Pod" else {}
            )
            for container in pod.get("containers", []):
                name = f"{document['kind']} {document['metadata']['name']}"
                asked, most = (container.get("resources", {}).get(k, {}) for k in ("requests", "limits"))
                if "memory" not in most:
                    found.append(Problem(where, f"{name}: no memory limit"))
                if asked.get("nvidia.com/gpu") != most.get("nvidia.com/gpu"):
                    found.append(Problem(where, f"{name}: GPUs asked for and limited must be equal"))
                if container.get("ports") and document["kind"] in NEEDS_HEALTH:
                    found += [
                        Problem(where, f"{name}: no {p}")
                        for p in ("startupProbe", "readinessProbe", "livenessProbe")
                        if p not in container
                    ]
                    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                        route = container.get(probe, {}).get("httpGet", {}).get("path")
                        if route and route not in routes_of_the_gateway(repository):
                            found.append(Problem(where, f"{name}: {probe} {route} is no route of the gateway"))
    return found


def by_linters(repository: Path) -> list[Problem]:
    """hadolint on every Dockerfile, shellcheck on every shell script."""
    found = []
    folder = Path(sys.executable).parent
    for program, pattern, words in (
        ("hadolint", "Dockerfile", ["--format", "json"]),
        ("shellcheck", "*.sh", ["--format", "json"]),
    ):
        files = sorted(path for top in ("azureml", "runpod") for path in (repository / top).rglob(pattern))
        done = subprocess.run(
            [str(folder / program), *words, *map(str, files)], capture_output=True, text=True, check=False
        )
        try:
            said = json.loads(done.stdout or "[]")
        except ValueError:
            found.append(Problem(program, one_line(done.stderr or done.stdout, 300)))
            continue
        for one in said:
            where = Path(one["file"]).resolve().relative_to(repository.resolve()).as_posix()
            found.append(Problem(f"{where}:{one['line']}", f"{program} {one.get('code', '')}: {one['message']}"))
    return found
