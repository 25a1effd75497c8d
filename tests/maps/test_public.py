"""The package says what it offers, and depends on nothing that it should not."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import camserve.maps

MODULES = [module.name for module in pkgutil.iter_modules(camserve.maps.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_offers_exists_and_is_described(name):
    module = importlib.import_module(f"camserve.maps.{name}")
    assert module.__doc__
    assert module.__all__
    for public in module.__all__:
        thing = getattr(module, public)
        if getattr(thing, "__module__", None) == module.__name__ and callable(thing):
            assert thing.__doc__, public


def test_numpy_and_pillow_are_enough():
    code = (
        "import sys; "
        + "; ".join(f"import camserve.maps.{name}" for name in MODULES)
        + "; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"numpy", "PIL"} <= loaded
    assert not loaded & {"torch", "fastapi", "redis", "pydantic", "scipy", "matplotlib", "cv2"}
