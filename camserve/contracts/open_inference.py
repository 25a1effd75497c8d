"""Messages of the Open Inference Protocol, version 2, with its binary tensor extension."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, RootModel, StringConstraints

from camserve.contracts.base import Message
from camserve.contracts.explanations import Numbers

__all__ = [
    "Datatype",
    "InferenceRequest",
    "InferenceResponse",
    "InputTensor",
    "ModelLoaded",
    "ModelMetadata",
    "ModelReady",
    "ModelStatus",
    "ModelUnloaded",
    "OutputTensor",
    "RepositoryIndex",
    "RepositoryLoad",
    "RepositoryQuery",
    "RepositoryUnload",
    "RequestedOutput",
    "ServerLive",
    "ServerMetadata",
    "ServerModels",
    "ServerReady",
    "TensorMetadata",
]

# fmt: off
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "BF16", "FP32", "FP64", "BYTES",
]
# fmt: on
TensorName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Size = Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]
Shape = Annotated[tuple[Size, ...], Field(min_length=1, max_length=8, fail_fast=True)]


class InputTensor(Message):
    """One or more inputs of the model: a batch, along the first dimension."""

    name: TensorName = Field(description="Any name; the metadata's is `input`.", examples=["input"])
    shape: Shape = Field(description="The first size counts inputs.", examples=[[1, 3, 64, 64]])
    datatype: Datatype = Field(
        description="Numbers (`FP32` and others) are ready for the model, normalised. `UINT8` of a "
        "model of pictures are pixels (inputs, height, width, channels), and `BYTES` are picture "
        "or .npy files; both go through the model's preprocessing."
    )
    parameters: dict[str, Any] = Field(
        {},
        description="`binary_data_size`: the tensor is so many bytes behind the JSON, where "
        "`Inference-Header-Content-Length` says that it ends.",
    )
    data: list[Any] | None = Field(
        None,
        description="Row by row, flat or nested as the shape; a file of `BYTES` in base64.",
    )


class RequestedOutput(Message):
    """A tensor that the answer shall hold."""

    name: TensorName
    parameters: dict[str, Any] = Field(
        {}, description="`binary_data`: as bytes behind the JSON of the answer."
    )


class InferenceRequest(Message):
    """Inputs, and what to do with them."""

    id: Annotated[str, StringConstraints(max_length=200)] | None = Field(
        None, description="Comes back in the answer."
    )
    model_name: str | None = Field(None, description="If given, that of the address.")
    model_version: str | None = Field(None, description="If given, the model's present one.")
    parameters: dict[str, Any] = Field(
        {},
        description="`binary_data_output`, `timeout` (microseconds), `priority`; and the options "
        "of the request, flat as in a form: `class_index`, `method`, `size`, ...",
    )
    inputs: Annotated[tuple[InputTensor, ...], Field(min_length=1, max_length=256)]
    outputs: Annotated[tuple[RequestedOutput, ...], Field(max_length=64)] | None = Field(
        None, description="Default: all outputs."
    )


def _is_absent(value: object) -> bool:
    return value is None or (isinstance(value, dict) and not value)


class OutputTensor(Message):
    """A tensor of the answer."""

    # data is absent of a binary one
    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    name: str
    shape: tuple[int, ...]
    datatype: Datatype
    parameters: dict[str, Any] = Field(
        {}, exclude_if=_is_absent, description="`binary_data_size` of a binary one."
    )
    data: Numbers | None = Field(
        None, exclude_if=_is_absent, description="Flat, row by row; null is not finite."
    )


class InferenceResponse(Message):
    """The outputs. As bytes behind the JSON where that was asked for."""

    id: str = Field(description="That of the request, or one of the service's.")
    model_name: str
    model_version: str
    parameters: dict[str, Any] = Field({}, description="What is known of the result.")
    outputs: tuple[OutputTensor, ...]


class ServerMetadata(Message):
    name: str
    version: str
    extensions: tuple[str, ...]


class ServerLive(Message):
    live: bool


class ServerReady(Message):
    ready: bool


class ServerModels(Message):
    models: tuple[str, ...]


class TensorMetadata(Message):
    """What a tensor is; -1 is any size."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    parameters: dict[str, Any] = Field(
        {}, description="`format`: dimension labels; `alternatives`: what else may be sent."
    )


class ModelMetadata(Message):
    """A model's tensors. `inputs` and `outputs` are null until it has been loaded once."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...] | None
    outputs: tuple[TensorMetadata, ...] | None
    parameters: dict[str, Any] = Field(
        {}, description="`explain_outputs`: the tensors that `/explain` answers with."
    )


class ModelReady(Message):
    name: str
    ready: bool


class ModelStatus(Message):
    """A line of the repository's index."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class RepositoryIndex(RootModel[tuple[ModelStatus, ...]]):
    """All models, or the ready ones."""


class RepositoryQuery(Message):
    """Which models to list."""

    ready: bool = Field(default=False, strict=True, description="Only those that are ready.")


class RepositoryLoad(Message):
    """What Triton could be told of a model that it loads."""

    parameters: dict[str, Any] = Field({}, description="None are known here.")


class UnloadParameters(Message):
    """What Triton's client says of an unload."""

    unload_dependents: bool = Field(
        default=False, strict=True, description="Of ensembles, which there are none of here."
    )


class RepositoryUnload(Message):
    parameters: UnloadParameters = UnloadParameters()


class ModelLoaded(Message):
    """As KServe answers."""

    name: str
    load: Literal[True] = True


class ModelUnloaded(Message):
    """As KServe answers."""

    name: str
    unload: Literal[True] = True
