"""Register a model in an Azure ML workspace, its scores as tags, where its scores hold.

Runs as a step of pipeline.yml: the model is given by its address (azureml://...), so that its files stay where they are. The workspace is that of the running
job, or --subscription, --resource-group and --workspace. Exit code 1, and nothing registered, where a --require does not hold.

    python azureml/pipeline/register_model.py --model azureml://datastores/workspaceblobstore/paths/runs/bl-8b-awq --metrics data/reports/metrics.json --name bl-8b-awq --require micro_f1=0.95
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from toolkit.console import StageError
from toolkit.evaluation.gates import LOWER, METRICS, measured, parsed, told

TAGGED = ("micro_f1", "macro_f1", "header_macro_f1", "row_f1", "cell_f1", "document_exact", "documents", "valid")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="address or folder of the model")
    parser.add_argument("--metrics", type=Path, required=True, help="metrics JSON of evaluate_predictions.py")
    parser.add_argument(
        "--name", required=True, help="the model's name in the workspace; its version is counted up there"
    )
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="METRIC=VALUE",
        help="register only where the score is at least this, or row_count_error at most this; repeat for more",
    )
    parser.add_argument("--out", type=Path, default=None, help="JSON to write: name, version and tags")
    for name, variable in (
        ("subscription", "AZUREML_ARM_SUBSCRIPTION"),
        ("resource-group", "AZUREML_ARM_RESOURCEGROUP"),
        ("workspace", "AZUREML_ARM_WORKSPACE_NAME"),
    ):
        parser.add_argument(
            f"--{name}", default=os.environ.get(variable), help=f"(default: {variable}, which a job has)"
        )
    parser.add_argument("--dry-run", action="store_true", help="check the scores and print what would be registered")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        metrics = json.loads(args.metrics.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return said(f"{args.metrics}: cannot be read ({error})", 2)
    # One entry a run; the first is --pred, others were given with --against.
    runs = list(metrics.values()) if isinstance(metrics, dict) else []
    if not runs or not isinstance(runs[0], dict):
        return said(f"{args.metrics}: not a metrics JSON of evaluate_predictions.py", 2)
    metrics = runs[0]
    for text in args.require:
        try:
            name, required = parsed(text, "--require", (*METRICS, "valid"))
        except StageError as error:
            return said(str(error), 2)
        score = measured(metrics, name)
        if score is None:
            return said(f"{args.metrics}: no {name} in it", 2)
        if METRICS.get(name) == LOWER and score > required:
            return said(f"not registered: {name} is {told(score, required)}, at most {required} is required", 1)
        if METRICS.get(name) != LOWER and score < required:
            value = metrics[name] if name == "valid" else told(score, required)
            return said(f"not registered: {name} is {value}, at least {required} is required", 1)
    tags = {
        name: f"{metrics[name]:.4f}" if isinstance(metrics[name], float) else str(metrics[name])
        for name in TAGGED
        if name in metrics
    }
    described: dict[str, Any] = {"name": args.name, "path": args.model, "tags": tags}
    if args.dry_run:
        print(json.dumps(described))
        return 0
    if not all((args.subscription, args.resource_group, args.workspace)):
        return said("outside a job the workspace is needed: --subscription, --resource-group and --workspace", 2)
    described["version"] = registered(args, tags)
    if args.out:
        args.out.write_text(json.dumps(described), encoding="utf-8")
    print(json.dumps(described))
    return 0


def registered(args: argparse.Namespace, tags: dict[str, str]) -> str:
    """The new version."""
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Model
    from azure.ai.ml.identity import AzureMLOnBehalfOfCredential
    from azure.identity import DefaultAzureCredential

    # The service offers the submitter's identity only inside a job.
    credential = AzureMLOnBehalfOfCredential() if "AZUREML_RUN_ID" in os.environ else DefaultAzureCredential()
    client = MLClient(credential, args.subscription, args.resource_group, args.workspace)
    model = Model(
        name=args.name, path=args.model, type="custom_model", tags=tags, description="made by azureml/pipeline"
    )
    return str(client.models.create_or_update(model).version)


def said(sentence: str, code: int) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
