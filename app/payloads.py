"""The tensors that travel with a job: inputs, regions, references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.arrays import as_finite_float32
from app.inputs import PreparedInput
from app.regions import Regions
from camserve.contracts.jobs import input_name, reference_name, region_name
from camserve.contracts.reductions import Reference
from camserve.contracts.targets import ReductionTarget, Target
from camserve.errors import CamserveError, InvalidInput, InvalidRequest
from camserve.settings import Settings

__all__ = ["payload_tensors"]


def payload_tensors(
    targets: Sequence[Target], inputs: Sequence[PreparedInput], settings: Settings
) -> dict[str, NDArray[Any]]:
    """By name, as `camserve.contracts.jobs` has them. Runs in a thread.

    Raises InvalidRequest for a region that misses an input, or a reference to no input.
    """
    tensors: dict[str, NDArray[Any]] = {
        input_name(index): one.tensor for index, one in enumerate(inputs)
    }
    regions = Regions(settings)
    for number, target in enumerate(targets):
        if not isinstance(target, ReductionTarget):
            continue
        try:
            tensors |= _of_reduction(number, target, inputs, regions)
        except CamserveError as error:
            error.extensions["target"] = number
            raise
    return tensors


def _of_reduction(
    number: int, target: ReductionTarget, inputs: Sequence[PreparedInput], regions: Regions
) -> dict[str, NDArray[Any]]:
    region, reference = target.params.region, target.params.reference
    tensors: dict[str, NDArray[Any]] = {}
    if region is not None and not isinstance(region, str):
        for index, one in enumerate(inputs):
            try:
                tensors[region_name(number, index)] = regions.on(one.geometry, region)
            except CamserveError as error:
                error.extensions["input"] = index
                raise
    if isinstance(reference, Reference):
        if reference.input >= len(inputs):
            last = len(inputs) - 1
            known = f"inputs 0 to {last}" if last else "one input, number 0"
            raise InvalidRequest(
                f"there is no input {reference.input} to compare with: the request has {known}",
                field="params.reference.input",
                maximum=last,
            )
    elif reference is not None:
        tensors[reference_name(number)] = _vector(reference)
    return tensors


def _vector(reference: Sequence[float]) -> NDArray[np.float32]:
    try:
        vector = as_finite_float32(np.array(reference))
    except InvalidInput as error:
        raise InvalidRequest(
            "a number of the reference is too large for float32", field="params.reference"
        ) from error
    if not vector.any():
        raise InvalidRequest(
            "the reference is 0 everywhere, and has no direction to compare with",
            field="params.reference",
        )
    return vector
