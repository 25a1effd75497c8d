"""Grad-CAM of each library, by the calls that its documentation shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.rivals.inside.network import Logits, feature_layer
from benchmarks.rivals.inside.torchvision_operators import declare_missing

__all__ = ["LIBRARIES", "Explain", "captum", "pytorch_grad_cam", "torchcam"]

# (N, 3, h, w) inputs and as many classes for each, to (N, classes, *S) maps
Explain = Callable[[Tensor, Sequence[Sequence[int]]], NDArray[np.float32]]


def pytorch_grad_cam(model: Logits) -> Explain:
    """Maps at the size of the input, scaled to [0, 1]. README, "Usage examples": one target for
    each input of a call, so that several classes are several calls."""
    declare_missing()
    from pytorch_grad_cam import GradCAM  # noqa: PLC0415
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: PLC0415

    cam = GradCAM(model=model, target_layers=[feature_layer(model)])

    def explain(inputs: Tensor, classes: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        maps = [
            cam(input_tensor=inputs, targets=[ClassifierOutputTarget(index) for index in column])
            for column in zip(*classes, strict=True)
        ]
        return np.stack(maps, 1)

    return explain


def captum(model: Logits) -> Explain:
    """Signed maps at the layer's size: `LayerGradCam.attribute`, one target for each input."""
    from captum.attr import LayerGradCam  # noqa: PLC0415

    layer_grad_cam = LayerGradCam(model, feature_layer(model))

    def explain(inputs: Tensor, classes: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        maps = [
            layer_grad_cam.attribute(inputs, target=list(column))[:, 0].detach()
            for column in zip(*classes, strict=True)
        ]
        return torch.stack(maps, 1).numpy()

    return explain


def torchcam(model: Logits) -> Explain:
    """Maps at the layer's size, scaled to [0, 1]. Its guide: one forward pass, then a call of the
    extractor for each class, with `retain_graph` but for the last."""
    from torchcam.methods import GradCAM  # noqa: PLC0415

    extractor = GradCAM(model, feature_layer(model))

    def explain(inputs: Tensor, classes: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        model.zero_grad()
        scores = model(inputs.requires_grad_())
        columns = list(zip(*classes, strict=True))
        maps = [
            extractor(list(column), scores, retain_graph=number < len(columns) - 1)[0]
            for number, column in enumerate(columns)
        ]
        return torch.stack(maps, 1).detach().numpy()

    return explain


LIBRARIES = {"pytorch-grad-cam": pytorch_grad_cam, "Captum": captum, "torch-cam": torchcam}
