"""Model cards: what a model folder says, and what the service learnt by loading the model."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from camserve.contracts.base import Message
from camserve.contracts.failures import FailureMessage
from camserve.contracts.input_specs import Format, InputSpec, PictureSpec, TensorSpec
from camserve.contracts.layers import FeatureFormat, LayerName, Layers
from camserve.contracts.reductions import REDUCTION_NAME
from camserve.errors import InvalidRequest
from camserve.expressions import parse
from camserve.vocabulary import REDUCTIONS, Precision

__all__ = [
    "SOURCES",
    "CardState",
    "DeviceMemory",
    "FailedUpdate",
    "LayerSummary",
    "ModelCard",
    "Optimization",
    "ResolvedCard",
    "Scores",
    "ServiceTimes",
    "Task",
    "Way",
    "WorkerStatus",
]

CardState = Literal["declared", "ready", "unavailable"]
Task = Literal["classification", "multi-label", "regression", "segmentation", "embedding"]
Scores = Literal["logits", "probabilities"]
ReductionName = Annotated[str, StringConstraints(pattern=REDUCTION_NAME)]

SOURCES = ("export", "onnx", "transformers", "timm", "torchvision", "factory")


class ModelCard(Message):
    """`card.toml` in a model folder. What it leaves out comes from the source or the probe."""

    source: Annotated[str, StringConstraints(pattern=rf"^({'|'.join(SOURCES)}):.+$")] = Field(
        description="`export:model.pt2`, `onnx:model.onnx`, `transformers:NAME`, `timm:NAME`, "
        "`torchvision:NAME`, `factory:package.module:callable`"
    )
    title: str = ""
    description: str = ""
    license: str = ""
    origin: str = ""
    task: Task = "classification"
    scores: Scores | None = Field(
        None,
        description="Whether the output still lacks its softmax or sigmoid; default: the probe "
        "sees a softmax by itself, and takes anything else for logits.",
    )
    labels: tuple[str, ...] = ()
    weights: str | None = Field(
        None, description="safetensors file of a `factory:`, `timm:` or `torchvision:` model."
    )
    arguments: dict[str, Any] = Field(
        {},
        description="Keyword arguments of what builds a `factory:`, `timm:`, `torchvision:` one.",
    )
    quantization: Literal["int8"] | None = Field(
        None,
        description="Keep the weights before the feature layer as int8, one scale a channel: a "
        "quarter of the memory. The head stays in float32.",
    )
    optimization: Literal["none"] | None = Field(
        None,
        description="`none`: run the network module by module, just as it is written; default: as "
        "CAMSERVE_OPTIMIZATION says.",
    )
    input: dict[str, Any] = Field({}, description="Fields of the input specification.")
    output_format: Format | None = Field(
        None, description="Dimension labels of the output, where the probe cannot tell: `BTC`."
    )
    feature_layer: Layers | None = None
    feature_format: FeatureFormat | None = None
    reduction_layer: LayerName | None = None
    reductions: dict[ReductionName, str] = Field(
        {}, description='Expressions under names of their own: `tilt = "x[0]"`.'
    )

    @model_validator(mode="after")
    def _known_input_fields(self) -> Self:
        unknown = sorted(set(self.input) - {*PictureSpec.model_fields, *TensorSpec.model_fields})
        if unknown:
            raise ValueError(f"unknown input field {unknown[0]!r}")
        return self

    @model_validator(mode="after")
    def _meaningful_reductions(self) -> Self:
        for name, expression in self.reductions.items():
            if name in REDUCTIONS:
                raise ValueError(f"reductions.{name}: there is a built-in reduction of that name")
            try:
                parse(expression)
            except InvalidRequest as error:
                raise ValueError(f"reductions.{name}: {error}") from error
        return self


class LayerSummary(Message):
    """One layer that ran in the probe."""

    name: str
    rank: int | None = Field(
        description="Place among the layers that Grad-CAM can explain by the automatic choice, "
        "1 the best; null for the others."
    )
    shape: tuple[int, ...] = Field(description="Output shape for one input.")
    format: str = Field(description="Dimension labels of the shape, for example BCSS or BTC.")
    grid: tuple[int, ...] | None = Field(description="Size of its map; null if it is no map.")
    prefix_tokens: int = Field(description="Class, distillation and register tokens before it.")
    gradient_reach: float | None = Field(
        description="Share of the positions that the score's gradient reaches."
    )
    gradient_energy: float | None = Field(
        description="Sum of squares of the score's gradient, as a share of the largest layer's."
    )
    reason: str = Field(description="Why it is the one, or a candidate, or neither.")


class Way(Message):
    """One way to run a network up to its feature layer, as it was tried after the load."""

    way: str
    time_ratio: dict[str, float] | None = Field(
        None,
        description="Its time over that of the whole network's plain forward pass in float32, by "
        "the number of inputs; null: not measured, see `note`.",
    )
    map_error: float | None = Field(
        None, description="Largest difference of its maps from those of the network as it is."
    )
    map_correlation: float | None = Field(None, description="The smallest of its maps with those.")
    note: str = Field("", description="Why it is not used, if something is wrong with it.")


class Optimization(Message):
    """What was found for one precision."""

    precision: Precision
    way: str = Field(description="How the network is run now up to its feature layer.")
    ways: tuple[Way, ...] = Field(description="All that were tried.")


class FailedUpdate(Message):
    """A newer version of a model's files that could not be loaded: the one before it goes on."""

    version: str = Field(description="Digest of its card and files; empty if no card can be read.")
    problem: FailureMessage = Field(description="Why it could not be loaded.")


_INTERFACE = {
    *("input", "task", "scores", "labels", "classes", "output_shape", "output_format"),
    *("reduction_layer", "reductions", "modules"),
}


class ResolvedCard(Message):
    """What a worker publishes: the card, completed by the source and the probe."""

    name: str
    version: str = Field(description="Digest of the card and its local files.")
    state: CardState = Field(
        description="`declared`: loaded on first use; `ready`; `unavailable`: see `problem`."
    )
    problem: FailureMessage | None = None
    failed_update: FailedUpdate | None = Field(
        None,
        description="Its files have changed, and what they are now could not be loaded: this "
        "version goes on.",
    )
    source: str
    title: str = ""
    description: str = ""
    license: str = ""
    origin: str = ""
    task: Task = "classification"
    scores: Scores = "logits"
    quantization: Literal["int8"] | None = None
    undivided: str | None = Field(
        None,
        description="Why backbone and head cannot be run apart, so that neither is it made faster "
        "nor are its inputs remembered; null: they can, or are not to be.",
    )
    optimizations: tuple[Optimization, ...] = Field(
        (), description="How it is run, by precision; empty until that has been found out."
    )
    input: InputSpec | None = None
    labels: tuple[str, ...] = ()
    classes: int | None = None
    output_shape: tuple[int, ...] | None = Field(None, description="For one input, without batch.")
    output_format: str | None = Field(None, description="Dimension labels of the output.")
    parameters: int | None = None
    feature_layer: Layers | None = None
    feature_format: FeatureFormat | None = None
    feature_reason: str | None = None
    reduction_layer: str | None = None
    reduction_reason: str | None = None
    reductions: dict[str, str] = Field({}, description="The card's own, as expressions.")
    candidates: tuple[str, ...] = Field((), description="Explainable layers, best first.")
    layers: tuple[LayerSummary, ...] = ()
    modules: tuple[str, ...] = Field((), description="All names that a layer can be asked by.")

    @cached_property
    def interface(self) -> str:
        """Digest of what requests are prepared and checked by: of two versions with the same one,
        either can compute a job that was accepted for the other."""
        by = self.model_dump_json(include=_INTERFACE)
        return hashlib.sha256(by.encode()).hexdigest()[:12]

    def label(self, class_index: int | None) -> str | None:
        if class_index is None or class_index >= len(self.labels):
            return None
        return self.labels[class_index]


class ServiceTimes(Message):
    """Milliseconds of one batch on the device; null where none was run lately."""

    explain: float | None = Field(None, description="Of explanations.")
    predict: float | None = Field(None, description="Of predictions.")


class DeviceMemory(Message):
    """Bytes."""

    used: int = Field(description="That the worker's tensors take; of a CPU, its whole process.")
    reserved: int = Field(description="That it keeps from others: what it has used, or will.")
    free: int = Field(description="That nobody has taken, this worker or another process.")
    total: int


class WorkerStatus(Message):
    """A worker's heartbeat."""

    worker: str
    host: str
    pid: int
    device: str
    models: tuple[str, ...] = ()
    resident: tuple[str, ...] = ()
    unavailable: tuple[str, ...] = Field(
        (), description="Those of its repository that it could not load as they are now."
    )
    warm: bool = Field(
        default=False,
        description="Has run a warm-up explanation, and loaded what is loaded at start.",
    )
    proof_age_s: float | None = Field(
        None, description="Seconds since the warm-up explanation last came out right; null: never."
    )
    p50_ms: dict[str, ServiceTimes] = Field(
        {}, description="By model, the medians of its last batches."
    )
    limited_batches: dict[str, int] = Field(
        {},
        description="Inputs at once, of each model whose batches the memory of the device limits.",
    )
    activation_bytes: int = Field(
        0, description="Of the activations of inputs that it remembers, on its device."
    )
    memory: DeviceMemory | None = Field(
        None, description="Of its device, after the last computation; null: not known."
    )
    restarting: bool = Field(
        default=False, description="It died, and another one is about to take its place."
    )

    def is_proven(self, within_s: float) -> bool:
        """Whether it can explain: it is warm, and showed so in the last `within_s` seconds."""
        return self.warm and self.proof_age_s is not None and self.proof_age_s <= within_s
