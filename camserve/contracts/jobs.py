"""What crosses the queue: the job document, and the result beside its tensors.

The tensors themselves travel as safetensors. To the worker: `input.<i>` in the model's own format
without B, of a picture its grey levels (uint8), which the worker scales and normalises, of an array
its numbers (float32), ready for the network; `region.<t>.<i>` bool, the positions of input i that
target t sums over, on the grid of that input's S and T axes; `reference.<t>` float32, what target t
compares with. Back: `map.<r>.<l>` (*S) float32, row r, feature layer l, signed and at that layer's
resolution; of a prediction, `output.<i>` float32, the model's output for input i in the model's own
order without B.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field

from camserve.contracts.base import Message
from camserve.contracts.layers import FeatureFormat, LayerName
from camserve.contracts.methods import Evaluate, MethodOptions, is_costly
from camserve.contracts.options import Convention, Fusion, OutputOptions, Upsampling
from camserve.contracts.targets import ClassIndexTarget, TopTarget
from camserve.vocabulary import Method, Metric, Precision

__all__ = [
    "WHOLE_PASS",
    "Caching",
    "Diagnostic",
    "Job",
    "JobInput",
    "JobResult",
    "JobTarget",
    "MetricResult",
    "PredictionResult",
    "PredictionRow",
    "ResultRow",
    "ScalarTarget",
    "input_name",
    "map_name",
    "output_name",
    "reference_name",
    "region_name",
]


WHOLE_PASS: Final = 1_000_000
"""More inputs than any forward pass has."""


Caching: TypeAlias = Literal["use", "refresh", "bypass"]
"""What caches may do for a job: answer it and keep what comes of it; only the latter; neither."""


class ScalarTarget(Message):
    """A named reduction or an expression, with all that was resolved by the front end."""

    reduction: str | None = Field(None, description="As it was asked for; null of an expression.")
    expression: str | None = Field(None, description="The expression, also of a card's reduction.")
    class_index: int | None = None
    against: int | None = None
    index: int | None = None
    region: Literal["predicted", "all", "given"] | None = Field(
        None, description="`given`: the tensors `region.<t>.<i>` hold it."
    )
    reference: Literal["given"] | int | None = Field(
        None, description="`given`: the tensor `reference.<t>`; a number: that input's own output."
    )

    @property
    def count(self) -> int:
        return 1


JobTarget = ClassIndexTarget | TopTarget | ScalarTarget


class JobInput(Message):
    """What presentation must know of an input: how the upload became the tensor."""

    name: str | None = Field(None, description="File name of the upload, if it had one.")
    shape: tuple[int, ...] = Field(description="Shape of the model input, without batch.")
    geometry: dict[str, Any] = Field(description="Where the map lies; see camserve.maps.")


class Job(Message):
    """The job document, version 1. Labels are resolved and checked: a worker sees indices."""

    version: Literal[1] = 1
    kind: Literal["explain", "predict", "load"] = "explain"
    model: str
    model_version: str
    model_interface: str = Field(
        "", description="What its inputs and targets were checked by; see `ResolvedCard.interface`."
    )
    inputs: tuple[JobInput, ...] = ()
    targets: tuple[JobTarget, ...] = ()
    method: Method = "gradcam"
    method_options: MethodOptions = MethodOptions()
    feature_layers: tuple[LayerName, ...] = Field((), description="None: those of the card.")
    feature_format: FeatureFormat | None = None
    reduction_layer: LayerName | None = None
    precision: Precision = "float32"
    evaluate: Evaluate | None = None
    convention: Convention = "camserve"
    upsampling: Upsampling | None = None
    fusion: Fusion | None = None
    output: OutputOptions = OutputOptions()
    request_id: str | None = None
    traceparent: str | None = Field(
        None, description="Of the span that handed it in (W3C Trace Context); null of no trace."
    )
    tracestate: str | None = None
    webhook: str | None = Field(None, description="URL that is told of its end.")
    input_digest: str | None = Field(None, description="SHA-256 of the payload, in hexadecimal.")
    replay_of: str | None = Field(None, description="Id of the dead job that it does again.")
    caching: Caching = Field(
        "use",
        description="What caches may do for it: `use` them; `refresh` what they hold by computing "
        "it; `bypass` them, as if there were none.",
    )

    @property
    def may_read_caches(self) -> bool:
        """Whether what was computed earlier may answer it."""
        return self.caching == "use"

    @property
    def may_fill_caches(self) -> bool:
        """Whether what comes of it may answer others."""
        return self.caching != "bypass"

    @property
    def is_costly(self) -> bool:
        """Whether each of its inputs takes more than one forward pass."""
        return is_costly(self.method, self.evaluate)

    @property
    def weight(self) -> int:
        """How many inputs of a forward pass it takes the room of: one of many passes has all of it,
        so that nothing is claimed along with it that would have to wait for it."""
        return WHOLE_PASS if self.is_costly else max(len(self.inputs), 1)

    @property
    def trace(self) -> dict[str, str | None]:
        """The span that handed it in, by the names of W3C Trace Context."""
        return {"traceparent": self.traceparent, "tracestate": self.tracestate}


class Diagnostic(Message):
    code: str
    advice: str


class MetricResult(Message):
    """One metric of a map."""

    metric: Metric
    value: float | None = Field(
        description="Area under the curve, as a mean over its positions; of `randomisation` the "
        "rank correlation of the two maps. Null if it is not finite."
    )
    curve: tuple[float, ...] = Field((), description="Scores, the first of the whole input.")
    meaning: str = Field(description="How to read the value.")


class ResultRow(Message):
    """One map: input x target."""

    input: int
    target: int = Field(description="Index into the job's targets.")
    class_index: int | None
    class_label: str | None = Field(
        None, description="By the labels of the version that computed it, if it has any."
    )
    score: float | None = Field(description="The differentiated scalar; null if it is not finite.")
    diagnostics: tuple[Diagnostic, ...] = ()
    evaluation: tuple[MetricResult, ...] = ()


class JobResult(Message):
    """Metadata of a result, version 1."""

    version: Literal[1] = 1
    model_version: str
    feature_layers: Annotated[tuple[LayerName, ...], Field(min_length=1)]
    reduction_layer: str
    rows: tuple[ResultRow, ...]
    compute_ms: float
    batch_size: int = Field(description="Inputs that shared the forward pass.")
    forward_passes: int = Field(description="Of single inputs, what the request cost in all.")
    recalled: int = Field(
        0,
        description="Inputs whose activations the worker still had: they ran the head alone.",
    )
    precision: Precision
    worker: str
    device: str


class PredictionRow(Message):
    """One input's output."""

    diagnostics: tuple[Diagnostic, ...] = ()


class PredictionResult(Message):
    """Metadata of the result of a prediction, version 1."""

    version: Literal[1] = 1
    model_version: str
    output_format: str = Field(description="Dimension labels of the outputs, without B.")
    rows: tuple[PredictionRow, ...] = Field(description="One for each input, in order.")
    compute_ms: float
    batch_size: int = Field(description="Inputs that shared the forward pass.")
    recalled: int = Field(
        0, description="Inputs whose activations the worker still had: they ran the head alone."
    )
    precision: Precision
    worker: str
    device: str


def input_name(index: int) -> str:
    """Name of an input's tensor in a payload."""
    return f"input.{index}"


def region_name(target: int, index: int) -> str:
    """Name of the region of a target on an input, in a payload."""
    return f"region.{target}.{index}"


def reference_name(target: int) -> str:
    """Name of the vector that a target compares with, in a payload."""
    return f"reference.{target}"


def map_name(row: int, layer: int) -> str:
    """Name of a row's tensor of one feature layer, in a result."""
    return f"map.{row}.{layer}"


def output_name(index: int) -> str:
    """Name of the model's output for an input, in the result of a prediction."""
    return f"output.{index}"
