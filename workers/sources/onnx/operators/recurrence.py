"""RNN, GRU and LSTM, step by step.

torch's own layers cannot serve: cuDNN's refuse a backward pass in evaluation mode, and they lack
ONNX's variants (`linear_before_reset` 0, peepholes, other activations, lengths).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from workers.sources.onnx.operators.node import Compute, Maker, Node, NotTranslated

__all__ = ["OPERATORS"]

Activation = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], State]
"""(what the input adds to the gates, state) -> the next state; the hidden one comes first."""

_ACTIVATIONS: dict[str, Activation] = {
    "hardsigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "tanh": torch.tanh,
}
_DEFAULTS = {"GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"], "RNN": ["tanh"]}


def _recurrence(node: Node) -> Compute:
    direction = node.get("direction", "forward")
    backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    functions = _activations(node, len(backward))
    batch_first = bool(node.get("layout", 0))
    if node.get("clip") or node.get("input_forget", 0):
        raise NotTranslated(f"{node.op} with clip or input_forget")

    def recurrence(
        x: Tensor,
        weight: Tensor,
        recurrent: Tensor,
        bias: Tensor | None = None,
        lengths: Tensor | None = None,
        *initial: Tensor | None,
    ) -> tuple[Tensor, ...]:
        steps = x.transpose(0, 1) if batch_first else x
        sequences, finals = [], []
        peepholes = initial[2] if len(initial) > 2 else None
        for at, turned in enumerate(backward):
            w, r = weight[at], recurrent[at]
            b = bias[at] if bias is not None else w.new_zeros(2 * len(w))
            start = [
                value[:, at] if batch_first else value[at]
                for value in initial[:2]
                if value is not None
            ]
            state = _start(start, steps.shape[1], r, count=2 if node.op == "LSTM" else 1)
            step = _STEPS[node.op](
                node, functions[at], r, b, None if peepholes is None else peepholes[at]
            )
            inputs = functional.linear(steps, w, b[: len(w)])
            hidden, state = _run(step, inputs, state, lengths, turned=turned)
            sequences.append(hidden)
            finals.append(state)
        y = torch.stack(sequences, 1)
        last = [torch.stack(states) for states in zip(*finals, strict=True)]
        if batch_first:
            y, last = y.permute(2, 0, 1, 3), [value.transpose(0, 1) for value in last]
        return (y, *last)

    return recurrence


def _activations(node: Node, directions: int) -> list[list[Activation]]:
    names = [name.lower() for name in node.get("activations") or _DEFAULTS[node.op] * directions]
    for name in names:
        if name not in _ACTIVATIONS:
            raise NotTranslated(f"{node.op} with the activation {name}")
    if node.get("activation_alpha") or node.get("activation_beta"):
        raise NotTranslated(f"{node.op} with activation_alpha or activation_beta")
    each = len(names) // directions
    return [[_ACTIVATIONS[name] for name in names[at * each :][:each]] for at in range(directions)]


def _start(given: list[Any], batch: int, recurrent: Tensor, *, count: int) -> State:
    """Zeros where the file gives none; one row for all where it was written for one input."""
    shape = (batch, recurrent.shape[1])
    zeros = [recurrent.new_zeros(shape)] * (count - len(given))
    return (*(value.expand(shape) for value in given[:count]), *zeros)


def _run(
    step: Step, inputs: Tensor, state: State, lengths: Tensor | None, *, turned: bool
) -> tuple[Tensor, State]:
    """The hidden states of all steps, and the last state."""
    hidden: list[Tensor] = []
    order = range(len(inputs))
    for at in reversed(order) if turned else order:
        after = step(inputs[at], state)
        if lengths is None:
            hidden.append(after[0])
        else:  # a sequence that is shorter keeps its state, and puts out zeros
            running = (at < lengths.to(inputs.device))[:, None]
            hidden.append(torch.where(running, after[0], 0))
            after = tuple(torch.where(running, a, b) for a, b in zip(after, state, strict=True))
        state = after
    return torch.stack(hidden[::-1] if turned else hidden), state


def _lstm_step(
    _node: Node, functions: list[Activation], r: Tensor, b: Tensor, peepholes: Tensor | None
) -> Step:
    gate, cell_function, out = functions
    extra = b[len(r) :]
    p_in, p_out, p_forget = peepholes.chunk(3) if peepholes is not None else (0, 0, 0)

    def step(x: Tensor, state: State) -> State:
        hidden, cell = state
        into, output, forget, new = (x + functional.linear(hidden, r, extra)).chunk(4, 1)
        cell = gate(forget + p_forget * cell) * cell + gate(into + p_in * cell) * cell_function(new)
        return gate(output + p_out * cell) * out(cell), cell

    return step


def _gru_step(
    node: Node, functions: list[Activation], r: Tensor, b: Tensor, _peepholes: Tensor | None
) -> Step:
    gate, new = functions
    size = r.shape[1]
    r_gates, r_new = r[: 2 * size], r[2 * size :]
    b_gates, b_new = b[len(r) :][: 2 * size], b[len(r) :][2 * size :]
    linear_first = bool(node.get("linear_before_reset", 0))

    def step(x: Tensor, state: State) -> State:
        (hidden,) = state
        update, reset = gate(x[:, : 2 * size] + functional.linear(hidden, r_gates, b_gates)).chunk(
            2, 1
        )
        if linear_first:
            recurrent = reset * functional.linear(hidden, r_new, b_new)
        else:
            recurrent = functional.linear(reset * hidden, r_new, b_new)
        candidate = new(x[:, 2 * size :] + recurrent)
        return ((1 - update) * candidate + update * hidden,)

    return step


def _rnn_step(
    _node: Node, functions: list[Activation], r: Tensor, b: Tensor, _peepholes: Tensor | None
) -> Step:
    (function,) = functions
    extra = b[len(r) :]
    return lambda x, state: (function(x + functional.linear(state[0], r, extra)),)


_STEPS = {"GRU": _gru_step, "LSTM": _lstm_step, "RNN": _rnn_step}

OPERATORS: dict[str, Maker] = {"GRU": _recurrence, "LSTM": _recurrence, "RNN": _recurrence}
