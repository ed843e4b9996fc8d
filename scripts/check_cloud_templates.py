"""Check the templates in azureml/ and runpod/ before they cost money. Run it after every change of yours.

It needs no cloud and no account. It makes the environment "cloud" and starts itself inside. What is checked:

- Azure ML files by Microsoft's own SDK, Kubernetes files by the published schemas;
- Dockerfiles by hadolint, shell scripts by shellcheck;
- limits that the SDK accepts and the service does not, probes against load time, concurrency against the gateway's;
- what fails on one GPU or an old driver: roll-outs, empty volumes, Ray clusters, missing smoke jobs;
- images pinned, not root and never an old one; no secret in an environment or on a command line; small uploads;
- that every file, script, flag, asset and route that a template or runbook names is there.

    python scripts/check_cloud_templates.py
    python scripts/check_cloud_templates.py --in my-templates
"""

from __future__ import annotations

import sys
from pathlib import Path

from toolkit import console
from toolkit.cloud.checks import checked
from toolkit.console import ExitCode, StageError, say
from toolkit.files import REPOSITORY, argument_path
from toolkit.project import environments


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument(
        "--in",
        dest="input",
        type=argument_path,
        default=REPOSITORY,
        help="repository to check (default: this one)",
    )
    parser.add_argument("--here", action="store_true", help="use the current environment as it is")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(arguments)
    repository = Path(args.input).resolve()
    if not (repository / "azureml").is_dir() or not (repository / "scripts").is_dir():
        raise StageError(f"{args.input}: not a copy of this repository (azureml/ and scripts/ are looked for)")
    if not args.here:
        environments.make("cloud")
        if not environments.is_inside("cloud"):
            return environments.start_inside("cloud", __file__, arguments)
    try:
        found = checked(repository)
    except ImportError as error:
        raise StageError(
            f"{error.name} is missing; python scripts/make_environment.py cloud makes the environment",
            ExitCode.DEPENDENCY,
        ) from None
    for name, sentences in found.items():
        say(f"{name}: {f'{len(sentences)} problems' if sentences else 'good'}")
        for sentence in sentences:
            say(f"  {sentence}")
    problems = sum(map(len, found.values()))
    return console.finish(args, {"problems": problems, "checks": found}, ExitCode.PROBLEMS if problems else ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
