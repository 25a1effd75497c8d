"""A graph of ONNX operators as a torch module: one submodule a node, run in the file's order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from workers.sources.onnx.graph import Graph
from workers.sources.onnx.operators import OPERATORS, SIZES, Compute, Node, NotTranslated

__all__ = ["Network"]


MOST_COMPUTED_BYTES = 2**32
"""Of constants that a file says how to compute."""


class _Constants:
    """What all parts of a network share: its weights, and what may still be computed."""

    def __init__(self) -> None:
        self._weights: dict[int, tuple[Tensor, nn.Parameter]] = {}
        self._bytes_left = MOST_COMPUTED_BYTES

    def weight(self, value: Tensor) -> nn.Parameter:
        """One for each tensor, so that what several nodes use is held, and moved, once.

        By the tensor, not by its name: each branch of an `If` may mean another one by it.
        """
        new = (value, nn.Parameter(value, requires_grad=False))
        return self._weights.setdefault(id(value), new)[1]

    def computed(self, node: Node, compute: Compute, given: dict[str, Any]) -> dict[str, Any]:
        """A node's outputs, by name. Raises NotTranslated where all of them become too large."""
        with torch.no_grad():
            result = compute(*(given[name] if name else None for name in node.inputs))
        results = result if isinstance(result, tuple) else (result,)
        self._bytes_left -= sum(value.nbytes for value in results if isinstance(value, Tensor))
        if self._bytes_left < 0:
            raise NotTranslated("constants of more than 4 GB that are to be computed")
        return dict(zip(node.outputs, results, strict=False))


class Operation(nn.Module):
    """One node. Its constant inputs (`given`) are its own, or shared with other nodes that name
    them: forward takes the others, in order."""

    def __init__(
        self, node: Node, compute: Compute, given: dict[int, Tensor], constants: _Constants
    ) -> None:
        super().__init__()
        self.op = node.op
        self._compute = compute
        self._count = len(node.inputs)
        self._left_out = {at for at, name in enumerate(node.inputs) if not name}
        self._weights: dict[int, str] = {}
        self._sizes: dict[int, Tensor] = {}  # no buffers: they stay on the CPU
        for at, value in given.items():
            if value.is_floating_point() and not (node.op in SIZES and at):
                self._weights[at] = f"input_{at}"
                self.register_parameter(self._weights[at], constants.weight(value))
            else:
                self._sizes[at] = value

    def forward(self, *inputs: Any) -> Any:
        values: list[Any] = []
        given = iter(inputs)
        for at in range(self._count):
            if at in self._left_out:
                values.append(None)
            elif at in self._weights:
                values.append(getattr(self, self._weights[at]))
            else:
                values.append(self._sizes[at] if at in self._sizes else next(given))
        if self.op not in SIZES:
            values = _together(values)
        return self._compute(*values)

    def extra_repr(self) -> str:
        return self.op


def _together(values: list[Any]) -> list[Any]:
    """Shapes are computed on the CPU: what meets a tensor of the device goes there."""
    device = next((v.device for v in values if isinstance(v, Tensor) and not v.is_cpu), None)
    if device is None:
        return values
    return [v.to(device) if isinstance(v, Tensor) else v for v in values]


@dataclass(frozen=True)
class _Step:
    """Which values go into a module, and what is not needed any more afterwards."""

    module: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    last_used: tuple[str, ...]


class Network(nn.Module):
    """Takes the graph's inputs, gives its output, or a tuple where it has several.

    Nodes that depend on no input are computed once, here. Raises NotTranslated.
    """

    def __init__(self, graph: Graph, shared: _Constants | None = None) -> None:
        super().__init__()
        shared = shared or _Constants()
        self._inputs = graph.inputs
        self._outputs = graph.outputs
        constants: dict[str, Any] = dict(graph.constants)
        steps: list[_Step] = []
        for node in graph.nodes:
            if node.op == "If":
                steps.append(self._choose(node, constants, shared))
                continue
            compute = _computation(node)
            if all(name in constants for name in node.inputs if name):
                constants.update(shared.computed(node, compute, constants))
                continue
            known = {
                at: constants[name]
                for at, name in enumerate(node.inputs)
                if isinstance(constants.get(name), Tensor)
            }
            self.add_module(node.name, Operation(node, compute, known, shared))
            inputs = tuple(n for at, n in enumerate(node.inputs) if n and at not in known)
            steps.append(_Step(node.name, inputs, node.outputs, ()))
        self._steps = _with_last_uses(steps, kept=set(graph.outputs))
        used = {*graph.outputs, *(name for step in steps for name in step.inputs)}
        self._constants = {name: value for name, value in constants.items() if name in used}

    def forward(self, *inputs: Any) -> Any:
        values = dict(self._constants)
        values.update(zip(self._inputs, inputs, strict=True))
        for step in self._steps:
            result = getattr(self, step.module)(*(values[name] for name in step.inputs))
            results = result if isinstance(result, tuple) else (result,)
            values.update(zip(step.outputs, results, strict=False))
            for name in step.last_used:
                values.pop(name, None)
        outputs = tuple(values[name] for name in self._outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def _choose(self, node: Node, constants: dict[str, Any], shared: _Constants) -> _Step:
        """A branch is a network of the values around it that it uses."""
        parts: tuple[Graph, Graph] = (node.get("then_branch"), node.get("else_branch"))
        outer = tuple(dict.fromkeys(n for part in parts for n in _free(part) if n not in constants))
        branches = [
            Network(replace(part, constants={**constants, **part.constants}, inputs=outer), shared)
            for part in parts
        ]
        condition = constants.get(node.inputs[0])
        if condition is not None:
            self.add_module(node.name, branches[0 if condition else 1])
            return _Step(node.name, outer, node.outputs, ())
        self.add_module(node.name, Choice(*branches))
        return _Step(node.name, (node.inputs[0], *outer), node.outputs, ())


class Choice(nn.Module):
    """An `If`: one of two networks runs. Exporters write it where a size decides."""

    def __init__(self, then: Network, otherwise: Network) -> None:
        super().__init__()
        self.then = then
        self.otherwise = otherwise

    def forward(self, condition: Tensor, *inputs: Any) -> Any:
        return self.then(*inputs) if condition else self.otherwise(*inputs)


def _free(graph: Graph) -> list[str]:
    """Names that a branch takes from the graph around it."""
    own = {*graph.constants, *(name for node in graph.nodes for name in node.outputs)}
    inner = [part for node in graph.nodes for part in node.attributes.values()]
    names = [name for node in graph.nodes for name in node.inputs if name]
    names += [name for part in inner if isinstance(part, Graph) for name in _free(part)]
    return [name for name in [*names, *graph.outputs] if name not in own]


def _computation(node: Node) -> Compute:
    if node.op == "Constant":
        value = _constant(node)
        return lambda: value
    if node.op not in OPERATORS:
        raise NotTranslated(node.op)
    return OPERATORS[node.op](node)


def _constant(node: Node) -> Tensor:
    for kind, dtype in (("float", torch.float32), ("int", torch.int64)):
        for name in (f"value_{kind}", f"value_{kind}s"):
            if name in node.attributes:
                return torch.tensor(node.attributes[name], dtype=dtype)
    value = node.get("value")
    if not isinstance(value, Tensor):
        raise NotTranslated("a Constant of another kind than numbers")
    return value


def _with_last_uses(steps: list[_Step], kept: set[str]) -> tuple[_Step, ...]:
    """So that a value is let go of as soon as it has been used: a forward pass holds no more
    than torch's own would."""
    seen = set(kept)
    result = []
    for step in reversed(steps):
        last = tuple(name for name in {*step.inputs, *step.outputs} if name not in seen)
        seen.update(last)
        result.append(_Step(step.module, step.inputs, step.outputs, last))
    return tuple(reversed(result))
