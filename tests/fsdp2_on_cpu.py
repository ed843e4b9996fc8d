"""train_lora.py under FSDP2 on CPU processes, started by torch.distributed.run with train_lora.py's arguments.

accelerate (1.15) reads scripts/accelerate/fsdp2.yaml into environment variables at launch, and turns FSDP on for accelerators only. This sets the same
variables from the same file and turns it on for the CPU; everything behind that is what a GPU machine runs.
"""

import os
import sys
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "scripts"))


def set_environment() -> None:
    config = yaml.safe_load((REPOSITORY / "scripts/accelerate/fsdp2.yaml").read_text(encoding="utf-8"))
    assert config["distributed_type"] == "FSDP"
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "ACCELERATE_USE_CPU": "true",
        "ACCELERATE_MIXED_PRECISION": config["mixed_precision"],
    }
    os.environ |= {key.upper(): str(value) for key, value in config["fsdp_config"].items()}


def turn_on_for_the_cpu() -> None:
    from accelerate import state
    from accelerate.utils import DistributedType

    made = state.AcceleratorState.__init__

    def with_fsdp(self, *arguments, fsdp_plugin=None, **named):
        made(self, *arguments, fsdp_plugin=fsdp_plugin, **named)
        if fsdp_plugin is not None:
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    state.AcceleratorState.__init__ = with_fsdp


def tell_what_is_sharded() -> None:
    """A line on stderr with the class of every module that becomes a unit of its own, whose weights are gathered only while it computes."""
    import torch.distributed.fsdp

    shard = torch.distributed.fsdp.fully_shard

    def telling(module, *arguments, **named):
        kind = [type(one).__name__ for one in module] if isinstance(module, list) else type(module).__name__
        print(f"FSDP unit: {kind}", file=sys.stderr)
        return shard(module, *arguments, **named)

    torch.distributed.fsdp.fully_shard = telling


if __name__ == "__main__":
    set_environment()
    turn_on_for_the_cpu()
    tell_what_is_sharded()
    import train_lora

    sys.exit(train_lora.main())
