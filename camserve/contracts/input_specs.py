"""What a model takes: a picture, prepared from an upload, or an array of numbers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from camserve.contracts.base import Message
from camserve.dimensions import FORMAT, check_format, space_and_time
from camserve.errors import InvalidRequest

__all__ = ["PROBE_SIZE", "Format", "InputSpec", "PictureSpec", "TensorSpec"]

Channels = Annotated[tuple[float, ...], Field(min_length=1, max_length=4)]
Pixels = Annotated[int, Field(ge=1, le=8192)]
Format = Annotated[str, StringConstraints(pattern=FORMAT)]

PROBE_SIZE = 64
"""Size of a free dimension while the layers are looked up, unless the card says another."""


class PictureSpec(Message):
    """How a picture becomes the model's input: resize, crop, scale, normalise, in this order."""

    kind: Literal["picture"] = "picture"
    height: Pixels
    width: Pixels
    format: Literal["BCSS", "BSSC"] = Field(
        "BCSS", description="Dimension labels of the model's input: channels first or last."
    )
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
    crop_rounding: Literal["transformers", "torchvision"] = Field(
        "transformers",
        description="How an odd margin of the centre crop is split: the two differ by one pixel.",
    )
    filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    scale: float = Field(1 / 255, gt=0, description="Factor on grey levels 0 to 255.")
    mean: Channels = (0.0,)
    std: Channels = (1.0,)

    @property
    def channels(self) -> int:
        return 1 if self.colors == "L" else 3

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one model input, in the order of `format` without B."""
        size = (self.height, self.width)
        return (self.channels, *size) if self.format == "BCSS" else (*size, self.channels)

    @property
    def probe_shape(self) -> tuple[int, ...]:
        return self.shape

    @model_validator(mode="after")
    def _fitting_normalisation(self) -> Self:
        _check_normalisation(self.mean, self.std, self.channels)
        return self


class TensorSpec(Message):
    """An array of numbers: a volume, a sequence, a video, or a picture that is none for people."""

    kind: Literal["tensor"] = "tensor"
    format: Format = Field(
        description="Dimension labels of the model's input: B batch, C channel, S space, T time.",
        examples=["BCT", "BCSSS", "BTCSS"],
    )
    shape: Annotated[tuple[Annotated[int, Field(ge=0, le=1_000_000)], ...], Field(min_length=1)] = (
        Field(description="Sizes in the order of `format`, without B; 0 where any size will do.")
    )
    probe: tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...] | None = Field(
        None,
        description=f"Sizes with which the layers are looked up; default: {PROBE_SIZE} for each 0.",
    )
    mean: Annotated[tuple[float, ...], Field(min_length=1, max_length=4096)] = Field(
        (0.0,), description="Taken off each channel (or all) of what is sent."
    )
    std: Annotated[tuple[float, ...], Field(min_length=1, max_length=4096)] = Field(
        (1.0,), description="Then each channel is divided by it."
    )

    @property
    def labels(self) -> str:
        """`format` without B: of one input."""
        return self.format.replace("B", "")

    @property
    def channels(self) -> int:
        """Of a format without C: 1."""
        return self.shape[self.labels.index("C")] if "C" in self.labels else 1

    @property
    def probe_shape(self) -> tuple[int, ...]:
        return self.probe or tuple(size or PROBE_SIZE for size in self.shape)

    @model_validator(mode="after")
    def _meaningful_format(self) -> Self:
        try:
            check_format(self.format)
        except InvalidRequest as error:
            raise ValueError(str(error)) from error
        if "B" not in self.format:
            raise ValueError(f"format {self.format!r} needs a B: models take batches")
        if "U" in self.format:
            raise ValueError(
                f"format {self.format!r} has a U: say what each dimension is, C, S or T"
            )
        if not space_and_time(self.format):
            raise ValueError(
                f"format {self.format!r} has neither S nor T: nothing to make a map of"
            )
        return self

    @model_validator(mode="after")
    def _fitting_sizes(self) -> Self:
        for name, sizes in (("shape", self.shape), ("probe", self.probe_shape)):
            if len(sizes) != len(self.labels):
                raise ValueError(
                    f"{name} has {len(sizes)} sizes for the dimensions {self.labels!r} of one input"
                )
        pairs = zip(self.shape, self.probe_shape, strict=True)
        if any(size not in (0, probe) for size, probe in pairs):
            raise ValueError(
                f"probe {list(self.probe_shape)} does not fit shape {list(self.shape)}"
            )
        if self.channels == 0:
            raise ValueError("the number of channels must be given")
        return self

    @model_validator(mode="after")
    def _fitting_normalisation(self) -> Self:
        _check_normalisation(self.mean, self.std, self.channels)
        return self


def _check_normalisation(mean: tuple[float, ...], std: tuple[float, ...], channels: int) -> None:
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise ValueError(f"{name} has {len(values)} values for {channels} channels")
    if any(value == 0 for value in std):
        raise ValueError("std must not be 0")


InputSpec = Annotated[PictureSpec | TensorSpec, Field(discriminator="kind")]
