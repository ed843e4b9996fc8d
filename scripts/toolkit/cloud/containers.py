"""Images, Dockerfiles and compose files: pinned, linted, not root."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from toolkit.cloud.templates import Problem, in_templates, leaves, yaml_of
from toolkit.console import one_line


def dockerfiles(repository: Path) -> list[Path]:
    """Every Dockerfile of the templates."""
    return in_templates(repository, "Dockerfile")


def images_are_pinned(repository: Path) -> list[Problem]:
    """No image without a tag, none called latest."""
    found = []
    for path in in_templates(repository):
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


def images_run_as_nobody_special(repository: Path) -> list[Problem]:
    """No image that serves documents runs as root; one that must (RunPod's sshd, Azure ML's mounts) says why."""
    found = []
    for path in dockerfiles(repository):
        text = path.read_text(encoding="utf-8")
        users = re.findall(r"^USER (\S+)", text, re.M)
        drops = any(
            "setpriv --reuid" in script.read_text(encoding="utf-8")
            for name in re.findall(r'"(?:serve|train)/(\w+\.sh)"', text)
            for script in (repository / "runpod").glob(f"*/{name}")
        )
        if not (users and users[-1].isdecimal() and users[-1] != "0") and not drops and "Root: " not in text:
            where = path.relative_to(repository).as_posix()
            found.append(Problem(where, "it runs as root: set USER to a number, or say why in a comment (Root: ...)"))
    return found


def compose_can_run(repository: Path) -> list[Problem]:
    """Compose files: a /tmp from which Triton can load what it compiles, and no key in the environment."""
    found = []
    for path in sorted((repository / "azureml").rglob("compose.yaml")):
        where = path.relative_to(repository).as_posix()
        for name, service in yaml_of(path)[0].get("services", {}).items():
            for entry in service.get("tmpfs", []):
                if "exec" not in entry.rpartition(":")[2].split(","):
                    found.append(Problem(where, f"{name}: tmpfs {entry} is noexec, Docker's default; add exec"))
            for key, value in service.get("environment", {}).items():
                if key.endswith(("_KEY", "_TOKEN", "_PASSWORD")) and value:
                    found.append(Problem(where, f"{name}: {key} is a secret in the environment; give a file"))
    return found


def by_linters(repository: Path) -> list[Problem]:
    """hadolint on every Dockerfile, shellcheck on every shell script."""
    found = []
    folder = Path(sys.executable).parent
    for program, pattern, words in (
        ("hadolint", "Dockerfile", ["--format", "json"]),
        ("shellcheck", "*.sh", ["--format", "json"]),
    ):
        files = dockerfiles(repository) if pattern == "Dockerfile" else in_templates(repository, pattern)
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
