"""Captum's calls in docs/conventions.md: each is run, and compared with our request."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam

from camserve.settings import Settings
from tests.service import ROOT, Service
from workers.repository import scan
from workers.sources import load

PAGE = (ROOT / "docs" / "conventions.md").read_text("utf-8")
Call = Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]


def attribute(forward: Any, model: Any, x: torch.Tensor, **options: Any) -> torch.Tensor:
    return LayerGradCam(forward, model.get_submodule("stage3")).attribute(x, **options)


def enlarged(model: Any, x: torch.Tensor, *mode: str) -> torch.Tensor:
    small = attribute(model, model, x, target=3)
    return LayerAttribution.interpolate(small, tuple(x.shape[-2:]), *mode)


CALLS: dict[str, Call] = {
    "LayerGradCam(model, layer).attribute(x, target=3)": lambda m, x: attribute(m, m, x, target=3),
    "….attribute(x, target=3, relu_attributions=True)": lambda m, x: attribute(
        m, m, x, target=3, relu_attributions=True
    ),
    "LayerAttribution.interpolate(attribution, (h, w))": enlarged,
    'LayerAttribution.interpolate(attribution, (h, w), "bilinear")': lambda m, x: enlarged(
        m, x, "bilinear"
    ),
    "LayerGradCam(lambda x: model(x).softmax(1), layer).attribute(x, target=3)": lambda m, x: (
        attribute(lambda y: m(y).softmax(1), m, x, target=3)
    ),
    "LayerGradCam(lambda x: (y := model(x))[:, 3] - y[:, 5], layer).attribute(x)": lambda m, x: (
        attribute(lambda one: (y := m(one))[:, 3] - y[:, 5], m, x)
    ),
}


def rows() -> dict[str, dict[str, str]]:
    """Captum's call: the fields of our request, as the page has them."""
    section = PAGE.split("### Captum")[1].split("###")[0]
    found = re.findall(r"^\| `(.*?)` \| (`.*) \|$", section, re.MULTILINE)
    return {
        call: dict(field.split("=", 1) for field in re.findall(r"`([^`]+)`", fields))
        for call, fields in found
    }


def test_each_row_is_run() -> None:
    assert rows().keys() == CALLS.keys()


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return load(scan(ROOT / "models").entries["shapes"], Settings()).module.eval()


@pytest.mark.parametrize("call", CALLS)
def test_our_request_gives_what_captum_gives(
    service: Service, model: torch.nn.Module, call: str
) -> None:
    dice = torch.Generator().manual_seed(1)
    with service.client() as client:
        card = client.get("/v1/models/shapes").json()["input"]
        x = torch.randn(1, 3, card["height"], card["width"], generator=dice)
        file = io.BytesIO()
        np.save(file, x.numpy())
        response = client.post(
            "/v1/explanations",
            params={"model": "shapes", "as": "npy", **rows()[call]},
            content=file.getvalue(),
            headers={"Content-Type": "application/x-npy"},
        )
    assert response.status_code == 200, response.text
    ours = np.load(io.BytesIO(response.content))
    theirs = CALLS[call](model, x).detach().numpy()[0, 0]
    assert ours.shape == theirs.shape
    scale = np.abs(theirs).max()
    assert scale > 0
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=2e-5)
