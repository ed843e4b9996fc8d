"""train_lora.py under FSDP2 or DeepSpeed ZeRO-2 on CPU processes.

Arguments: fsdp2 or zero2, then train_lora.py's. Started by torch.distributed.run. accelerate (1.15) reads
scripts/accelerate/*.yaml into environment variables at launch, and turns both on for accelerators only. This script
sets the same variables from the same file and turns them on for the CPU; everything behind that is what a GPU machine
runs.
"""

import os
import sys
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "scripts"))


def set_environment(name: str) -> None:
    config = yaml.safe_load((REPOSITORY / f"scripts/accelerate/{name}.yaml").read_text(encoding="utf-8"))
    os.environ |= {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": config["mixed_precision"]}
    if name == "fsdp2":
        os.environ["ACCELERATE_USE_FSDP"] = "true"
        os.environ |= {key.upper(): str(value) for key, value in config["fsdp_config"].items()}
    else:
        os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu"}
        named = {
            "zero_stage",
            "offload_optimizer_device",
            "offload_param_device",
        }  # accelerate's names of these say DeepSpeed
        os.environ |= {
            f"ACCELERATE_{'DEEPSPEED_' if key in named else ''}{key.upper()}": str(value)
            for key, value in config["deepspeed_config"].items()
        }


def turn_on_for_the_cpu(name: str) -> None:
    from accelerate import state
    from accelerate.utils import DistributedType

    made = state.AcceleratorState.__init__

    def with_shards(self, *arguments, fsdp_plugin=None, deepspeed_plugin=None, **named):
        made(self, *arguments, fsdp_plugin=fsdp_plugin, deepspeed_plugin=deepspeed_plugin, **named)
        if fsdp_plugin is not None:
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin
        elif deepspeed_plugin is not None:
            deepspeed_plugin.set_mixed_precision(self._mixed_precision)
            deepspeed_plugin.select(_from_accelerator_state=True)
            self.deepspeed_plugins, self._mixed_precision = deepspeed_plugin, "no"
        else:
            return
        kind = DistributedType.FSDP if name == "fsdp2" else DistributedType.DEEPSPEED
        self.distributed_type = state.PartialState._shared_state["distributed_type"] = kind

    state.AcceleratorState.__init__ = with_shards


def tell_what_is_sharded(name: str) -> None:
    """Print what is sharded to stderr: with DeepSpeed the class of the optimizer.

    With FSDP2 the class of every module that becomes a unit: its weights are gathered only while it computes.
    """
    if name == "fsdp2":
        import torch.distributed.fsdp as library

        function = "fully_shard"
    else:
        import deepspeed as library

        function = "initialize"
    original = getattr(library, function)

    def telling(*arguments, **named):
        units = arguments[0] if isinstance(arguments[0] if arguments else None, list) else arguments[:1]
        told = [type(unit).__name__ for unit in units]  # before it is sharded: afterwards its class is FSDP's
        found = original(*arguments, **named)
        told = told if name == "fsdp2" else [type(found[1]).__name__]
        sys.stderr.write(f"\nin shards: {' '.join(told)}\n")  # in one piece: two processes write here
        return found

    setattr(library, function, telling)


if __name__ == "__main__":
    name = sys.argv.pop(1)
    set_environment(name)
    turn_on_for_the_cpu(name)
    tell_what_is_sharded(name)
    import train_lora

    sys.exit(train_lora.main())
