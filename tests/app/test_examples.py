"""The committed examples: true to the contracts, and still what the service answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from camserve.contracts.dead_letters import DeadLetterList, Purged
from camserve.contracts.explanations import (
    Explanation,
    ExplanationList,
    LayerList,
    MapArray,
    ModelList,
    ModelSummary,
    ServedCard,
)
from camserve.contracts.kserve import Explanations, InstancesRequest, Predictions
from camserve.contracts.open_inference import (
    InferenceRequest,
    InferenceResponse,
    ModelLoaded,
    ModelMetadata,
    ModelReady,
    ModelUnloaded,
    RepositoryIndex,
    RepositoryLoad,
    RepositoryQuery,
    RepositoryUnload,
    ServerLive,
    ServerMetadata,
    ServerModels,
    ServerReady,
)
from camserve.contracts.predictions import Prediction
from camserve.contracts.readiness import Readiness
from camserve.contracts.requests import ExplanationRequest, PredictionRequest
from tests.app.examples import FOLDER, NAMES, exchange, masked
from tests.service import Service

CONTRACTS: dict[str, type[BaseModel]] = {
    "create": Explanation,
    "list": ExplanationList,
    "read": Explanation,
    "cancel": Explanation,
    "map": MapArray,
    "list-models": ModelList,
    "read-model": ServedCard,
    "layers": LayerList,
    "predict": Prediction,
    "load": ModelSummary,
    "unload": ModelSummary,
    "ready": Readiness,
    "dead-letters": DeadLetterList,
    "remove-dead-letter": Purged,
    "purge-dead-letters": Purged,
    "kserve-explain": Explanations,
    "kserve-predict": Predictions,
    "open-inference-explain": InferenceResponse,
    "open-inference-infer": InferenceResponse,
    "open-inference-server": ServerMetadata,
    "open-inference-live": ServerLive,
    "open-inference-ready": ServerReady,
    "open-inference-models": ServerModels,
    "open-inference-model": ModelMetadata,
    "open-inference-model-ready": ModelReady,
    "open-inference-index": RepositoryIndex,
    "open-inference-load": ModelLoaded,
    "open-inference-unload": ModelUnloaded,
}
BODIES: dict[str, type[BaseModel]] = {
    "predict": PredictionRequest,
    "kserve-explain": InstancesRequest,
    "kserve-refused": InstancesRequest,
    "kserve-predict": InstancesRequest,
    "open-inference-explain": InferenceRequest,
    "open-inference-infer": InferenceRequest,
    "open-inference-index": RepositoryQuery,
    "open-inference-load": RepositoryLoad,
    "open-inference-unload": RepositoryUnload,
}


def example(name: str) -> dict[str, Any]:
    return dict(json.loads((FOLDER / f"{name}.json").read_text("utf-8")))


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture(scope="module")
def job_id(client: httpx.Client) -> str:
    response = exchange(client, example("create")["request"], "")
    return str(response["body"]["id"])


def test_there_is_one_for_each_operation() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(NAMES)
    document = json.loads((FOLDER.parent / "openapi.json").read_text("utf-8"))
    operations = {(m.upper(), p) for p, methods in document["paths"].items() for m in methods}
    shown = set()
    for name in NAMES:
        request = example(name)["request"]
        path = request["path"].partition("?")[0].replace("{id}", "{explanation_id}")
        path = path.replace("dead-letters/{explanation_id}", "dead-letters/{letter_id}")
        path = path.replace("/results/0", "/results/{number}").replace("s/shapes", "s/{model}")
        shown.add((request["method"], path))
    assert shown == operations


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_the_contract_says(name: str) -> None:
    exchanged = example(name)
    if "json" in exchanged["request"]:
        asked = BODIES.get(name, ExplanationRequest)
        asked.model_validate(exchanged["request"]["json"])
    if name in CONTRACTS:
        CONTRACTS[name].model_validate(exchanged["response"]["body"])


@pytest.mark.parametrize("name", NAMES)
def test_the_service_still_answers_so(client: httpx.Client, job_id: str, name: str) -> None:
    exchanged = example(name)
    response = exchange(client, exchanged["request"], job_id)
    assert masked(response, exact=True) == masked(exchanged["response"])
