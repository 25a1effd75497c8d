"""Tiny transformers classifiers with random weights, saved as the hub's files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

__all__ = ["PROCESSORS", "config_of", "save_pretrained"]

_CONFIGS = {
    "vit": lambda **more: transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8, **more,
    ),
    "resnet": lambda **more: transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", **more
    ),
    "convnext": lambda **more: transformers.ConvNextConfig(
        hidden_sizes=[4, 8], depths=[1, 1], num_stages=2, patch_size=4, **more
    ),
}  # fmt: skip

PROCESSORS: dict[str, dict[str, Any]] = {
    "vit": {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 32, "width": 32}, "resample": 2, "do_resize": True,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    },
    "resnet": {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 32}, "crop_pct": 0.875, "resample": 3, "do_resize": True,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    },
    "convnext": {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 384}, "crop_pct": 1.0, "resample": 3, "do_resize": True,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": False,
    },
}  # fmt: skip


def config_of(kind: str, **more: Any) -> Any:
    """A tiny configuration of `vit`, `resnet` or `convnext`."""
    return _CONFIGS[kind](**more)


def save_pretrained(folder: Path, kind: str, **more: Any) -> Any:
    """Write config.json and model.safetensors; returns the model in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = transformers.AutoModelForImageClassification.from_config(config_of(kind, **more))
    model.save_pretrained(folder)
    return model.eval()
