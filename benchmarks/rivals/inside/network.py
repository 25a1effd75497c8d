"""The network that all explain, and how a picture becomes its input."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.rivals.inside.torchvision_operators import declare_missing

__all__ = ["FOLDER", "THREADS", "Logits", "feature_layer", "load", "load_named", "preprocess"]

FOLDER = "RIVAL_MODEL"  # environment variables that the benchmark sets
THREADS = "RIVAL_THREADS"


class Logits(nn.Module):
    """A network of transformers as the libraries expect one: it returns the logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(inputs).logits
        return logits


def load(folder: Path) -> Logits:
    declare_missing()  # transformers imports torchvision where it finds it
    from transformers import AutoModelForImageClassification  # noqa: PLC0415

    network = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True)
    return Logits(network.eval()).eval()


def load_named() -> Logits:
    """The network and the number of threads that the environment names."""
    torch.set_num_threads(int(os.environ[THREADS]))
    return load(Path(os.environ[FOLDER]))


def feature_layer(model: Logits) -> nn.Module:
    """The last stage of the ResNet, whose output camserve explains, too."""
    stages = model.network.get_submodule("resnet.encoder.stages")
    return list(stages.children())[-1]


def preprocess(picture: bytes) -> Tensor:
    """(3, side, side): decoded and prepared as preprocessor_config.json says."""
    config = json.loads((Path(os.environ[FOLDER]) / "preprocessor_config.json").read_text())
    side = config["size"]["shortest_edge"]
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    scale = int(side / config["crop_pct"]) / min(image.size)
    width, height = (max(side, int(length * scale)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    values = np.asarray(image, np.float32) / 255
    mean, deviation = (np.array(config[name], np.float32) for name in ("image_mean", "image_std"))
    return torch.from_numpy((values - mean) / deviation).permute(2, 0, 1)
