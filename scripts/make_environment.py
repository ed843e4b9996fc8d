"""Make one of the project's Python environments from its pinned requirements file, and check that it can be imported.

main       data, training, evaluation, quantization       .venv            Python 3.11 to 3.13
dev        the same, and tests, lint, types                .venv
gateway    main, and the gateway                           .venv
serve      vLLM on a GPU, and the gateway                  .venv-serve      Linux or WSL2
serve-cpu  the same without a GPU, for trying and testing  .venv-serve-cpu  Linux, Python 3.11
ray        serve, and Ray for offline batches              .venv-serve
ray-cpu    serve-cpu, and Ray                              .venv-serve-cpu
cloud      checking the cloud templates                    .venv-cloud

    python scripts/make_environment.py main
    python scripts/make_environment.py serve-cpu
"""

from __future__ import annotations

import sys

from toolkit import console
from toolkit.console import say
from toolkit.project import environments


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("name", choices=sorted(environments.ENVIRONMENTS), help="which environment")
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    python = environments.make(args.name)
    environments.check_imports(args.name)
    say(f"{args.name} is ready: {python}")
    return console.finish(args, {"environment": args.name, "python": str(python)})


if __name__ == "__main__":
    sys.exit(main())
