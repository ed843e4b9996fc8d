"""All checks of the cloud templates; each is a function `(repository) -> [Problem]`."""

from __future__ import annotations

from pathlib import Path

from toolkit.cloud.azure import (
    azure_by_the_sdk,
    deployments_fit_their_container,
    images_are_never_the_old_ones,
    jobs_start_where_they_run,
    references_are_defined,
    uploads_are_small,
)
from toolkit.cloud.commands import commands_can_be_parsed
from toolkit.cloud.containers import (
    by_linters,
    compose_can_run,
    images_are_pinned,
    images_run_as_nobody_special,
)
from toolkit.cloud.kubernetes import kubernetes_by_its_schemas, pods_are_complete, rollouts_work_on_one_gpu
from toolkit.cloud.runbooks import runbooks_are_safe
from toolkit.cloud.runpod import (
    endpoints_fit_the_load_balancer,
    runpod_files_are_complete,
    training_pods_cost_no_more_than_they_must,
)
from toolkit.console import StageError, one_line

CHECKS = {
    "Azure ML's SDK": azure_by_the_sdk,
    "deployments and their container": deployments_fit_their_container,
    "references": references_are_defined,
    "image versions": images_are_never_the_old_ones,
    "jobs": jobs_start_where_they_run,
    "uploads": uploads_are_small,
    "command lines": commands_can_be_parsed,
    "images": images_are_pinned,
    "users": images_run_as_nobody_special,
    "compose": compose_can_run,
    "Kubernetes' schemas": kubernetes_by_its_schemas,
    "pods": pods_are_complete,
    "rollouts on one GPU": rollouts_work_on_one_gpu,
    "hadolint and shellcheck": by_linters,
    "RunPod's files": runpod_files_are_complete,
    "RunPod's load balancer": endpoints_fit_the_load_balancer,
    "RunPod's training pod": training_pods_cost_no_more_than_they_must,
    "runbooks": runbooks_are_safe,
}


def checked(repository: Path, leave_out: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """`{check: problems}`, without the checks to leave out.

    A file that is malformed for one check may be unreadable for the next, which then says so.
    """
    found: dict[str, list[str]] = {}
    for name, check in CHECKS.items():
        if name in leave_out:
            continue
        try:
            found[name] = [str(problem) for problem in check(repository)]
        except (ValueError, StageError) as error:
            found[name] = [one_line(error, 500)]
        except (TypeError, KeyError, AttributeError, IndexError, OSError) as error:
            found[name] = [
                f"cannot be checked before what stands above is cured ({type(error).__name__}: {one_line(error)})"
            ]
    return found
