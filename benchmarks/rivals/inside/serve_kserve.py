"""KServe ModelServer + Captum: its V1 protocol, where a picture is `{"b64": ...}`.

As its documentation advises: a custom `Model` with `explain`, and `--workers` processes
("Model Server", kserve.github.io, Python runtime API), one for each core, each of which computes
with one thread. It batches only in the agent beside a pod in Kubernetes ("Inference Batcher"),
which a server alone does not have.
"""

from __future__ import annotations

import base64
import os
import sys
from typing import Any

import torch
from kserve import Model, ModelServer

from benchmarks.rivals.inside.explainers import Explain, captum
from benchmarks.rivals.inside.network import THREADS, load_named, preprocess


class GradCam(Model):  # type: ignore[misc,unused-ignore]
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._explain: Explain | None = None
        self.ready = True

    def load(self) -> Explain:
        """In the process that explains: KServe pickles the model for its workers."""
        if self._explain is None:
            self._explain = captum(load_named())
            torch.set_num_threads(1)
        return self._explain

    def preprocess(self, payload: Any, headers: Any = None) -> Any:  # noqa: ARG002
        inputs = [preprocess(base64.b64decode(one["b64"])) for one in payload["instances"]]
        return torch.stack(inputs), payload["parameters"]["class_index"]

    def explain(self, payload: Any, headers: Any = None) -> Any:  # noqa: ARG002
        inputs, class_index = payload
        maps = self.load()(inputs, [[class_index]] * len(inputs))
        return {"explanations": maps[:, 0].tolist()}


if __name__ == "__main__":
    workers = int(os.environ[THREADS])
    server = ModelServer(
        http_port=int(sys.argv[1]), workers=workers, enable_grpc=False, access_log_format=None
    )
    server.start([GradCam("network")])
