"""camserve: which parts of this input made the network say that? Grad-CAM over HTTP."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("camserve")
