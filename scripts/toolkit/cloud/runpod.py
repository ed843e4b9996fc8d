"""The files of RunPod's hub."""

from __future__ import annotations

import json
from pathlib import Path

from toolkit.cloud.templates import Problem
from toolkit.console import one_line

HUB_KEYS = {"title", "description", "type", "category", "config"}


def runpod_files_are_complete(repository: Path) -> list[Problem]:
    """The hub's two files: keys, and CUDA versions that the images need."""
    found = []
    for name in ("hub.json", "tests.json"):
        path = repository / ".runpod" / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            found.append(Problem(f".runpod/{name}", one_line(error)))
            continue
        missing = HUB_KEYS - set(content) if name == "hub.json" else {"tests", "config"} - set(content)
        found += [Problem(f".runpod/{name}", f"no {key}") for key in sorted(missing)]
        versions = content.get("config", {}).get("allowedCudaVersions", [])
        if not versions or min(tuple(map(int, v.split("."))) for v in versions) < (13, 0):
            found.append(
                Problem(f".runpod/{name}", "allowedCudaVersions must start at 13.0, which the wheels are built for")
            )
        if name == "tests.json":
            found += [
                Problem(f".runpod/{name}", "a test needs name and input")
                for one in content.get("tests", [])
                if not {"name", "input"} <= set(one)
            ]
        variables = {one["key"] for one in content.get("config", {}).get("env", [])}
        spoken = "".join(p.read_text(encoding="utf-8") for p in (repository / "runpod/serve").iterdir() if p.is_file())
        spoken += (repository / "scripts/serve_container.py").read_text(encoding="utf-8")
        found += [Problem(f".runpod/{name}", f"nothing reads {key}") for key in sorted(variables) if key not in spoken]
    return found
