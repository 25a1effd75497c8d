"""One committed example of each message: a change of the wire is seen, and meant.

A message that changes on purpose gets its example changed in the same commit; what is stored in a
queue during a rolling update must still be read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from camserve.contracts.base import Message
from camserve.contracts.cards import ResolvedCard, WorkerStatus
from camserve.contracts.dead_letters import DeadLetterList, Purged
from camserve.contracts.deliveries import DeliveryOutcome
from camserve.contracts.explanations import Explanation, ExplanationList
from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import Job, JobResult, PredictionResult
from camserve.contracts.predictions import Prediction
from camserve.contracts.requests import ExplanationRequest, PredictionRequest
from camserve.contracts.webhooks import WebhookEvent
from camserve.contracts.wire import METADATA_KEY, metadata_of, tensors_of
from camserve.errors import ErrorCode, ModelUnavailable

EXAMPLES = Path(__file__).parent / "examples"
MESSAGES: list[type[Message]] = [
    Job,
    JobResult,
    ResolvedCard,
    WorkerStatus,
    FailureMessage,
    Explanation,
    ExplanationList,
    ExplanationRequest,
    PredictionRequest,
    PredictionResult,
    Prediction,
    WebhookEvent,
    DeliveryOutcome,
    DeadLetterList,
    Purged,
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_the_example_is_read_and_written_as_it_is(message: type[Message]) -> None:
    text = (EXAMPLES / f"{message.__name__}.json").read_text("utf-8")
    parsed = message.model_validate_json(text)
    assert json.loads(parsed.model_dump_json()) == json.loads(text)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_the_example_shows_every_field(message: type[Message]) -> None:
    document = json.loads((EXAMPLES / f"{message.__name__}.json").read_text("utf-8"))
    assert set(document) == set(message.model_fields)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_an_unknown_field_is_refused_and_nothing_changes(message: type[Message]) -> None:
    document = json.loads((EXAMPLES / f"{message.__name__}.json").read_text("utf-8"))
    with pytest.raises(ValidationError, match="extra_forbidden"):
        message.model_validate(document | {"surplus": 1})
    parsed = message.model_validate_json(json.dumps(document))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(parsed, next(iter(message.model_fields)), None)


def test_there_is_no_example_too_many() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.json")}
    assert names == {message.__name__ for message in MESSAGES}


@pytest.mark.parametrize("version", [0, 2, "1"])
def test_another_version_is_refused(version: Any) -> None:
    for message in (Job, JobResult, PredictionResult):
        document = json.loads((EXAMPLES / f"{message.__name__}.json").read_text("utf-8"))
        with pytest.raises(ValidationError, match="version"):
            message.model_validate(document | {"version": version})


def test_a_failure_crosses_the_wire_whole() -> None:
    sent = FailureMessage.of(ModelUnavailable("no hub", retry_after_s=3))
    error = FailureMessage.model_validate_json(sent.model_dump_json()).to_error()
    assert (error.error_code, str(error)) == (ErrorCode.MODEL_UNAVAILABLE, "no hub")
    assert error.extensions == {"retry_after_s": 3}


def test_metadata_of_a_safetensors_buffer() -> None:
    import numpy as np
    from safetensors.numpy import save

    tensors = {"map.0": np.zeros((2, 2), np.float32)}
    assert metadata_of(save(tensors, metadata={METADATA_KEY: '{"é": 1}'})) == '{"é": 1}'
    for wrong, reason in (
        (save(tensors), "no 'camserve'"),
        (b"\x01", "shorter"),
        (b"\xff" * 8 + b"{}", "cut off"),
    ):
        with pytest.raises(ValueError, match=reason):
            metadata_of(wrong)


def test_tensors_of_a_safetensors_buffer_are_views_of_it() -> None:
    import numpy as np
    from safetensors.numpy import save

    sent = {
        "map.0.0": np.arange(6, dtype=np.float32).reshape(2, 3),
        "map.1.0": np.full((1, 2, 2), -1.5, np.float32),
        "region.0.0": np.array([True, False, True]),
    }
    buffer = save(sent, metadata={METADATA_KEY: "{}"})
    found = tensors_of(buffer)
    assert found.keys() == sent.keys()
    for name, dtype, kind in (("map.0.0", "F32", "<f4"), ("map.1.0", "F32", "<f4"),
                              ("region.0.0", "BOOL", "?")):  # fmt: skip
        tensor = found[name]
        assert tensor.dtype == dtype
        assert tensor.data.obj is buffer
        array = np.frombuffer(tensor.data, kind).reshape(tensor.shape)
        np.testing.assert_array_equal(array, sent[name])
    with pytest.raises(ValueError, match="cut off"):
        tensors_of(b"\xff" * 8 + b"{}")
