"""Targets held against the model's card: named reductions, the card's own, references, devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.layers import reduction_layer
from app.targets import default_targets, resolve_targets
from camserve.contracts.cards import ResolvedCard
from camserve.contracts.jobs import ScalarTarget
from camserve.contracts.requests import ExplanationRequest
from camserve.errors import InvalidRequest
from tests.app.front import CARD, Front, png, problem

pytestmark = pytest.mark.anyio

URL = "/v1/explanations"
OWN = CARD.model_copy(update={"reductions": {"tilt": "x[0] - x[1]", "total": "sum(x)"}})
MULTI = CARD.model_copy(update={"task": "multi-label"})
EMBEDDING = CARD.model_copy(
    update={"task": "embedding", "classes": None, "labels": (), "output_shape": (4,)}
)


def request(*targets: dict[str, Any], **others: Any) -> ExplanationRequest:
    return ExplanationRequest.model_validate({"model": "toy", "targets": targets, **others})


def resolved(card: ResolvedCard, *targets: dict[str, Any]) -> Any:
    return resolve_targets(request(*targets).targets, card)


def test_a_cards_own_reduction_is_its_expression_under_its_name() -> None:
    found = resolved(OWN, {"reduction": "tilt"}, {"reduction": "sum"})
    assert found == (
        ScalarTarget(reduction="tilt", expression="x[0] - x[1]"),
        ScalarTarget(reduction="sum"),
    )


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ({"reduction": "tilt", "params": {"class_index": 1}}, "'x[0] - x[1]': it takes no params"),
        ({"reduction": "tilted"}, "did you mean 'tilt'?"),
        ({"reduction": "nonsense"}, "there are class_score, "),
        ({"reduction": "nonsense"}, ", tilt, total"),
    ],
)
def test_what_is_wrong_with_a_cards_own(target: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolved(OWN, target)
    assert told in str(caught.value)
    with pytest.raises(InvalidRequest, match="there is no reduction 'tilt'"):
        resolved(CARD, {"reduction": "tilt"})


async def test_a_cards_own_reduction_through_http(front: Front) -> None:
    await front.publish(OWN)
    response, job, _ = await front.done(front.post(params={"reduction": "tilt"}))
    (target,) = job.targets
    assert (target.reduction, target.expression) == ("tilt", "x[0] - x[1]")
    shown = response.json()["results"][0]["target"]
    assert (shown["reduction"], shown["expression"]) == ("tilt", "x[0] - x[1]")
    assert shown["class_index"] is None


async def test_an_expression_through_http(front: Front) -> None:
    response, job, _ = await front.done(front.post(params={"expression": "x[3] - x[1]"}))
    assert job.targets == (ScalarTarget(expression="x[3] - x[1]"),)
    assert response.json()["results"][0]["target"]["expression"] == "x[3] - x[1]"
    refused = await front.post(params={"expression": "x[3] - y"})
    document = problem(refused, 422, "invalid_expression")
    assert (document["column"], document["expression"]) == (8, "x[3] - y")


LOG_ODDS = {"reduction": "log_odds", "params": {"class_index": 1}}
ENTROPY = {"reduction": "entropy"}


def layer_of(card: ResolvedCard, *targets: dict[str, Any], **others: Any) -> str | None:
    asked = request(*targets, **others)
    return reduction_layer(asked, resolve_targets(asked.targets, card), card)


def test_log_odds_of_several_labels_are_those_of_the_sigmoid() -> None:
    """A softmax over labels that exclude each other not would be another number."""
    assert layer_of(MULTI, LOG_ODDS) == "sigmoid"
    assert layer_of(MULTI, LOG_ODDS, ENTROPY) == "sigmoid"
    assert layer_of(MULTI, {"class_index": 1}) is None
    assert layer_of(CARD, LOG_ODDS) is None
    # what the request itself names overrules it
    for layer in ("sigmoid", "softmax", "head", "output"):
        assert layer_of(MULTI, LOG_ODDS, reduction_layer=layer) == layer
    # and a mixture would need two layers
    with pytest.raises(InvalidRequest, match="a request of their own") as caught:
        layer_of(MULTI, LOG_ODDS, {"class_index": 1})
    assert caught.value.extensions["field"] == "reduction_layer"
    probabilities = MULTI.model_copy(update={"scores": "probabilities"})
    with pytest.raises(InvalidRequest, match="gives probabilities"):
        layer_of(probabilities, LOG_ODDS)


@pytest.mark.parametrize(
    ("task", "scores", "layer"),
    [
        ("classification", "logits", "softmax"),
        ("segmentation", "logits", "softmax"),
        ("multi-label", "logits", "sigmoid"),
        ("regression", "logits", None),
        ("embedding", "logits", None),
        ("classification", "probabilities", None),
    ],
)
def test_matlabs_convention_differentiates_probabilities(
    task: Any, scores: Any, layer: str | None
) -> None:
    card = CARD.model_copy(update={"task": task, "scores": scores})
    assert layer_of(card, {"class_index": 1}, convention="matlab") == layer
    assert layer_of(card, {"class_index": 1}, convention="paper") is None


def test_what_is_explained_by_default() -> None:
    assert [target.model_dump() for target in default_targets(CARD)] == [{"top": 1}]
    (norm,) = default_targets(EMBEDDING)
    assert norm.reduction == "norm"


async def test_similarity_with_a_vector(front: Front) -> None:
    await front.publish(EMBEDDING)
    vector = [0.5, -1.25, 0.0, 3.0]
    target = {"reduction": "similarity", "params": {"reference": vector}}
    document = {"model": "toy", "inputs": [image()], "targets": [ENTROPY, target]}
    response, job, tensors = await front.done(front.client.post(URL, json=document))
    assert response.status_code == 200, response.text
    assert sorted(tensors) == ["input.0", "reference.1"]
    assert tensors["reference.1"].dtype == np.float32
    assert tensors["reference.1"].tolist() == vector
    assert job.targets[1] == ScalarTarget(reduction="similarity", reference="given")


async def test_similarity_with_another_input(front: Front) -> None:
    await front.publish(EMBEDDING)
    target = {"reduction": "similarity", "params": {"reference": {"input": 1}}}
    document = {"model": "toy", "inputs": [image(), image()], "targets": [target]}
    response, job, tensors = await front.done(front.client.post(URL, json=document))
    assert response.status_code == 200, response.text
    assert sorted(tensors) == ["input.0", "input.1"]
    assert job.targets == (ScalarTarget(reduction="similarity", reference=1),)


async def test_a_reference_counts_the_inputs_of_a_dimension_b(front: Front) -> None:
    target = {"reduction": "similarity", "params": {"reference": {"input": 2}}}
    batch = np.zeros((3, 3, 32, 32)).tolist()
    document = {"model": "toy", "format": "BCSS", "inputs": [{"tensor": {"data": batch}}]}
    _, job, tensors = await front.done(
        front.client.post(URL, json=document | {"targets": [target]})
    )
    assert job.targets[0].reference == 2
    assert len(tensors) == 3


REFERENCES: list[tuple[Any, str, str]] = [
    ({"input": 2}, "the request has inputs 0 to 1", "params.reference.input"),
    ([1e300, 1.0], "too large for float32", "params.reference"),
    ([0.0, 0.0], "0 everywhere", "params.reference"),
]


@pytest.mark.parametrize(("reference", "told", "field"), REFERENCES)
async def test_a_reference_that_is_none(
    front: Front, reference: Any, told: str, field: str
) -> None:
    target = {"reduction": "similarity", "params": {"reference": reference}}
    document = {"model": "toy", "inputs": [image(), image()], "targets": [{"top": 1}, target]}
    found = problem(await front.client.post(URL, json=document), 422, "invalid_request")
    assert told in found["detail"]
    assert (found["field"], found["target"]) == (field, 1)


@pytest.mark.parametrize("reference", [[], ["x"], [None], {"input": -1}, {"input": 0.5}, "cat", 3])
async def test_a_reference_of_another_kind(front: Front, reference: Any) -> None:
    target = {"reduction": "similarity", "params": {"reference": reference}}
    document = {"model": "toy", "inputs": [image()], "targets": [target]}
    found = problem(await front.client.post(URL, json=document), 422, "invalid_request")
    assert found["field"].startswith("targets.0.params.reference")


def image() -> dict[str, Any]:
    import base64

    return {"image": {"base64": base64.b64encode(png()).decode()}}


@pytest.mark.parametrize("execution", ["cuda", "cuda:0", "cuda:7"])
async def test_a_device_that_no_worker_has(front: Front, execution: str) -> None:
    document = problem(await front.post(params={"execution": execution}), 503, "no_worker")
    assert f"no live worker serves model 'toy' on {execution}" in document["detail"]
    assert document["devices"] == ["cpu"]
    assert not await front.worker.claim(["toy"], 1, 0.05)
    for fine in ("auto", "cpu"):
        response, _, _ = await front.done(front.post(params={"execution": fine}))
        assert response.status_code == 200
