"""Deploy a model to one slot of an Azure ML endpoint and test it with a document before any traffic goes there.

Makes the environment and the endpoint where they are missing. The image's version is its content, so a changed script
is never served by an old image. A slot that is there is updated. A new deployment that fails its test is removed unless
--keep-failed is given; one that was there stays. Needs the Azure CLI with its ml extension.

    python scripts/deploy_endpoint.py --slot blue --model bl-8b-awq:1 --document data/pdfs/BL-001.pdf
    python scripts/deploy_endpoint.py --slot green --model bl-8b-awq:2 --document data/pdfs/BL-001.pdf
"""

from __future__ import annotations

import re
import sys
from typing import Any

from toolkit import console
from toolkit.cloud.azure_cli import AzureML
from toolkit.console import ExitCode, StageError, one_line, say
from toolkit.files import REPOSITORY, argument_path, shown
from toolkit.options import SLOTS, add_workspace

FOLDER = REPOSITORY / "azureml/endpoint"


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--slot", choices=SLOTS, required=True, help="deployment to make or update")
    parser.add_argument("--model", required=True, metavar="NAME:VERSION", help="a model of the workspace")
    parser.add_argument("--document", type=argument_path, required=True, help="PDF, PNG, JPEG or TIFF to test with")
    parser.add_argument("--endpoint", default="bl-extract", help="(default: bl-extract)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of deployment.yml; repeat")
    parser.add_argument("--keep-failed", action="store_true", help="keep a new deployment that fails, to look at it")
    add_workspace(parser)
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if not args.document.is_file():
        raise StageError(f"not found: {args.document}")
    if not re.fullmatch(r"[\w.-]+:[\w.-]+", args.model):
        raise StageError(f"--model {args.model}: NAME:VERSION is needed, for example bl-8b-awq:1")
    workspace = AzureML(args.resource_group, args.workspace)
    environment = workspace.registered_environment(REPOSITORY, FOLDER / "environment.yml")
    if not workspace.has("online-endpoint", "--name", args.endpoint):
        file = str(FOLDER / "endpoint.yml")
        workspace.call("online-endpoint", "create", "--name", args.endpoint, "--file", file, "--output", "none")
    made = deploy(args, workspace, environment)
    try:
        answer = ask(args, workspace)
    except StageError:
        if made and not args.keep_failed:
            remove(args, workspace)
        raise
    say(f"{args.slot} answers {shown(args.document)}; no traffic goes there yet")
    share = "100" if args.slot == SLOTS[0] else "10"
    at = "".join(f" {flag} {value}" for flag, value in zip(workspace.at[::2], workspace.at[1::2], strict=True))
    at = at.replace("--workspace-name", "--workspace")
    name = "" if args.endpoint == "bl-extract" else f" --endpoint {args.endpoint}"
    say(f"next: python scripts/shift_traffic.py --slot {args.slot} --share {share}{name}{at}")
    result = {"slot": args.slot, "environment": environment, "model": args.model, "new": made}
    return console.finish(args, result | {"pages": answer.get("pages")})


def deploy(args: Any, workspace: AzureML, environment: str) -> bool:
    """Make or update the slot; True where it was made."""
    at = ["--name", args.slot, "--endpoint-name", args.endpoint]
    values = [f"model=azureml:{args.model}", f"environment=azureml:{environment}", *args.set]
    what = [*at, "--file", str(FOLDER / "deployment.yml"), "--set", *values, "--output", "none"]
    if workspace.has("online-deployment", *at):
        workspace.call("online-deployment", "update", *what)
        return False
    try:
        workspace.call("online-deployment", "create", *what)
    except StageError as error:
        try:
            say(workspace.call("online-deployment", "get-logs", *at, "--lines", "100"))
        except StageError as why:
            say(f"its log cannot be had: {why}")
        if not args.keep_failed:
            remove(args, workspace)
        raise StageError(f"{args.slot} was not made; its log stands above: {error}", error.code) from None
    return True


def remove(args: Any, workspace: AzureML) -> None:
    """Take the slot away; one that cannot be removed is said, because it costs as long as it exists."""
    try:
        workspace.call("online-deployment", "delete", "--name", args.slot, "--endpoint-name", args.endpoint, "--yes")
    except StageError as error:
        say(f"{args.slot} could not be removed and costs money until it is: {error}")


def ask(args: Any, workspace: AzureML) -> dict[str, Any]:
    """The slot's answer to the document. Raises StageError where it is none."""
    import httpx

    show = ["--name", args.endpoint, "--output", "tsv", "--query"]
    address = workspace.call("online-endpoint", "show", *show, "scoring_uri")
    key = workspace.call("online-endpoint", "get-credentials", *show, "primaryKey")
    # The header chooses the deployment, whatever the traffic says.
    given = {"Authorization": f"Bearer {key}", "azureml-model-deployment": args.slot}
    given["Content-Type"] = "application/octet-stream"
    try:
        answer = httpx.post(address, content=args.document.read_bytes(), headers=given, timeout=185)
    except httpx.HTTPError as error:
        raise StageError(f"{args.slot} does not answer: {one_line(error)}", ExitCode.PROBLEMS) from None
    if answer.status_code != 200:
        sentence = f"{args.slot} answers {answer.status_code} to {shown(args.document)}: {one_line(answer.text)}"
        raise StageError(sentence, ExitCode.PROBLEMS)
    return dict(answer.json())


if __name__ == "__main__":
    sys.exit(main())
