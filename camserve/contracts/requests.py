"""The request for an explanation, as JSON; the form and raw bodies become the same object."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from camserve.contracts.base import Message
from camserve.contracts.options import Convention, OutputOptions, Upsampling
from camserve.contracts.targets import Target, TopTarget

__all__ = [
    "MODEL_NAME",
    "ExplanationRequest",
    "Image",
    "ImageInput",
    "Input",
    "Priority",
    "Tensor",
    "TensorInput",
]

MODEL_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
Priority = Literal["interactive", "bulk"]
LayerName = Annotated[str, StringConstraints(min_length=1, max_length=300)]


class Image(Message):
    base64: str = Field(description="The picture file, base64-encoded (a data: URL is accepted).")


class ImageInput(Message):
    """A picture: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF."""

    image: Image


class Tensor(Message):
    """Numbers for the model as they are: exactly one of the two."""

    data: list[Any] | None = Field(None, description="Nested lists of numbers.")
    npy_base64: str | None = Field(None, description="A .npy file, base64-encoded.")


class TensorInput(Message):
    """A ready tensor of the model's own input shape, channels first, already normalised."""

    tensor: Tensor


def _kind(value: Any) -> str | None:
    if isinstance(value, dict):
        present = [key for key in ("image", "tensor") if key in value]
        return present[0] if len(present) == 1 else None
    return "image" if isinstance(value, ImageInput) else "tensor"


Input = Annotated[
    Annotated[ImageInput, Tag("image")] | Annotated[TensorInput, Tag("tensor")],
    Discriminator(
        _kind,
        custom_error_type="one_input",
        custom_error_message="an input has exactly one of image, tensor",
    ),
]


class ExplanationRequest(Message):
    """One explanation: one or more inputs, each explained for one or more targets."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        description="Name of the model, as in GET /v1/models.", examples=["shapes"]
    )
    inputs: tuple[Input, ...] = Field((), description="Pictures or tensors.")
    targets: Annotated[tuple[Target, ...], Field(min_length=1)] = Field(
        (TopTarget(top=1),),
        description="What to explain; default: the best class of each input.",
    )
    method: Literal["gradcam"] = Field("gradcam", description="The attribution method.")
    feature_layer: LayerName | None = Field(
        None, description="Layer whose activations are explained; default: the model card's."
    )
    reduction_layer: LayerName | None = Field(
        None,
        description="Layer whose output is the score: a module name, `output`, `softmax` or "
        "`sigmoid`; default: the convention's and the model card's.",
    )
    convention: Convention = Field("camserve", description="How the map is finished.")
    upsampling: Upsampling | None = Field(None, description="Default: the convention's own.")
    priority: Priority = Field("interactive", description="`bulk` waits behind `interactive`.")
    deadline_ms: Annotated[int, Field(ge=1, strict=True)] | None = Field(
        None, description="Milliseconds from now after which the answer is of no use."
    )
    output: OutputOptions = OutputOptions()
