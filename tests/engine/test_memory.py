"""What an explanation holds while it runs, and what is left behind: nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

from camserve.engine import ClassIndex, Explainer, Top
from tests.engine.networks import randomised
from tests.engine.truth import difference

MEGABYTE = 2**20
LARGEST_GROWTH = 20 * MEGABYTE


class Wide(nn.Module):
    """Features of 256 KiB an input: what is kept of each of 500 inputs shows as 128 MiB."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(True))
        self.block1 = nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(inplace=True))
        self.block2 = nn.Sequential(nn.Conv2d(64, 64, 3, 2, 1), nn.ReLU(inplace=True))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block1(x)
        return self.fc(self.block2(x).mean((2, 3)))


def resident_growth(batch: int) -> int:
    """Bytes by which resident memory grows from the 100th to the 600th input; run in a process of
    its own."""
    import gc

    import psutil

    explainer = Explainer(randomised(Wide()), torch.zeros(1, 3, 64, 64))
    process = psutil.Process()

    def explain(inputs: int) -> int:
        for first in range(0, inputs, batch):
            images = torch.randn(batch, 3, 64, 64)
            layer = "block1" if first % 3 else None  # with more, and with less of a graph
            rows = explainer.explain(images, [[Top(2)]] * batch, feature_layer=layer)
            assert bool(rows[0][0].map.isfinite().all())
        gc.collect()
        return process.memory_info().rss

    warm = explain(100)
    return explain(500) - warm


@pytest.mark.parametrize("batch", [1, 8])
def test_500_inputs_leave_nothing_behind(batch: int) -> None:
    program = f"from tests.engine.test_memory import *; print(resident_growth({batch}))"
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    growth = int(done.stdout.split()[-1])
    print(  # noqa: T201 - the number that is worth knowing
        f"500 inputs, {batch} at a time: {growth / MEGABYTE:+.1f} MiB"
    )
    assert growth < LARGEST_GROWTH


@contextmanager
def saved_for_backward() -> Iterator[dict[int, int]]:
    """The sizes, in bytes, of the storages that autograd saves inside, by their addresses."""
    held: list[torch.UntypedStorage] = []  # alive, so that no address is used twice
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held.append(storage)
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def test_resnet50_saves_a_fiftieth_of_a_full_graph_or_less() -> None:
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=1000))
    model.eval().requires_grad_(requires_grad=False)
    images = torch.randn(8, 3, 224, 224)
    explainer = Explainer(model, images[:1])
    with saved_for_backward() as ours:
        rows = explainer.explain(images, [[ClassIndex(7)]] * 8)
    features: list[Tensor] = []
    layer = explainer.report.feature_layer
    assert layer is not None
    assert explainer.report.layers[-1].shape == (1, 1000)
    handle = model.get_submodule(layer).register_forward_hook(
        lambda _m, _i, output: features.append(
            output if isinstance(output, Tensor) else output.last_hidden_state
        )
    )
    with saved_for_backward() as whole:
        logits = model(images.requires_grad_()).logits
    handle.remove()
    (slopes,) = torch.autograd.grad(logits[:, 7].sum(), features)
    truth = (slopes.mean((2, 3), keepdim=True) * features[0]).sum(1).detach()
    # the same maps, so that nothing was saved at their expense
    assert difference(torch.stack([one.map for (one,) in rows]), truth) <= 1e-5
    some, everything = sum(ours.values()), sum(whole.values())
    print(  # noqa: T201 - the number that is worth knowing
        f"saved for backward: {some} of {everything} bytes, {some / everything:.2%}"
    )
    assert everything > 8 * 50 * MEGABYTE  # a ResNet-50 it is
    assert 0 < some / everything <= 0.02
    # and all but a thousandth of that are the weights of the classifier
    weights = {weight.untyped_storage().data_ptr() for weight in model.state_dict().values()}
    assert sum(size for address, size in ours.items() if address not in weights) < 0.001 * some


def test_an_explainer_keeps_the_weights_and_no_other_tensor() -> None:
    """What the probe looked at is gone, or a GPU would hold each model several times over."""
    import gc

    model = randomised(Wide())
    explainer = Explainer(model, torch.zeros(1, 3, 64, 64))
    explainer.explain(torch.randn(2, 3, 64, 64), [[Top(2)]] * 2)
    weights = {id(weight) for weight in [*model.parameters(), *model.buffers()]}
    seen: set[int] = set()
    left: list[object] = [explainer.__dict__]
    kept: list[Tensor] = []
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type(gc) | type):
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            kept += [one] if id(one) not in weights else []
            continue
        if type(one).__module__.startswith(("camserve.", "torch.nn.", "tests.")) or isinstance(
            one, dict | list | tuple | set
        ):
            left += gc.get_referents(one)
    assert not kept, [tuple(one.shape) for one in kept]
    assert len(seen) > 100
