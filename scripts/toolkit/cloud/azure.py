"""Azure ML's files: the vendor's own loader, limits that it does not enforce, and references between files.

Limits: Azure ML's reference of managed online deployments.
"""

from __future__ import annotations

import re
from pathlib import Path

from toolkit.cloud.templates import Problem, azure_files, leaves, words_of_container
from toolkit.console import one_line
from toolkit.serving.routes import PATHS

# Images, jobs and uploads: Azure ML's how-to pages on environments, parallel jobs and quotas (2026-11).
MOST_UPLOAD = 8 * 2**20
NEEDS_GPU = ("train_lora", "extract_documents", "merge_adapter", "quantize_awq")
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
    "schedule": "load_schedule",
    "amlCompute": "load_compute",
    "managedOnlineEndpoint": "load_online_endpoint",
    "managedOnlineDeployment": "load_online_deployment",
}


def azure_by_the_sdk(repository: Path) -> list[Problem]:
    """Each file through azure-ai-ml's own loader and validation, offline."""
    import logging

    import azure.ai.ml as sdk
    from azure.ai.ml.entities import _load_functions as more

    logging.disable(logging.WARNING)  # what the SDK itself calls experimental
    found = []
    for path, kind, _ in azure_files(repository):
        where = path.relative_to(repository).as_posix()
        if kind not in LOADERS:
            found.append(Problem(where, f"$schema names no kind that is known here ({kind or 'none'})"))
            continue
        try:
            entity = (getattr(sdk, LOADERS[kind], None) or getattr(more, LOADERS[kind]))(path)
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

        name = re.split("[:@]", content["environment"])[1]
        _, environment = environments.get(name, (None, None))
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
    # What a job registers under a name.
    assets |= {
        output["name"]
        for _, kind, content in files
        if kind == "commandJob"
        for output in content.get("outputs", {}).values()
        if "name" in output
    }
    for path, kind, content in files:
        where = path.relative_to(repository).as_posix()
        for key, value in leaves(content):
            if match := re.fullmatch(r"azureml:([A-Za-z0-9_.-]+)(?::\w+|@\w+)?", value):
                if match[1] not in assets | MADE_LATER:
                    found.append(Problem(where, f"{key}: nothing here makes {match[1]}"))
            elif key in ("code", "component", "file", "create_job") or (key == "path" and value.startswith(".")):
                uploaded = kind in ("data", "model") and key == "path"
                if not uploaded and not (path.parent / value).exists():
                    found.append(Problem(where, f"{key}: {value} is not there"))
            elif key == "dockerfile_path" and not (path.parent / content["build"]["path"] / value).is_file():
                found.append(Problem(where, f"{key}: {value} is not in the build context"))
            elif key == "endpoint_name" and value not in assets:
                found.append(Problem(where, f"{key}: no file here makes the endpoint {value}"))
    return found


def images_are_never_the_old_ones(repository: Path) -> list[Problem]:
    """Environments have their content as version, and whoever uses one takes the newest."""
    found = []
    for path, kind, content in azure_files(repository):
        where = path.relative_to(repository).as_posix()
        if kind == "environment" and "version" in content:
            found.append(
                Problem(where, "a version that exists is never built again; register_environment.py sets it by content")
            )
        for key, value in leaves(content):
            if key == "environment" and not value.endswith("@latest"):
                found.append(Problem(where, f"{value} stays the image of that version; write @latest"))
    deployments = [path for path, kind, _ in azure_files(repository) if kind == "managedOnlineDeployment"]
    for path in deployments[1:]:
        where = path.relative_to(repository).as_posix()
        found.append(Problem(where, "one file serves both slots: deploy_endpoint.py sets what differs"))
    return found


def jobs_start_where_they_run(repository: Path) -> list[Problem]:
    """GPU steps check the driver first, no step lacks packages, no weights go through your own line."""
    found = []
    for path, kind, content in azure_files(repository):
        where = path.relative_to(repository).as_posix()
        command = str(content.get("command", ""))
        for script in NEEDS_GPU:
            before = command.partition(f"scripts/{script}.py")[0]
            if f"scripts/{script}.py" in command and "scripts/check_gpu.py --" not in before:
                found.append(Problem(where, f"{script}.py starts without check_gpu.py: an older driver fails it"))
        if kind == "parallelComponent" or "parallel" in str(content.get("type", "")):
            found.append(
                Problem(where, "a parallel job's driver needs Azure ML packages that the image lacks; use a command")
            )
        if kind in ("model", "data") and "models/" in str(content.get("path", "")):
            found.append(Problem(where, "16 GB would go through your own line; train/import-base.yml imports it"))
        for name, output in content.get("outputs", {}).items():
            through = output.get("mode") in ("rw_mount", "upload")
            if kind == "commandJob" and not through:
                found.append(Problem(where, f"outputs.{name} has no mode: what an evicted job wrote would be lost"))
    return found


def uploads_are_small(repository: Path) -> list[Problem]:
    """What the SDK would upload as code and as build context: code and pins, and all that the images copy."""
    from azure.ai.ml._utils._asset_utils import get_ignore_file

    from toolkit.cloud.image_version import copied_files

    ignored = get_ignore_file(repository)
    # Folders that hold thousands of files of a user and are out as a whole are not walked.
    tops = [one for one in repository.iterdir() if not ignored.is_file_excluded(one / "x") or one.is_file()]
    files = {
        path
        for top in tops
        for path in ([top] if top.is_file() else top.rglob("*"))
        if path.is_file() and not ignored.is_file_excluded(path)
    }
    size = sum(path.stat().st_size for path in files)
    found = []
    if size > MOST_UPLOAD:
        found.append(Problem(".amlignore", f"{size / 2**20:.0f} MiB would be uploaded with every job"))
    for folder in ("data", "models", "outputs", "docs", "tests"):
        if not ignored.is_file_excluded(repository / folder / "x"):
            found.append(Problem(".amlignore", f"{folder}/ would be uploaded with every job"))
    for dockerfile in sorted((repository / "azureml").rglob("Dockerfile")):
        for path in copied_files(repository, dockerfile):
            if path not in files:
                where = dockerfile.relative_to(repository).as_posix()
                name = path.relative_to(repository).as_posix()
                found.append(Problem(where, f"COPY {name}: .amlignore keeps it out of the build context"))
                break
    return found
