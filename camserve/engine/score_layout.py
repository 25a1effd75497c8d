"""Where the classes are in what a reduction layer returns."""

from __future__ import annotations

from torch import Tensor

from camserve.engine.layouts import Layout

__all__ = ["class_dimension_first", "in_own_order", "letters_of_output"]


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


def in_own_order(row: Tensor, letters: str) -> Tensor:
    """The inverse for one row: (C, *D) in the order of `letters` without the batch; a view."""
    labels = letters.replace("B", "")
    return row.movedim(0, labels.index("C")) if "C" in labels else row.squeeze(0)
