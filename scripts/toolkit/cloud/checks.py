"""All checks of the cloud templates; each is a function `(repository) -> [Problem]`."""

from __future__ import annotations

from pathlib import Path

from toolkit.cloud.azure import azure_by_the_sdk, deployments_fit_their_container, references_are_defined
from toolkit.cloud.commands import commands_can_be_parsed
from toolkit.cloud.containers import by_linters, images_are_pinned, kubernetes_by_its_schemas
from toolkit.cloud.powershell import powershell_can_be_read
from toolkit.cloud.runpod import runpod_files_are_complete
from toolkit.console import one_line

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
    """`{check: problems}`, without the checks to leave out.

    A file that is malformed for one check may be unreadable for the next, which then says so.
    """
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
