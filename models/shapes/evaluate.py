"""What the network is worth: held-out accuracy and the pointing game.

The pointing game (Zhang et al. 2018): the map of the predicted class, enlarged to the picture,
has its peak inside the object of that name. A wrong prediction is a miss.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from models.shapes.network import FEATURE_LAYER, normalise
from models.shapes.scenes import SIZE, Scene, scene


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes, ready to be cut into batches."""

    pictures: Tensor
    """(N, 128, 128, 3) uint8."""
    labels: Tensor
    """(N,) int64."""
    masks: NDArray[np.bool_]
    """(N, 128, 128)."""


def render(seeds: range, processes: int = 2) -> Scenes:
    """Render the scenes of these seeds, in order, in several processes."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        rendered: list[Scene] = list(pool.map(scene, seeds, chunksize=100))
    return Scenes(
        torch.from_numpy(np.stack([item.picture for item in rendered])),
        torch.tensor([item.label for item in rendered]),
        np.stack([item.mask for item in rendered]),
    )


def load(path: Path) -> nn.Module:
    """The network in a `.pt2` file, as modules whose hooks fire, ready for inference."""
    exported = torch.export.load(path)
    with warnings.catch_warnings():
        # torch 2.13 copies its own deprecated LeafSpec while unflattening.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        return torch.export.unflatten(exported).requires_grad_(requires_grad=False)


@torch.no_grad()
def predictions(network: nn.Module, pictures: Tensor, batch: int = 125) -> Tensor:
    """(N,) most likely labels of (N, 128, 128, 3) uint8 pictures."""
    return torch.cat(
        [network(normalise(part)).argmax(dim=1) for part in torch.split(pictures, batch)]
    )


def accuracy(network: nn.Module, scenes: Scenes) -> float:
    """Share of the scenes whose shape is named correctly."""
    return float((predictions(network, scenes.pictures) == scenes.labels).float().mean())


def grad_cam(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted labels (B,) and their signed Grad-CAM maps (B, 16, 16) at the feature layer."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0]

    handle = network.get_submodule(FEATURE_LAYER).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            scores, labels = network(images).max(dim=1)
            (gradients,) = torch.autograd.grad(scores.sum(), kept)
    finally:
        handle.remove()
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    return labels, (weights * kept[0].detach()).sum(dim=1)


def peak(heat: Tensor) -> tuple[int, int]:
    """Row and column of a map's highest pixel after bicubic enlargement to the picture."""
    grown = Image.fromarray(heat.numpy()).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    row, column = np.unravel_index(int(np.asarray(grown).argmax()), (SIZE, SIZE))
    return int(row), int(column)


def pointing_hits(network: nn.Module, scenes: Scenes) -> NDArray[np.bool_]:
    """(N,) true where the shape is named correctly and the map's peak lies inside it."""
    labels, maps = grad_cam(network, normalise(scenes.pictures))
    inside = [mask[peak(heat)] for mask, heat in zip(scenes.masks, maps, strict=True)]
    hits: NDArray[np.bool_] = np.array(inside) & (labels == scenes.labels).numpy()
    return hits
