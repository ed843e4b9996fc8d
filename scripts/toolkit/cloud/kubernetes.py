"""Kubernetes files: the published schemas, and what they allow although it fails on a cluster with one GPU.

Sources: AKS's pages on labels, the rollout and disruption pages of Kubernetes, KEDA's page on ScaledObject (2026-11);
KubeRay 1.7's RayJob (docs.ray.io, 2026-11).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.cloud.templates import Problem, yaml_of
from toolkit.console import one_line
from toolkit.serving.routes import PATHS

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# AKS sets these itself; others under its prefix are refused when a node pool is made.
AKS_LABELS = {f"kubernetes.azure.com/{name}" for name in ("scalesetpriority", "mode", "agentpool", "os-sku", "cluster")}
OTHER_SCHEMAS = ("keda.sh/", "ray.io/")


@dataclass(frozen=True)
class Resource:
    """One document of a Kubernetes file; `where` is the file."""

    where: str
    content: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.content["kind"])

    @property
    def name(self) -> str:
        return f"{self.kind} {self.content['metadata']['name']}"

    @property
    def spec(self) -> dict[str, Any]:
        return dict(self.content.get("spec", {}))

    def pod_templates(self) -> Iterator[dict[str, Any]]:
        """Every pod that it makes, as `{metadata, spec}`."""
        if self.kind == "Pod":
            yield self.content
        elif "template" in self.spec:
            yield self.spec["template"]
        elif self.kind == "RayJob":
            cluster = self.spec["rayClusterSpec"]
            yield self.spec["submitterPodTemplate"]
            yield from (group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]))

    def problem(self, sentence: str) -> Problem:
        return Problem(self.where, f"{self.name}: {sentence}")


def resources(repository: Path) -> list[Resource]:
    """Every document of the Kubernetes files."""
    return [
        Resource(path.relative_to(repository).as_posix(), document)
        for path in sorted((repository / "azureml/aks").rglob("*.yaml"))
        for document in yaml_of(path)
    ]


def gpus_of(pod: dict[str, Any]) -> int:
    """GPUs that one such pod takes."""
    limits = (one.get("resources", {}).get("limits", {}) for one in pod["spec"].get("containers", []))
    return sum(int(limit.get("nvidia.com/gpu", 0)) for limit in limits)


def kubernetes_by_its_schemas(repository: Path) -> list[Problem]:
    """Each Kubernetes file against the published schemas, unknown fields refused; of custom resources, their pods."""
    import kubernetes_validate

    newest = max(kubernetes_validate.latest_version(), "")
    found = []
    for one in resources(repository):
        whole = [one.content]
        if one.content["apiVersion"].startswith(OTHER_SCHEMAS):
            # Their own schemas come with their operators.
            base = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}}
            whole = [base | {"spec": pod["spec"]} for pod in one.pod_templates()]
        for document in whole:
            try:
                kubernetes_validate.validate(document, newest, strict=True)
            except kubernetes_validate.ValidationError as error:
                found.append(one.problem(one_line(error, 300)))
    return found


def pods_are_complete(repository: Path) -> list[Problem]:
    """Probes on the gateway's routes, equal GPU requests and limits, memory limits, no root, nodes that can be had."""
    found = []
    for one in resources(repository):
        for pod in one.pod_templates():
            spec = pod["spec"]
            for key in spec.get("nodeSelector", {}):
                if key.startswith("kubernetes.azure.com/") and key not in AKS_LABELS:
                    found.append(one.problem(f"no node has {key}: the prefix is AKS's own and refused for node pools"))
            if not spec.get("securityContext", {}).get("runAsNonRoot"):
                found.append(one.problem("runAsNonRoot is not set"))
            for container in spec.get("containers", []):
                found += [one.problem(sentence) for sentence in container_problems(one, container)]
    return found


def container_problems(one: Resource, container: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one container of a pod."""
    asked, most = (container.get("resources", {}).get(key, {}) for key in ("requests", "limits"))
    if "memory" not in most:
        yield "no memory limit"
    if asked.get("nvidia.com/gpu") != most.get("nvidia.com/gpu"):
        yield "GPUs asked for and limited must be equal"
    for variable in container.get("env", []):
        if "secretKeyRef" in variable.get("valueFrom", {}):
            yield f"{variable['name']} is a secret in the environment; mount it as a file"
    if one.kind == "Deployment" and container.get("ports"):
        yield from (f"no {probe}" for probe in PROBES if probe not in container)
        for probe in PROBES:
            route = container.get(probe, {}).get("httpGet", {}).get("path")
            if route and route not in PATHS:
                yield f"{probe} {route} is no route of the gateway"


def rollouts_work_on_one_gpu(repository: Path) -> list[Problem]:
    """A first start, an update, an upgrade of the node and scaling down, each where there is one GPU."""
    everything = resources(repository)
    found = []
    for one in everything:
        if one.kind == "Deployment":
            found += [one.problem(sentence) for sentence in deployment_problems(one, everything)]
        elif one.kind == "PodDisruptionBudget":
            replicas = min((other.spec.get("replicas", 1) for other in selected(one, everything)), default=1)
            if int(one.spec.get("minAvailable", 0)) >= replicas:
                found.append(one.problem("minAvailable leaves no pod to move: the node could never be upgraded"))
        elif one.kind == "ScaledObject" and "cooldownPeriod" in one.spec and one.spec.get("minReplicaCount", 0) > 0:
            found.append(one.problem("cooldownPeriod acts only on the way to zero; set scaleDown of the HPA"))
        elif one.kind == "RayJob":
            found += [one.problem(sentence) for sentence in ray_problems(one)]
    return found


def selected(one: Resource, everything: list[Resource]) -> list[Resource]:
    """The Deployments whose pods a selector takes."""
    wanted = one.spec.get("selector", one.spec.get("podSelector", {})).get("matchLabels", {})
    return [
        other
        for other in everything
        if other.kind == "Deployment" and wanted.items() <= other.spec["template"]["metadata"].get("labels", {}).items()
    ]


def deployment_problems(one: Resource, everything: list[Resource]) -> Iterator[str]:
    """What fails when the Deployment starts, is updated or is scraped."""
    pod = one.spec["template"]
    words = [str(word) for c in pod["spec"]["containers"] for word in [*c.get("command", []), *c.get("args", [])]]
    if words[:2] == ["ray", "start"]:
        yield "a Ray cluster made by hand stays and bills when its job has ended; KubeRay's RayJob removes it"
    if gpus_of(pod):
        claims = {
            v["persistentVolumeClaim"]["claimName"]
            for v in pod["spec"].get("volumes", [])
            if len(v) > 1 and "persistentVolumeClaim" in v
        }
        beside = {
            r.content["metadata"]["name"]
            for r in everything
            if r.where == one.where and r.kind == "PersistentVolumeClaim"
        }
        for claim in sorted(claims & beside):
            yield f"the volume {claim} is made with it, so it starts without a model and holds the GPU"
        update = one.spec.get("strategy", {}).get("rollingUpdate", {})
        if one.spec.get("strategy", {}).get("type", "RollingUpdate") == "RollingUpdate" and not update.get(
            "maxUnavailable", 0
        ):
            yield "maxUnavailable 0 cannot be updated where no second GPU is free"
    start = max((budget(c["startupProbe"]) for c in pod["spec"]["containers"] if "startupProbe" in c), default=0)
    timeout = float(words[words.index("--start-timeout") + 1]) if "--start-timeout" in words else 1800.0
    if start and start < timeout:
        yield f"the startup probe gives {start} s, loading the model may take --start-timeout {timeout:g} s"
    if start and one.spec.get("progressDeadlineSeconds", 600) <= start:
        yield f"progressDeadlineSeconds {one.spec.get('progressDeadlineSeconds', 600)} is below the start's {start} s"
    marks = pod["metadata"].get("annotations", {})
    if marks.get("prometheus.io/scrape") == "true":
        yield from scrape_problems(one, everything, int(marks.get("prometheus.io/port", 80)))


def budget(probe: dict[str, Any]) -> int:
    """Seconds that a probe gives before it counts as failed."""
    return int(probe.get("initialDelaySeconds", 0) + probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3))


def scrape_problems(one: Resource, everything: list[Resource], port: int) -> Iterator[str]:
    """Network policies that keep Prometheus from the port that the pod announces."""
    for policy in everything:
        if policy.kind != "NetworkPolicy" or one not in selected(policy, everything):
            continue
        open_to = [
            rule for rule in policy.spec.get("ingress", []) if port in {p["port"] for p in rule.get("ports", [])}
        ]
        if not any("kubernetes.io/metadata.name" in str(rule) for rule in open_to):
            yield f"{policy.name} keeps Prometheus away from port {port}"


def ray_problems(one: Resource) -> Iterator[str]:
    """What makes a Ray job wait for ever, or its GPUs bill after its end."""
    if not one.spec.get("shutdownAfterJobFinishes"):
        yield "without shutdownAfterJobFinishes its GPUs bill after the job has ended"
    groups = one.spec["rayClusterSpec"]["workerGroupSpecs"]
    wanted = sum(group["replicas"] * gpus_of(group["template"]) for group in groups)
    if wanted > 1:
        yield f"it waits for {wanted} GPUs; a pool of one would never start it"
    for group in groups:
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield f"{group['groupName']}: replicas is not between minReplicas and maxReplicas"
