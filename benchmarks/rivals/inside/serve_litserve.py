"""LitServe + pytorch-grad-cam: JSON with the picture in base64, the map as a .npy file.

As its documentation advises: `max_batch_size` and `batch_timeout` ("Batching",
lightning.ai/docs/litserve/features/batching); one worker, which has all the threads, since a batch
uses them all. Decoding in `decode_request`, explaining in `predict` on the batch.
"""

# no `from __future__ import annotations`: LitServe reads the annotation of `request` itself
import base64
import io
import sys
from typing import Any

import litserve
import numpy as np
import torch
from fastapi import Response
from torch import Tensor

from benchmarks.rivals.inside.explainers import pytorch_grad_cam
from benchmarks.rivals.inside.network import load_named, preprocess


class GradCam(litserve.LitAPI):  # type: ignore[misc,unused-ignore]
    def setup(self, device: str) -> None:  # noqa: ARG002 - it is the CPU
        self.explain = pytorch_grad_cam(load_named())

    def decode_request(self, request: dict[str, Any]) -> tuple[Tensor, int]:
        return preprocess(base64.b64decode(request["image"])), request["class_index"]

    def batch(self, inputs: list[tuple[Tensor, int]]) -> tuple[Tensor, list[int]]:
        return torch.stack([one for one, _ in inputs]), [index for _, index in inputs]

    def predict(self, batch: tuple[Tensor, list[int]]) -> Any:
        inputs, classes = batch
        return self.explain(inputs, [[index] for index in classes])

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> Response:
        file = io.BytesIO()
        np.save(file, output[0])
        return Response(file.getvalue())


if __name__ == "__main__":
    api = GradCam(max_batch_size=8, batch_timeout=0.02, api_path="/explain")
    server = litserve.LitServer(api, accelerator="cpu", timeout=120)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
