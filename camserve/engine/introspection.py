"""Finds a model's layers, chooses the two that an explanation needs, and reports on all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from camserve.engine.head import Watched, forward_head
from camserve.engine.layer_rule import Choice, choose_layer
from camserve.engine.layout_reader import LayoutReader, Refusal
from camserve.engine.layouts import Extent, Layout
from camserve.engine.named_formats import layout_of
from camserve.engine.nested import index_of_path, output_path, split_path
from camserve.engine.precision import Backbone
from camserve.engine.recording import (
    SEED,
    Probe,
    dense_layout,
    noise_like,
    run_probe,
)
from camserve.engine.reporting import Named, report_of
from camserve.engine.reports import ModelReport
from camserve.engine.rows import rows_are_independent
from camserve.engine.score_layout import letters_of_output
from camserve.errors import LayerNotFound, NotExplainable
from camserve.vocabulary import VIRTUAL_LAYERS

__all__ = ["FeatureTap", "Introspection", "introspect"]

MOST_TRIALS = 5


@dataclass(frozen=True)
class FeatureTap:
    """Where the features of a layer are: its module, the place among its tensors, their layout,
    and how many channels they have."""

    layer: str
    module: nn.Module
    index: int
    layout: Layout
    channels: int


@dataclass(frozen=True)
class ReductionTap:
    """Where the scores are: the module (None: the model), the path in what it returns, the labels
    of the dimensions, and whether they are probabilities."""

    module: nn.Module | None
    path: str | None
    letters: str
    probabilities: bool


@dataclass(frozen=True)
class SeenLayer:
    """What stays of a record: no tensor. `shapes`: of what the module returned, by their paths;
    `index`: which of them `reading` is of; `is_output`: whether that one is the model's output."""

    shapes: dict[str, tuple[int, ...]]
    index: int
    reading: Layout | Refusal
    is_output: bool

    def reading_of(self, path: str, reader: LayoutReader) -> Layout | Refusal:
        """How the tensor at `path` is read."""
        if list(self.shapes).index(path) == self.index:
            return self.reading
        return reader.peek(self.shapes[path])


@dataclass(frozen=True)
class Introspection:
    """What is known of a model: its report, its modules by all their names, and how what they
    return is read, by the first of their names, in the order of their last calls."""

    report: ModelReport
    modules: dict[str, nn.Module]
    layers: dict[str, SeenLayer]
    output_shapes: dict[str, tuple[int, ...]]
    reader: LayoutReader

    @property
    def extent(self) -> Extent:
        """Space and time of the probe."""
        return self.reader.extent

    def module(self, name: str) -> nn.Module:
        """Raises LayerNotFound with the candidates, best first, or all names if there is none."""
        if name not in self.modules:
            raise LayerNotFound(name, self.report.candidates() or list(self.modules))
        return self.modules[name]

    def tap(self, layer: str, labels: str | None = None) -> FeatureTap:
        """The features of a layer, `name` or `name:path`, read as `labels` if they are given.

        Raises LayerNotFound, InvalidRequest (labels that do not fit), or NotExplainable with the
        way out.
        """
        name, path = split_path(layer)
        module = self.module(name)
        seen = self.layers.get(self._first_name(module))
        if seen is None:
            raise self._without_map(layer, "it never ran in the model's forward pass")
        paths = list(seen.shapes)
        index = seen.index if path is None else index_of_path(layer, path, paths)
        shape = seen.shapes[paths[index]]
        layout: Layout | None
        if labels is not None:
            known = (one.reading for one in self.layers.values())
            time_last = any(isinstance(one, Layout) and one.time_last for one in known)
            layout = replace(layout_of(labels, shape, self.reader, layer), time_last=time_last)
        else:
            reading = seen.reading_of(paths[index], self.reader)
            layout = reading.fallback if isinstance(reading, Refusal) else reading
            if layout is None:
                assert isinstance(reading, Refusal)  # noqa: S101 - the other has no layout
                raise self._without_map(layer, reading.reason)
        channels = math.prod(n for n, a in zip(shape, layout.letters, strict=True) if a in "CU")
        return FeatureTap(layer, module, index, layout, channels)

    def reduction(self, layer: str) -> ReductionTap:
        """The scores of a reduction layer, `name` or `name:path`; of a softmax or sigmoid put
        behind the model, its logits. Raises LayerNotFound."""
        name, path = split_path(layer)
        if name in VIRTUAL_LAYERS:
            virtual = name != "output"
            if path is None:
                ready = self.report.ends_in_probabilities
                return ReductionTap(None, path, self.report.output_format, virtual or ready)
            index_of_path(layer, path, list(self.output_shapes))
            shape = self.output_shapes[path]
            letters = letters_of_output(shape, dense_layout(self.reader, shape))
            return ReductionTap(None, path, letters, virtual)
        if name not in self.modules:
            raise LayerNotFound(layer, [*VIRTUAL_LAYERS, *self.modules])
        module = self.modules[name]
        seen = self.layers.get(self._first_name(module))
        if seen is None:
            return ReductionTap(module, path, "BC", probabilities=False)
        if path is not None:
            index_of_path(layer, path, list(seen.shapes))
        taken = output_path(seen.shapes) if path is None else path
        reading = seen.reading_of(taken, self.reader)
        layout = reading if isinstance(reading, Layout) else None
        letters = letters_of_output(seen.shapes[taken], layout)
        is_output = seen.is_output and list(seen.shapes).index(taken) == seen.index
        ready = is_output and self.report.ends_in_probabilities
        return ReductionTap(module, path, letters, ready)

    def modules_up_to(self, layers: Sequence[str]) -> list[nn.Module]:
        """The modules that had run when the first of the layers returned, and not again after it.

        None whose weights belong to another module too that is not among them.
        """
        names = {self._first_name(self.module(split_path(layer)[0])) for layer in layers}
        ran = list(self.layers)
        ends = [place for place, name in enumerate(ran) if name in names]
        found = [self.modules[name] for name in ran[: min(ends, default=-1) + 1]]
        rest = set(self.modules.values()).difference(found)
        others = {weight for module in rest for weight in module.parameters(recurse=False)}
        return [module for module in found if others.isdisjoint(module.parameters(recurse=False))]

    def _without_map(self, layer: str, reason: str) -> NotExplainable:
        best = ", ".join(map(repr, self.report.candidates()[:3]))
        remedy = f"; explainable are {best}" if best else ""
        return NotExplainable(
            f"feature layer {layer!r} has no map: {reason}{remedy}",
            layer=layer,
            candidates=self.report.candidates(),
        )

    def _first_name(self, module: nn.Module) -> str:
        """A module may have several names (shared weights); the probe knows it by the first."""
        return next(name for name, known in self.modules.items() if known is module)


def introspect(model: nn.Module, example: Tensor, labels: str, named: Named) -> Introspection:
    """One probe forward and backward; `example`, one input, gives shape, dtype and device.

    A layer given by name is taken over instead of the automatic choice.
    """
    probe = run_probe(model, example, labels)
    choice = _proven(choose_layer(probe), model, example, probe)
    independent = rows_are_independent(model, example, labels)
    report = report_of(probe, choice, named, rows_are_independent=independent)
    return Introspection(
        report=report,
        modules={name: m for name, m in model.named_modules(remove_duplicate=False) if name},
        layers={
            record.name: SeenLayer(
                record.shapes, record.index, record.reading, record.is_(probe.output_record)
            )
            for record in probe.records
        },
        output_shapes=probe.output_shapes,
        reader=probe.reader,
    )


def _proven(choice: Choice, model: nn.Module, example: Tensor, probe: Probe) -> Choice:
    """The choice without the first layers whose features the output does not depend on, cut there.

    A module may return what it has used already: then a gradient has reached it in the probe, and
    a hook on it comes too late all the same.
    """
    records = {record.name: record for record in probe.records}
    devices = [example.device] if example.device.type == "cuda" else []
    noise = noise_like(example, torch.Generator().manual_seed(SEED))
    for place, name in enumerate(choice.ranking[:MOST_TRIALS]):
        watched = Watched([(model.get_submodule(name), records[name].index)])
        with torch.random.fork_rng(devices):
            seen = forward_head(model, noise.clone(), watched, Backbone(example.device))
        if seen.reduction is not None and seen.reduction.requires_grad:
            return choice.without(place)
    return choice.without(len(choice.ranking))
