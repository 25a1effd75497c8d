"""How near the maps of an explainer are to the zoo's references, case by case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camserve.engine import Attribution, Target
from tests.engine.truth import pearson
from tests.engine.zoo_programs import targets_of
from tests.zoo import ZOO, cases

__all__ = ["DEFAULT_LAYERS", "agreements"]


@dataclass(frozen=True)
class Group:
    """Cases of one model that share layer, score and input size: they are explained together."""

    layer: str
    reduction_layer: str
    inputs: Tensor
    targets: list[list[Target]]
    names: list[list[str]]
    references: list[list[NDArray[np.float64]]]
    """presum of each row and target"""


def gradcam_groups(model: str) -> Iterator[Group]:
    found: dict[tuple[Any, ...], Group] = {}
    for case in cases():
        if case["model"] != model or case["method"] != "gradcam":
            continue
        inputs = torch.from_numpy(np.concatenate([np.load(ZOO / file)["x"] for file in case["x"]]))
        score = case["target"].get("score", "logit") or "logit"
        key = (case["layer"], "output" if score == "logit" else score, tuple(inputs.shape[1:]))
        targets = targets_of(case, len(inputs))
        with np.load(ZOO / case["file"]) as stored:
            presum = stored["presum"]
        presum = presum.reshape(len(inputs), len(targets[0]), *presum.shape[-(inputs.ndim - 2) :])
        group = found.get(key) or Group(*key[:2], inputs[:0], [], [], [])
        found[key] = Group(
            *key[:2],
            torch.cat([group.inputs, inputs]),
            group.targets + targets,
            group.names + [[case["id"]] * len(targets[0])] * len(inputs),
            group.references + [list(row) for row in presum],
        )
    yield from found.values()


def agreements(
    model: str, explain: Callable[..., list[list[Attribution]]], **options: Any
) -> Iterator[tuple[str, str, float]]:
    """Case, layer, and Pearson's correlation with the float64 reference of each signed map."""
    for group in gradcam_groups(model):
        rows = explain(
            group.inputs,
            group.targets,
            feature_layer=group.layer,
            reduction_layer=group.reduction_layer,
            **options,
        )
        for row, names, references in zip(rows, group.names, group.references, strict=True):
            for one, name, reference in zip(row, names, references, strict=True):
                yield name, group.layer, pearson(one.map, torch.from_numpy(reference))


DEFAULT_LAYERS = {
    "cifar10-resnet20": "layer3",
    "cifar10-resnet56": "layer3",
    "digits-angle": "relu4",
    "shapes-multilabel": "stage4",
    "shapes-unet": "bottleneck",
    "volumes-cnn3d": "stage3",
    "vowels-tcn": "block3",
}
