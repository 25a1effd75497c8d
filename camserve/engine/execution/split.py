"""A network in two parts: the backbone up to its feature layer, and the head behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from camserve.engine.execution.pooling import Pooling, pooling_of
from camserve.engine.execution.tracing import NotSplittable, Traced, traced
from camserve.engine.head import Watched

__all__ = ["Split", "split_network"]


@dataclass(frozen=True)
class Split:
    """backbone: inputs to a tuple of what crosses the boundary, the features first; head: these to
    the reduction layer's output. Both run the network's own operations on its own weights.
    batches: of what crosses, the dimension that counts the inputs; None of what they share.
    pooling: how the head begins, if it is with a mean over the positions of (N, C, *S) features.
    shape: of the inputs, 0 for their number; device: where they are. writes: whether the head
    writes to what it gets.
    """

    backbone: fx.GraphModule
    head: fx.GraphModule
    batches: tuple[int | None, ...]
    pooling: Pooling | None
    shape: tuple[int, ...]
    device: torch.device
    writes: bool

    def example(self, count: int) -> Tensor:
        """So many inputs, all 0."""
        return torch.zeros(
            [count if size == 0 else size for size in self.shape], device=self.device
        )


def split_network(
    model: nn.Module, example: Tensor, batch_dimension: int, watched: Watched
) -> Split:
    """Raises NotSplittable. The parameters are those of `traced`."""
    found = traced(model, example, batch_dimension, watched)
    nodes = list(found.module.graph.nodes)
    place = nodes.index(found.boundary)
    before, behind = nodes[:place], nodes[place + 1 :]
    head = _Head(found, set(before))
    for node in behind:
        head.copy(node)
    (features,) = found.boundary.all_input_nodes
    crossing = (features, *head.crossing)
    batches = tuple(_batch_dimension(node, found.batch) for node in crossing)
    if batches[0] is None:
        raise NotSplittable("the features have no dimension that counts the inputs")
    shape = list(example.shape)
    shape[batch_dimension] = 0
    whole_head = fx.GraphModule(found.module, head.graph, "Head")
    return Split(
        backbone=_backbone(found, before, crossing),
        head=whole_head,
        pooling=pooling_of(whole_head) if batches[0] == 0 else None,
        batches=batches,
        shape=tuple(shape),
        device=example.device,
        writes=any(_writes(node) for node in behind),
    )


def _backbone(
    found: Traced, before: Sequence[fx.Node], crossing: Sequence[fx.Node]
) -> fx.GraphModule:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in before:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in crossing))
    graph.eliminate_dead_code()
    return fx.GraphModule(found.module, graph, "Backbone")


class _Head:
    """The graph behind the boundary; what it uses of before becomes an input: `crossing`."""

    def __init__(self, found: Traced, before: set[fx.Node]) -> None:
        self.graph = fx.Graph()
        self.crossing: list[fx.Node] = []
        self._before = before
        self._batch = found.batch
        self._features = self.graph.placeholder("features")
        self._features.meta = dict(found.boundary.meta)
        self._copies: dict[fx.Node, fx.Node] = {found.boundary: self._features}
        self._last = self._features

    def copy(self, node: fx.Node) -> None:
        if node.op == "output":
            (scores,) = node.all_input_nodes
            self.graph.output(self._known(scores))
        else:
            self._copies[node] = self.graph.node_copy(node, self._known)

    def _known(self, node: fx.Node) -> fx.Node:
        if node not in self._copies:
            self._copies[node] = self._from_before(node)
        return self._copies[node]

    def _from_before(self, node: fx.Node) -> fx.Node:
        assert node in self._before  # noqa: S101 - the graph is in order
        if node.op == "get_attr":
            return self.graph.node_copy(node)
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            with self.graph.inserting_after(self._last):
                taken = self.graph.placeholder(f"crossing_{len(self.crossing)}")
            taken.meta = dict(node.meta)
            self._last = taken
            self.crossing.append(node)
            return taken
        if isinstance(value, torch.SymInt):
            if str(value) == str(self._batch):
                dimension = _batch_dimension(self._features, self._batch)
                size = torch.ops.aten.sym_size.int
                return self.graph.call_function(size, (self._features, dimension))
            if node.op == "call_function" and node.target is not torch.ops.aten.sym_size.int:
                return self.graph.node_copy(node, self._known)
        raise NotSplittable(f"{node.name} crosses the boundary, and is no tensor")


def _batch_dimension(node: fx.Node, batch: Any) -> int | None:
    """Where the inputs are counted; None for what they share. Raises NotSplittable where their
    number is mixed with another one, as in (inputs x heads, ...)."""
    shape = node.meta["val"].shape
    sizes = [str(size) for size in shape]
    if sizes.count(str(batch)) == 1:
        return sizes.index(str(batch))
    if all(isinstance(size, int) for size in shape):
        return None
    raise NotSplittable(f"{node.name} of shape ({', '.join(sizes)}) crosses the boundary")


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable  # noqa: SLF001
