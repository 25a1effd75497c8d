"""The maps of int8 weights are those of the rounded weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from camserve.engine import ClassIndex, Diagnostic, Explainer
from camserve.engine.evaluation import shuffled_weights
from camserve.vocabulary import Method
from tests.engine.half_precision import Loud, loud
from tests.engine.hooks import hooks
from tests.engine.int8 import quantized, rounded, rounded_twin, stored
from tests.engine.networks import ClassTokenViT, ResNetLike, UNet, randomised
from tests.engine.truth import difference, pearson

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(9))

NETWORKS: dict[str, tuple[Any, Any, str]] = {
    "resnet": (ResNetLike, torch.float32, "layer2"),
    "resnet, float64": (ResNetLike, torch.float64, "layer2"),
    "vit": (ClassTokenViT, torch.float32, "blocks.2.norm1"),
    "unet": (UNet, torch.float32, "bottleneck"),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["gradcam", "layercam", "scorecam", "ablationcam"])
def test_maps_are_those_of_the_rounded_weights(name: str, method: Method) -> None:
    build, dtype, layer = NETWORKS[name]
    model = randomised(build()).to(dtype)
    twin = copy.deepcopy(model)
    explainer = Explainer(model, IMAGES[:1], quantization="int8")
    assert explainer.report.feature_layer == layer
    names = list(quantized(model))
    assert len(names) >= 2
    for weight_name in names:
        with torch.no_grad():
            weight = twin.get_submodule(weight_name).weight
            weight.copy_(rounded(weight.float()) if dtype == torch.float32 else rounded(weight))
    plain = Explainer(twin, IMAGES[:1])
    early = names[1]  # int8 weights lie behind it, through which the gradient passes
    for feature_layer in (layer, early if method == "gradcam" and name != "vit" else layer):
        options: Any = {"method": method, "feature_layer": feature_layer, "channels": 4}
        found = explainer.explain(IMAGES, [[ClassIndex(1)], [ClassIndex(2)]], **options)
        expected = plain.explain(IMAGES, [[ClassIndex(1)], [ClassIndex(2)]], **options)
        for (one,), (other,) in zip(found, expected, strict=True):
            assert one.map.dtype == dtype
            assert difference(one.map, other.map) <= 1e-5
    assert hooks(model) == 0


def test_with_other_weights_by_name() -> None:
    """Randomisation: integers and scales in random order are weights like others."""
    model = randomised(ResNetLike())
    twin = copy.deepcopy(model)
    explainer = Explainer(model, IMAGES[:1], quantization="int8")
    before = explainer.explain(IMAGES, [[ClassIndex(1)]] * 2)
    weights = shuffled_weights(model)
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            path, _, leaf = name.rpartition(".")
            kept = f"{path}.parametrizations.{leaf}.original"
            if f"{kept}0" in weights:
                weight.copy_(weights[f"{kept}0"].float() * weights[f"{kept}1"])
            else:
                weight.copy_(weights[name])
    found = explainer.explain(IMAGES, [[ClassIndex(1)]] * 2, weights=weights)
    expected = Explainer(twin, IMAGES[:1]).explain(IMAGES, [[ClassIndex(1)]] * 2)
    after = explainer.explain(IMAGES, [[ClassIndex(1)]] * 2)
    for (one,), (other,), (first,), (last,) in zip(found, expected, before, after, strict=True):
        assert difference(one.map, other.map) <= 1e-5
        assert torch.equal(first.map, last.map)


def test_what_overflows_is_computed_again_from_int8_weights() -> None:
    model, inputs = loud("float16")
    twin = rounded_twin(model, ["features.2"])  # the other has too few numbers
    explainer = Explainer(model, inputs[:1], feature_layer="scaled", quantization="int8")
    assert set(quantized(model)) == {"features.2"}
    expected = Explainer(twin, inputs[:1], feature_layer="scaled").explain(
        inputs, [[ClassIndex(1)]] * 2
    )
    (retried,), (fine,) = explainer.explain(inputs, [[ClassIndex(1)]] * 2, precision="float16")
    assert retried.diagnostics == (Diagnostic.NONFINITE_RETRIED,)
    assert fine.diagnostics == ()
    assert difference(retried.map, expected[0][0].map) <= 1e-6
    assert pearson(fine.map, expected[1][0].map) >= 0.999
    # a model of half-precision weights: its scales are half too
    model, inputs = loud("float16")
    explainer = Explainer(model.half(), inputs[:1], feature_layer="scaled", quantization="int8")
    assert stored(model.features[2])[1].dtype == torch.float16
    wide = Loud("float16")
    wide.load_state_dict(
        {
            **{n: w for n, w in model.state_dict().items() if "parametrizations" not in n},
            "features.2.weight": stored(model.features[2])[0].float()
            * stored(model.features[2])[1].float(),
        }
    )
    half = inputs.half()
    expected = Explainer(wide.eval(), inputs[:1], feature_layer="scaled").explain(
        half.float(), [[ClassIndex(1)]] * 2
    )
    (retried,), _ = explainer.explain(half, [[ClassIndex(1)]] * 2)
    assert retried.diagnostics == (Diagnostic.NONFINITE_RETRIED,)
    assert difference(retried.map, expected[0][0].map) <= 1e-6


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
def test_an_exported_program_and_the_module_alike() -> None:
    model = randomised(ResNetLike())
    program = torch.export.unflatten(torch.export.export(copy.deepcopy(model), (IMAGES[:1],)))
    maps = []
    for network in (model, program):
        explainer = Explainer(network, IMAGES[:1], quantization="int8")
        ((one,),) = explainer.explain(IMAGES[:1], [[ClassIndex(1)]])
        maps.append(one.map)
        assert len(quantized(network)) == len(quantized(model))
    assert difference(maps[1], maps[0]) <= 1e-6
