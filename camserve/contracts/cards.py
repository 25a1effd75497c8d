"""Model cards: what a model folder says, and what the service learnt by loading the model."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from camserve.contracts.base import Message
from camserve.contracts.failures import FailureMessage

__all__ = ["CardState", "InputSpec", "LayerSummary", "ModelCard", "ResolvedCard", "WorkerStatus"]

CardState = Literal["declared", "ready", "unavailable"]
Channels = Annotated[tuple[float, ...], Field(min_length=1, max_length=4)]
Pixels = Annotated[int, Field(ge=1, le=8192)]


class InputSpec(Message):
    """How a picture becomes the model's input: resize, crop, scale, normalise, in this order."""

    height: Pixels
    width: Pixels
    colors: Literal["RGB", "BGR", "L"] = Field("RGB", description="Channel order; L is gray.")
    resize: Literal["stretch", "shortest_edge", "letterbox", "none"] = Field(
        "stretch",
        description="`stretch` to the size; `shortest_edge`: keep the shape; `letterbox`: keep the "
        "shape and pad; `none`: no resize. What is then larger than height x width is "
        "centre-cropped, what is smaller is padded with zeros.",
    )
    resize_to: Pixels | tuple[Pixels, Pixels] | None = Field(
        None,
        description="Size before the crop: the length of the short side for `shortest_edge`, "
        "(height, width) for `stretch`; default: height and width.",
    )
    filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    scale: float = Field(1 / 255, gt=0, description="Factor on grey levels 0 to 255.")
    mean: Channels = (0.0,)
    std: Channels = (1.0,)

    @property
    def channels(self) -> int:
        return 1 if self.colors == "L" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one model input."""
        return (self.channels, self.height, self.width)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ValueError(f"{name} has {len(values)} values for {self.channels} channels")
        if any(value == 0 for value in self.std):
            raise ValueError("std must not be 0")
        return self


class ModelCard(Message):
    """`card.toml` in a model folder. What it leaves out comes from the source or the probe."""

    source: Annotated[str, StringConstraints(pattern=r"^(export|factory|transformers):.+$")] = (
        Field(
            description="`export:model.pt2`, `factory:package.module:callable`, `transformers:NAME`"
        )
    )
    title: str = ""
    description: str = ""
    license: str = ""
    origin: str = ""
    task: Literal["classification", "multi-label", "regression", "segmentation"] = "classification"
    scores: Literal["logits", "probabilities"] = Field(
        "logits", description="Whether the output still lacks its softmax or sigmoid."
    )
    labels: tuple[str, ...] = ()
    weights: str | None = Field(None, description="safetensors file of a `factory:` model.")
    arguments: dict[str, Any] = Field({}, description="Keyword arguments of a `factory:` callable.")
    input: dict[str, Any] = Field({}, description="Fields of the input specification.")
    feature_layer: str | None = None
    reduction_layer: str | None = None

    @model_validator(mode="after")
    def _known_input_fields(self) -> Self:
        unknown = sorted(set(self.input) - set(InputSpec.model_fields))
        if unknown:
            raise ValueError(f"unknown input field {unknown[0]!r}")
        return self


class LayerSummary(Message):
    """One layer that ran in the probe, in execution order."""

    name: str
    shape: tuple[int, ...] = Field(description="Output shape for one input, batch first.")
    layout: str = Field(description="Dimension labels, for example BCSS or BTC.")
    candidate: bool = Field(description="Whether Grad-CAM can explain this layer.")
    reason: str


class ResolvedCard(Message):
    """What a worker publishes: the card, completed by the source and the probe."""

    name: str
    version: str = Field(description="Digest of the card and its local files.")
    state: CardState = Field(
        description="`declared`: loaded on first use; `ready`; `unavailable`: see `problem`."
    )
    problem: FailureMessage | None = None
    source: str
    title: str = ""
    description: str = ""
    license: str = ""
    origin: str = ""
    task: str = "classification"
    scores: Literal["logits", "probabilities"] = "logits"
    input: InputSpec | None = None
    labels: tuple[str, ...] = ()
    classes: int | None = None
    output_shape: tuple[int, ...] | None = None
    parameters: int | None = None
    feature_layer: str | None = None
    feature_reason: str | None = None
    reduction_layer: str | None = None
    reduction_reason: str | None = None
    candidates: tuple[str, ...] = Field((), description="Explainable layers, best first.")
    layers: tuple[LayerSummary, ...] = ()
    modules: tuple[str, ...] = Field((), description="All names that a layer can be asked by.")

    def label(self, class_index: int | None) -> str | None:
        if class_index is None or class_index >= len(self.labels):
            return None
        return self.labels[class_index]


class WorkerStatus(Message):
    """A worker's heartbeat."""

    worker: str
    host: str
    pid: int
    device: str
    models: tuple[str, ...] = ()
    resident: tuple[str, ...] = ()
    warm: bool = Field(default=False, description="Has run a warm-up explanation.")
