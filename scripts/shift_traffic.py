"""Send a share of an Azure ML endpoint's traffic to one slot and the rest to the other.

A share of 100 makes the slot the only one, 0 is the rollback. --mirror sends it a copy of 10 % of the requests; nobody
gets those answers, and the copies count against the endpoint's bandwidth. Needs the Azure CLI with its ml extension.

    python scripts/shift_traffic.py --slot green --mirror
    python scripts/shift_traffic.py --slot green --share 10
"""

from __future__ import annotations

import sys

from toolkit import console
from toolkit.cloud.azure_cli import AzureML
from toolkit.console import say
from toolkit.options import SLOTS, add_workspace


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument("--slot", choices=SLOTS, required=True, help="deployment that gets the share")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--share", type=int, metavar="PERCENT", help="0 to 100")
    how.add_argument("--mirror", action="store_true", help="a copy of 10 %% of the requests")
    parser.add_argument("--endpoint", default="bl-extract", help="(default: bl-extract)")
    add_workspace(parser)
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.share is not None and not 0 <= args.share <= 100:
        parser.error(f"--share is 0 to 100, not {args.share}")
    workspace = AzureML(args.resource_group, args.workspace)
    update = ["online-endpoint", "update", "--name", args.endpoint, "--output", "none"]
    if args.mirror:
        workspace.call(*update, "--mirror-traffic", f"{args.slot}=10")
        say(f"a copy of 10 % of the requests goes to {args.slot}")
        return console.finish(args, {"mirror": {args.slot: 10}})
    # Mirroring and a share of the same deployment exclude each other.
    workspace.call(*update, "--mirror-traffic", f"{args.slot}=0")
    (other,) = (slot for slot in SLOTS if slot != args.slot)
    traffic = {args.slot: args.share} | ({} if args.share == 100 else {other: 100 - args.share})
    # One word: the option takes them as the CLI's users write them, with a blank between.
    workspace.call(*update, "--traffic", " ".join(f"{slot}={share}" for slot, share in traffic.items()))
    say(f"traffic: {', '.join(f'{share} % to {slot}' for slot, share in traffic.items())}")
    return console.finish(args, {"traffic": traffic})


if __name__ == "__main__":
    sys.exit(main())
