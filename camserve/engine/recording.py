"""The probe: one forward pass with a hook on every module, and the gradient of every output."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from camserve.engine.evidence import with_changed_corner
from camserve.engine.layout_reader import LayoutReader, Refusal
from camserve.engine.layouts import Extent, Layout, to_channels_first
from camserve.engine.nested import floating_tensors, output_tensor, replace_tensor, shapes_of
from camserve.errors import NotExplainable, one_line

__all__ = ["SEED", "Probe", "Recorded", "dense_layout", "noise_like", "run_probe"]

SEED = 20170801


@dataclass(eq=False)
class Recorded:
    """The last output of one module. `index`: which of its floating tensors was taken.

    `reach` and `energy` are kept when they are first asked for, after the gradients are known.
    """

    name: str
    tensor: Tensor
    index: int
    reading: Layout | Refusal
    alias_of: Recorded | None  # the very tensor that this earlier module returned
    extent: Extent
    shapes: dict[str, tuple[int, ...]]  # of all its floating tensors, by their paths
    is_open: bool  # whether its shape could be read in several ways
    gradient: Tensor | None = None

    @property
    def layout(self) -> Layout | None:
        return self.reading if isinstance(self.reading, Layout) else None

    @property
    def depth(self) -> int:
        return self.name.count(".")

    @property
    def source(self) -> Recorded:
        """The module that made the tensor."""
        return self if self.alias_of is None else self.alias_of.source

    def is_(self, other: Recorded | None) -> bool:
        """Whether both returned the very same tensor."""
        return other is not None and self.source is other.source

    @cached_property
    def reach(self) -> float | None:
        """Share of the positions at which the gradient is not zero."""
        if self.layout is None or self.gradient is None:
            return None
        touched = to_channels_first(self.gradient, self.layout, self.extent).ne(0).any(1)
        return float(touched.float().mean())

    @cached_property
    def energy(self) -> float | None:
        """Sum of squares of the gradient."""
        return None if self.gradient is None else float(self.gradient.norm()) ** 2


@dataclass(frozen=True)
class Probe:
    """What one forward pass showed, in execution order."""

    records: list[Recorded]
    output: Tensor
    output_shapes: dict[str, tuple[int, ...]]  # of all floating tensors of the model's answer
    output_record: Recorded | None  # the module whose output is the model's
    output_layout: Layout | None  # of a dense output
    extent: Extent
    reader: LayoutReader


@dataclass
class _Recorder:
    """Hooks that record outputs and hand a clone downstream.

    A clone, so that an in-place operation cannot rewrite what was recorded. A clone that another
    module returns unchanged makes that module an alias; one that was changed in place is new.
    """

    reader: LayoutReader
    records: list[Recorded] = field(default_factory=list)
    handed: dict[int, tuple[Tensor, int, Recorded]] = field(default_factory=dict)

    def hook(self, name: str, output: Any) -> Any:
        tensors = list(floating_tensors(output))
        taken = self._feature_tensor([tensor for _, tensor in tensors])
        if taken is None:
            return None
        index, tensor, reading = taken
        is_open = self.reader.was_open
        alias_of = self.find(tensor)
        # somebody may still write to a tensor that was handed out before: record a copy of it
        recorded = tensor.clone() if id(tensor) in self.handed else tensor
        record = Recorded(
            name, recorded, index, reading, alias_of, self.reader.extent, shapes_of(output), is_open
        )
        self.records.append(record)
        clone = recorded.clone()
        self.handed[id(clone)] = (clone, clone._version, record)  # noqa: SLF001
        return replace_tensor(output, tensor, clone)

    def find(self, tensor: Tensor) -> Recorded | None:
        """The record whose clone this very tensor is, unless it was written to since."""
        clone, version, record = self.handed.get(id(tensor), (None, 0, None))
        return record if clone is not None and clone._version == version else None  # noqa: SLF001

    def _feature_tensor(self, tensors: list[Tensor]) -> tuple[int, Tensor, Layout | Refusal] | None:
        """The first floating tensor with space or time, else the first of all."""
        first: tuple[int, Tensor, Layout | Refusal] | None = None
        for index, tensor in enumerate(tensors):
            reading = self.reader.read(tuple(tensor.shape))
            if isinstance(reading, Layout):
                return index, tensor, reading
            first = first or (index, tensor, reading)
        return first


def noise_like(example: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the example's shape, dtype and device."""
    noise = torch.randn(example.shape, generator=generator, dtype=torch.float64)
    return noise.to(example.device, example.dtype)


def run_probe(model: nn.Module, example: Tensor, labels: str) -> Probe:
    """One forward of seeded noise shaped like `example`, one input, and one backward.

    labels: the dimension labels of the example, with B. The score is a fixed random projection of
    the output, so that no class and no symmetry of the output decides what matters. The global
    random state is as before.
    """
    devices = [example.device] if example.device.type == "cuda" else []
    generator = torch.Generator().manual_seed(SEED)
    leaf = noise_like(example, generator).requires_grad_()
    positions = [(a, n) for a, n in zip(labels, example.shape, strict=True) if a in "ST"]
    extent = Extent("".join(a for a, _ in positions), tuple(n for _, n in positions))
    recorder = _Recorder(LayoutReader(extent, batch=1, familiar=_familiar(labels)))
    with torch.random.fork_rng(devices), torch.enable_grad():
        torch.manual_seed(SEED)  # a model that draws random numbers draws the same ones twice
        with _recording(model, recorder), _differentiable():
            answer = model(leaf.clone())
        output = output_tensor(answer)
        projection = noise_like(output, generator)
        score = (output * projection).sum()
        last = {record.name: record for record in recorder.records}
        records = [record for record in recorder.records if last[record.name] is record]
        _differentiate(score, records)
        reader = _settled(model, leaf.detach(), labels, records, recorder.reader)
    return Probe(
        records=records,
        output=output.detach(),
        output_shapes=shapes_of(answer),
        output_record=recorder.find(output),
        output_layout=dense_layout(reader, tuple(output.shape)),
        extent=extent,
        reader=reader,
    )


def _settled(
    model: nn.Module, inputs: Tensor, labels: str, records: list[Recorded], reader: LayoutReader
) -> LayoutReader:
    """Read all once more with evidence, if a shape was open; returns the reader that knows it."""
    watched = {record.name: record for record in records if record.is_open}
    if not watched:
        return reader
    changes: dict[str, Tensor] = {}

    def compare(name: str, output: Any) -> None:
        found = [tensor for _, tensor in floating_tensors(output)]
        record = watched[name]
        if record.index < len(found) and found[record.index].shape == record.tensor.shape:
            changes[name] = (found[record.index] - record.tensor).detach().abs().float()

    with torch.no_grad(), ExitStack() as borrowed:
        for name in watched:
            handle = model.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, name=name: compare(name, output)
            )
            borrowed.callback(handle.remove)
        torch.manual_seed(SEED)
        model(with_changed_corner(inputs, labels))
    better = LayoutReader(reader.extent, batch=1, familiar=_familiar(labels))
    for record in records:
        record.reading = better.read(tuple(record.tensor.shape), changes.get(record.name))
    return better


def _familiar(labels: str) -> str:
    """Whether channels come first or last in the input: then so they do where it is open."""
    positions = [letter for letter in labels if letter in "ST"]
    first = labels.find(positions[0])
    return "BC" if "C" not in labels or labels.index("C") < first else f"B{positions[0]}"


def dense_layout(seen: LayoutReader, shape: tuple[int, ...]) -> Layout | None:
    """The reading of an output as a map. Token counts do not count: scores are no attention."""
    reading = replace(seen.copy(), tokens=set()).read(shape)
    return reading if isinstance(reading, Layout) else None


@contextmanager
def _recording(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: recorder.hook(name, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _differentiable() -> Iterator[None]:
    """Raises NotExplainable for a model that runs, but not where a gradient is asked for."""
    try:
        yield
    except RuntimeError as error:
        if not re.search(r"in-?place|derivative", str(error)):
            raise
        raise NotExplainable(
            f"the model cannot be differentiated ({one_line(error)}): it writes in place to what "
            "its gradient needs, or has an operation without one"
        ) from error


def _differentiate(score: Tensor, records: list[Recorded]) -> None:
    """Sets `gradient` where the score depends on the recorded tensor."""
    connected = [record for record in records if record.tensor.requires_grad]
    if not connected or not score.requires_grad:
        return
    tensors = [record.tensor for record in connected]
    gradients = torch.autograd.grad(score, tensors, allow_unused=True)
    for record, gradient in zip(connected, gradients, strict=True):
        record.gradient = gradient
