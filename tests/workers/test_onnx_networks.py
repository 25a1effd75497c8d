"""`onnx:`: exported networks compute what they computed, and the zoo's give its maps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from tests.workers.onnx_files import exported, new_entry
from tests.zoo import ZOO, cases, needs_zoo
from workers.repository import Entry
from workers.sources.export import load_export
from workers.sources.onnx import load_onnx


class UNet(nn.Module):
    """Skip connection, transposed convolution, two kinds of resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.low = nn.Conv2d(6, 6, 3, 2, 1)
        self.up = nn.ConvTranspose2d(6, 6, 3, 2, 1, 1)
        self.head = nn.Conv2d(18, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down(x)
        b = functional.gelu(self.low(a))
        c = functional.interpolate(b, size=a.shape[2:], mode="bilinear", align_corners=False)
        d = functional.interpolate(b, scale_factor=2, mode="nearest")
        return self.head(torch.cat([a, c + d, self.up(b)], 1))


class Recurrent(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = getattr(nn, kind)(5, 6, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.transpose(1, 2))[0].mean(1)).softmax(-1)


class Plain(nn.Module):
    """What the newer exporter writes with opset-18 operators: means, pads, splits, norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding="same", padding_mode="reflect")
        self.norm = nn.GroupNorm(2, 8)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.norm(self.stem(x)).chunk(2, 1)
        y = functional.hardswish(a) * b.sigmoid() + functional.normalize(a, dim=1)
        return self.head(y.mean((2, 3)) + y.amax((2, 3)))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vit = transformers.ViTForImageClassification(
            transformers.ViTConfig(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                image_size=16, patch_size=8, num_labels=3,
            )
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(pixel_values=x).logits


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "unet": (UNet, (3, 16, 16)),
    "lstm": (lambda: Recurrent("LSTM"), (5, 9)),
    "gru": (lambda: Recurrent("GRU"), (5, 9)),
    "plain": (Plain, (3, 10, 12)),
    "vit": (Transformer, (3, 16, 16)),
}


@pytest.mark.parametrize(
    ("name", "opset"),
    [("unet", 13), ("unet", 18), ("lstm", 13), ("gru", 17), ("plain", 17), ("plain", 20),
     ("vit", 17), ("vit", 23)],
)  # fmt: skip
def test_an_exported_network(tmp_path: Path, name: str, opset: int) -> None:
    """Values and gradients are the network's own, at other batch sizes than the example's."""
    build, shape = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module, example = build().eval(), torch.randn(2, *shape)
        loaded = load_onnx(exported(new_entry(tmp_path), module, example, opset))
        for batch in (1, 3):
            inputs = torch.randn(batch, *shape)
            direction = torch.randn_like(module(inputs))
            results = []
            for network in (module, loaded.module):
                x = inputs.clone().requires_grad_()
                y = network(x)
                results.append((y.detach(), torch.autograd.grad((y * direction).sum(), x)[0]))
            for theirs, ours in zip(*results, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max())
    # shapes are computed on the CPU: nothing waits for the device, here one that holds no values
    assert loaded.module.to("meta")(torch.empty(2, *shape, device="meta")).is_meta


def grad_cam(
    network: nn.Module, layer: str, x: Tensor, select: Callable[[Tensor], Tensor]
) -> Tensor:
    """Written out here: a hook, autograd, the weighted sum. (N, *S)."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        seen.append(output.requires_grad_() if not output.requires_grad else output)
        return seen[-1]

    handle = network.get_submodule(layer).register_forward_hook(keep)
    try:
        score = select(network(x))
    finally:
        handle.remove()
    (features,) = seen
    (gradient,) = torch.autograd.grad(score, features)
    weights = gradient.flatten(2).mean(2)
    return torch.einsum("nk...,nk->n...", features, weights).detach()


def zoo_models() -> list[str]:
    return sorted(path.name for path in (ZOO / "models").glob("*")) if ZOO.is_dir() else []


def zoo_layers(name: str) -> dict[str, str]:
    """Layers of a zoo model, and the modules that give their output in its ONNX file."""
    known = json.loads((ZOO / "models" / name / "card.json").read_text())
    return {
        layer["name"]: layer.get("onnx2torch_module") or f"node_{layer['onnx_tensor']}"
        for layer in known["layers"]
        if layer["onnx_tensor"]  # not folded into its batch norm
    }


def zoo_entry(folder: Path, name: str, file: str) -> Entry:
    entry = new_entry(folder, f'source = "{"onnx" if file == "model.onnx" else "export"}:{file}"')
    (entry.folder / file).symlink_to(ZOO / "models" / name / file)
    return entry


@needs_zoo
@pytest.mark.parametrize("name", zoo_models())
def test_the_zoos_reference_maps_are_reached(tmp_path: Path, name: str) -> None:
    """They are Grad-CAM in float64, by other code, on the original network."""
    network = load_onnx(zoo_entry(tmp_path, name, "model.onnx")).module
    layers = zoo_layers(name)
    count = 0
    for case in cases():
        target = case["target"]
        simple = case["method"] == "gradcam" and target.get("score") in (None, "logit")
        if case["model"] != name or not simple or case["layer"] not in layers:
            continue
        if not isinstance(target.get("index", target.get("class")), int):
            continue
        stored = np.load(ZOO / case["file"])
        if target["kind"] == "segmentation" and "pixels" not in stored.files:
            continue  # of all pixels, or of a mask in a picture
        x = torch.from_numpy(np.concatenate([np.load(ZOO / file)["x"] for file in case["x"]]))

        def select(y: Tensor, target: dict[str, Any] = target, stored: Any = stored) -> Tensor:
            if target["kind"] != "segmentation":
                return y[:, target["index"]].sum()
            return (y[:, target["class"]] * torch.from_numpy(stored["pixels"])).sum()

        ours = grad_cam(network, layers[case["layer"]], x, select)
        tolerance = case["tolerance"]["rel_float32"] * case["tolerance"]["scale"]
        assert np.abs(ours.numpy() - stored["presum"].reshape(ours.shape)).max() <= tolerance
        count += 1
    assert count >= 5


@needs_zoo
@pytest.mark.parametrize("name", ["shapes-unet", "vowels-tcn"])
def test_an_export_program_gives_the_same_maps(tmp_path: Path, name: str) -> None:
    network = load_onnx(zoo_entry(tmp_path / "onnx", name, "model.onnx"))
    program = load_export(zoo_entry(tmp_path / "export", name, "model.pt2"))
    assert network.input == program.input
    shape = program.input.get("shape") or (3, program.input["height"], program.input["width"])
    x = torch.randn(2, *(size or 20 for size in shape), generator=torch.Generator().manual_seed(0))
    for layer, module in zoo_layers(name).items():
        theirs, ours = (
            grad_cam(loaded.module.eval(), which, x, lambda y: y[:, 0].sum())
            for loaded, which in ((program, layer), (network, module))
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=float(1e-4 * theirs.abs().max()))
