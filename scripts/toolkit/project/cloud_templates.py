"""The templates in azureml/ and runpod/, checked as far as a machine without a cloud can: the vendors' own schemas, limits that those do not enforce, and that
every file, script, flag, asset and route that a template names is there.

Each check is a function `(repository) -> [Problem]`. Facts about limits: Azure ML's reference of managed online deployments, RunPod's documentation.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.console import one_line

MOST_REQUEST_MS = 180_000
DEFAULT_REQUEST_MS = 5_000
# Made by the pipeline or by the user, not by a file here.
MADE_LATER = {"bl-8b-awq"}
# What is uploaded is the user's own.
UPLOADS = ("data.schema", "model.schema")
LOADERS = {
    "commandJob": "load_job", "pipelineJob": "load_job", "commandComponent": "load_component", "parallelComponent": "load_component",
    "environment": "load_environment", "data": "load_data", "model": "load_model", "amlCompute": "load_compute",
    "managedOnlineEndpoint": "load_online_endpoint", "managedOnlineDeployment": "load_online_deployment",
}  # fmt: skip
NEEDS_HEALTH = {"Deployment"}
HUB_KEYS = {"title", "description", "type", "category", "config"}


@dataclass(frozen=True)
class Problem:
    """What is wrong in which file; `where` is relative to the repository."""

    where: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.where}: {self.sentence}"


def yaml_of(path: Path) -> list[Any]:
    """The documents of a YAML file. Raises ValueError with one sentence."""
    import yaml

    try:
        return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document is not None]
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(one_line(error)) from None


def azure_files(repository: Path) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """`(path, kind, content)` of each Azure ML file: those with a $schema."""
    for path in sorted((repository / "azureml").rglob("*.yml")):
        content = yaml_of(path)[0]
        yield path, str(content.get("$schema", "")).rsplit("/", 1)[-1].split(".")[0], content


def azure_by_the_sdk(repository: Path) -> list[Problem]:
    """Each file through azure-ai-ml's own loader and validation, offline."""
    import logging

    import azure.ai.ml as sdk

    logging.disable(logging.WARNING)  # what the SDK itself calls experimental
    found = []
    for path, kind, _ in azure_files(repository):
        where = path.relative_to(repository).as_posix()
        if kind not in LOADERS:
            found.append(Problem(where, f"$schema names no kind that is known here ({kind or 'none'})"))
            continue
        try:
            entity = getattr(sdk, LOADERS[kind])(path)
            verdict = entity._validate() if hasattr(entity, "_validate") else None
        except Exception as error:  # the SDK raises many kinds, each for a wrong file
            found.append(Problem(where, one_line(error, 500)))
            continue
        if verdict is not None and not verdict.passed:
            found += [Problem(where, f"{place}: {sentence}") for place, sentence in verdict.error_messages.items()]
    return found


def words_of_container(repository: Path, dockerfile: str) -> list[str]:
    """The ENTRYPOINT and CMD words of a Dockerfile."""
    text = (repository / dockerfile).read_text(encoding="utf-8")
    return [str(w) for match in re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", text, re.M) for w in json.loads(match)]


def value_after(words: list[str], flag: str, default: float) -> float:
    return float(words[words.index(flag) + 1]) if flag in words else default


def deployments_fit_their_container(repository: Path) -> list[Problem]:
    """Limits that the SDK accepts and the service, or the user's patience, does not: time-outs, concurrency, probes, instances, routes."""
    found = []
    environments = {c["name"]: (p, c) for p, kind, c in azure_files(repository) if kind == "environment"}
    for path, kind, content in azure_files(repository):
        if kind != "managedOnlineDeployment":
            continue
        where = path.relative_to(repository).as_posix()

        def say(sentence: str, where: str = where) -> None:
            found.append(Problem(where, sentence))

        _, environment = environments.get(content["environment"].split(":")[1], (None, None))
        if environment is None:
            continue  # told by references_are_defined
        words = words_of_container(repository, environment["build"]["dockerfile_path"])
        requests = content.get("request_settings", {})
        milliseconds = requests.get("request_timeout_ms", DEFAULT_REQUEST_MS)
        if not 0 < milliseconds <= MOST_REQUEST_MS:
            say(f"request_timeout_ms is {milliseconds}; the service takes 1 to {MOST_REQUEST_MS}")
        seconds = value_after(words, "--max-seconds", 60)
        if seconds * 1000 >= milliseconds:
            say(f"request_timeout_ms {milliseconds} is not above the gateway's --max-seconds {seconds:g}: the platform would cut answers off")  # fmt: skip
        takes = value_after(words, "--concurrency", 16) + value_after(words, "--queue", 64)
        concurrent = requests.get("max_concurrent_requests_per_instance", 1)
        if concurrent != takes:
            say(f"max_concurrent_requests_per_instance is {concurrent}, the gateway works on and queues {takes:g}")
        start = value_after(words, "--start-timeout", 1800)
        probe = content.get("readiness_probe", {})
        budget = probe.get("initial_delay", 10) + probe.get("period", 10) * probe.get("failure_threshold", 30)
        if budget < start:
            say(f"the readiness probe gives {budget} s, loading the model may take --start-timeout {start:g} s")
        if content.get("instance_count", 0) < 1:
            say("instance_count is below 1: the first request would wait for a machine")
        for name in ("liveness_probe", "readiness_probe"):
            if content.get(name, {}).get("timeout", 2) >= content.get(name, {}).get("period", 10):
                say(f"{name}: timeout is not below period")
        port = re.search(r"\bPORT=(\d+)", (repository / environment["build"]["dockerfile_path"]).read_text(encoding="utf-8"))  # fmt: skip
        routes = routes_of_the_gateway(repository)
        for name, route in environment.get("inference_config", {}).items():
            if route["path"] not in routes:
                say(f"{name} {route['path']} is no route of the gateway")
            if port and int(port[1]) != route["port"]:
                say(f"{name} is on port {route['port']}, the container listens on {port[1]}")
    return found


def routes_of_the_gateway(repository: Path) -> set[str]:
    text = (repository / "scripts/toolkit/serving/gateway.py").read_text(encoding="utf-8")
    return set(re.findall(r'@app\.(?:get|post)\(\s*"([^"]+)"', text))


def references_are_defined(repository: Path) -> list[Problem]:
    """Paths are there; assets (azureml:NAME:VERSION) are made by a file here; endpoint names agree."""
    found = []
    files = list(azure_files(repository))
    assets = {content["name"] for _, kind, content in files if kind in ("environment", "data", "model", "amlCompute", "managedOnlineEndpoint")}  # fmt: skip
    for path, kind, content in files:
        where = path.relative_to(repository).as_posix()
        for key, value in leaves(content):
            if match := re.fullmatch(r"azureml:([A-Za-z0-9_.-]+)(?::\w+)?", value):
                if match[1] not in assets | MADE_LATER:
                    found.append(Problem(where, f"{key}: nothing here makes {match[1]}"))
            elif key in ("code", "component", "file") or (key == "path" and value.startswith(".")):
                uploaded = kind in ("data", "model") and key == "path"
                if not uploaded and not (path.parent / value).exists():
                    found.append(Problem(where, f"{key}: {value} is not there"))
            elif key == "dockerfile_path" and not (path.parent / content["build"]["path"] / value).is_file():
                found.append(Problem(where, f"{key}: {value} is not in the build context"))
            elif key == "entry_script" and not (path.parent / content["task"]["code"] / value).is_file():
                found.append(Problem(where, f"{key}: {value} is not in the code folder"))
            elif key == "endpoint_name" and value not in assets:
                found.append(Problem(where, f"{key}: no file here makes the endpoint {value}"))
    return found


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """`(key, text)` of every text below `value`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, key)
    elif isinstance(value, str):
        yield key, value


def command_lines(repository: Path) -> Iterator[tuple[Path, list[str]]]:
    """`(file, words)` of every start of one of the project's scripts in a template: words from the script's name on."""
    for path in sorted([*(repository / "azureml").rglob("*"), *(repository / "runpod").rglob("*")]):
        if path.suffix in (".yml", ".yaml"):
            for document in yaml_of(path):
                for texts in commands_in(document):
                    yield from ((path, words) for words in starts(texts))
        elif path.name == "Dockerfile":
            words = words_of_container(repository, path.relative_to(repository).as_posix())
            yield from ((path, start) for start in starts(words))
        elif path.suffix == ".service":
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.startswith("ExecStart="):
                    yield from ((path, start) for start in starts(shlex.split(line.partition("=")[2])))
        elif path.suffix == ".sh":
            text = (
                path.read_text(encoding="utf-8")
                .replace("\\\n", " ")
                .replace("$here/", "")
                .replace("$scripts/", "scripts/")
            )
            for line in text.splitlines():
                if re.search(r"scripts/\w+\.py", line) and not line.lstrip().startswith("#"):
                    yield from ((path, start) for start in starts(shlex.split(line, comments=True)))


def commands_in(value: Any) -> Iterator[list[str]]:
    """The words of each command of a YAML document: `command` and `args` together, `program_arguments` behind their entry script."""
    if isinstance(value, list):
        for inner in value:
            yield from commands_in(inner)
    if not isinstance(value, dict):
        return
    words: list[str] = []
    for key in ("entrypoint", "command", "args"):
        part = value.get(key)
        words += shlex.split(part) if isinstance(part, str) else [str(w) for w in part or [] if not isinstance(w, dict | list)]  # fmt: skip
    if words:
        yield words
    if "entry_script" in value:
        yield [f"scripts/{value['entry_script']}", *shlex.split(value.get("program_arguments", ""))]
    for inner in value.values():
        yield from commands_in(inner)


def starts(words: list[str]) -> Iterator[list[str]]:
    """The words of each start of a script in `words`, up to what ends a command."""
    current: list[str] | None = None
    for word in words:
        if re.fullmatch(r"(?:\S*/)?(?:scripts|azureml/pipeline)/\w+\.py", word) and current is None:
            current = [word[re.search(r"(?:scripts|azureml/pipeline)/\w+\.py$", word).start() :]]  # type: ignore[union-attr]
        elif word in ("&&", "||", ";", "&", "|"):
            if current:
                yield current
            current = None
        elif current is not None:
            current.append(word)
    if current:
        yield current


def commands_can_be_parsed(repository: Path) -> list[Problem]:
    """Every script that a template starts is there and knows every flag that it is given."""
    found = []
    helps: dict[str, str] = {}
    for path, (script, *words) in command_lines(repository):
        where = path.relative_to(repository).as_posix()
        if not (repository / script).is_file():
            found.append(Problem(where, f"{script} is not there"))
            continue
        if script not in helps:
            shown = subprocess.run([sys.executable, str(repository / script), "--help"], capture_output=True, text=True, check=False)  # fmt: skip
            helps[script] = shown.stdout
        known = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", helps[script].partition("options:")[0].partition("usage:")[2] + helps[script]))  # fmt: skip
        for word in words:
            flag = word.partition("=")[0]
            if re.fullmatch(r"--[a-z][a-z0-9-]*", flag) and flag not in known:
                found.append(Problem(where, f"{script} has no {flag}"))
    return found


def images_are_pinned(repository: Path) -> list[Problem]:
    """No image without a tag, none called latest."""
    found = []
    for path in sorted([*(repository / "azureml").rglob("*"), *(repository / "runpod").rglob("*")]):
        images: list[str] = []
        if path.name == "Dockerfile":
            text = path.read_text(encoding="utf-8")
            images = re.findall(r"^ARG BASE=(\S+)", text, re.M) + [i for i in re.findall(r"^FROM (\S+)", text, re.M) if i != "${BASE}"]  # fmt: skip
        elif path.suffix == ".yaml":
            images = [value for document in yaml_of(path) for key, value in leaves(document) if key == "image"]
        for image in images:
            tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
            if not tag or tag == "latest":
                found.append(Problem(path.relative_to(repository).as_posix(), f"the image {image} is not pinned"))
    return found


def kubernetes_by_its_schemas(repository: Path) -> list[Problem]:
    """Each Kubernetes file against the published schemas, unknown fields refused; beyond them: probes, equal GPU requests and limits, memory limits."""
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
            pod = document.get("spec", {}).get("template", {}).get("spec") or (document["spec"] if document["kind"] == "Pod" else {})  # fmt: skip
            for container in pod.get("containers", []):
                name = f"{document['kind']} {document['metadata']['name']}"
                asked, most = (container.get("resources", {}).get(k, {}) for k in ("requests", "limits"))
                if "memory" not in most:
                    found.append(Problem(where, f"{name}: no memory limit"))
                if asked.get("nvidia.com/gpu") != most.get("nvidia.com/gpu"):
                    found.append(Problem(where, f"{name}: GPUs asked for and limited must be equal"))
                if container.get("ports") and document["kind"] in NEEDS_HEALTH:
                    found += [Problem(where, f"{name}: no {p}") for p in ("startupProbe", "readinessProbe", "livenessProbe") if p not in container]  # fmt: skip
                    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                        route = container.get(probe, {}).get("httpGet", {}).get("path")
                        if route and route not in routes_of_the_gateway(repository):
                            found.append(Problem(where, f"{name}: {probe} {route} is no route of the gateway"))
    return found


def by_linters(repository: Path) -> list[Problem]:
    """hadolint on every Dockerfile, shellcheck on every shell script."""
    found = []
    folder = Path(sys.executable).parent
    for program, pattern, words in (("hadolint", "Dockerfile", ["--format", "json"]), ("shellcheck", "*.sh", ["--format", "json"])):  # fmt: skip
        files = sorted(path for top in ("azureml", "runpod") for path in (repository / top).rglob(pattern))
        done = subprocess.run([str(folder / program), *words, *map(str, files)], capture_output=True, text=True, check=False)  # fmt: skip
        try:
            said = json.loads(done.stdout or "[]")
        except ValueError:
            found.append(Problem(program, one_line(done.stderr or done.stdout, 300)))
            continue
        for one in said:
            where = Path(one["file"]).resolve().relative_to(repository.resolve()).as_posix()
            found.append(Problem(f"{where}:{one['line']}", f"{program} {one.get('code', '')}: {one['message']}"))
    return found


def powershell_can_be_read(repository: Path) -> list[Problem]:
    """What PowerShell 5.1 would stumble over, as far as it can be told without one."""
    found = []
    for path in sorted(top for folder in ("azureml", "runpod") for top in (repository / folder).rglob("*.ps1")):
        where = path.relative_to(repository).as_posix()
        text = path.read_text(encoding="utf-8")
        if not text.isascii():
            found.append(
                Problem(where, "not ASCII: PowerShell 5.1 reads a file without a mark in the console's code page")
            )
        code = re.sub(r"<#.*?#>", "", text, flags=re.S)
        if '$ErrorActionPreference = "Stop"' not in code or "Set-StrictMode" not in code:
            found.append(Problem(where, "it must stop at the first failure and at undefined variables"))
        found += [Problem(f"{where}:{n}", sentence) for n, sentence in powershell_lines(code)]
        found += [Problem(f"{where}:{n}", "this is not PowerShell: something is not closed, or stands where it cannot") for n in syntax_errors(text)]  # fmt: skip
    return found


def powershell_lines(code: str) -> Iterator[tuple[int, str]]:
    """`(line, sentence)` of what does not work in Windows PowerShell 5.1: `&&`, `||`, blanks behind a backtick, brackets that do not close, undefined variables."""
    defined = set(re.findall(r"\$(\w+)\s*=", code)) | set(re.findall(r"\[\w+(?:\[\])?\]\$(\w+)", code))
    defined |= set(re.findall(r"foreach\s*\(\s*\$(\w+)", code))
    known = {
        "true",
        "false",
        "null",
        "_",
        "PSScriptRoot",
        "LASTEXITCODE",
        "ErrorActionPreference",
        "env",
        "args",
        "PWD",
        "HOME",
    }
    depth = 0
    for number, line in enumerate(code.splitlines(), 1):
        bare = re.sub(r"'[^']*'", "''", line)
        unquoted = re.sub(r'"(?:[^"`]|`.)*"', '""', bare)
        unquoted = re.sub(r"(?:^|\s)#.*", "", unquoted)
        if "&&" in unquoted or "||" in unquoted:
            yield number, "&& and || do not exist in Windows PowerShell 5.1"
        if re.search(r"`\s+$", line):
            yield number, "a blank behind a backtick breaks the line"
        if unquoted.rstrip().endswith("\\"):
            yield number, "a back slash does not continue a line"
        depth += sum(unquoted.count(c) for c in "({[") - sum(unquoted.count(c) for c in ")}]")
        if depth < 0:
            yield number, "a bracket closes that was not opened"
            depth = 0
        comment = re.sub(r"(?:^|\s)#.*", "", bare)
        used = re.findall(r"\$\{?(\w+)", comment) + re.findall(r"(?<=\s)@(\w+)", comment)
        for name in used:
            if name not in defined | known and not name.isdigit():
                yield number, f"${name} is used and never set"
    if depth:
        yield code.count("\n") + 1, "a bracket is not closed"


def syntax_errors(code: str) -> list[int]:
    """Lines (from 1) at which PowerShell's grammar (tree-sitter's) finds an error. For scripts: of programs' arguments it knows too little for documents."""
    import tree_sitter
    import tree_sitter_powershell

    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    found, nodes = set(), [parser.parse(code.encode()).root_node]
    while nodes:
        node = nodes.pop()
        if node.type == "ERROR" or node.is_missing:
            found.add(node.start_point[0] + 1)
        nodes += [child for child in node.children if child.has_error or child.is_missing]
    return sorted(found)


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
            found.append(Problem(f".runpod/{name}", "allowedCudaVersions must start at 13.0, which the wheels are built for"))  # fmt: skip
        if name == "tests.json":
            found += [Problem(f".runpod/{name}", "a test needs name and input") for one in content.get("tests", []) if not {"name", "input"} <= set(one)]  # fmt: skip
        variables = {one["key"] for one in content.get("config", {}).get("env", [])}
        spoken = "".join(p.read_text(encoding="utf-8") for p in (repository / "runpod/serve").iterdir() if p.is_file())
        spoken += (repository / "scripts/serve_container.py").read_text(encoding="utf-8")
        found += [Problem(f".runpod/{name}", f"nothing reads {key}") for key in sorted(variables) if key not in spoken]
    return found


CHECKS = {
    "Azure ML's SDK": azure_by_the_sdk,
    "deployments and their container": deployments_fit_their_container,
    "references": references_are_defined,
    "command lines": commands_can_be_parsed,
    "images": images_are_pinned,
    "Kubernetes' schemas": kubernetes_by_its_schemas,
    "hadolint and shellcheck": by_linters,
    "PowerShell": powershell_can_be_read,
    "RunPod's files": runpod_files_are_complete,
}


def checked(repository: Path, leave_out: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """`{check: problems}`, without those to leave out. A file that is malformed for one check may be unreadable for the next, which then says so."""
    found: dict[str, list[str]] = {}
    for name, check in CHECKS.items():
        if name in leave_out:
            continue
        try:
            found[name] = [str(problem) for problem in check(repository)]
        except ValueError as error:
            found[name] = [one_line(error, 500)]
        except (TypeError, KeyError, AttributeError, IndexError, OSError) as error:
            found[name] = [
                f"cannot be checked before what stands above is cured ({type(error).__name__}: {one_line(error)})"
            ]
    return found
