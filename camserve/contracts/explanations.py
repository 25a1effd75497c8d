"""The answers: an explanation with its results, and what is said of models."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from camserve.contracts.base import Message
from camserve.contracts.cards import (
    CardState,
    FailedUpdate,
    LayerSummary,
    ResolvedCard,
    ServiceTimes,
)
from camserve.contracts.deliveries import WebhookDelivery
from camserve.contracts.failures import FailureMessage
from camserve.contracts.input_specs import InputSpec
from camserve.contracts.jobs import Diagnostic, MetricResult
from camserve.contracts.layers import Layers
from camserve.contracts.requests import Priority
from camserve.contracts.states import State

__all__ = [
    "Computation",
    "Explanation",
    "ExplanationList",
    "ExplanationSummary",
    "LayerList",
    "Link",
    "MapArray",
    "MapSummary",
    "ModelList",
    "ModelSummary",
    "Numbers",
    "Progress",
    "Residence",
    "ResultSummary",
    "ServedCard",
    "TargetSummary",
    "Timings",
]


# nested lists for a client; the front end hands over the array, and leaves the writing to orjson
Numbers = Annotated[Any, WithJsonSchema({"type": "array", "items": {}})]


class Link(Message):
    href: str = Field(description="Address, without the host.")


class TargetSummary(Message):
    """What was explained, and the score that was differentiated."""

    class_index: int | None = Field(description="The class, counted from 0; null if there is none.")
    class_label: str | None = Field(None, description="The class by its label, if it has one.")
    reduction: str | None = Field(None, description="The named reduction, if one was asked for.")
    expression: str | None = Field(
        None,
        description="The expression that was asked for, or that a card's reduction stands for.",
    )
    score: float | None = Field(description="The scalar that was differentiated.")


def _is_absent(value: object) -> bool:
    """Whether a member that must be asked for was not."""
    return value is None


class MapSummary(Message):
    """The map at the feature layer's resolution, signed, and where to fetch the finished one.

    Of several feature layers: the signed maps, fused at the largest resolution.
    """

    # two of its members may be absent
    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    shape: tuple[int, ...] = Field(description="Feature layer's grid, axes as the input's.")
    dtype: str = Field("float32", description="Of the signed map.")
    min: float | None = Field(description="Least value of the signed map.")
    max: float | None = Field(description="Greatest value of the signed map.")
    href: str = Field(description="The finished map; its query takes any size and convention.")
    data: Numbers | None = Field(
        None, exclude_if=_is_absent, description="The finished map, with `output.map=list`."
    )
    npy_base64: str | None = Field(
        None, exclude_if=_is_absent, description="The same with `output.map=npy_base64`."
    )


class ResultSummary(Message):
    """One map: one target of one input."""

    input: int = Field(description="Which input, counted from 0, files before URLs.")
    input_name: str | None = Field(None, description="Name of the uploaded file, if it had one.")
    target: TargetSummary
    feature_layer: Layers = Field(description="The layer, or those whose maps are fused.")
    reduction_layer: str = Field(description="What was differentiated.")
    method: str
    convention: str = Field(description="How the finished map is made, unless its URL says else.")
    map: MapSummary
    overlay: Link
    diagnostics: tuple[Diagnostic, ...] = Field(
        (), description="What is remarkable about the map, as that it is zero everywhere."
    )
    evaluation: tuple[MetricResult, ...] = Field((), description="What `evaluate` asked for.")


class Computation(Message):
    """What it took."""

    device: str
    precision: str = Field(description="Of the network up to the feature layer.")
    batch_size: int = Field(description="Inputs that shared a forward pass, of all requests.")
    forward_passes: int = Field(description="Of single inputs, for this explanation.")
    cache: Literal["result"] | None = Field(
        None,
        description="`result`: the result of an earlier request answered this one, without a "
        "forward pass; device, precision and batch are those of that one. Null: it was computed.",
    )


class Timings(Message):
    """Milliseconds by the queue's clock; null while not known."""

    queue: float | None = Field(None, description="From acceptance to the start of the attempt.")
    compute: float | None = Field(
        None, description="On the worker, with its batch-mates; null of an earlier result."
    )
    total: float | None = Field(None, description="From acceptance to completion.")


class Progress(Message):
    """How far a running explanation is."""

    done: int = Field(description="Forward passes of single inputs, made or under way.")
    total: int = Field(description="Those that it takes.")


class Lifetime(Message):
    """What is known of an explanation in every state."""

    id: str = Field(description="Sorts by the time of acceptance.")
    state: State
    model: str = Field(description="Name of the model.")
    model_version: str = Field(
        description="Digest of the card and files that computed it, where its results are shown; "
        "else of those that it was accepted for."
    )
    created_at: datetime = Field(description="When it was accepted.")
    started_at: datetime | None = Field(None, description="When the last attempt began.")
    completed_at: datetime | None = Field(
        None, description="When it came to its last state, which never changes."
    )
    deadline_at: datetime = Field(description="When it expires, unless it is done.")
    attempts: int = Field(description="How often a worker began it.")
    cancel_requested: bool = Field(
        default=False, description="Whether DELETE was sent; a running one stops when it can."
    )
    timings_ms: Timings = Timings()
    error: FailureMessage | None = Field(None, description="Why there is no result, at the end.")
    replay_of: str | None = Field(
        None, description="Id of the explanation that was given up and is done again by this one."
    )
    href: str = Field(description="Address of the explanation.")


class Explanation(Lifetime):
    """An explanation, in whatever state it is."""

    events: Link = Field(description="Server-sent events: whenever it changes.")
    queue_position: int | None = Field(
        None, description="Of a queued one: how many of its model are before it."
    )
    progress: Progress | None = Field(
        None, description="Of a running one, once its worker told, twice a second at most."
    )
    results: tuple[ResultSummary, ...] = Field(
        (), description="By input, then by target; empty until it has succeeded."
    )
    computation: Computation | None = Field(None, description="Null while there is no result.")
    webhook: WebhookDelivery | None = Field(
        None, description="What became of the request's `webhook`; null if there was none."
    )


class ExplanationSummary(Lifetime):
    """An explanation in a list: without its results."""

    priority: Priority
    inputs: int = Field(description="How many inputs it has.")
    input_names: tuple[str | None, ...] = Field((), description="Names of the uploads.")
    maps: int = Field(description="How many results it has, or will have.")
    overlay: Link | None = Field(None, description="Of the first result, once there is one.")


class ExplanationList(Message):
    """Recent explanations, newest first."""

    explanations: tuple[ExplanationSummary, ...]
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last.")


class MapArray(Message):
    """A finished map as JSON."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    convention: str
    reduction_layer: str = Field(description="What was differentiated.")
    data: Numbers = Field(description="Rows of numbers; null where one is not finite.")


class Residence(Message):
    """A worker that holds a model ready."""

    worker: str = Field(description="Name of the worker process.")
    host: str = Field(description="Its machine.")
    device: str = Field(description="As `cpu`, `cuda:0`.")


class ModelSummary(Message):
    """A model at a glance."""

    name: str = Field(description="What requests call it.")
    title: str
    description: str
    task: str = Field(description="What its output means, as `classification`.")
    state: CardState
    ready: bool = Field(
        description="Whether it can be used now: it is resident, or is loaded on first use."
    )
    problem: FailureMessage | None = Field(None, description="Why it is not ready.")
    version: str = Field("", description="Digest of the card and files that are served.")
    failed_update: FailedUpdate | None = Field(
        None, description="What its files are now, and why that could not be loaded, if so."
    )
    classes: int | None = Field(None, description="How many; null while it was never loaded.")
    input: InputSpec | None = Field(None, description="What it takes; null while not known.")
    feature_layer: Layers | None = Field(
        None, description="What is explained if a request names no layer; null while not known."
    )
    workers: int = Field(description="Live workers that serve it.")
    resident_on: tuple[Residence, ...] = Field((), description="Those that hold it ready.")
    queue_depth: int = Field(0, description="Jobs that wait or run.")
    p50_ms: ServiceTimes = Field(
        ServiceTimes(),
        description="Median time of its last 100 batches on the device of a worker, without the "
        "wait in the queue and the load; of several workers, the median of theirs.",
    )
    href: str = Field(description="Address of its card.")


class ModelList(Message):
    models: tuple[ModelSummary, ...]


class ServedCard(ResolvedCard):
    """The card of a model, and whether it can be used now."""

    ready: bool = Field(
        description="True where it is resident, or is loaded on first use; else `problem` says why."
    )


class LayerList(Message):
    """The layers of a model: those that can be explained first, best first, then the others."""

    model: str
    feature_layer: Layers | None
    feature_reason: str | None
    reduction_layer: str | None
    reduction_reason: str | None
    output_format: str | None
    layers: tuple[LayerSummary, ...]
