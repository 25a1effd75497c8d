"""What is wrong with a region or a reference is told in the words of the request."""

from __future__ import annotations

from typing import Any

import pytest

from app.documents import validated
from camserve.contracts.requests import ExplanationRequest
from camserve.errors import InvalidRequest
from camserve.settings import Settings


def refused(**params: Any) -> tuple[str, str]:
    """Field and detail of the problem."""
    reduction = "similarity" if "reference" in params else "segmentation"
    target = {"reduction": reduction, "params": params}
    with pytest.raises(InvalidRequest) as caught:
        validated({"model": "m", "targets": [target]}, Settings(), ExplanationRequest)
    return caught.value.extensions["field"], str(caught.value)


NO_REGION: list[Any] = [
    {"boxx": [1, 2, 3, 4]},
    {"box": [1, 2, 3, 4], "point": [1, 2]},
    {},
    "predict",
    3,
    [1, 2, 3, 4],
]


@pytest.mark.parametrize("region", NO_REGION)
def test_what_is_no_region_is_told_what_one_is(region: Any) -> None:
    field, detail = refused(class_index=1, region=region)
    assert field == "targets.0.params.region"
    assert "'predicted', 'all'" in detail
    assert "exactly one of box, point, mask" in detail
    assert "did you mean" not in detail


@pytest.mark.parametrize(
    ("region", "field"),
    [
        ({"box": [1]}, "box"),
        ({"box": "a"}, "box"),
        ({"point": [-1, 2]}, "point.0"),
        ({"mask": {"base64": 1}}, "mask.base64"),
        ({"mask": {"b64": ""}}, "mask.b64"),
        ({"box": [1, 2, 3, 4], "colour": 1}, "colour"),
    ],
)
def test_the_field_is_the_one_that_was_sent(region: Any, field: str) -> None:
    assert refused(class_index=1, region=region)[0] == f"targets.0.params.region.{field}"


@pytest.mark.parametrize("reference", ["cat", 3, True])
def test_what_is_no_reference_is_told_what_one_is(reference: Any) -> None:
    field, detail = refused(reference=reference)
    assert field == "targets.0.params.reference"
    assert "a list of numbers" in detail
    assert '{"input": 1}' in detail


@pytest.mark.parametrize(
    ("reference", "field"), [({"input": -1}, "input"), ({"imput": 1}, "imput"), (["a"], "0")]
)
def test_the_field_of_a_reference_is_the_one_that_was_sent(reference: Any, field: str) -> None:
    assert refused(reference=reference)[0] == f"targets.0.params.reference.{field}"


def test_a_field_of_another_kind_of_input_is_not_taken_for_itself() -> None:
    document = {"model": "m", "inputs": [{"image": {"base64": ""}, "format": "SSC"}]}
    with pytest.raises(InvalidRequest, match="format does not go with the other") as caught:
        validated(document, Settings(), ExplanationRequest)
    assert caught.value.extensions["field"] == "inputs.0.format"
