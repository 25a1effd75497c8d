"""A worker proves that its device can explain before it takes jobs."""

from __future__ import annotations

import pytest
import torch
from transformers.initialization import no_init_weights

from camserve import engine
from workers import warm_up as module
from workers.warm_up import warm_up


def test_the_cpu_can_explain() -> None:
    warm_up("cpu")


def test_a_model_that_is_built_beside_it_does_not_disturb() -> None:
    with no_init_weights():  # as from_pretrained does, for all threads
        torch.set_default_dtype(torch.bfloat16)
        try:
            warm_up("cpu")
        finally:
            torch.set_default_dtype(torch.float32)


def test_a_device_that_is_missing_is_an_error() -> None:
    with pytest.raises((RuntimeError, AssertionError)):
        warm_up(f"cuda:{torch.cuda.device_count()}")


def test_a_device_that_computes_wrongly_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Off(engine.Explainer):
        def explain(self, inputs: torch.Tensor, *args: object, **names: object) -> list:  # type: ignore[override]
            return super().explain(inputs * 1.01, *args, **names)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "Explainer", Off)
    with pytest.raises(RuntimeError, match="wrong maps"):
        warm_up("cpu")
