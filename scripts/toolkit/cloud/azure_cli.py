"""The Azure CLI, called as its users would: its ml commands, their answers, their failures as one sentence."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.cloud.image_version import image_version
from toolkit.cloud.templates import yaml_of
from toolkit.console import ExitCode, StageError, one_line, say


@dataclass(frozen=True)
class AzureML:
    """One workspace; empty names mean the CLI's own defaults (az configure --defaults group=... workspace=...)."""

    resource_group: str = ""
    workspace: str = ""

    @property
    def at(self) -> list[str]:
        words = ["--resource-group", self.resource_group] if self.resource_group else []
        return words + (["--workspace-name", self.workspace] if self.workspace else [])

    def call(self, *words: str) -> str:
        """What `az ml WORDS` prints. Raises StageError where it fails."""
        done = az("ml", *words, *self.at)
        if done.returncode:
            last = one_line((done.stderr.strip().splitlines() or ["no output"])[-1], 400)
            raise StageError(f"az ml {' '.join(words[:2])} ended with code {done.returncode}: {last}")
        return done.stdout.strip()

    def has(self, kind: str, *words: str) -> bool:
        """Whether the thing is there. Raises StageError where the CLI fails for another reason than its absence."""
        done = az("ml", kind, "show", *words, *self.at, "--output", "none")
        if done.returncode == 0:
            return True
        said = done.stderr.lower()
        if done.returncode == 3 or "not found" in said or "notfound" in said or "could not be found" in said:
            return False
        last = one_line((done.stderr.strip().splitlines() or ["no output"])[-1], 400)
        raise StageError(f"az ml {kind} show ended with code {done.returncode}: {last}")

    def registered_environment(self, repository: Path, file: Path) -> str:
        """`name:version` of an environment file; built in the workspace where this content is not there yet."""
        content: dict[str, Any] = yaml_of(file)[0]
        version = image_version(repository, repository / content["build"]["dockerfile_path"])
        name = str(content["name"])
        if self.has("environment", "--name", name, "--version", version):
            say(f"{name}:{version} is there")
        else:
            self.call("environment", "create", "--file", str(file), "--version", version, "--output", "none")
            say(f"{name}:{version} made; Azure ML builds its image when it is first used")
        return f"{name}:{version}"


def az(*words: str) -> subprocess.CompletedProcess[str]:
    """One call of the Azure CLI. Raises StageError where it is not installed."""
    program = shutil.which("az")
    if program is None:
        raise StageError("the Azure CLI (az) is not installed, or not on PATH", ExitCode.DEPENDENCY)
    return subprocess.run([program, *words], capture_output=True, text=True, errors="replace", check=False)
