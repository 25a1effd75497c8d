"""A backbone's launches captured in CUDA graphs: one launch a pass, where it had hundreds.

A graph is of one number of inputs, reads them at one place of the device's memory and writes its
results to others; what it needs between lies in a memory pool of its own. So inputs are copied to
that place, and results are copied before anybody else can overwrite them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from camserve.engine.execution.execution import Execution, RunBackbone

__all__ = ["Captured", "can_capture", "capture", "captured_sizes"]

_WARM_UPS = 3  # as torch itself does: libraries choose their kernels and set up their workspaces


def can_capture(device: torch.device) -> bool:
    return device.type == "cuda"


def captured_sizes(most: int) -> list[int]:
    """Numbers of inputs, of 1 to `most`: each up to 8, then four to a doubling, so that a batch
    between two of them grows by less than a quarter."""
    return sorted({min(_rounded_up(count), most) for count in range(1, most + 1)})


def _rounded_up(count: int) -> int:
    step = 1 << max(0, (count - 1).bit_length() - 3)
    return math.ceil(count / step) * step


@dataclass(frozen=True)
class _Graph:
    """inputs: where they are read; results: where they are written, anew by each replay."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    results: Sequence[Tensor]


@dataclass(frozen=True)
class Captured:
    """A `RunBackbone`. What it returns is the caller's own.

    plain: what was captured; runs what no graph is large enough for, and holds the weights that
    the graphs read. graphs: by the number of inputs. batch: the dimension of the inputs that counts
    them; batches: those of the results. memory: bytes that all of this takes besides the weights.
    """

    plain: RunBackbone
    graphs: Mapping[int, _Graph]
    batch: int
    batches: Sequence[int | None]
    memory: int

    def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
        count = inputs.shape[self.batch]
        fitting = min((size for size in self.graphs if size >= count), default=None)
        if fitting is None:
            return self.plain(inputs)
        found = self.graphs[fitting]
        # behind `count` stays what was there: rows that nobody reads, and that change no other
        found.inputs.narrow(self.batch, 0, count).copy_(inputs)
        found.graph.replay()
        return [
            (result if dimension is None else result.narrow(dimension, 0, count)).clone()
            for result, dimension in zip(found.results, self.batches, strict=True)
        ]


def capture(
    run: RunBackbone,
    execution: Execution,
    most: int,
    alone: Callable[[], AbstractContextManager[None]],
) -> Captured:
    """Graphs of 1 to `most` inputs. Raises whatever launches raise that cannot be captured: those
    that wait for the device, and those for which there is no memory.

    alone: each capture runs inside, so that nothing else of the process is launched meanwhile.
    """
    split = execution.split
    pool = torch.cuda.graph_pool_handle()  # shared: one graph at a time is replayed
    buffer = split.example(most).flatten()
    # one input first: torch (2.13) keeps the memory of a capture that fails, and it is then little;
    # then the most, whose memory the others find in the pool
    first, *others = captured_sizes(most)
    graphs: dict[int, _Graph] = {}
    for count in (first, *reversed(others)):
        shape = [count if size == 0 else size for size in split.shape]
        inputs = buffer[: math.prod(shape)].view(shape)
        with alone():
            graphs[count] = _captured(run, inputs, pool)
    memory = buffer.nbytes + _bytes_of(pool)
    return Captured(run, graphs, execution.batch, split.batches, memory)


def _captured(run: RunBackbone, inputs: Tensor, pool: Any) -> _Graph:
    stream, before = _stream(inputs.device), torch.cuda.current_stream(inputs.device)
    stream.wait_stream(before)
    try:
        # around `graph`, which does not leave its stream if the capture fails
        with torch.cuda.device(inputs.device), torch.cuda.stream(stream), torch.no_grad():
            for _ in range(_WARM_UPS):
                run(inputs)
            graph = torch.cuda.CUDAGraph()
            # of this thread: another one may be copying inputs to the device
            mode = "thread_local"
            with torch.cuda.graph(graph, pool, stream, capture_error_mode=mode):
                results = run(inputs)
            graph.replay()  # what its first launch needs of the device is had now, or never
    finally:
        before.wait_stream(stream)
    return _Graph(graph, inputs, results)


def _bytes_of(pool: Any) -> int:
    """Not what the device has less than before: other threads load and compute meanwhile."""
    segments = torch.cuda.memory_snapshot(pool, include_traces=False)  # type: ignore[no-untyped-call]
    return sum(segment["total_size"] for segment in segments)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures, because libraries keep a workspace for each stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
