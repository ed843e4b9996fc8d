"""Ask the cloud, before anything is made there, whether it has what the templates want. Makes nothing, costs nothing.

Azure (az): the size in your region, the quota for as many machines as you need, what is known of its driver. RunPod
(runpodctl): the GPU in its secure cloud. Both: whether the base images' tags exist (docker). A program that is not
installed is said and asks nothing. Exit code 1 where an answer is no.

A second slot (green) needs quota for two machines: --machines 2.

    python scripts/check_cloud_account.py --azure westeurope --machines 2
    python scripts/check_cloud_account.py --azure westeurope --size Standard_NV36ads_A10_v5 --spot
    python scripts/check_cloud_account.py --runpod "RTX A6000"
"""

from __future__ import annotations

import dataclasses
import sys

from toolkit import console
from toolkit.cloud import preflight
from toolkit.console import ExitCode, StageError
from toolkit.files import REPOSITORY
from toolkit.options import add_workspace


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--azure", default=None, metavar="REGION", help="ask Azure about this region")
    parser.add_argument("--size", default=None, help="of the machines (default: the endpoint's, deployment.yml)")
    parser.add_argument("--machines", type=int, default=1, help="that must fit the quota (default: 1)")
    parser.add_argument("--spot", action="store_true", help="low-priority quota, as for the training")
    parser.add_argument("--runpod", default=None, metavar="GPU", help="ask RunPod about this GPU")
    add_workspace(parser)
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if not args.azure and not args.runpod:
        raise StageError("name a cloud: --azure REGION, or --runpod GPU")
    if args.machines < 1:
        raise StageError("--machines is 1 or more")
    found: list[preflight.Finding] = []
    if args.azure:
        found += preflight.azure_findings(
            args.size or preflight.default_size(REPOSITORY),
            args.azure,
            machines=args.machines,
            spot=args.spot,
            resource_group=args.resource_group,
            workspace=args.workspace,
        )
    if args.runpod:
        found += preflight.runpod_findings(args.runpod)
    found += preflight.image_findings(REPOSITORY)
    for one in found:
        print(one)
    bad = sum(one.good is False for one in found)
    result = {"problems": bad, "findings": [dataclasses.asdict(one) for one in found]}
    return console.finish(args, result, ExitCode.PROBLEMS if bad else ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
