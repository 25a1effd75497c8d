"""Jobs that compute the same have one digest, and no others: each field is on one side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from camserve.contracts import computations
from camserve.contracts.computations import DECIDING, PRESENTING, computation_digest
from camserve.contracts.jobs import Job, JobInput, ScalarTarget
from camserve.contracts.methods import Evaluate, MethodOptions
from camserve.contracts.options import OutputOptions

JOB = Job.model_validate_json((Path(__file__).parent / "examples" / "Job.json").read_text("utf-8"))

# a value of each field that is another one than that of the example
OTHERS: dict[str, Any] = {
    "version": 2,
    "kind": "predict",
    "model": "other",
    "model_version": "other",
    "model_interface": "other",
    "inputs": (JobInput(name="other", shape=(3, 1, 1), geometry={}),),
    "targets": (ScalarTarget(expression="x[1]"),),
    "method": "gradcam++",
    "method_options": MethodOptions(comparisons=1),
    "feature_layers": ("other",),
    "feature_format": "BTC",
    "reduction_layer": "sigmoid",
    "precision": "float16",
    "evaluate": Evaluate(metrics=("deletion",), steps=7),
    "convention": "captum",
    "upsampling": "nearest",
    "fusion": "mean",
    "output": OutputOptions(size="77"),
    "request_id": "other",
    "traceparent": "other",
    "tracestate": "other",
    "webhook": "https://other.example.com",
    "input_digest": "0" * 64,
    "replay_of": "other",
    "caching": "use",
}


def test_every_field_is_on_one_side() -> None:
    """A new one must be put where it belongs, or results would answer what they do not."""
    assert set(Job.model_fields) == DECIDING | PRESENTING
    assert not DECIDING & PRESENTING
    assert set(OTHERS) == set(Job.model_fields)


@pytest.mark.parametrize("field", sorted(Job.model_fields))
def test_what_a_field_decides(field: str) -> None:
    assert OTHERS[field] != getattr(JOB, field)
    other = JOB.model_copy(update={field: OTHERS[field]})
    assert (computation_digest(other) != computation_digest(JOB)) == (field in DECIDING)


def test_targets_of_one_class_by_index_and_by_scalar_differ() -> None:
    first, second = ScalarTarget(reduction="class_score", class_index=1), ScalarTarget(index=1)
    digests = {
        computation_digest(JOB.model_copy(update={"targets": targets}))
        for targets in ((first,), (second,), (first, second), (second, first))
    }
    assert len(digests) == 4


def test_a_document_that_was_sent_has_the_digest_of_the_one_that_was_made() -> None:
    sent = Job.model_validate_json(JOB.model_dump_json())
    assert computation_digest(sent) == computation_digest(JOB)


def test_another_camserve_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = computation_digest(JOB)
    monkeypatch.setattr(computations, "__version__", "0.0.0")
    assert computation_digest(JOB) != digest


def test_without_a_digest_of_the_input_there_is_none() -> None:
    assert computation_digest(JOB.model_copy(update={"input_digest": None})) is None
