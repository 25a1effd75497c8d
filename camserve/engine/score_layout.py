"""Where the classes are in what a reduction layer returns."""

from __future__ import annotations

from torch import Tensor

from camserve.engine.layouts import Layout

__all__ = ["class_dimension_first", "letters_of_output"]


def letters_of_output(shape: tuple[int, ...], layout: Layout | None) -> str:
    """One letter per dimension: those of a dense output as it was read, else BC and unspecified."""
    if layout is not None and layout.frames is None:
        return layout.letters
    return ("BC" + "U" * len(shape))[: len(shape)]


def class_dimension_first(output: Tensor, letters: str) -> Tensor:
    """`output` as (N, C, *D), C = 1 without a class dimension; a view."""
    batch = letters.index("B") if "B" in letters else 0
    if "C" not in letters:
        return output.movedim(batch, 0).unsqueeze(1)
    return output.movedim((batch, letters.index("C")), (0, 1))
