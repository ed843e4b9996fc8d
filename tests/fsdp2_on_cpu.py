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
    names = {"fsdp_transformer_layer_cls_to_wrap": "FSDP_TRANSFORMER_CLS_TO_WRAP"}  # the one that accelerate shortens
    os.environ |= {names.get(key, key.upper()): str(value) for key, value in config["fsdp_config"].items()}


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


if __name__ == "__main__":
    set_environment()
    turn_on_for_the_cpu()
    import train_lora

    sys.exit(train_lora.main())
