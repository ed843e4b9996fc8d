"""Copied into an environment's site-packages where torchvision's wheel does not match a CPU build of torch.

Programs that are not ours (vLLM) import torchvision there too. The hook waits for that import and first declares the
operators whose absence would stop it, as `toolkit/model/libraries.py` does for the scripts.
"""

import sys


class DeclareOperatorsFirst:
    """A finder that finds nothing; it acts once, before torchvision is imported."""

    library = None  # dropping the handle would withdraw the operators

    @classmethod
    def find_spec(cls, name: str, *_: object) -> None:
        if name == "torchvision":
            sys.meta_path.remove(cls)
            import torch

            cls.library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                cls.library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, DeclareOperatorsFirst)
