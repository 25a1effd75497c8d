"""Weights as data: state dicts of safetensors, and what keeps torch from unpickling others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from camserve.errors import InvalidCard, ModelUnavailable, UnsupportedModel
from workers.repository import Entry
from workers.sources.refusals import file_kind

__all__ = ["load_weights", "never_unpickle", "own_weights"]

_ADVICE = "write them with `safetensors.torch.save_file(model.state_dict(), ...)`"


def load_weights(module: nn.Module, entry: Entry, name: str) -> None:
    """Load all of the module's weights from a file of the model's folder.

    Raises ModelUnavailable (no such file), UnsupportedModel (TorchScript, a pickle) or InvalidCard
    (no safetensors, or of another module).
    """
    path = entry.path(name)
    if not path.is_file():
        raise ModelUnavailable(f"model {entry.name!r}: the weights {name!r} are missing")
    if kind := file_kind(path):
        raise UnsupportedModel(f"model {entry.name!r}: the weights {name!r} are {kind}; {_ADVICE}")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise InvalidCard(
            f"model {entry.name!r}: the weights {name!r} are not a safetensors file ({error}); "
            f"{_ADVICE}"
        ) from error
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise InvalidCard(
            f"model {entry.name!r}: the weights {name!r} do not fit the module: {first}"
        ) from error


def own_weights(module: nn.Module) -> None:
    """Copy weights that may be maps of a file: those would change with it, and end the process
    when it is cut short."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()


@contextlib.contextmanager
def never_unpickle() -> Iterator[None]:
    """torch.export and torchvision read some files with weights_only=False: this overrules it."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
