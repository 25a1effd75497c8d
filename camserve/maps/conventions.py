"""How the libraries in the field turn a signed Grad-CAM map into the map they show.

One table, read by `present`. Read from the sources of pytorch-grad-cam 1.5 (`base_cam.py`,
`utils/image.py`), torch-cam 0.4 (`methods/core.py`) and Captum 0.9 (`LayerGradCam`), from MATLAB's
`gradCAM` and from Selvaraju et al. 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

import numpy as np

from camserve.errors import InvalidRequest, near_names
from camserve.maps.resample import FloatArray, Method, resample
from camserve.maps.sampler import Sampler

__all__ = [
    "CONVENTIONS",
    "Convention",
    "ConventionName",
    "Fusion",
    "Normalisation",
    "Score",
    "find_convention",
    "present",
]

ConventionName = Literal["camserve", "matlab", "paper", "pytorch-grad-cam", "captum", "torchcam"]
Score = Literal["output", "softmax_if_logits"]
Fusion = Literal["mean", "max"]
Normalisation = Literal["none", "max", "min_max"]


@dataclass(frozen=True, kw_only=True)
class Convention:
    """The facts of one convention, in the order in which `present` applies them.

    score: what is differentiated. The logit of the other libraries is a model's `output`, and
        `softmax_if_logits` a softmax (or sigmoid) put behind it unless the model ends in one.
    relu: keep positive evidence only; also clips what an overshooting kernel puts below zero.
    per_layer: normalisation of each map at its own resolution, before up-sampling.
    upsampling: the method when none is asked for.
    fusion: how several layers become one.
    final: normalisation of the result, over the positions that the model saw.
    epsilon: added to the maximum by `min_max`.
    """

    score: Score = "output"
    relu: bool = True
    per_layer: Normalisation = "none"
    upsampling: Method
    fusion: Fusion = "mean"
    final: Normalisation = "none"
    epsilon: float = 0.0


CONVENTIONS: Final[Mapping[ConventionName, Convention]] = MappingProxyType(
    {
        "camserve": Convention(upsampling="bicubic"),
        "matlab": Convention(score="softmax_if_logits", upsampling="bicubic"),
        "paper": Convention(upsampling="linear", final="max"),
        "pytorch-grad-cam": Convention(
            per_layer="min_max", upsampling="linear", final="min_max", epsilon=1e-7
        ),
        "captum": Convention(relu=False, upsampling="nearest"),
        "torchcam": Convention(per_layer="min_max", upsampling="none", fusion="max", epsilon=1e-8),
    }
)


def find_convention(name: str) -> Convention:
    """The facts behind `name`. Raises InvalidRequest, with the near names, if there are none."""
    for known, facts in CONVENTIONS.items():
        if known == name:
            return facts
    names = get_args(ConventionName)
    raise InvalidRequest(
        f"there is no convention {name!r}: use one of {', '.join(names)}",
        field="convention",
        near=near_names(name, names),
    )


def present(
    signed_layers: Sequence[FloatArray],
    convention: str = "camserve",
    sampler: Callable[[FloatArray], FloatArray] | None = None,
    *,
    upsampling: Method | None = None,
    fusion: Fusion | None = None,
    over: Sampler | None = None,
) -> FloatArray:
    """The map that a convention makes of one target's signed maps, one array (*S) per layer.

    Order: ReLU, normalisation of each layer, resampling, clip at 0 (and at 1, where nothing scales
    what an overshooting kernel puts above it), fusion, final normalisation; each where the
    convention has it. Returns float32, or float64 for float64 maps.

    `sampler` brings a map to the asked-for grid (`Sampler`, or any function); None stays at feature
    resolution. The method is `upsampling`, else the sampler's own, else the convention's; `none`
    stays at feature resolution too. Layers of different resolution then meet at the largest.
    Positions that a `Sampler` marks as unseen take no part in the final normalisation and are 0.
    `over` is for a sampler of a part of the map: the final normalisation is then that of the map as
    `over` samples it.

    Raises InvalidRequest for an unknown convention, for no layers, and for `upsampling` beside a
    plain function, which has made that choice already.
    """
    facts = find_convention(convention)
    if not signed_layers:
        raise InvalidRequest("there is no map to present: name at least one feature layer")
    sample, window = _resolve(sampler, upsampling, facts)
    fused = _fused(signed_layers, facts, sample, fusion)
    if facts.final == "none":
        return fused
    if over is not None and sample is not None:
        whole = _fused(signed_layers, facts, _resolve(over, upsampling, facts)[0], fusion)
        return _normalised(fused, facts.final, facts.epsilon, within=whole)
    if window is None:
        return _normalised(fused, facts.final, facts.epsilon)
    box: tuple[Any, ...] = (..., *window)
    result = np.zeros_like(fused)
    result[box] = _normalised(fused[box], facts.final, facts.epsilon)
    return result


def _fused(
    signed_layers: Sequence[FloatArray],
    facts: Convention,
    sample: Callable[[FloatArray], FloatArray] | None,
    fusion: Fusion | None,
) -> FloatArray:
    """All but the final normalisation."""
    maps = [_at_own_resolution(signed, facts) for signed in signed_layers]
    maps = _meet(maps, facts.upsampling) if sample is None else [sample(m) for m in maps]
    if facts.relu:
        maps = [np.maximum(values, 0.0) for values in maps]
    if facts.per_layer == "min_max" and facts.final == "none":
        maps = [np.minimum(values, 1.0) for values in maps]
    return _fuse(maps, fusion or facts.fusion)


def _resolve(
    sampler: Callable[[FloatArray], FloatArray] | None, upsampling: Method | None, facts: Convention
) -> tuple[Callable[[FloatArray], FloatArray] | None, tuple[slice, ...] | None]:
    """The function that samples (None: stay), and the box that the model saw (None: all)."""
    if isinstance(sampler, Sampler):
        method = upsampling or sampler.method or facts.upsampling
        return (None, None) if method == "none" else (sampler.using(method), sampler.window)
    if sampler is not None and upsampling is not None:
        raise InvalidRequest("a sampling function has its method: leave out upsampling")
    return sampler, None


def _at_own_resolution(signed: FloatArray, facts: Convention) -> FloatArray:
    values = signed if signed.dtype == np.float64 else signed.astype(np.float32, copy=False)
    if facts.relu:
        values = np.maximum(values, 0.0)
    return _normalised(values, facts.per_layer, facts.epsilon)


def _meet(maps: list[FloatArray], method: Method) -> list[FloatArray]:
    """Layers at the resolution of the largest; torch-cam, which has no method, does so linearly."""
    if len({values.shape for values in maps}) == 1:
        return maps
    largest = tuple(int(side) for side in np.max([values.shape for values in maps], axis=0))
    return [resample(values, largest, "linear" if method == "none" else method) for values in maps]


def _fuse(maps: list[FloatArray], fusion: Fusion) -> FloatArray:
    if len(maps) == 1:
        return maps[0]
    if fusion == "max":
        return reduce(np.maximum, maps)
    return reduce(np.add, maps) / np.float32(len(maps))


def _normalised(
    values: FloatArray, how: Normalisation, epsilon: float, within: FloatArray | None = None
) -> FloatArray:
    """`values` over the maximum, or from minimum to maximum; all zeros if there is no range.

    within: whose minimum and maximum; by default those of the values themselves.
    """
    if how == "none" or values.size == 0:
        return values
    extremes = values if within is None else within
    low = extremes.min() if how == "min_max" else values.dtype.type(0)
    top = extremes.max() - low + values.dtype.type(epsilon)
    if not top > 0:
        return np.zeros_like(values)
    normalised: FloatArray = (values - low if low else values) / top
    return normalised
