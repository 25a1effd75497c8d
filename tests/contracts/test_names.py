"""Names are written twice, in the contracts and where they are meant: they must be equal."""

from __future__ import annotations

from typing import get_args

import pytest

from app.targets import VIRTUAL_LAYERS
from camserve.contracts import options, targets
from camserve.contracts.cards import InputSpec, WorkerStatus
from camserve.contracts.requests import ExplanationRequest
from camserve.errors import InvalidRequest
from camserve.maps.colormaps import COLORMAPS, DEFAULT_COLORMAP
from camserve.maps.conventions import CONVENTIONS
from camserve.maps.overlay import DEFAULT_ALPHA, VIEWS
from camserve.maps.resample import METHODS
from camserve.maps.resizing import RESIZE_MODES

PAIRS = [
    (options.Convention, CONVENTIONS),
    (options.Upsampling, METHODS),
    (options.Colormap, COLORMAPS),
    (options.View, VIEWS),
    (InputSpec.model_fields["resize"].annotation, RESIZE_MODES),
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

    assert set(get_args(InputSpec.model_fields["filter"].annotation)) == set(_FILTERS)
    assert {name: value.name.lower() for name, value in _FILTERS.items()} == {
        n: n for n in _FILTERS
    }


def test_reductions_and_their_parameters_are_those_of_the_engine() -> None:
    from camserve.engine import REDUCTIONS, Reduction

    assert get_args(targets.ReductionName) == tuple(REDUCTIONS)
    parameters = {
        name for facts in REDUCTIONS.values() for name in (*facts.required, *facts.optional)
    }
    assert set(targets.ReductionParameters.model_fields) == parameters
    Reduction("sum", **targets.ReductionParameters().model_dump())


def test_each_reduction_takes_what_the_engine_takes() -> None:
    from camserve.engine import REDUCTIONS

    assert {
        name: (takes.required, takes.optional)
        for name, takes in targets.REDUCTION_PARAMETERS.items()
    } == {name: (facts.required, facts.optional) for name, facts in REDUCTIONS.items()}


def test_reductions_of_the_contract_pass_the_engines_check() -> None:
    from camserve.engine import REDUCTIONS, Reduction
    from camserve.engine.reductions import check_reduction

    for name, facts in REDUCTIONS.items():
        params = targets.ReductionParameters(**dict.fromkeys(facts.required, 1))
        check_reduction(Reduction(name, **params.model_dump()))
    with pytest.raises(InvalidRequest):
        check_reduction(Reduction("class_score"))


def test_virtual_layers_are_those_of_the_engine() -> None:
    from camserve.engine import scores

    known = {
        value
        for name, group in vars(scores).items()
        if name.isupper() and isinstance(group, tuple)
        for value in group
    }
    assert set(VIRTUAL_LAYERS) <= known


def test_each_target_key_has_its_kind() -> None:
    asked = ExplanationRequest.model_validate(
        {
            "model": "m",
            "targets": [
                {"class_index": [1, 2]},
                {"class_label": "a"},
                {"top": 3},
                {"reduction": "sum"},
            ],
        }
    )
    assert [target.count for target in asked.targets] == [2, 1, 3, 1]
    assert [next(iter(type(t).model_fields)) for t in asked.targets] == list(targets.TARGET_KEYS)
    again = ExplanationRequest.model_validate(asked.model_dump())
    assert again == asked


def test_reductions_of_logits_are_those_of_the_engine() -> None:
    from camserve.engine.reductions import ON_LOGITS

    assert set(targets.REDUCTIONS_OF_LOGITS) == ON_LOGITS
