"""Finds a model's layers, chooses the two that an explanation needs, and reports on all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from camserve.dimensions import check_format
from camserve.engine.head import Watched, forward_head
from camserve.engine.layer_rule import Choice, choose_layer
from camserve.engine.layout_reader import Refusal
from camserve.engine.layouts import Extent, Layout
from camserve.engine.named_formats import layout_of
from camserve.engine.nested import index_of_path, split_path
from camserve.engine.precision import Backbone
from camserve.engine.recording import Probe, Recorded, run_probe
from camserve.engine.reports import LayerReport, ModelReport
from camserve.engine.rows import rows_are_independent
from camserve.engine.score_layout import class_dimension_first, letters_of_output
from camserve.errors import InvalidRequest, LayerNotFound, NotExplainable
from camserve.vocabulary import VIRTUAL_LAYERS

__all__ = ["FeatureTap", "Introspection", "Named", "introspect"]

MOST_TRIALS = 5
_CANDIDATE = "a map that the score's gradient reaches, but not the last one"


@dataclass(frozen=True)
class Named:
    """The layers that somebody chose, who knows the model."""

    feature_layers: tuple[str, ...] = ()
    reduction_layer: str | None = None
    output_format: str | None = None


@dataclass(frozen=True)
class FeatureTap:
    """Where the features of a layer are: its module, the place among its tensors, their layout."""

    layer: str
    module: nn.Module
    index: int
    layout: Layout


@dataclass(frozen=True)
class Introspection:
    """What is known of a model: its report, and by name its modules and their readings."""

    report: ModelReport
    modules: dict[str, nn.Module]
    probe: Probe
    records: dict[str, Recorded]

    @property
    def extent(self) -> Extent:
        return self.probe.extent

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
        record = self.records.get(self._first_name(module))
        if record is None:
            raise self._without_map(layer, "it never ran in the model's forward pass")
        paths = list(record.shapes)
        index = record.index if path is None else index_of_path(layer, path, paths)
        shape = record.shapes[paths[index]]
        if labels is not None:
            layout = layout_of(labels, shape, self.probe.reader, layer)
            known = (one.layout for one in self.records.values())
            time_last = any(one is not None and one.time_last for one in known)
            return FeatureTap(layer, module, index, replace(layout, time_last=time_last))
        reading = record.reading if index == record.index else self.probe.reader.read(shape)
        found = reading.fallback if isinstance(reading, Refusal) else reading
        if found is None and isinstance(reading, Refusal):
            raise self._without_map(layer, reading.reason)
        assert found is not None  # noqa: S101 - a refusal without a fallback was just raised
        return FeatureTap(layer, module, index, found)

    def reduction(self, layer: str) -> tuple[nn.Module | None, str | None, str]:
        """The module of a reduction layer, the path of its tensor, and the labels of its output.

        None for the model's output, also where a softmax or sigmoid is put behind it.
        """
        name, path = split_path(layer)
        if name in VIRTUAL_LAYERS:
            return None, path, self.report.output_format
        if name not in self.modules:
            raise LayerNotFound(layer, [*VIRTUAL_LAYERS, *self.modules])
        module = self.modules[name]
        record = self.records.get(self._first_name(module))
        if record is None:
            return module, path, "BC"
        return module, path, letters_of_output(tuple(record.tensor.shape), record.layout)

    def modules_up_to(self, layers: Sequence[str]) -> list[nn.Module]:
        """The modules that had run when the first of the layers returned, and not again after it.

        None whose weights belong to another module too that is not among them.
        """
        names = {self._first_name(self.module(split_path(layer)[0])) for layer in layers}
        ran = [record.name for record in self.probe.records]  # by the last call of each
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
    letters = _output_letters(probe, named.output_format)
    scores = class_dimension_first(probe.output, letters)
    automatic = (choice.layer,) if choice.layer else ()
    report = ModelReport(
        output_shape=_without_batch(tuple(probe.output.shape), letters),
        output_format=letters,
        classes=scores.shape[1],
        ends_in_probabilities=_are_probabilities(scores),
        rows_are_independent=rows_are_independent(model, example, labels),
        feature_layers=named.feature_layers or automatic,
        feature_reason="it was given by name" if named.feature_layers else choice.reason,
        reduction_layer=named.reduction_layer or "output",
        reduction_reason="it was given by name"
        if named.reduction_layer
        else "it is the model's output",
        layers=_reports(probe.records, choice),
        ranking=choice.ranking,
    )
    return Introspection(
        report=report,
        modules={name: m for name, m in model.named_modules(remove_duplicate=False) if name},
        probe=probe,
        records={record.name: record for record in probe.records},
    )


def _proven(choice: Choice, model: nn.Module, example: Tensor, probe: Probe) -> Choice:
    """The choice without the first layers whose features the output does not depend on, cut there.

    A module may return what it has used already: then a gradient has reached it in the probe, and
    a hook on it comes too late all the same.
    """
    records = {record.name: record for record in probe.records}
    devices = [example.device] if example.device.type == "cuda" else []
    for place, name in enumerate(choice.ranking[:MOST_TRIALS]):
        watched = Watched([(model.get_submodule(name), records[name].index)])
        with torch.random.fork_rng(devices):
            seen = forward_head(model, example, watched, Backbone(example.device))
        if seen.reduction is not None and seen.reduction.requires_grad:
            return choice.without(place)
    return choice.without(len(choice.ranking))


def _output_letters(probe: Probe, asked: str | None) -> str:
    shape = tuple(probe.output.shape)
    if asked is None:
        return letters_of_output(shape, probe.output_layout)
    letters = check_format(asked, "output_format")
    if len(letters) != len(shape) or "B" not in letters:
        raise InvalidRequest(
            f"output_format {letters!r} does not describe an output of {len(shape)} dimensions, B "
            f"among them: it is {shape} for one input",
            field="output_format",
        )
    return letters


def _without_batch(shape: tuple[int, ...], letters: str) -> tuple[int, ...]:
    return tuple(size for size, letter in zip(shape, letters, strict=True) if letter != "B")


def _are_probabilities(scores: Tensor) -> bool:
    """Whether each position of (N, C, *D) holds the probabilities of C >= 2 classes."""
    if scores.shape[1] < 2:
        return False
    sums = scores.double().sum(1)
    return bool((scores >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def _reports(records: Sequence[Recorded], choice: Choice) -> tuple[LayerReport, ...]:
    most = max((record.energy or 0.0 for record in records), default=0.0)
    return tuple(_report(record, choice, most) for record in records)


def _report(record: Recorded, choice: Choice, most_energy: float) -> LayerReport:
    layout, energy = record.layout, record.energy
    ranked = record.name in choice.ranking
    chosen = record.name == choice.layer
    return LayerReport(
        name=record.name,
        shape=tuple(record.tensor.shape),
        format=layout.label if layout else _letters(record),
        grid=layout.grid if layout else None,
        prefix_tokens=layout.prefix_tokens if layout else 0,
        gradient_reach=record.reach,
        gradient_energy=energy / most_energy if energy is not None and most_energy else energy,
        rank=choice.ranking.index(record.name) + 1 if ranked else None,
        reason=choice.reason if chosen else choice.faults.get(record.name, _CANDIDATE),
    )


def _letters(record: Recorded) -> str:
    """Of a shape that is no map: U where nothing is known. The probe has a batch of 1."""
    shape = record.tensor.shape
    if isinstance(record.reading, Refusal) and record.reading.fallback:
        return record.reading.fallback.letters
    if not shape or shape[0] != 1:
        return "U" * len(shape)
    return "BC" if len(shape) == 2 else "B" + "U" * (len(shape) - 1)
