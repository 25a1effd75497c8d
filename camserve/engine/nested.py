"""Tensors inside what a module returns: a tensor, tuple, list, mapping or `ModelOutput`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor

from camserve.errors import NotExplainable

__all__ = ["floating_tensors", "model_output", "replace_tensor"]


def floating_tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors inside `value`, depth first, in order."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
        return
    children = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, tuple | list | Mapping):
        for child in children:
            yield from floating_tensors(child)


def model_output(value: Any) -> Tensor:
    """The tensor that stands for a model's answer: `logits` of a mapping, else the first floating.

    Raises NotExplainable if there is none.
    """
    if isinstance(value, Mapping) and isinstance(value.get("logits"), Tensor):
        return value["logits"]  # type: ignore[no-any-return]
    for tensor in floating_tensors(value):
        return tensor
    raise NotExplainable(
        f"the reduction layer returns no floating-point tensor but {type(value).__name__}: "
        "choose another reduction layer"
    )


def replace_tensor(value: Any, old: Tensor, new: Tensor) -> Any:
    """`value` with every occurrence of the object `old` replaced; containers are copied."""
    if value is old:
        return new
    if isinstance(value, tuple):
        items = [replace_tensor(item, old, new) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        return [replace_tensor(item, old, new) for item in value]
    if isinstance(value, MutableMapping):
        replaced = copy.copy(value)
        for key, item in value.items():
            replaced[key] = replace_tensor(item, old, new)
        return replaced
    return value
