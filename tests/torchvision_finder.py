"""Runs a file before the first import of torchvision. Standard library alone: it is also the
`sitecustomize` of child processes, most of which never import torch."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

__all__ = ["VARIABLE", "install"]

VARIABLE = "CAMSERVE_TEST_TORCHVISION_SHIM"


class _Finder(MetaPathFinder):
    def __init__(self, file: str) -> None:
        self._file = file

    def find_spec(self, fullname: str, *_where: Sequence[str] | ModuleType | None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            # kept, because a torch.library.Library undoes itself when it is collected
            sys.modules["torchvision_cpu"] = kept = ModuleType("torchvision_cpu")
            vars(kept).update(runpy.run_path(self._file))


def install(file: str) -> None:
    sys.meta_path.insert(0, _Finder(file))


if os.environ.get(VARIABLE) and __name__ == "sitecustomize":
    install(os.environ[VARIABLE])
