"""The reference maps of the model zoo, in float32 and float64, through `torch.export` programs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.zoo_programs import explainer, targets_of
from tests.zoo import ZOO, cases, needs_zoo

pytestmark = needs_zoo

MODELS = sorted(path.parent.name for path in ZOO.glob("models/*/card.json"))


def tolerance_of(case: dict[str, Any], dtype: torch.dtype) -> float:
    """Absolute. Where float32 is called unreliable, the softmax in float64 must still give 1e-5."""
    tolerance = case["tolerance"]
    if dtype == torch.float64:
        relative = tolerance["rel_float64"]
    elif tolerance["float32_unreliable"] or tolerance["rel_float32"] is None:
        relative = 1e-5
    else:
        relative = tolerance["rel_float32"]
    return float(relative * tolerance["scale"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case['id']}-{case['model']}")
def test_reference_map(case: dict[str, Any], dtype: torch.dtype) -> None:
    inputs = torch.from_numpy(np.concatenate([np.load(ZOO / file)["x"] for file in case["x"]]))
    reference = np.load(ZOO / case["file"])
    score = case["target"].get("score", "logit") or "logit"
    rows = explainer(case["model"], dtype).explain(
        inputs.to(dtype),
        targets_of(case, len(inputs)),
        method=case["method"],
        feature_layer=case["layer"],
        reduction_layer="output" if score == "logit" else score,
    )
    maps = np.stack([np.stack([a.map.numpy() for a in row]) for row in rows])
    expected = reference["presum"].reshape(maps.shape)
    if case.get("sign_free"):  # a singular vector has no sign of its own
        expected = expected * np.sign((expected * maps).sum())
    assert maps.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert np.abs(maps - expected).max() <= tolerance_of(case, dtype)
    scores = np.array([[a.score for a in row] for row in rows])
    assert scores == pytest.approx(
        reference["score"].reshape(scores.shape), rel=1e-4, abs=1e-4 * np.abs(scores).max()
    )


@pytest.mark.parametrize("model", MODELS)
def test_default_layer_is_found(model: str) -> None:
    card = json.loads((ZOO / "models" / model / "card.json").read_text())
    report = explainer(model, torch.float32).report
    assert report.feature_layer == card["default_layer"]
    assert report.candidates()[0] == card["default_layer"]
    assert report.output_shape == tuple(card["output"]["shape"][1:])
