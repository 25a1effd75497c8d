"""The whole chain, engine and convention, against what the libraries themselves gave.

The zoo holds the final maps of pytorch-grad-cam 1.5.7 and the raw ones of Captum 0.9.0, both made
in float32 of the module; here the engine explains the exported program in float32.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam

from camserve.engine import ClassIndex, Explainer
from camserve.maps.conventions import present
from camserve.maps.sampler import Sampler
from tests.engine.networks import DenseNetLike, PlainCNN, TemporalCNN, VolumeCNN, randomised
from tests.engine.zoo_programs import explainer, targets_of
from tests.zoo import ZOO, arrays, cases, needs_zoo


def named(case: dict[str, Any]) -> str:
    return f"{case['id']}-{case['model']}-{case['method']}"


def of_case(case: dict[str, Any]) -> tuple[np.ndarray, ...]:
    """The engine's signed float32 maps, row by row and target by target; computed once for all
    tests."""
    return _of_case(case["id"])


@functools.cache
def _of_case(case_id: str) -> tuple[np.ndarray, ...]:
    (case,) = [one for one in cases() if one["id"] == case_id]
    inputs = torch.from_numpy(np.concatenate([np.load(ZOO / file)["x"] for file in case["x"]]))
    score = case["target"].get("score", "logit") or "logit"
    rows = explainer(case["model"], torch.float32).explain(
        inputs,
        targets_of(case, len(inputs)),
        method=case["method"],
        feature_layer=case["layer"],
        reduction_layer="output" if score == "logit" else score,
    )
    maps = tuple(one.map.numpy() for row in rows for one in row)
    for one in maps:
        one.setflags(write=False)
    return maps


# Where the library itself is further from float64 than 1e-5, by its recorded difference:
# the score is a probability, and the library takes the softmax in float32. Near 1 it loses 1 - p,
# and with it the gradient p (1 - p). The engine takes it in float64.
SOFTMAX_IN_FLOAT32 = {"029", "031", "085", "087"}
# These features, behind a batch norm and before the ReLU, cancel in the sum that X-Grad-CAM divides
# by: down to 0.0023 (050) and 0.0092 (106) of the sum of their sizes. Of float32's rounding that
# makes 400 times as much, on either side: it is not the 1e-7 of the denominator, which both have.
CANCELLING_SUMS = {"050": 5e-5, "106": 2.5e-5}


@needs_zoo
@pytest.mark.parametrize("case", [c for c in cases() if "map_pgc32" in c["arrays"]], ids=named)
def test_pytorch_grad_cam_end_to_end(case: dict[str, Any]) -> None:
    presums, theirs = arrays(case, "presum", "map_pgc32")
    seen = 0
    for signed, presum, their in zip(of_case(case), presums, theirs, strict=True):
        sampler = Sampler.whole(their.shape)
        exact = present([presum], "pytorch-grad-cam", sampler)  # of the float64 reference
        if case.get("sign_free") and (signed * presum).sum() < 0:
            signed = -signed  # noqa: PLW2901 - the library leaves the sign to the SVD
            exact = present([-presum], "pytorch-grad-cam", sampler)
        ours = present([signed], "pytorch-grad-cam", sampler)
        assert ours.dtype == np.float32
        if case["id"] in SOFTMAX_IN_FLOAT32:
            assert case["target"]["score"] == "softmax"
            recorded = case["differences"]["pgc32_map"]
            assert recorded > 1e-5
            assert np.abs(ours - exact).max() <= 1e-5
            assert np.abs(ours - their).max() <= 1e-5 + 1.01 * recorded
        else:
            assert np.abs(ours - their).max() <= CANCELLING_SUMS.get(case["id"], 1e-5)
        seen += 1
    assert seen >= 1


@needs_zoo
@pytest.mark.parametrize("case", [c for c in cases() if c["id"] in {"029", "085"}], ids=named)
def test_the_librarys_difference_is_its_softmax_in_float32(case: dict[str, Any]) -> None:
    """Grad-CAM is linear: the maps of all logits, weighted by the gradient of the float32 softmax,
    are the library's own map."""
    known = explainer(case["model"], torch.float32)
    inputs = torch.from_numpy(np.load(ZOO / case["x"][0])["x"])
    classes = [[ClassIndex(index) for index in range(10)]]
    (row,) = known.explain(inputs, classes, feature_layer=case["layer"])
    logits = torch.tensor([one.score for one in row]).requires_grad_()
    (slopes,) = torch.autograd.grad(logits.softmax(0)[case["target"]["index"]], logits)
    signed = sum(float(s) * one.map.double().numpy() for s, one in zip(slopes, row, strict=True))
    ((their,),) = (arrays(case, "map_pgc32"),)
    ours = present([signed], "pytorch-grad-cam", Sampler.whole(their[0].shape))
    assert np.abs(ours - their[0]).max() <= 1e-5


@needs_zoo
def test_captum_end_to_end() -> None:
    """Captum's raw map after a ReLU is that of camserve, whose signed map is Captum's without."""
    seen = 0
    for case in cases():
        if "cam_captum32" not in case["arrays"]:
            continue
        # near p = 1 the softmax in float32 again: as above, the float64 reference holds instead
        unreliable = case["differences"]["captum32"] > 1e-5
        for signed, captum, cam in zip(
            of_case(case), *arrays(case, "cam_captum32", "cam"), strict=True
        ):
            scale = case["tolerance"]["scale"]
            ours = np.maximum(present([signed], "captum", upsampling="none"), 0)
            assert np.array_equal(present([signed], "captum", upsampling="none"), signed)
            assert np.abs(ours - (cam if unreliable else captum)).max() <= 1e-5 * scale, case["id"]
            seen += 1
    assert seen > 200


@needs_zoo
def test_the_zoos_own_maps_end_to_end() -> None:
    """ReLU, linear up-sampling, minimum to maximum: without the library's 1e-7."""
    for case in cases():
        (theirs,) = arrays(case, "map")
        for signed, their, presum in zip(
            of_case(case), theirs, *arrays(case, "presum"), strict=True
        ):
            if case.get("sign_free") and (signed * presum).sum() < 0:
                signed = -signed  # noqa: PLW2901
            shown = present([signed], "paper", Sampler.whole(their.shape))
            span = shown.max() - shown.min()
            ours = (shown - shown.min()) / span if span > 0 else np.zeros_like(shown)
            # 3-D maps are stored rounded to three decimals
            tolerance = 5.1e-4 if their.ndim == 3 else CANCELLING_SUMS.get(case["id"], 1e-5)
            assert np.abs(ours - their).max() <= tolerance, case["id"]


@pytest.mark.parametrize(
    ("network", "layer", "size"),
    [
        (PlainCNN, "features", (32, 32)),
        (PlainCNN, "features.0", (32, 48)),
        (lambda: DenseNetLike(inplace=False), "norm", (64, 32)),
        (VolumeCNN, "features", (16, 8, 12)),
        (TemporalCNN, "block1", (30,)),
    ],
)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_captum_live(network: Any, layer: str, size: tuple[int, ...], mode: str) -> None:
    """Signed, and interpolated as Captum does it: by default to the nearest, in whole factors."""
    model = randomised(network())
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
    theirs = LayerGradCam(model, model.get_submodule(layer)).attribute(x, target=2)
    factors = [n / m for n, m in zip(size, theirs.shape[2:], strict=True)]
    assert all(factor == int(factor) for factor in factors)
    modes = {1: "linear", 2: "bilinear", 3: "trilinear"}
    captums = "nearest" if mode == "nearest" else modes[len(size)]
    shown = LayerAttribution.interpolate(theirs, size, interpolate_mode=captums)
    shown = shown[0, 0].detach().numpy()
    ((one,),) = Explainer(model, x).explain(x, [[ClassIndex(2)]], feature_layer=layer)
    sampler = Sampler.whole(size, None if mode == "nearest" else "linear")
    ours = present([one.map.numpy()], "captum", sampler)
    assert shown.min() < 0
    assert ours.shape == shown.shape
    assert np.abs(ours - shown).max() <= 1e-5 * np.abs(shown).max()
