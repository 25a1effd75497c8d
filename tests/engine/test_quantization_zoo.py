"""Weights as int8 in the zoo's models: how near, how much smaller, and the head untouched."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from camserve.engine import Explainer
from tests.engine.int8 import nbytes, quantized, stored
from tests.engine.zoo_agreement import DEFAULT_LAYERS, agreements
from tests.zoo import ZOO, cases, needs_zoo


@functools.cache
def program(model: str) -> tuple[Explainer, dict[str, Tensor]]:
    """The program's int8 explainer, and its weights as they were."""
    with warnings.catch_warnings():
        # torch 2.13 uses a pytree class that it has itself deprecated whenever it loads a program
        warnings.filterwarnings("ignore", r".*LeafSpec.* is deprecated", FutureWarning)
        network = torch.export.unflatten(torch.export.load(ZOO / "models" / model / "model.pt2"))
    weights = {name: weight.detach().clone() for name, weight in network.state_dict().items()}
    case = next(case for case in cases() if case["model"] == model)
    probe = torch.from_numpy(np.load(ZOO / case["x"][0])["x"][:1])
    return Explainer(network, probe, quantization="int8"), weights


@needs_zoo
@pytest.mark.parametrize("model", DEFAULT_LAYERS)
def test_zoo(model: str) -> None:
    """Every gradcam case, of probabilities and of early layers too. None had to be left out: where
    nothing is left after the ReLU (`all_zero`) the signed map still has its ups and downs."""
    seen = 0
    for name, layer, agreement in agreements(model, program(model)[0].explain):
        assert agreement >= 0.98, (name, layer)
        seen += 1
    assert seen >= 15


@needs_zoo
@pytest.mark.parametrize("model", DEFAULT_LAYERS)
def test_zoo_memory_and_the_head(model: str) -> None:
    explainer, weights = program(model)
    report, network = explainer.report, explainer.model
    order = [layer.name for layer in report.layers]
    backbone = order[: order.index(DEFAULT_LAYERS[model]) + 1]
    found = quantized(network)
    large = {
        name
        for name in backbone
        if f"{name}.weight" in weights
        and weights[f"{name}.weight"].ndim > 1
        and weights[f"{name}.weight"].numel() >= 256
    }
    assert set(found) == large
    assert len(large) >= 2
    before = nbytes(weights[f"{name}.weight"] for name in large)
    after = nbytes(tensor for module in found.values() for tensor in stored(module))
    assert 0.25 < after / before < 0.28
    for name, weight in network.state_dict().items():
        if ".parametrizations." not in name:
            assert torch.equal(weight, weights[name]), name
    behind = [name for name in order if name not in backbone and f"{name}.weight" in weights]
    assert behind
    for name in behind:
        assert torch.equal(network.get_submodule(name).weight, weights[f"{name}.weight"])
