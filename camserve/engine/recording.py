"""The probe: one forward pass with a hook on every module, and the gradient of every output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from camserve.engine.layout_reader import LayoutReader, Refusal
from camserve.engine.layouts import Layout, to_channels_first
from camserve.engine.nested import floating_tensors, model_output, replace_tensor

__all__ = ["Probe", "Recorded", "run_probe"]

SEED = 20170801


@dataclass
class Recorded:
    """The last output of one module. `index`: which of its floating tensors was taken."""

    name: str
    tensor: Tensor
    index: int
    reading: Layout | Refusal
    alias_of: Recorded | None  # the very tensor that this earlier module returned
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

    @property
    def reach(self) -> float | None:
        """Share of the positions at which the gradient is not zero."""
        if self.layout is None or self.gradient is None:
            return None
        touched = to_channels_first(self.gradient, self.layout).ne(0).any(1)
        return float(touched.float().mean())


@dataclass(frozen=True)
class Probe:
    """What one forward pass showed, in execution order."""

    records: list[Recorded]
    output: Tensor
    output_record: Recorded | None  # the module whose output is the model's
    output_layout: Layout | None
    extent: tuple[int, ...]


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
        taken = self._feature_tensor(output)
        if taken is None:
            return None
        index, tensor, reading = taken
        alias_of = self.find(tensor)
        # somebody may still write to a tensor that was handed out before: record a copy of it
        recorded = tensor.clone() if id(tensor) in self.handed else tensor
        record = Recorded(name, recorded, index, reading, alias_of)
        self.records.append(record)
        clone = recorded.clone()
        self.handed[id(clone)] = (clone, clone._version, record)  # noqa: SLF001
        return replace_tensor(output, tensor, clone)

    def find(self, tensor: Tensor) -> Recorded | None:
        """The record whose clone this very tensor is, unless it was written to since."""
        clone, version, record = self.handed.get(id(tensor), (None, 0, None))
        return record if clone is not None and clone._version == version else None  # noqa: SLF001

    def _feature_tensor(self, output: Any) -> tuple[int, Tensor, Layout | Refusal] | None:
        """The first floating tensor with space or time, else the first of all."""
        first: tuple[int, Tensor, Layout | Refusal] | None = None
        for index, tensor in enumerate(floating_tensors(output)):
            reading = self.reader.read(tuple(tensor.shape))
            if isinstance(reading, Layout):
                return index, tensor, reading
            first = first or (index, tensor, reading)
        return first


def run_probe(model: nn.Module, example: Tensor) -> Probe:
    """One forward of seeded noise shaped like `example` (1, C, *S), and one backward.

    The score is a fixed random projection of the output, so that no class and no symmetry of the
    output decides what matters. The global random state is as before.
    """
    devices = [example.device] if example.device.type == "cuda" else []
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(example.shape, generator=generator, dtype=torch.float64)
    leaf = noise.to(example.device, example.dtype).requires_grad_()
    extent = tuple(example.shape[2:])
    recorder = _Recorder(LayoutReader(extent, len(example)))
    with torch.random.fork_rng(devices), torch.enable_grad():
        with _recording(model, recorder):
            output = model_output(model(leaf.clone()))
        projection = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        score = (output * projection.to(output.device, output.dtype)).sum()
        last = {record.name: record for record in recorder.records}
        records = [record for record in recorder.records if last[record.name] is record]
        _differentiate(score, records)
    reading = LayoutReader(extent, len(example)).read(tuple(output.shape))
    return Probe(
        records=records,
        output=output.detach(),
        output_record=recorder.find(output),
        output_layout=reading if isinstance(reading, Layout) else None,
        extent=extent,
    )


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


def _differentiate(score: Tensor, records: list[Recorded]) -> None:
    """Sets `gradient` where the score depends on the recorded tensor."""
    connected = [record for record in records if record.tensor.requires_grad]
    if not connected or not score.requires_grad:
        return
    tensors = [record.tensor for record in connected]
    gradients = torch.autograd.grad(score, tensors, allow_unused=True)
    for record, gradient in zip(connected, gradients, strict=True):
        record.gradient = gradient
