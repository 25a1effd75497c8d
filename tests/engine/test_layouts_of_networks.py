"""How features are read in whole networks, where their shape alone does not tell."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from camserve.engine import Explainer
from tests.engine.families import FAMILIES
from tests.engine.networks import randomised
from tests.zoo import ZOO, needs_zoo


def test_the_tokens_of_timesformer_hold_all_times_of_a_place() -> None:
    """What changes where one patch of the last frame does is found at that place and time."""
    family = next(family for family in FAMILIES if family.name == "TimeSformer")
    explainer = Explainer(family.build(), torch.zeros(family.shape), input_format=family.format)
    layer = "timesformer.encoder.layer.0"  # behind it (B, 1 + places x times, C)
    tap = explainer._known.tap(layer)
    assert tap.layout.time_last
    assert tap.layout.grid == (8, 8, 8)
    videomae = next(family for family in FAMILIES if family.name == "VideoMAE")
    other = Explainer(videomae.build(), torch.zeros(videomae.shape), input_format="BTCSS")
    assert not other._known.tap("videomae").layout.time_last
    base = torch.randn(family.shape, generator=torch.Generator().manual_seed(0))
    changed = base.clone()
    changed[0, 6, :, 16:24, 40:48] += 5  # frame 6, row 2, column 5 of the patches
    kept: list[Tensor] = []
    handle = tap.module.register_forward_hook(
        lambda _m, _i, output: kept.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        for inputs in (base, changed):
            explainer.model(inputs)
    handle.remove()
    from camserve.engine.layouts import to_channels_first

    extent = explainer.extent_of(base)
    early, late = (to_channels_first(one, tap.layout, extent)[0] for one in kept)
    place = (late - early).abs().sum(0).flatten().argmax()
    assert [int(i) for i in torch.unravel_index(place, (8, 8, 8))] == [6, 2, 5]


class Sized(nn.Module):
    """As many channels as steps, and half as many steps behind a stride: no shape tells."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.stem = nn.Conv1d(12, 64, 3, 1, 1)
        self.down = nn.Conv1d(64, 64, 3, 2, 1)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 5)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(self.stem(x).relu()).relu()
        y = self.norm(y.transpose(1, 2))
        return self.head((y if self.last else self.norm(y)).square().mean(1))


def test_as_many_channels_as_steps() -> None:
    inputs = torch.randn(1, 12, 64)
    explainer = Explainer(randomised(Sized(last=True)), inputs, input_format="BCT")
    layers = {layer.name: layer for layer in explainer.report.layers}
    found = {name: (layer.format, layer.grid) for name, layer in layers.items() if layer.grid}
    assert found == {"stem": ("BCT", (64,)), "down": ("BCT", (32,)), "norm": ("BTC", (32,))}
    assert explainer.report.feature_layer == "norm"


def test_as_many_channels_as_rows_and_columns() -> None:
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 4, 4)
            self.norm = nn.LayerNorm(8)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.conv(x).permute(0, 2, 3, 1)).square().mean((1, 2)))

    explainer = Explainer(randomised(Square()), torch.zeros(1, 3, 32, 32))
    layers = {layer.name: layer.format for layer in explainer.report.layers}
    assert layers == {"conv": "BCSS", "norm": "BSSC", "head": "BC"}


@needs_zoo
def test_the_vowels_as_their_card_has_them() -> None:
    """64 channels, and 64 steps where the probe's size is the usual one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*LeafSpec.* is deprecated", FutureWarning)
        program = torch.export.load(ZOO / "models" / "vowels-tcn" / "model.pt2")
        network = torch.export.unflatten(program)
    for steps in (64, 32, 128, 48):
        report = Explainer(network, torch.zeros(1, 12, steps), input_format="BCT").report
        assert report.feature_layer == "block3"
        chosen = next(layer for layer in report.layers if layer.name == "block3")
        assert (chosen.format, chosen.grid) == ("BCT", (steps // 2,))
