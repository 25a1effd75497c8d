# ruff: noqa: INP001 - Python looks for it in a folder of PYTHONPATH
"""Read by Python as it starts: this process believes that it is later, or earlier, than it is.

The clock that only counts (`time.monotonic`) is right, as on a host whose date was set wrongly.
"""

import os
import time

_SHIFT_S = int(os.environ["TEST_CLOCK_SHIFT_S"])
_seconds, _nanoseconds = time.time, time.time_ns

time.time = lambda: _seconds() + _SHIFT_S
time.time_ns = lambda: _nanoseconds() + _SHIFT_S * 1_000_000_000
