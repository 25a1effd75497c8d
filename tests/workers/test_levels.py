"""Pictures reach a worker as grey levels, and the network as its own preprocessing has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from camserve.contracts.input_specs import PictureSpec, TensorSpec
from camserve.errors import InvalidInput
from tests.workers.cards import entry_of, factory_card, settings, write_model
from tests.workers.jobs import compute_job, read, run
from workers.levels import network_input
from workers.models import ResidentModel, load_model

MEAN, STD = 0.3, 0.7


@pytest.fixture
def model(tmp_path: Path) -> ResidentModel:
    card = factory_card() + f"mean = [{MEAN}]\nstd = [{STD}]\n"
    return load_model(entry_of(write_model(tmp_path, "tiny", card)), "cpu", settings())


def levels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, 8, 8), dtype=np.uint8)


def test_a_map_of_grey_levels_is_that_of_the_numbers(model: ResidentModel) -> None:
    """By hand, in float64. Both share a forward pass: only the way there differs."""
    sent = levels(0)
    numbers = ((sent.astype(np.float64) / 255 - MEAN) / STD).astype(np.float32)
    results = run(
        model,
        compute_job("levels", torch.from_numpy(sent)),
        compute_job("numbers", torch.from_numpy(numbers)),
    )
    (about, (levels_map,)), (_, (numbers_map,)) = map(read, results)
    assert about.batch_size == 2
    assert levels_map.abs().max() > 0
    torch.testing.assert_close(levels_map, numbers_map, rtol=1e-5, atol=1e-7)


def test_each_channel_has_its_own_mean_whatever_the_order() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.5, 2.5)
    expected = (pixels / 255.0 - mean) / std
    common = {"height": 4, "width": 5, "mean": mean, "std": std}
    last = network_input(torch.from_numpy(pixels), PictureSpec(format="BSSC", **common))
    first = network_input(
        torch.from_numpy(pixels.transpose(2, 0, 1).copy()), PictureSpec(format="BCSS", **common)
    )
    assert last.dtype == first.dtype == torch.float32
    np.testing.assert_allclose(last.numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(first.numpy(), expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)


def test_what_was_sent_is_left_as_it_is() -> None:
    """It may be staged, or belong to another job too."""
    sent = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8)
    kept = sent.clone()
    network_input(sent, PictureSpec(height=8, width=8, colors="L", mean=(0.5,)))
    assert torch.equal(sent, kept)


@pytest.mark.parametrize("spec", [None, TensorSpec(format="BCS", shape=(1, 8))])
def test_levels_for_a_model_of_arrays_are_refused(spec: TensorSpec | None) -> None:
    with pytest.raises(InvalidInput, match="takes no pictures"):
        network_input(torch.zeros(1, 8, dtype=torch.uint8), spec)
