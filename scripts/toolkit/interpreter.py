"""The Python that a script runs in. Standard library only.

A script that is started outside the project's environments starts itself again inside one, where there is one. So no
command in the docs needs an activated environment.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"main": ".venv", "cloud": ".venv-cloud", "serve": ".venv-serve", "serve-cpu": ".venv-serve-cpu"}
# A script takes the first of these that exists. Serving prefers the environment that has vLLM.
SERVING_FIRST = ("serve", "serve-cpu", "main")
MAIN_FIRST = ("main", "serve", "serve-cpu")
# These make an environment, or choose one by themselves.
OWN_CHOICE = ("make_environment", "quickstart", "run_tests", "check_cloud_templates")
# What most stages import: another virtual environment that has all of it was chosen on purpose.
MARKERS = ("PIL", "pymupdf", "jsonschema", "httpx", "tqdm")
STARTED = "EXTRACTION_STARTED_INSIDE"


def python_in(folder: Path) -> Path:
    """The Python of a virtual environment's folder."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def wanted(script: str) -> tuple[str, ...]:
    """The environments in which a script can run, the best first."""
    return SERVING_FIRST if script.startswith("serve_") else MAIN_FIRST


def python_to_start(script: str, root: Path = ROOT) -> Path | None:
    """The Python to start the script with instead of this one; None where this one is right or the only one."""
    if script in OWN_CHOICE or os.environ.get(STARTED):
        return None
    if Path(sys.prefix).resolve() in {(root / folder).resolve() for folder in FOLDERS.values()}:
        return None
    virtual = sys.prefix != sys.base_prefix or os.environ.get("CONDA_PREFIX") == sys.prefix
    if virtual and all(importlib.util.find_spec(name) for name in MARKERS):
        return None
    pythons = (python_in(root / FOLDERS[name]) for name in wanted(script))
    return next((python for python in pythons if python.exists()), None)


def start_again(python: Path) -> int:
    """Run this very command with another Python. Returns its exit code on Windows; elsewhere this process becomes it.

    So signals and the process id stay those of the command that a service manager started.
    """
    words = [str(python), *sys.orig_argv[1:]]
    environment = {**os.environ, STARTED: "1"}
    if os.name != "nt":
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(python, words, environment)
    process = subprocess.Popen(words, env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the child got the same signal and ends by itself


def remedy(script: str, package: str) -> str:
    """What to do where a package is missing."""
    name = "gateway" if package in ("fastapi", "uvicorn", "prometheus_client") else wanted(script)[0]
    return (
        f"make the environment: python scripts/make_environment.py {name}; "
        "then run the same command again, it starts itself in there"
    )
