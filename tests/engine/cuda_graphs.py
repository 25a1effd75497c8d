"""A stand-in, on the CPU, for what capturing uses of `torch.cuda`: streams, graphs and their pools.

It is as unforgiving as a device. A captured launch computes nothing; a replay launches the same
operations with the same tensors, and no Python runs; what is freed inside a pool, and the results
of its other graphs, may be overwritten by any replay, and here they are.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from camserve.engine.execution import capturing, optimization

__all__ = ["StandIn", "installed"]

Pool = tuple[int, int]


def tensors_in(*values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def place_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Stream:
    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self.waited_for: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited_for.append(other)


class Graph:
    """launches: each with what it is given and what it returned when it was captured."""

    def __init__(self) -> None:
        self.pool: Pool | None = None
        self.launches: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.is_broken = False
        self.replays = 0
        self._made: dict[int, Tensor] = {}
        self.standin: StandIn | None = None

    def launched(self, call: Any, given: Any, named: Any, found: list[Tensor]) -> None:
        self.launches.append((call, given, named, found))
        known = {place_of(tensor) for tensor in tensors_in(given, named)}
        self._made |= {place_of(one): one for one in found if place_of(one) not in known}

    @property
    def nbytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self._made.values())

    def spoil(self) -> None:
        for tensor in self._made.values():
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))

    def replay(self) -> None:
        assert self.standin is not None, "replayed before it was captured"
        self.replays += 1
        for graph in self.standin.graphs_of(self.pool):
            graph.spoil()
        for call, given, named, found in self.launches:
            for before, now in zip(found, tensors_in(call(*given, **named)), strict=True):
                if place_of(before) != place_of(now):
                    before.copy_(now)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: Graph, standin: StandIn) -> None:
        super().__init__()
        self._graph = graph
        self._standin = standin

    def __torch_dispatch__(self, call: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._standin.cached_casts.add(torch.is_autocast_cache_enabled())
        if call is torch.ops.aten._local_scalar_dense.default:
            self._graph.is_broken = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        found = call(*args, **(kwargs or {}))
        self._graph.launched(call, args, kwargs or {}, tensors_in(found))
        return found


@dataclass
class StandIn:
    """current: the stream that is launched to. cached_casts: whether autocast's cache was on in
    what was captured."""

    default: Stream = field(default_factory=Stream)
    modes: list[str] = field(default_factory=list)
    cached_casts: set[bool] = field(default_factory=set)
    is_capturing: bool = False
    graphs: list[weakref.ref[Graph]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.current = self.default

    def pool(self) -> Pool:
        return 0, next(self._numbers)

    def graphs_of(self, pool: Pool | None) -> list[Graph]:
        alive = [reference() for reference in self.graphs]
        return [graph for graph in alive if graph is not None and pool in (None, graph.pool)]

    @property
    def replays(self) -> int:
        return sum(graph.replays for graph in self.graphs_of(None))

    def memory(self, pool: Pool, *, include_traces: bool) -> list[dict[str, int]]:
        assert not include_traces
        return [{"total_size": graph.nbytes} for graph in self.graphs_of(pool)]

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def capture(
        self, graph: Graph, pool: Pool, stream: Stream, capture_error_mode: str
    ) -> Iterator[None]:
        """As torch's, it does not return to the stream of before if the capture fails."""
        assert not self.is_capturing, "one at a time, in a process"
        assert stream is not self.default, "not on the default stream"
        assert self.default in stream.waited_for, "what was launched before may still run"
        self.modes.append(capture_error_mode)
        before, self.current, self.is_capturing = self.current, stream, True
        graph.pool, graph.standin = pool, self
        try:
            with _Recorder(graph, self):
                yield
        finally:
            self.is_capturing = False
            if graph.is_broken:
                raise RuntimeError("CUDA error: operation failed due to a previous error")
        self.current = before
        self.graphs.append(weakref.ref(graph))
        graph.spoil()

    @contextmanager
    def device(self, _device: torch.device) -> Iterator[None]:
        yield


def installed(monkeypatch: Any) -> StandIn:
    """In the place of torch's, and models are taken to be on a GPU."""
    standin = StandIn()
    for name, value in {
        "Stream": Stream,
        "CUDAGraph": Graph,
        "stream": standin.stream,
        "device": standin.device,
        "graph": standin.capture,
        "graph_pool_handle": standin.pool,
        "current_stream": lambda _device: standin.current,
        "memory_snapshot": standin.memory,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(optimization, "can_capture", lambda _device: True)
    capturing._stream.cache_clear()
    return standin
