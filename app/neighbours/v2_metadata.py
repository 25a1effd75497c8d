"""What the Open Inference Protocol says of a model's tensors, from its card."""

from __future__ import annotations

from typing import Any, Final

from camserve.contracts.cards import ResolvedCard
from camserve.contracts.explanations import ServedCard
from camserve.contracts.input_specs import InputSpec, PictureSpec
from camserve.contracts.open_inference import Datatype, ModelMetadata, ModelStatus, TensorMetadata
from camserve.dimensions import space_and_time

__all__ = ["EXPLAIN_OUTPUTS", "EXTENSIONS", "OUTPUT", "model_metadata", "model_status"]

EXTENSIONS: Final = ("binary_tensor_data", "parameters", "model_repository", "explain")
OUTPUT: Final = "output"
"""The tensor of a prediction, a row for each input."""
EXPLAIN_OUTPUTS: Final[dict[str, Datatype]] = {
    "map": "FP32",
    "score": "FP32",
    "class_index": "INT64",
    "class_label": "BYTES",
    "input_index": "INT64",
}
"""The tensors of an explanation, a row for each input and target."""


def model_metadata(card: ResolvedCard) -> ModelMetadata:
    """Its tensors, as far as they are known: a model that was never loaded has none yet."""
    axes = len(space_and_time(card.input.format)) if card.input else 0
    explain_outputs = [
        {"name": name, "datatype": kind, "shape": [-1] * (1 + (axes if name == "map" else 0))}
        for name, kind in EXPLAIN_OUTPUTS.items()
    ]
    return ModelMetadata(
        name=card.name,
        versions=(card.version,),
        platform=f"camserve_{card.source.partition(':')[0]}",
        inputs=(_input(card.input),) if card.input else None,
        outputs=(_output(card),) if card.output_shape is not None else None,
        parameters={"explain_outputs": explain_outputs} if card.input else {},
    )


def model_status(card: ServedCard) -> ModelStatus:
    """A line of the repository's index."""
    reason = "loaded on first use" if card.state == "declared" else ""
    return ModelStatus(
        name=card.name,
        version=card.version,
        state="READY" if card.ready else "UNAVAILABLE",
        reason=card.problem.detail if card.problem else reason,
    )


def _input(spec: InputSpec) -> TensorMetadata:
    return TensorMetadata(
        name="input",
        datatype="FP32",
        shape=(-1, *(size or -1 for size in spec.shape)),
        parameters={
            "format": f"B{spec.format.replace('B', '')}",
            "alternatives": _alternatives(spec),
        },
    )


def _alternatives(spec: InputSpec) -> list[dict[str, Any]]:
    if not isinstance(spec, PictureSpec):
        return [{"datatype": "BYTES", "shape": [-1], "meaning": ".npy files"}]
    return [
        {
            "datatype": "UINT8",
            "shape": [-1, -1, -1, 3],
            "meaning": "pixels, height x width x RGB, preprocessed by the service",
        },
        {
            "datatype": "BYTES",
            "shape": [-1],
            "meaning": "picture files (JPEG, PNG, ...), preprocessed by the service; .npy files",
        },
    ]


def _output(card: ResolvedCard) -> TensorMetadata:
    return TensorMetadata(
        name=OUTPUT,
        datatype="FP32",
        shape=(-1, *(card.output_shape or ())),
        parameters={"format": card.output_format} if card.output_format else {},
    )
