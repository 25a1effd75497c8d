"""The zoo's `torch.export` programs, and the targets of its cases."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import torch
from PIL import Image

from camserve.engine import ClassIndex, Explainer, Reduction, Target
from tests.zoo import ZOO, cases

__all__ = ["explainer", "targets_of"]


@functools.cache
def explainer(model: str, dtype: torch.dtype) -> Explainer:
    with warnings.catch_warnings():
        # torch 2.13 uses a pytree class that it has itself deprecated whenever it loads a program
        warnings.filterwarnings("ignore", r".*LeafSpec.* is deprecated", FutureWarning)
        program = torch.export.load(ZOO / "models" / model / "model.pt2")
        network = torch.export.unflatten(program).to(dtype)
    case = next(case for case in cases() if case["model"] == model)
    probe = torch.from_numpy(np.load(ZOO / case["x"][0])["x"][:1])
    return Explainer(network, probe)


def targets_of(case: dict[str, Any], rows: int) -> list[list[Target]]:
    target = case["target"]
    if target["kind"] == "output":
        return [[Reduction("output", index=target["index"])]] * rows
    if target["kind"] == "segmentation":
        regions = [regions_of(target)[row] for row in range(rows)]
        return [
            [Reduction("segmentation", class_index=target["class"], region=region)]
            for region in regions
        ]
    if "index_per_sample" in target:
        return [[ClassIndex(index)] for index in target["index_per_sample"]]
    indices = target["index"] if isinstance(target["index"], list) else [target["index"]]
    return [[ClassIndex(index) for index in indices]] * rows


def regions_of(target: dict[str, Any]) -> Any:
    """For each row the region that the case sums over."""
    if target["pixels"] != "mask":
        return [target["pixels"]] * 99
    pictures = [Image.open(ZOO / file) for file in target["mask_files"]]
    return [torch.from_numpy(np.asarray(p) == target["mask_value"]) for p in pictures]
