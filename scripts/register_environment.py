"""Make an Azure ML environment whose version is its content: the Dockerfile and all that it copies.

An environment version that exists is never built again, so a fixed number would keep serving the old image. The jobs
name their environment with @latest, which is the one made last. Needs the Azure CLI with its ml extension.

    python scripts/register_environment.py --file azureml/train/environment.yml
    python scripts/register_environment.py --file azureml/train/environment.yml --version-only
"""

from __future__ import annotations

import sys

from toolkit import console
from toolkit.cloud.azure_cli import AzureML
from toolkit.cloud.image_version import image_version
from toolkit.cloud.templates import yaml_of
from toolkit.console import StageError
from toolkit.files import REPOSITORY, argument_path
from toolkit.options import add_workspace


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--file", type=argument_path, required=True, help="the environment's YAML file")
    parser.add_argument("--version-only", action="store_true", help="print name:version and make nothing")
    add_workspace(parser)
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if not args.file.is_file():
        raise StageError(f"not found: {args.file}")
    try:
        content = yaml_of(args.file)[0]
        dockerfile = REPOSITORY / content["build"]["dockerfile_path"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise StageError(f"{args.file}: not an environment with a build section ({error})") from None
    if args.version_only:
        name = f"{content['name']}:{image_version(REPOSITORY, dockerfile)}"
    else:
        name = AzureML(args.resource_group, args.workspace).registered_environment(REPOSITORY, args.file)
    print(name)
    return console.finish(args, {"environment": name})


if __name__ == "__main__":
    sys.exit(main())
