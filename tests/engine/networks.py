"""Small networks with the traps of the large ones: in-place ReLUs, tokens, dense outputs."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "ClassTokenViT",
    "DenseNetLike",
    "MobileNetLike",
    "PlainCNN",
    "ResNetLike",
    "TemporalCNN",
    "UNet",
    "VGGLike",
    "VolumeCNN",
    "randomised",
]

M = TypeVar("M", bound=nn.Module)


def randomised(model: M, seed: int = 0) -> M:
    """Evaluation mode, every weight and running statistic random, so that no term vanishes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if "running_var" in name:
                tensor.copy_(noise.abs() + 0.5)
            elif tensor.ndim > 1:
                tensor.copy_(noise * (2 / max(1, tensor[0].numel())) ** 0.5)
            else:
                tensor.copy_(1 + 0.3 * noise if name.endswith("weight") else 0.3 * noise)
    return model.eval()


class PlainCNN(nn.Module):
    """Pooled linear head: its Grad-CAM at `features` is CAM / |S|."""

    def __init__(self, classes: int = 5, dimensions: int = 2) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        self.features = nn.Sequential(
            conv(3, 8, 3, 2, 1), nn.ReLU(), conv(8, 12, 3, 2, 1), nn.ReLU()
        )
        self.head = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(2).mean(2))


class _ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, *, inplace: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=inplace)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.inplace:
            out += self.shortcut(x)
        else:
            out = out + self.shortcut(x)
        return self.relu(out)


class ResNetLike(nn.Module):
    """As torchvision's: `+=` and in-place ReLUs. `inplace=False` is the twin that Captum can do."""

    def __init__(self, classes: int = 5, *, inplace: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer1 = nn.Sequential(
            _ResidualBlock(8, 8, 1, inplace=inplace), _ResidualBlock(8, 12, 2, inplace=inplace)
        )
        self.layer2 = nn.Sequential(
            _ResidualBlock(12, 16, 2, inplace=inplace), _ResidualBlock(16, 16, 1, inplace=inplace)
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.layer2(self.layer1(self.stem(x)))).flatten(1))


class DenseNetLike(nn.Module):
    """A functional in-place ReLU rewrites what `norm` returned, as in torchvision's."""

    def __init__(self, classes: int = 5, *, inplace: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.grow1 = nn.Conv2d(8, 4, 3, 1, 1)
        self.grow2 = nn.Conv2d(12, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4)
        self.classifier = nn.Linear(4, classes)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, functional.relu(self.grow1(x))], 1)
        x = functional.relu(self.norm(self.grow2(x)), inplace=self.inplace)
        return self.classifier(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class MobileNetLike(nn.Module):
    """Inverted residuals with ReLU6, and a nonlinear head, so that weights depend on the input."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6())
        self.expand = nn.Sequential(nn.Conv2d(8, 24, 1), nn.BatchNorm2d(24), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(24, 24, 3, 2, 1, groups=24), nn.BatchNorm2d(24), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(24, 8, 1), nn.BatchNorm2d(8))
        self.classifier = nn.Sequential(nn.Linear(8, 20), nn.Hardswish(), nn.Linear(20, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(self.depthwise(self.expand(self.stem(x))))
        return self.classifier(x.mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Attention(nn.Module):
    """As timm's: one qkv projection, attention weights through a module, a per-head norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.k_norm = nn.LayerNorm(width // heads)
        self.attn_drop = nn.Dropout(0.1)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, width = x.shape
        qkv = self.qkv(x).reshape(count, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = self.attn_drop((q @ self.k_norm(k).transpose(-2, -1) / 4).softmax(-1))
        return self.proj((weights @ v).transpose(1, 2).reshape(count, tokens, width))


class ClassTokenViT(nn.Module):
    """A ViT whose head reads the class token alone; `prefix` - 1 further tokens before the grid."""

    def __init__(
        self, classes: int = 5, *, size: int = 32, patch: int = 8, prefix: int = 1, width: int = 24
    ) -> None:
        super().__init__()
        tokens = (size // patch) ** 2 + prefix
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.prefix = nn.Parameter(torch.zeros(1, prefix, width))
        self.positions = nn.Parameter(torch.zeros(1, tokens, width))
        self.blocks = nn.Sequential(*[_Block(width, 4) for _ in range(3)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(x.shape[0], -1, -1), patches], 1) + self.positions
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class VGGLike(nn.Module):
    """In-place ReLUs in one `features`, an adaptive pool that keeps space, a dense classifier."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(16 * 64, 32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class UNet(nn.Module):
    """Dense output; its logits are made at half the resolution and only resized at the end."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.enc1 = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU())
        self.enc2 = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, 1, 1), nn.ReLU())
        self.bottleneck = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(12, 16, 3, 1, 1), nn.ReLU())
        self.dec2 = nn.Sequential(nn.Conv2d(28, 12, 3, 1, 1), nn.ReLU())
        self.out = nn.Conv2d(12, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.enc2(self.enc1(x))
        up = functional.interpolate(self.bottleneck(skip), scale_factor=2.0, mode="nearest")
        return functional.interpolate(
            self.out(self.dec2(torch.cat([skip, up], 1))), scale_factor=2.0, mode="bilinear"
        )


class VolumeCNN(PlainCNN):
    """A volume (3, D, H, W) in, 3-D features."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__(classes, dimensions=3)


class TemporalCNN(nn.Module):
    """A sequence (3, T) in, dilated convolutions at half its rate, mean over time."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 8, 5, 2, 2)
        self.block1 = nn.Sequential(nn.Conv1d(8, 8, 3, 1, 2, dilation=2), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv1d(8, 12, 3, 1, 4, dilation=4), nn.ReLU(inplace=True))
        self.head = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block2(self.block1(self.stem(x))).mean(2))
