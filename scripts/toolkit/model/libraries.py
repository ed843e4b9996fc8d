"""Prepare torch, torchvision and transformers for use by scripts: importable everywhere, and quiet.

transformers' Qwen3-VL processor imports torchvision. The package index's Linux wheel of torchvision is built for CUDA;
beside a CPU-only torch its import stops with "operator torchvision::nms does not exist". Declaring the two operator
schemas first cures it. Neither operator is ever called here. Where the wheels match, nothing is done.
"""

from __future__ import annotations

_declared: list[object] = []  # torch.library handles; dropping one would withdraw its operators


def prepare_model_libraries() -> None:
    """Call before the first import of a Qwen3-VL class; repeated calls do nothing."""
    import logging
    import sys

    # bitsandbytes reports at import that an optional CPU kernel is not installed.
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    declare_missing_operators()
    from transformers.utils import logging as transformers_logging

    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()


def declare_missing_operators() -> None:
    """Declare `torchvision::nms` and `torchvision::qnms` where torchvision's own library does not load."""
    import torch

    if _declared or torch.cuda.is_available() or torch.version.cuda:
        return
    signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        import sys

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(name + signature)
        _declared.append(library)
