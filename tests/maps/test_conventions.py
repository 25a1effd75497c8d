"""Conventions against the zoo, Captum and their formulas written out."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam
from torch.nn.functional import interpolate

from camserve.errors import InvalidRequest
from camserve.maps.conventions import CONVENTIONS, ConventionName, find_convention, present
from camserve.maps.geometry import plan
from camserve.maps.resample import resample
from camserve.maps.sampler import Picked, Sampler
from tests import zoo

NORMALISED = ["paper", "pytorch-grad-cam"]


def signed(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def min_max(array: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
    shifted = array - array.min()
    return shifted / (shifted.max() + epsilon) if shifted.max() > 0 else np.zeros_like(shifted)


@zoo.needs_zoo
def test_pytorch_grad_cam_is_the_librarys_on_every_zoo_case():
    seen = 0
    for case in zoo.cases():
        if "map_pgc32" not in case["arrays"]:
            continue
        presums, theirs = zoo.arrays(case, "presum", "map_pgc32")
        # The library worked in float32: where it differs from the float64 map, that is its noise.
        noise = case["differences"].get("pgc32_map", 0.0)
        for presum, their in zip(presums, theirs, strict=True):
            ours = present([presum], "pytorch-grad-cam", Sampler.whole(their.shape))
            assert np.abs(ours - their).max() <= 1e-5 + 2 * noise, case["id"]
            seen += 1
    assert seen > 20


@zoo.needs_zoo
def test_linear_min_max_gives_every_reference_map_of_the_zoo():
    for case in zoo.cases():
        cams, theirs = zoo.arrays(case, "cam", "map")
        # 3-D maps are stored rounded to three decimals.
        tolerance = 5.1e-4 if cams[0].ndim == 3 else 1e-6
        for cam, their in zip(cams, theirs, strict=True):
            ours = min_max(resample(cam, their.shape, "linear"))
            assert np.abs(ours - their).max() <= tolerance, case["id"]


@zoo.needs_zoo
def test_relu_of_the_signed_map_is_the_zoos_raw_map_at_feature_resolution():
    for case in zoo.cases():
        presums, cams = zoo.arrays(case, "presum", "cam")
        for presum, cam in zip(presums, cams, strict=True):
            assert np.array_equal(present([presum], "camserve", upsampling="none"), cam)


def test_captum_is_captum():
    torch.manual_seed(0)
    features = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, stride=4, padding=1), torch.nn.ReLU())
    head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    model = torch.nn.Sequential(features, head, torch.nn.Linear(6, 4)).eval()
    x = torch.randn(1, 3, 32, 32)
    theirs = LayerGradCam(model, features).attribute(x, target=2, relu_attributions=False)
    shown = LayerAttribution.interpolate(theirs, (32, 32))[0, 0].detach().numpy()
    ours = present([theirs[0, 0].detach().numpy()], "captum", Sampler.whole((32, 32)))
    assert shown.min() < 0 < shown.max()
    assert np.array_equal(ours, shown)


def test_torchcam_is_its_formula_and_stays_at_low_resolution():
    layer = signed(7, 7)
    cam = np.maximum(layer, 0)
    cam = cam - cam.min()
    assert np.allclose(present([layer], "torchcam"), cam / (cam.max() + 1e-8), atol=1e-7)
    assert present([layer], "torchcam", Sampler.whole((28, 28))).shape == (7, 7)


@pytest.mark.parametrize("size", [(28, 28), (50, 60), (224, 224)])
def test_torchcam_stays_within_its_range_when_it_is_enlarged(size):
    layer = np.zeros((7, 7), dtype=np.float32)
    layer[2:4, 2:4] = 3.0
    sampler = Sampler.whole(size)
    assert resample(layer / 3, size, "bicubic").max() > 1.01  # the kernel overshoots
    ours = present([layer], "torchcam", sampler, upsampling="bicubic")
    assert ours.min() == 0
    assert ours.max() == 1
    # a signed or raw map has no range to stay in
    for name in ("camserve", "captum"):
        assert present([layer], name, sampler, upsampling="bicubic").max() > 3.01


def test_torchcam_fuses_layers_by_the_maximum_at_the_largest_resolution():
    coarse, fine = signed(4, 4), signed(8, 8, seed=1)
    both = [min_max(np.maximum(layer, 0), 1e-8) for layer in (coarse, fine)]
    up = [
        interpolate(torch.tensor(cam)[None, None], (8, 8), mode="bilinear")[0, 0].numpy()
        for cam in both
    ]
    assert np.allclose(present([coarse, fine], "torchcam"), np.maximum(*up), atol=1e-6)


def test_pytorch_grad_cam_averages_normalised_layers():
    layers = [signed(4, 4), 100 * signed(8, 8, seed=1)]
    up = [resample(min_max(np.maximum(m, 0), 1e-7), (16, 16), "linear") for m in layers]
    expected = min_max((up[0] + up[1]) / 2, 1e-7)
    ours = present(layers, "pytorch-grad-cam", Sampler.whole((16, 16)))
    assert np.allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["camserve", "matlab"])
def test_camserve_and_matlab_are_raw_bicubic_and_never_negative(name):
    layer = signed(7, 7) * 40
    raw = resample(np.maximum(layer, 0), (50, 60), "bicubic")
    assert raw.min() < 0  # the kernel overshoots
    ours = present([layer], name, Sampler.whole((50, 60)))
    assert np.array_equal(ours, np.maximum(raw, 0))


def test_paper_divides_by_the_maximum_of_what_it_shows():
    layer = signed(7, 7) + 3
    up = resample(np.maximum(layer, 0), (21, 21), "linear")
    assert up.min() > 0
    ours = present([layer], "paper", Sampler.whole((21, 21)))
    assert np.allclose(ours, up / up.max(), atol=1e-7)


def test_rectification_comes_before_the_resampling():
    layer = np.array([[-1.0, 1.0]], dtype=np.float32)
    ours = present([layer], "paper", Sampler.whole((1, 4)))
    # Resampling first would give max(0, (-1, -0.5, 0.5, 1)).
    assert np.allclose(ours, [[0.0, 0.25, 0.75, 1.0]])


@pytest.mark.parametrize("name", NORMALISED)
def test_normalisation_ignores_what_the_model_did_not_see(name):
    layer = signed(7, 7) + 2.5  # nowhere zero, so that zeros outside would pull the minimum down
    geometry = plan((60, 90), mode="shortest_edge", resize=32, crop=(28, 28), input_size=(28, 28))
    sampler = geometry.sampler()
    ours = present([layer], name, sampler)
    assert ours.shape == (60, 90)
    inside = ours[sampler.mask]
    assert inside.max() == pytest.approx(1.0, abs=1e-5)
    if name == "pytorch-grad-cam":
        assert inside.min() == pytest.approx(0.0, abs=1e-6)
    assert not ours[~sampler.mask].any()


@pytest.mark.parametrize("name", CONVENTIONS)
def test_flat_and_negative_maps_become_finite_and_without_a_warning(name):
    for value in (0.0, 2.0, -2.0):
        flat = np.full((4, 4), value, dtype=np.float32)
        result = present([flat], name, Sampler.whole((8, 8), "linear"))
        assert np.isfinite(result).all()
        if value <= 0 and name != "captum":
            assert not result.any()


@pytest.mark.parametrize("name", CONVENTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_float64_stays_and_the_rest_becomes_float32(name, dtype):
    result = present([signed(4, 4).astype(dtype)] * 2, name, Sampler.whole((8, 8)))
    assert result.dtype == (np.float64 if dtype == np.float64 else np.float32)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_input_is_left_alone(name):
    layer = signed(5, 5)
    before = layer.copy()
    present([layer, layer], name, Sampler.whole((9, 9), "bicubic"))
    assert np.array_equal(layer, before)


def test_the_method_asked_for_beats_the_samplers_which_beats_the_conventions():
    layer = signed(4, 4)
    size = (9, 9)
    for sampler, asked, method in [
        (Sampler.whole(size), None, "nearest"),
        (Sampler.whole(size, "linear"), None, "linear"),
        (Sampler.whole(size, "linear"), "bicubic", "bicubic"),
    ]:
        ours = present([layer], "captum", sampler, upsampling=asked)
        assert np.array_equal(ours, resample(layer, size, method))
    assert present([layer], "captum", Sampler.whole(size, "linear"), upsampling="none") is layer


def test_any_function_can_resample():
    layer = signed(4, 4)
    ours = present([layer], "captum", lambda m: np.repeat(m, 2, axis=0))
    assert np.array_equal(ours, np.repeat(layer, 2, axis=0))
    with pytest.raises(InvalidRequest, match="leave out upsampling"):
        present([layer], "captum", lambda m: m, upsampling="linear")


@pytest.mark.parametrize("shape", [(13,), (4, 5), (3, 4, 5)])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_sequences_images_and_volumes(name, shape):
    size = tuple(3 * side for side in shape)
    assert present([signed(*shape)], name, Sampler.whole(size, "linear")).shape == size


@pytest.mark.parametrize("method", ["nearest", "linear", "bicubic"])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_part_of_a_map_has_the_values_that_it_has_in_the_whole(name, method):
    """Slices of a volume are normalised by the volume's extremes, not by their own."""
    layers = [signed(5, 4, 3), signed(5, 4, 3, seed=1)]
    whole = Sampler.whole((15, 9, 8))
    chosen = (0, 4, 13)
    part = Sampler((Picked.among(15, chosen), *whole.spans[1:]))
    full = present(layers, name, whole, upsampling=method)
    ours = present(layers, name, part, upsampling=method, over=whole)
    np.testing.assert_allclose(ours, full[list(chosen)], rtol=1e-5, atol=1e-6)
    alone = present(layers, name, part, upsampling=method)
    assert np.allclose(alone, ours) == (find_convention(name).final == "none")


def test_the_fusion_can_be_chosen():
    layers = [signed(4, 4), signed(4, 4, seed=1)]
    assert np.array_equal(present(layers, "captum", fusion="max"), np.maximum(*layers))
    assert np.allclose(present(layers, "captum"), (layers[0] + layers[1]) / 2)


def test_the_table_has_every_name():
    assert set(CONVENTIONS) == set(get_args(ConventionName))
    assert [n for n, facts in CONVENTIONS.items() if facts.score != "output"] == ["matlab"]


def test_an_unknown_convention_names_the_near_ones():
    with pytest.raises(InvalidRequest) as caught:
        find_convention("torch-cam")
    assert caught.value.extensions["near"][0] == "torchcam"
    with pytest.raises(InvalidRequest):
        present([], "camserve")
