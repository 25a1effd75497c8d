"""Models as the front end finds them: known, loaded on first use, broken, served by nobody."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from app.targets import resolve_targets
from camserve.broker import Begun
from camserve.contracts.cards import ResolvedCard, ServiceTimes
from camserve.contracts.explanations import ServedCard
from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import Job, ScalarTarget
from camserve.contracts.requests import ExplanationRequest
from camserve.contracts.targets import ReductionTarget
from camserve.errors import CamserveError, InvalidCard, InvalidRequest, ModelUnavailable
from tests.app.front import CARD, Front, problem, running_front

pytestmark = pytest.mark.anyio

DECLARED = CARD.model_copy(update={"state": "declared", "input": None})
HUB = FailureMessage.of(ModelUnavailable("the hub cannot be reached: set HF_ENDPOINT"))


def unavailable(error: CamserveError) -> ResolvedCard:
    return DECLARED.model_copy(update={"state": "unavailable", "problem": FailureMessage.of(error)})


async def load_job(front: Front) -> Begun:
    begun = await front.begin()
    job = Job.model_validate_json(begun.document)
    assert (job.kind, job.model, job.model_version) == ("load", "toy", "v1")
    return begun


async def load(front: Front, card: ResolvedCard = CARD) -> None:
    """A worker that loads the model and publishes what came of it."""
    begun = await load_job(front)
    await front.publish(card)
    if card.problem is None:
        await front.worker.finish(begun, b"")
    else:
        await front.worker.fail(begun, card.problem.model_dump_json().encode())


async def test_no_worker_yet(redis_url: str) -> None:
    async with running_front(redis_url) as front:
        response = await front.post()
        document = problem(response, 503, "no_worker")
        assert "python -m workers" in document["detail"]
        assert int(response.headers["Retry-After"]) > 0


async def test_a_model_whose_card_redis_lost_is_not_unknown(front: Front) -> None:
    """Its workers publish it again with their next heartbeat, or a moment after it."""
    await front.redis.delete("cam:models")
    assert "'toy'" in problem(await front.post(), 503, "no_worker")["detail"]
    problem(await front.post(params={"model": "other"}), 404, "model_not_found")


async def test_an_unknown_model_names_the_near_ones(front: Front) -> None:
    document = problem(await front.post(params={"model": "toi"}), 404, "model_not_found")
    assert document["near"] == ["toy"]
    assert "did you mean 'toy'?" in document["detail"]
    document = problem(await front.post(params={"model": "resnet"}), 404, "model_not_found")
    assert "there are 'toy'" in document["detail"]
    problem(await front.client.get("/v1/models/resnet"), 404, "model_not_found")


async def test_a_card_that_no_live_worker_serves(redis_url: str) -> None:
    async with running_front(redis_url) as front:
        await front.publish(served=False)
        assert "'toy'" in problem(await front.post(), 503, "no_worker")["detail"]
        await front.publish(unavailable(InvalidCard("labels are missing")), served=False)
        assert "labels" in problem(await front.post(), 503, "invalid_card")["detail"]


async def test_first_use_loads_the_model_once_for_all(redis_url: str) -> None:
    async with running_front(redis_url) as front:
        await front.publish(DECLARED)

        async def worker() -> None:
            await load(front)
            await asyncio.gather(front.work(), front.work())

        first, second, _ = await asyncio.gather(front.post(), front.post(), worker())
        assert (first.status_code, second.status_code) == (200, 200), first.text


async def test_a_load_that_takes_long_is_503_with_a_time(redis_url: str) -> None:
    async with running_front(redis_url, sync_wait_s=0.2) as front:
        await front.publish(DECLARED)
        response = await front.post()
        document = problem(response, 503, "model_loading")
        assert int(response.headers["Retry-After"]) == document["retry_after_s"]
        problem(await front.post(), 503, "model_loading")  # joins the same load
        await load(front)
        assert not await front.worker.claim(["toy"], 1, 0.2), "a second load was asked for"
        await asyncio.sleep(0.1)
        assert (await front.post(headers={"Prefer": "respond-async"})).status_code == 202


async def test_a_load_is_not_waited_for_beyond_the_deadline(front: Front) -> None:
    await front.publish(DECLARED)
    async with asyncio.timeout(60):
        problem(await front.post(params={"deadline_ms": 200}), 503, "model_loading")


async def test_a_failed_load_tells_why_and_rests(redis_url: str) -> None:
    async with running_front(redis_url, retry_load_s=1000) as front:
        await front.publish(DECLARED)
        broken = unavailable(ModelUnavailable(HUB.detail))
        response, _ = await asyncio.gather(front.post(), load(front, broken))
        document = problem(response, 503, "model_unavailable")
        assert "HF_ENDPOINT" in document["detail"]
        assert (document["retry_after_s"], response.headers["Retry-After"]) == (1000, "1000")

        problem(await front.post(), 503, "model_unavailable")
        assert not await front.worker.claim(["toy"], 1, 0.1), "tried again too early"

    async with running_front(redis_url, retry_load_s=0.01) as front:
        await asyncio.gather(front.post(), load(front, broken))
        await asyncio.sleep(0.02)
        response, _ = await asyncio.gather(
            front.post(headers={"Prefer": "respond-async"}), load(front)
        )
        assert response.status_code == 202, response.text


async def test_how_long_a_failed_load_still_rests(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_front(redis_url, retry_load_s=1000) as front:
        await front.publish(DECLARED)
        broken = unavailable(ModelUnavailable(HUB.detail))
        response, _ = await asyncio.gather(front.post(), load(front, broken))
        assert problem(response, 503, "model_unavailable")["retry_after_s"] == 1000
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + 700)
        monkeypatch.setattr("app.catalog.time", later)
        told_s = problem(await front.post(), 503, "model_unavailable")["retry_after_s"]
        assert 0 < told_s <= 300


async def test_a_wrong_card_is_not_tried_again(redis_url: str) -> None:
    async with running_front(redis_url, retry_load_s=0.1) as front:
        await front.publish(unavailable(InvalidCard("the card lacks labels")))
        for _ in range(2):
            document = problem(await front.post(), 503, "invalid_card")
            assert "retry_after_s" not in document
            await asyncio.sleep(0.15)
        assert not await front.worker.claim(["toy"], 1, 0.1)


async def test_a_load_that_expires_leaves_a_model_unavailable(redis_url: str) -> None:
    async with running_front(redis_url, load_time_limit_s=0.1, lease_s=0.2) as front:
        await front.publish(DECLARED)
        document = problem(await front.post(), 503, "model_unavailable")
        assert document["retry_after_s"] == 60


async def test_the_list_of_models(front: Front) -> None:
    await front.publish(unavailable(InvalidCard("no")).model_copy(update={"name": "broken"}))
    await front.publish()
    await front.post(headers={"Prefer": "respond-async"})
    models = (await front.client.get("/v1/models")).json()["models"]
    assert [model["name"] for model in models] == ["broken", "toy"]
    broken, toy = models
    assert broken["problem"]["code"] == "invalid_card"
    assert (broken["workers"], broken["ready"], broken["resident_on"]) == (0, False, [])
    assert broken["p50_ms"] == {"explain": None, "predict": None}
    assert (toy["workers"], toy["ready"], toy["queue_depth"]) == (1, True, 1)
    assert toy["resident_on"] == [{"worker": "w1", "host": "here", "device": "cpu"}]


async def test_a_worker_about_to_be_replaced_keeps_the_queue_open(redis_url: str) -> None:
    """Its model is explained in a moment; but nothing is resident, and no load is asked of it."""
    async with running_front(redis_url) as front:
        await front.publish(served=False)
        await front.heartbeat("toy", warm=False, resident=(), restarting=True)
        accepted = await front.post(headers={"Prefer": "respond-async"})
        assert accepted.status_code == 202
        (line,) = (await front.client.get("/v1/models")).json()["models"]
        assert (line["workers"], line["resident_on"], line["ready"]) == (0, [], True)
        assert (await front.client.get("/v2/health/ready")).status_code == 503
        problem(await front.client.post("/v1/models/toy/load"), 503, "no_worker")


async def test_medians_of_several_workers(front: Front) -> None:
    times = {"w1": (10.0, None), "w2": (30.0, 4.0), "w3": (20.0, 6.0), "w4": None}
    for worker, known in times.items():
        p50_ms = {"toy": ServiceTimes(explain=known[0], predict=known[1])} if known else {}
        await front.heartbeat("toy", worker=worker, p50_ms=p50_ms)
    (toy,) = (await front.client.get("/v1/models")).json()["models"]
    assert toy["p50_ms"] == {"explain": 20.0, "predict": 5.0}


READY = [
    (CARD, True, 200, None),
    (DECLARED, True, 200, None),  # loaded on first use
    (CARD, False, 503, "no_worker"),
    (unavailable(ModelUnavailable(HUB.detail)), True, 503, "model_unavailable"),
    (unavailable(InvalidCard("labels are missing")), False, 503, "invalid_card"),
]


@pytest.mark.parametrize(("card", "served", "status", "code"), READY)
async def test_a_card_says_whether_the_model_is_ready(
    redis_url: str, card: ResolvedCard, served: bool, status: int, code: str | None
) -> None:
    """A KServe client reads `name` and `ready`, and goes by the status."""
    async with running_front(redis_url) as front:
        await front.publish(card, served=served)
        response = await front.client.get("/v1/models/toy")
        assert response.status_code == status
        assert response.headers["content-type"] == "application/json"
        found = ServedCard.model_validate(response.json())
        assert (found.name, found.ready) == ("toy", status == 200)
        assert (found.problem.code if found.problem else None) == code
        same = {name: getattr(found, name) for name in ResolvedCard.model_fields}
        assert same | {"problem": None} == dict(card) | {"problem": None}
        assert ("Retry-After" in response.headers) == (code == "no_worker")
        (listed,) = (await front.client.get("/v1/models")).json()["models"]
        assert listed["ready"] == found.ready
        assert (listed["problem"] or {}).get("code") == code


async def test_ready_needs_a_warm_worker(redis_url: str) -> None:
    async with running_front(redis_url) as front:
        response = await front.client.get("/readyz")
        assert response.status_code == 503
        assert "warm-up" in response.json()["reason"]
        await front.heartbeat("toy", warm=False)
        assert (await front.client.get("/readyz")).status_code == 503
        await front.heartbeat("toy")
        response = await front.client.get("/readyz")
        assert (response.status_code, response.json()["workers"]) == (200, 1)


LABELS = [
    ("arrow", 0),
    ("ARROW", 0),
    ("love", 1),
    ("heart, love", 1),
    ("crane", 2),
]


@pytest.mark.parametrize(("label", "index"), LABELS)
async def test_labels_become_indices(front: Front, label: str, index: int) -> None:
    response, job, _ = await front.done(front.post(params={"class_label": label}))
    assert response.status_code == 200
    assert job.targets[0].model_dump() == {"class_index": index}


REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({"class_label": "arow"}, 422, "unknown_label", "'arrow'"),
    ({"class_label": "crane bird"}, 422, "invalid_request", "3, 4"),
    ({"class_index": 5}, 422, "class_index_out_of_range", "0 to 4"),
    ({"top": 6}, 422, "invalid_request", "5 classes"),
    ({"reduction": "class_score", "params": '{"class_index": 7}'}, 422,
     "class_index_out_of_range", "0 to 4"),
    ({"reduction": "class_margin", "params": '{"class_index": 1, "against": 7}'}, 422,
     "class_index_out_of_range", "0 to 4"),
    ({"reduction": "output", "params": '{"index": 5}'}, 422, "invalid_request", "0 to 4"),
    ({"reduction": "output"}, 422, "invalid_request", "give index, 0 to 4"),
    ({"reduction": "sums"}, 422, "invalid_request", "did you mean 'sum'?"),
    ({"reduction": "qqq"}, 422, "invalid_request", "there are class_score, class_margin"),
    ({"reduction": "segmentation", "params": '{"class_index": 1}'}, 422, "invalid_request",
     "one score for each class"),
    ({"expression": "x[0"}, 422, "invalid_expression", "column 2"),
    ({"execution": "cuda"}, 503, "no_worker", "workers on cpu"),
    ({"feature_layer": "feature"}, 404, "layer_not_found", "'features'"),
    ({"reduction_layer": "sofmax"}, 404, "layer_not_found", "'softmax'"),
]  # fmt: skip


@pytest.mark.parametrize(("params", "status", "code", "remedy"), REFUSED)
async def test_what_the_card_contradicts(
    front: Front, params: dict[str, Any], status: int, code: str, remedy: str
) -> None:
    document = problem(await front.post(params=params), status, code)
    assert remedy in document["detail"]


CONVENTIONS = [
    ({"convention": "matlab"}, {}, "softmax"),
    ({"convention": "matlab"}, {"task": "multi-label"}, "sigmoid"),
    ({"convention": "matlab"}, {"task": "segmentation"}, "softmax"),
    ({"convention": "matlab"}, {"task": "regression"}, None),
    ({"convention": "pytorch-grad-cam"}, {"task": "segmentation"}, None),
    ({"convention": "matlab"}, {"scores": "probabilities"}, None),
    ({"convention": "matlab", "reduction_layer": "head"}, {}, "head"),
    ({"convention": "camserve"}, {}, None),
]


@pytest.mark.parametrize(("params", "card", "layer"), CONVENTIONS)
async def test_matlab_scores_probabilities(
    front: Front, params: dict[str, str], card: dict[str, Any], layer: str | None
) -> None:
    await front.publish(CARD.model_copy(update=card))
    _, job, _ = await front.done(front.post(params=params))
    assert job.reduction_layer == layer


ONE = CARD.model_copy(update={"classes": 1, "labels": ()})
OF_ONE: list[tuple[dict[str, Any], str]] = [
    ({"class_index": 1}, "the model has one class, of index 0"),
    ({"top": 2}, "the model has only 1 class"),
    ({"reduction": "output", "params": {"index": 1}}, "it has one value, of index 0"),
    ({"reduction": "class_margin", "params": {"class_index": 0}}, "has one output"),
]


@pytest.mark.parametrize(("target", "detail"), OF_ONE)
def test_a_model_of_one_class(target: dict[str, Any], detail: str) -> None:
    asked = ExplanationRequest.model_validate({"model": "toy", "targets": [target]})
    with pytest.raises(InvalidRequest) as caught:
        resolve_targets(asked.targets, ONE)
    assert str(caught.value).endswith(detail)


def test_the_values_of_another_layer_are_not_known_here() -> None:
    document = {"model": "toy", "targets": [{"reduction": "output", "params": {"index": 5}}]}
    targets = ExplanationRequest.model_validate(document).targets
    resolved = (ScalarTarget(reduction="output", index=5),)
    assert resolve_targets(targets, CARD, "head") == resolved
    own = CARD.model_copy(update={"reduction_layer": "head"})
    assert resolve_targets(targets, own) == resolved
    for layer in (None, "softmax"):
        with pytest.raises(InvalidRequest, match="0 to 4"):
            resolve_targets(targets, CARD, layer)


def test_a_model_without_classes_takes_any_index() -> None:
    from camserve.contracts.targets import ClassIndexTarget

    target = ClassIndexTarget(class_index=10**6)
    card = CARD.model_copy(update={"classes": None})
    assert resolve_targets([target], card) == (target,)


async def test_what_a_worker_of_another_version_publishes_harms_nobody(front: Front) -> None:
    newer = CARD.model_dump(mode="json") | {"name": "newer", "a_field_of_tomorrow": 1}
    await front.registry.publish_card("newer", orjson.dumps(newer))
    await front.registry.heartbeat("newer", b'{"worker": "newer", "a_field_of_tomorrow": 1}')
    models = (await front.client.get("/v1/models")).json()["models"]
    assert [model["name"] for model in models] == ["toy"]
    problem(await front.client.get("/v1/models/newer"), 404, "model_not_found")
    assert (await front.client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("reduction", ["entropy", "log_odds"])
def test_reductions_of_logits_are_refused_where_there_are_none(reduction: str) -> None:
    probabilities = CARD.model_copy(update={"scores": "probabilities"})
    params = {"class_index": 0} if reduction == "log_odds" else {}
    asked = [ReductionTarget.model_validate({"reduction": reduction, "params": params})]
    with pytest.raises(InvalidRequest, match="gives probabilities"):
        resolve_targets(asked, probabilities)
    resolved = (ScalarTarget(reduction=reduction, **params),)
    assert resolve_targets(asked, probabilities, "a.module.before.the.softmax") == resolved
    assert resolve_targets(asked, CARD) == resolved
