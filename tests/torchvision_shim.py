"""Makes torchvision importable beside the CPU build of torch that the tests run on.

PyPI's torchvision is linked against CUDA, and stops at `operator torchvision::nms does not exist`.
The file `torchvision_cpu.py` beside the model zoo registers those operators' schemas, after which
everything but the detectors works. It runs when somebody imports torchvision, and not before: most
tests need no torch. Where torchvision's own operators load, it does nothing.

`tests/__init__.py` imports this module, so that no test can be the first to import torchvision.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest

from tests import torchvision_finder
from tests.zoo import ZOO

__all__ = ["environment", "needs_torchvision"]

SHIM = ZOO.parent / "torchvision_cpu.py"


def environment(folder: Path) -> dict[str, str]:
    """Environment variables with which a child process does the same; writes into `folder`."""
    if not SHIM.is_file():
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(torchvision_finder.__file__, folder / "sitecustomize.py")
    return {"PYTHONPATH": str(folder), torchvision_finder.VARIABLE: str(SHIM)}


def _fits() -> bool:
    """Whether torchvision is installed, and there is what makes it fit or it fits by itself."""
    if importlib.util.find_spec("torchvision") is None:
        return False
    if SHIM.is_file():
        return True
    try:
        importlib.import_module("torchvision")
    except Exception:  # noqa: BLE001 - a RuntimeError of its operators, an OSError of the linker
        # not there, as far as transformers is concerned, which would stumble over it
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules["torchvision"] = cast("ModuleType", None)
        return False
    return True


needs_torchvision = pytest.mark.skipif(
    not _fits(), reason=f"torchvision cannot be imported beside this torch, and {SHIM} is not there"
)

if SHIM.is_file() and "torchvision" not in sys.modules:
    torchvision_finder.install(str(SHIM))
