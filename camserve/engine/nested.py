"""Tensors inside what a module returns: a tensor, tuple, list, mapping or `ModelOutput`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor

from camserve.errors import LayerNotFound, NotExplainable

__all__ = [
    "floating_tensors",
    "index_of_path",
    "output_path",
    "output_tensor",
    "replace_tensor",
    "shapes_of",
    "split_path",
]


def floating_tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors inside `value` with their paths, depth first, in order.

    A path is made of keys and positions, as in `hidden_states.2`; of a bare tensor it is empty.
    """
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield path, value
        return
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, tuple | list):
        children = enumerate(value)
    for key, child in children:
        yield from floating_tensors(child, f"{path}.{key}" if path else str(key))


def shapes_of(value: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the floating-point tensors inside `value`, by their paths, in order."""
    return {path: tuple(tensor.shape) for path, tensor in floating_tensors(value)}


def output_path(paths: Iterable[str]) -> str:
    """Which of the paths of an answer `output_tensor` takes where none is asked for."""
    known = list(paths)
    return "logits" if "logits" in known else known[0]


def split_path(layer: str) -> tuple[str, str | None]:
    """`encoder:hidden_states.2` as the name of the module and the path of the tensor in it."""
    name, colon, path = layer.partition(":")
    return name, path if colon else None


def index_of_path(layer: str, path: str, known: list[str]) -> int:
    """Which of a module's tensors has that path. Raises LayerNotFound with those it has."""
    if path in known:
        return known.index(path)
    name, _ = split_path(layer)
    raise LayerNotFound(layer, [f"{name}:{one}" if one else name for one in known])


def output_tensor(value: Any, layer: str = "output", path: str | None = None) -> Tensor:
    """The tensor that stands for a model's answer, or for a reduction layer's.

    The one at `path`; without a path `logits` of a mapping, else the first floating-point tensor.
    Raises LayerNotFound for an unknown path, NotExplainable if there is no such tensor at all.
    """
    found = dict(floating_tensors(value))
    if not found:
        raise NotExplainable(
            f"the reduction layer returns no floating-point tensor but {type(value).__name__}: "
            "choose another reduction layer"
        )
    if path is None:
        return found[output_path(found)]
    index_of_path(layer, path, list(found))
    return found[path]


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
