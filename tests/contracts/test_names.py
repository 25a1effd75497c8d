"""Names are written twice, in the contracts and where they are meant: they must be equal."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from camserve.contracts import options, targets
from camserve.contracts.cards import SOURCES, WorkerStatus
from camserve.contracts.input_specs import PictureSpec
from camserve.contracts.reductions import ReductionParameters
from camserve.contracts.requests import ExplanationRequest
from camserve.errors import InvalidRequest
from camserve.maps.colormaps import COLORMAPS, DEFAULT_COLORMAP
from camserve.maps.conventions import CONVENTIONS, Fusion
from camserve.maps.overlay import DEFAULT_ALPHA, VIEWS
from camserve.maps.resample import METHODS as RESAMPLING
from camserve.maps.resizing import RESIZE_MODES, CropRounding
from camserve.vocabulary import METHODS, PRECISIONS, REDUCTIONS

PAIRS = [
    (options.Convention, CONVENTIONS),
    (options.Upsampling, RESAMPLING),
    (options.Colormap, COLORMAPS),
    (options.View, VIEWS),
    (options.Fusion, get_args(Fusion)),
    (PictureSpec.model_fields["resize"].annotation, RESIZE_MODES),
    (PictureSpec.model_fields["crop_rounding"].annotation, get_args(CropRounding)),
]


@pytest.mark.parametrize(("contract", "known"), PAIRS, ids=lambda value: str(value)[:30])
def test_names_of_the_contracts_are_those_of_the_maps(contract: object, known: object) -> None:
    assert get_args(contract) == tuple(known)  # type: ignore[call-overload]


def test_defaults_are_those_of_the_maps() -> None:
    style = options.PictureStyle()
    assert (style.colormap, style.alpha, style.view) == (DEFAULT_COLORMAP, DEFAULT_ALPHA, VIEWS[0])
    assert ExplanationRequest(model="m").convention == next(iter(CONVENTIONS))
    assert WorkerStatus(worker="w", host="h", pid=1, device="cpu").warm is False


def test_filters_are_pillows() -> None:
    from app.inputs import _FILTERS

    assert set(get_args(PictureSpec.model_fields["filter"].annotation)) == set(_FILTERS)
    assert {name: value.name.lower() for name, value in _FILTERS.items()} == {
        n: n for n in _FILTERS
    }


def test_parameters_are_those_that_reductions_take() -> None:
    taken = {name for takes in REDUCTIONS.values() for name in (*takes.required, *takes.optional)}
    assert set(ReductionParameters.model_fields) == taken


def test_every_reduction_passes_the_engines_check_and_the_contracts() -> None:
    from camserve.engine import Reduction
    from camserve.engine.reductions import check_reduction

    values = {"class_index": 1, "reference": (1.0, 2.0)}
    for name, takes in REDUCTIONS.items():
        given = {one: values[one] for one in takes.required}
        targets.ReductionTarget(reduction=name, params=ReductionParameters(**given))
        check_reduction(Reduction(name, **given))
        for missing in takes.required:
            fewer = {one: value for one, value in given.items() if one != missing}
            with pytest.raises(ValueError, match=missing):
                targets.ReductionTarget(reduction=name, params=ReductionParameters(**fewer))
            with pytest.raises(InvalidRequest, match=missing):
                check_reduction(Reduction(name, **fewer))


def test_diagnostics_have_names_of_their_own() -> None:
    from camserve.engine import Diagnostic

    listed = {"zero_gradient", "saturated", "negative_only", "flat", "nonfinite_retried"}
    assert {str(one) for one in Diagnostic} == listed | {"nonfinite"}


def test_every_method_and_precision_is_the_engines() -> None:
    from camserve.engine.attributions import GRADIENT_METHODS
    from camserve.engine.precision import DTYPES

    assert set(METHODS) == {*GRADIENT_METHODS, "eigencam", "scorecam", "ablationcam"}
    assert set(DTYPES) == set(PRECISIONS)


def test_every_source_has_a_loader() -> None:
    from workers import sources

    text = Path(sources.__file__).read_text()
    *named, last = SOURCES
    assert all(f'case "{kind}":' in text for kind in named)
    assert f"load_{last}" in text


def test_each_target_key_has_its_kind() -> None:
    asked = ExplanationRequest.model_validate(
        {
            "model": "m",
            "targets": [
                {"class_index": [1, 2]},
                {"class_label": "a"},
                {"top": 3},
                {"reduction": "sum"},
                {"expression": "x[0]"},
            ],
        }
    )
    assert [target.count for target in asked.targets] == [2, 1, 3, 1, 1]
    assert [next(iter(type(t).model_fields)) for t in asked.targets] == list(targets.TARGET_KEYS)
    again = ExplanationRequest.model_validate(asked.model_dump())
    assert again == asked
