"""Joining a Ray cluster, or starting one on this machine."""

from __future__ import annotations

from typing import Any

from toolkit.console import StageError


def join_cluster(address: str, runtime_env: dict[str, Any]) -> None:
    """Start Ray on this machine's loopback ("local"), or join the cluster at `address`. Raises StageError where there is none."""
    import ray

    options: dict[str, Any] = {"_node_ip_address": "127.0.0.1"} if address == "local" else {"address": address}
    try:
        ray.init(
            runtime_env=runtime_env, logging_level="ERROR", log_to_driver=False, include_dashboard=False, **options
        )
    except (ConnectionError, ValueError) as error:
        raise StageError(f"--ray {address}: no Ray cluster answers ({' '.join(str(error).split())[:200]})") from None
