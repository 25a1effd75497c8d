"""Has torch and numpy compute in one thread, here and in every process that a test starts.

Tensors of tests are small: to share one among threads takes longer than to compute it, and where
several test processes do so they keep each other from the cores. The pool of OpenMP is made when
its library is loaded, so that the variable must be set before.

`tests/__init__.py` imports this module first, so that no test can import torch before.
"""

from __future__ import annotations

import os

__all__: list[str] = []

os.environ["OMP_NUM_THREADS"] = "1"
