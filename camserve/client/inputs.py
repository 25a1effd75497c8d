"""What may be explained, as the file that the service gets."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, TypeAlias, Union

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["Input", "InputFile", "Inputs", "mask_file", "read_inputs"]

Input: TypeAlias = Union[
    str, "os.PathLike[str]", bytes, BinaryIO, "Image.Image", "NDArray[np.generic]", Any
]
"""A path, a URL that the service fetches, the bytes of a file, an open binary file, a Pillow image,
or an array.

An array (NumPy's, or whatever has `__array__`) goes to the model as it is, that is normalised and
in the model's format; pixels become a picture by `PIL.Image.fromarray`.
"""

# of the modes that Pillow writes into a PNG without loss
_PNG_MODES: Final = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_URLS: Final = ("http://", "https://")


class InputFile(NamedTuple):
    """A file of the form. The service looks at its bytes, and shows its name."""

    name: str
    data: bytes


class Inputs(NamedTuple):
    """All inputs of a call: files that are sent, or URLs that the service fetches."""

    files: tuple[InputFile, ...] = ()
    urls: tuple[str, ...] = ()


def read_inputs(inputs: Input | Sequence[Input]) -> Inputs:
    """Of one input; a list or tuple is several. Blocks, since it reads and encodes.

    Raises OSError for a file that cannot be read, TypeError for what is no input.
    """
    several = inputs if isinstance(inputs, list | tuple) else [inputs]
    urls = tuple(one for one in several if isinstance(one, str) and one.startswith(_URLS))
    if not urls:
        return Inputs(tuple(_input_file(one, number) for number, one in enumerate(several)))
    if len(urls) < len(several):
        raise TypeError("URLs and files need calls of their own")
    return Inputs(urls=urls)


def mask_file(mask: Input | None) -> InputFile | None:
    """The same of a region's mask."""
    return None if mask is None else _input_file(mask, 0)


def _input_file(value: Any, number: int) -> InputFile:
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        return InputFile(_sendable(path.name), path.read_bytes())
    if isinstance(value, bytes | bytearray | memoryview):
        return InputFile(f"input-{number}", bytes(value))
    if hasattr(value, "read"):
        return _of_open_file(value, number)
    if hasattr(value, "getexif"):
        return _of_image(value, number)
    if hasattr(value, "__array__"):
        return _of_array(value, number)
    raise TypeError(
        f"an input is a path, bytes, a binary file, a Pillow image or an array, not "
        f"{type(value).__name__}"
    )


def _of_open_file(file: Any, number: int) -> InputFile:
    data = file.read()
    if not isinstance(data, bytes):
        raise TypeError("the file was opened as text: open it with mode 'rb'")
    name = getattr(file, "name", None)
    return InputFile(
        _sendable(Path(name).name) if isinstance(name, str) else f"input-{number}", data
    )


def _of_image(image: Any, number: int) -> InputFile:
    image.load()  # which turns a TIFF upright, and takes its orientation away
    file = io.BytesIO()
    kind = "PNG" if image.mode in _PNG_MODES else "TIFF"
    # the orientation travels with the pixels, which Pillow leaves as the file stored them
    image.save(file, kind, exif=image.getexif())
    name = getattr(image, "filename", "")
    stem = Path(name).stem if isinstance(name, str) and name else f"input-{number}"
    return InputFile(_sendable(f"{stem}.{kind.lower()}"), file.getvalue())


def _of_array(value: Any, number: int) -> InputFile:
    import numpy as np  # noqa: PLC0415 - whoever has an array has NumPy

    file = io.BytesIO()
    np.save(file, np.asarray(value), allow_pickle=False)
    return InputFile(f"input-{number}.npy", file.getvalue())


def _sendable(name: str) -> str:
    """A file name as text: one that is not UTF-8 cannot be sent as it is."""
    return name.encode(errors="replace").decode()
