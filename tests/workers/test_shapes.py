"""What the shape of a network's input tells: the rules that `export:` and `onnx:` share."""

from __future__ import annotations

from typing import Any

import pytest

from camserve.contracts.input_specs import PROBE_SIZE, PictureSpec, TensorSpec
from camserve.errors import UnsupportedModel
from workers.sources.shapes import input_fields


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((None, 3, 64, 48), {"height": 64, "width": 48}),
        ((1, 1, 64, 48), {"height": 64, "width": 48, "colors": "L"}),
        ((None, 64, 48, 3), {"height": 64, "width": 48, "format": "BSSC"}),
        ((None, 28, 28, 1), {"height": 28, "width": 28, "colors": "L", "format": "BSSC"}),
        ((None, 3, 64, 3), {"height": 64, "width": 3}),  # channels first, if both could be
        ((None, 3, None, 48), {"width": 48}),
        ((None, None, None, 3), {"format": "BSSC"}),
        ((None, 5, 64, None), {"format": "BCSS", "shape": [5, 64, 0]}),
        ((None, None, None, 13), {"format": "BSSC", "shape": [0, 0, 13]}),
        ((None, 12, None), {"format": "BCT", "shape": [12, 0]}),
        ((None, 12, 100), {"format": "BCT", "shape": [12, 100]}),
        ((None, None, 12), {"format": "BTC", "shape": [0, 12]}),
        ((None, 1, 32, 32, 32), {"format": "BCSSS", "shape": [1, 32, 32, 32]}),
        ((None, 32, 32, 32, 1), {"format": "BSSSC", "shape": [32, 32, 32, 1]}),
        ((), {}),
    ],
)
def test_input_fields(shape: tuple[int | None, ...], expected: dict[str, Any]) -> None:
    fields = input_fields(shape, model="m")
    assert fields == expected
    if "shape" in fields:
        TensorSpec.model_validate(fields)
    elif fields.keys() >= {"height", "width"}:
        PictureSpec.model_validate(fields)


def test_a_probe_for_free_sizes() -> None:
    fields = input_fields((None, 4, None, None), model="m", probe=(None, None, 90, None))
    assert fields["probe"] == [4, 90, PROBE_SIZE]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((8, 3, 4, 4), "batches of exactly 8.*a free batch size.*or of 1"),
        ((None, 7), "2 dimensions.*there is nothing spatial"),
        ((None,), "1 dimensions.*there is nothing spatial"),
        ((None, 1, 2, 3, 4, 5), "6 dimensions.*too many"),
    ],
)
def test_what_cannot_be_explained(shape: tuple[int | None, ...], reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        input_fields(shape, model="m")
