"""BentoML + pytorch-grad-cam: JSON with the picture in base64, and so the map.

As its documentation advises: a batchable API ("Adaptive batching", docs.bentoml.com, get started),
with the batch that camserve has, and a latency that lets batches form; one worker ("Workers", build
options), since a batch uses all threads. Served by `bentoml serve`.
"""

from __future__ import annotations

import base64
import io

import bentoml
import numpy as np
import torch
from pydantic import BaseModel

from benchmarks.rivals.inside.explainers import pytorch_grad_cam
from benchmarks.rivals.inside.network import load_named, preprocess


class Question(BaseModel):
    image: str
    class_index: int


@bentoml.service(workers=1, traffic={"timeout": 120})
class GradCam:
    def __init__(self) -> None:
        self._explain = pytorch_grad_cam(load_named())

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=60_000)  # type: ignore[untyped-decorator,unused-ignore]
    def explain(self, questions: list[Question]) -> list[str]:
        inputs = torch.stack([preprocess(base64.b64decode(one.image)) for one in questions])
        maps = self._explain(inputs, [[one.class_index] for one in questions])
        return [encoded(one[0]) for one in maps]


def encoded(array: np.ndarray) -> str:
    file = io.BytesIO()
    np.save(file, array)
    return base64.b64encode(file.getvalue()).decode()
