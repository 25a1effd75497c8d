"""Makes torchvision importable beside a torch that it was not built for, such as a CPU build.

pytorch-grad-cam imports torchvision for its transforms. Where torchvision's compiled operators do
not load, it stops at `operator torchvision::nms does not exist`, although nothing here calls one:
their declarations are enough. Where they load, this does nothing.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

__all__ = ["declare_missing"]

DETECTION = "nms", "qnms"
OTHERS = (
    *("roi_align", "_roi_align_backward", "roi_pool", "_roi_pool_backward", "qroi_align"),
    *("ps_roi_align", "_ps_roi_align_backward", "ps_roi_pool", "_ps_roi_pool_backward"),
    *("deform_conv2d", "_deform_conv2d_backward", "qdeform_conv2d"),
)
_kept: list[Any] = []  # a library undoes itself when it is collected


def declare_missing() -> None:
    """To be called before torchvision is imported."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _kept:
        return
    make: Any = torch.library.Library
    load_library: Any = torch.ops.load_library
    try:
        for library in Path(spec.origin).parent.glob("_C*.so"):
            load_library(str(library))
    except OSError:
        declared = make("torchvision", "DEF")
        _kept.append(declared)
        for name in DETECTION:
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in OTHERS:
            declared.define(f"{name}(Tensor input) -> Tensor")
