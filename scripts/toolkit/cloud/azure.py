"""Azure ML's files: the vendor's own loader, limits that it does not enforce, and references between files.

Limits: Azure ML's reference of managed online deployments.
"""

from __future__ import annotations

import re
from pathlib import Path

from toolkit.cloud.templates import Problem, azure_files, leaves, words_of_container
from toolkit.console import one_line
from toolkit.serving.routes import PATHS

MOST_REQUEST_MS = 180_000
DEFAULT_REQUEST_MS = 5_000
# Made by the pipeline or by the user, not by a file here.
MADE_LATER = {"bl-8b-awq"}
LOADERS = {
    "commandJob": "load_job",
    "pipelineJob": "load_job",
    "commandComponent": "load_component",
    "parallelComponent": "load_component",
    "environment": "load_environment",
    "data": "load_data",
    "model": "load_model",
    "amlCompute": "load_compute",
    "managedOnlineEndpoint": "load_online_endpoint",
    "managedOnlineDeployment": "load_online_deployment",
}


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


def value_after(words: list[str], flag: str, default: float) -> float:
    """The number behind `flag` in a command's words, or `default` where the flag is missing."""
    return float(words[words.index(flag) + 1]) if flag in words else default


def deployments_fit_their_container(repository: Path) -> list[Problem]:
    """Time-outs, concurrency, probes, instances, routes: limits of the service that its SDK does not check."""
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
            say(
                f"request_timeout_ms {milliseconds} is not above the gateway's --max-seconds {seconds:g}: "
                "the platform would cut answers off"
            )
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
        port = re.search(
            r"\bPORT=(\d+)", (repository / environment["build"]["dockerfile_path"]).read_text(encoding="utf-8")
        )
        for name, route in environment.get("inference_config", {}).items():
            if route["path"] not in PATHS:
                say(f"{name} {route['path']} is no route of the gateway")
            if port and int(port[1]) != route["port"]:
                say(f"{name} is on port {route['port']}, the container listens on {port[1]}")
    return found


def references_are_defined(repository: Path) -> list[Problem]:
    """Paths are there; assets (azureml:NAME:VERSION) are made by a file here; endpoint names agree."""
    found = []
    files = list(azure_files(repository))
    assets = {
        content["name"]
        for _, kind, content in files
        if kind in ("environment", "data", "model", "amlCompute", "managedOnlineEndpoint")
    }
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
