"""What crosses the queue: the job document, and the result beside its tensors.

The tensors themselves travel as safetensors: `input.<i>` (C, *S) float32 to the worker, and
`map.<r>` (*S) float32 back, one a result, signed and at the feature layer's resolution.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from camserve.contracts.base import Message
from camserve.contracts.options import Convention, OutputOptions, Upsampling
from camserve.contracts.targets import ClassIndexTarget, ReductionTarget, TopTarget

__all__ = [
    "Diagnostic",
    "Job",
    "JobInput",
    "JobResult",
    "JobTarget",
    "ResultRow",
    "input_name",
    "map_name",
]

JobTarget = ClassIndexTarget | TopTarget | ReductionTarget


class JobInput(Message):
    """What presentation must know of an input: how the upload became the tensor."""

    name: str | None = Field(None, description="File name of the upload, if it had one.")
    shape: tuple[int, ...] = Field(description="Shape of the model input, without batch: (C, *S).")
    geometry: dict[str, Any] | None = Field(None, description="Of a picture; see camserve.maps.")


class Job(Message):
    """The job document, version 1. Labels are resolved and checked: a worker sees indices."""

    version: Literal[1] = 1
    kind: Literal["explain", "load"] = "explain"
    model: str
    model_version: str
    inputs: tuple[JobInput, ...] = ()
    targets: tuple[JobTarget, ...] = ()
    method: Literal["gradcam"] = "gradcam"
    feature_layer: str | None = None
    reduction_layer: str | None = None
    convention: Convention = "camserve"
    upsampling: Upsampling | None = None
    output: OutputOptions = OutputOptions()
    request_id: str | None = None


class Diagnostic(Message):
    code: str
    advice: str


class ResultRow(Message):
    """One map: input x target."""

    input: int
    target: int = Field(description="Index into the job's targets.")
    class_index: int | None
    score: float | None = Field(description="The differentiated scalar; null if it is not finite.")
    diagnostics: tuple[Diagnostic, ...] = ()


class JobResult(Message):
    """Metadata of a result, version 1."""

    version: Literal[1] = 1
    model_version: str
    feature_layer: str
    reduction_layer: str
    rows: tuple[ResultRow, ...]
    compute_ms: float
    batch_size: int = Field(description="Inputs that shared the forward pass.")
    worker: str
    device: str


def input_name(index: int) -> str:
    """Name of an input's tensor in a payload."""
    return f"input.{index}"


def map_name(index: int) -> str:
    """Name of a row's tensor in a result."""
    return f"map.{index}"
