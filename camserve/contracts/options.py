"""How a finished map is shown: chosen with the request, or later, at no device cost."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from camserve.contracts.base import Message

__all__ = [
    "SIZE",
    "SIZE_HELP",
    "ArrayOptions",
    "Colormap",
    "Convention",
    "Dtype",
    "Fusion",
    "MapOptions",
    "OutputOptions",
    "PictureOptions",
    "PictureStyle",
    "Size",
    "Upsampling",
    "View",
]

Convention = Literal["camserve", "matlab", "paper", "pytorch-grad-cam", "captum", "torchcam"]
Upsampling = Literal["nearest", "linear", "bicubic", "none"]
Colormap = Literal["turbo", "viridis", "inferno", "magma", "jet", "gray"]
Dtype = Literal["float32", "float64", "float16"]
View = Literal["overlay", "heatmap", "side_by_side", "contour"]
Fusion = Literal["mean", "max"]
SIZE = r"^(original|input|feature|[1-9]\d{0,4}(x[1-9]\d{0,4}){0,2})$"
Size = Annotated[str, StringConstraints(pattern=SIZE)]

DTYPE_HELP = "Of the numbers in the array; a map is computed in float32."
SIZE_HELP = (
    "`original`: the upload's own pixel grid; `input`: the grid that the model saw; `feature`: the "
    "feature layer's grid; `640`: the upload's shape with its long side 640; `640x480`: width x "
    "height. Sizes count the pixels as the file stores them, before its EXIF orientation. Of an "
    "array that is no picture: `original` and `input` are its own grid, and `32x64x64` gives a "
    "size for each axis of the map (of a picture: at most 32 slices of 64 x 64)."
)


class MapOptions(Message):
    """Which array is made of the signed map."""

    convention: Convention | None = Field(
        None, description="Order of ReLU, up-sampling and normalisation; default: the request's."
    )
    upsampling: Upsampling | None = Field(
        None, description="Interpolation; default: the request's, or the convention's own."
    )
    fusion: Fusion | None = Field(
        None,
        description="How the maps of several layers become one; default: the request's, or the "
        "convention's own.",
    )
    size: Size | None = Field(
        None,
        description=f"{SIZE_HELP} Default: `original`, "
        "or as much of its resolution as `CAMSERVE_MAX_OUTPUT_MEGAPIXELS` leaves, and in JSON "
        "`CAMSERVE_MAX_JSON_MEGAPIXELS`.",
    )


class ArrayOptions(MapOptions):
    """An array of numbers, as .npy or JSON."""

    dtype: Dtype = Field("float32", description=DTYPE_HELP)


class PictureStyle(Message):
    """How a map is drawn."""

    view: View = Field(
        "overlay",
        description="Colours over the picture, colours alone, both side by side, or contour lines.",
    )
    colormap: Colormap = Field("turbo", description="Colour map.")
    alpha: Annotated[float, Field(ge=0, le=1)] = Field(
        0.6, description="Opacity of strong evidence; the peak has more."
    )
    threshold: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Evidence below this share of the range gets no colour."
    )
    color_bar: bool = Field(default=False, description="Draw a colour bar with the map's range.")
    scale: Literal["each", "shared"] = Field(
        "each", description="Scale each map to its own range, or all of the request to one."
    )


class PictureOptions(MapOptions, PictureStyle):
    """A picture of a map: which array, and how it is drawn. Its default size is that of the copy
    of the upload that the service keeps (long side at most `CAMSERVE_PICTURE_PX`)."""


class OutputOptions(PictureStyle):
    """What the JSON answer holds besides links, and how a picture answer looks."""

    # 0 is no false, and "0.5" no number; in a query string, where all is text, they are
    model_config = ConfigDict(strict=True)

    map: Literal["link", "list", "npy_base64"] = Field(
        "link",
        description="A link to the map (default), or the map itself in the answer: numbers in "
        "`list`s, all maps together at most `CAMSERVE_MAX_JSON_MEGAPIXELS`, or a .npy file.",
    )
    dtype: Dtype = Field("float32", description=DTYPE_HELP)
    size: Size | None = Field(None, description=f"Of the map and the picture. {SIZE_HELP}")
