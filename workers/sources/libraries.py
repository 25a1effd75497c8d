"""Optional libraries that stand on torchvision, and what to do about a torchvision that breaks.

torchvision's compiled operators fit one build of torch. Beside another (a CPU build, a newer CUDA)
importing it fails, and with it everything that imports it: timm, and even transformers' models,
which do not need it.
"""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType
from typing import Any, cast

import torch

from camserve.errors import ModelUnavailable, one_line
from workers.repository import Entry

__all__ = ["hide_broken_torchvision", "require"]

_lock = threading.Lock()
_broken: list[str] = []  # why torchvision cannot be imported, once that is known


def require(entry: Entry, name: str) -> Any:
    """The library `timm` or `torchvision`; raises ModelUnavailable with the remedy."""
    if reason := hide_broken_torchvision():
        raise ModelUnavailable(
            f"model {entry.name!r} needs torchvision, and the one that is installed cannot be "
            f"imported beside torch {torch.__version__} ({reason}): install the torchvision that "
            "was built for this torch, from the same index"
        )
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelUnavailable(
            f"model {entry.name!r} needs the package {name}: pip install 'camserve[{name}]'"
        ) from error


def hide_broken_torchvision() -> str | None:
    """Let a torchvision that cannot be imported pass for one that is not there; returns why.

    To be called before transformers is imported: it asks once whether there is a torchvision.
    """
    with _lock:
        if not _broken and "torchvision" not in sys.modules:
            try:
                importlib.import_module("torchvision")
            except ModuleNotFoundError as error:
                if error.name != "torchvision":
                    _hide(error)
            except Exception as error:  # noqa: BLE001 - a RuntimeError of its operators, an OSError
                _hide(error)
        return _broken[0] if _broken else None


def _hide(error: Exception) -> None:
    _broken.append(one_line(error))
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    sys.modules["torchvision"] = cast("ModuleType", None)  # Python's mark for "not there"
