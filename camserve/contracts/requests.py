"""What is asked of a model's inputs, as JSON; the form and raw bodies become the same objects."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from camserve import vocabulary
from camserve.contracts.base import Message
from camserve.contracts.input_specs import Format
from camserve.contracts.layers import LAYER_HELP, FeatureFormat, LayerName, Layers
from camserve.contracts.methods import (
    METHOD_HELP,
    Evaluate,
    MethodOptions,
    check_options,
    is_costly,
)
from camserve.contracts.options import Convention, Fusion, OutputOptions, Upsampling
from camserve.contracts.targets import Target
from camserve.vocabulary import Method, Precision

__all__ = [
    "DEFAULT_TOP",
    "EXECUTION",
    "INPUT_KEYS",
    "MODEL_NAME",
    "Execution",
    "ExplanationRequest",
    "Image",
    "ImageInput",
    "Input",
    "InputsRequest",
    "PredictionRequest",
    "Priority",
    "Tensor",
    "TensorInput",
]

Priority = Literal["interactive", "bulk"]
MODEL_NAME = f"^{vocabulary.MODEL_NAME}$"
EXECUTION = f"^({vocabulary.EXECUTION})$"
DEFAULT_TOP = 5
MOST_CLASSES = 1000
Execution = Annotated[str, StringConstraints(pattern=EXECUTION)]


class Image(Message):
    """The picture file: exactly one of the two."""

    base64: str | None = Field(
        None, description="The file, base64-encoded (a data: URL is accepted)."
    )
    url: Annotated[str, StringConstraints(min_length=1, max_length=2048)] | None = Field(
        None,
        description="Where it is fetched from, if CAMSERVE_FETCH_HOSTS names the host.",
        examples=["https://images.example.com/cat.jpg"],
    )


class ImageInput(Message):
    """A picture: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF."""

    image: Image


class Tensor(Message):
    """Numbers for the model as they are: exactly one of the two."""

    data: list[Any] | None = Field(None, description="Nested lists of numbers.")
    npy_base64: str | None = Field(None, description="A .npy file, base64-encoded.")


class TensorInput(Message):
    """An array of numbers. To a model of pictures it is sent ready, that is normalised."""

    tensor: Tensor
    format: Format | None = Field(
        None, description="Dimension labels of this array; default: the request's."
    )


INPUT_KEYS = ("image", "tensor")


def _kind(value: Any) -> str | None:
    if isinstance(value, dict):
        present = [key for key in INPUT_KEYS if key in value]
        return present[0] if len(present) == 1 else None
    return "image" if isinstance(value, ImageInput) else "tensor"


Input = Annotated[
    Annotated[ImageInput, Tag("image")] | Annotated[TensorInput, Tag("tensor")],
    Discriminator(
        _kind,
        custom_error_type="one_input",
        custom_error_message=f"an input has exactly one of {', '.join(INPUT_KEYS)}",
    ),
]


class InputsRequest(Message):
    """What every request says of its inputs and of their way through the queue."""

    inputs: tuple[Input, ...] = Field((), description="Pictures or tensors.")
    format: Format | None = Field(
        None,
        description="Dimension labels of the arrays that are sent, such as `SSC` for height x "
        "width x channels; default: the model's own without B. With a B, each of its positions is "
        "an input.",
    )
    precision: Precision = Field(
        "float32",
        description="What the network computes in up to the feature layer. The head and the "
        "scores, gradients and maps are float32 at least.",
    )
    execution: Execution = Field(
        "auto", description="`cpu`, `cuda`, or one GPU as in `cuda:1`: the device of the worker."
    )
    priority: Priority = Field("interactive", description="`bulk` waits behind `interactive`.")
    deadline_ms: Annotated[int, Field(ge=1, strict=True)] | None = Field(
        None,
        description="Milliseconds from now after which the answer is of no use; default: the "
        "service's, and longer for what takes many forward passes.",
    )

    @property
    def is_costly(self) -> bool:
        """Whether each input takes more than one forward pass."""
        return False


class PredictionRequest(InputsRequest):
    """The model's own answer to one or more inputs."""

    top: Annotated[int, Field(ge=1, le=MOST_CLASSES, strict=True)] | None = Field(
        None,
        description="How many of the best classes of each input to list; default: "
        f"{DEFAULT_TOP}, or all if there are fewer.",
        examples=[3],
    )


class ExplanationRequest(InputsRequest):
    """One explanation: one or more inputs, each explained for one or more targets."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        description="Name of the model, as in GET /v1/models.", examples=["shapes"]
    )
    format: Format | None = Field(
        None,
        description="Dimension labels of the arrays that are sent, such as `SSC` for height x "
        "width x channels; default: the model's own without B. Maps have their axes S and T in "
        "this order. With a B, each of its positions is an input.",
    )
    targets: Annotated[tuple[Target, ...], Field(min_length=1)] | None = Field(
        None,
        description="What to explain; default: the best class of each input, or the norm of an "
        "embedding.",
    )
    method: Method = Field("gradcam", description=METHOD_HELP)
    method_options: MethodOptions = MethodOptions()
    feature_layer: Layers | None = Field(
        None,
        description="Layer whose activations are explained, or a list of layers whose maps are "
        f"fused; default: the model card's. {LAYER_HELP}",
    )
    feature_format: FeatureFormat | None = Field(
        None,
        description="Dimension labels of the feature layer's output, where the automatic reading "
        "is not meant: `BSSC`, `BTC`, or `BTC:14x14` for tokens that are such a grid.",
    )
    reduction_layer: LayerName | None = Field(
        None,
        description="Layer whose output is the score: a module name, `output`, `softmax` or "
        "`sigmoid`; default: the convention's and the model card's.",
    )
    convention: Convention = Field("camserve", description="How the map is finished.")
    upsampling: Upsampling | None = Field(None, description="Default: the convention's own.")
    fusion: Fusion | None = Field(
        None, description="How the maps of several layers become one; default: the convention's."
    )
    evaluate: Evaluate | None = Field(None, description="Put the map to the test, at a cost.")
    webhook: Annotated[str, StringConstraints(min_length=1, max_length=2048)] | None = Field(
        None,
        description="URL that is told, by Standard Webhooks, when the explanation has ended, if "
        "CAMSERVE_WEBHOOK_HOSTS names the host.",
        examples=["https://hooks.example.com/camserve"],
    )
    output: OutputOptions = OutputOptions()

    @property
    def is_costly(self) -> bool:
        return is_costly(self.method, self.evaluate)

    @model_validator(mode="after")
    def _fitting_options(self) -> Self:
        check_options(self.method, self.method_options)
        return self
