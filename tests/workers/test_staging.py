"""Payloads that are read ahead are what was sent, wherever their inputs are by then."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from camserve.contracts.jobs import input_name, region_name
from tests.workers.jobs import noise
from workers.staging import Staging

SENT = {input_name(0): noise(0), input_name(1): noise(1), region_name(0, 0): torch.ones(8, 8)}


def as_sent(found: dict[str, Tensor]) -> bool:
    return found.keys() == SENT.keys() and all(torch.equal(found[n].cpu(), SENT[n]) for n in SENT)


def test_on_a_cpu_it_is_only_read() -> None:
    staging = Staging("cpu")
    staged = staging.read(save(SENT))
    assert staged is not None
    assert as_sent(dict(staged.tensors()))
    assert staging.read(save(SENT)[:-1]) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_real_gpu_has_the_inputs_before_they_are_needed() -> None:  # pragma: no cover
    staging = Staging("cuda:0")
    staged = staging.read(save(SENT))
    assert staged is not None
    found = dict(staged.tensors())
    assert {name for name in SENT if found[name].is_cuda} == {input_name(0), input_name(1)}
    assert as_sent(found)
    del staged, found
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction(0.0)
        crowded = staging.read(save(SENT))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert crowded is not None
    assert as_sent(dict(crowded.tensors()))
