"""Finds a model's layers, chooses the two that an explanation needs, and reports on all."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from camserve.engine.layer_rule import Choice, choose_layer
from camserve.engine.layout_reader import Refusal
from camserve.engine.layouts import Layout
from camserve.engine.recording import Recorded, run_probe
from camserve.engine.reports import LayerReport, ModelReport
from camserve.errors import LayerNotFound, NotExplainable

__all__ = ["FeatureTap", "Introspection", "introspect"]


_CANDIDATE = "a map that the score's gradient reaches, but not the last one"


@dataclass(frozen=True)
class FeatureTap:
    """Where the features of a layer are: the place among its tensors, and their layout."""

    index: int
    layout: Layout


@dataclass(frozen=True)
class Introspection:
    """What is known of a model: its report, and by name its modules and its layers' readings."""

    report: ModelReport
    modules: dict[str, nn.Module]
    extent: tuple[int, ...]
    taps: dict[str, FeatureTap]
    refusals: dict[str, str]

    def module(self, name: str) -> nn.Module:
        """Raises LayerNotFound with the candidates, best first, or all names if there is none."""
        if name not in self.modules:
            raise LayerNotFound(name, self.report.candidates() or list(self.modules))
        return self.modules[name]

    def tap(self, name: str) -> FeatureTap:
        """The features of a layer. Raises LayerNotFound, or NotExplainable with the way out."""
        first_name = self._first_name(self.module(name))
        if tap := self.taps.get(first_name):
            return tap
        best = ", ".join(map(repr, self.report.candidates()[:3]))
        remedy = f"; explainable are {best}" if best else ""
        raise NotExplainable(
            f"feature layer {name!r} has no map: "
            + self.refusals.get(first_name, "it never ran in the model's forward pass")
            + remedy,
            layer=name,
            candidates=self.report.candidates(),
        )

    def _first_name(self, module: nn.Module) -> str:
        """A module may have several names (shared weights); the probe knows it by the first."""
        return next(name for name, known in self.modules.items() if known is module)


def introspect(
    model: nn.Module, example: Tensor, feature_layer: str | None, reduction_layer: str | None
) -> Introspection:
    """One probe forward and backward; `example` (1, C, *S) gives shape, dtype and device.

    A layer given by name is taken over instead of the automatic choice.
    """
    probe = run_probe(model, example)
    choice = choose_layer(probe)
    output_shape = tuple(probe.output.shape[1:])
    report = ModelReport(
        output_shape=output_shape,
        classes=output_shape[0] if output_shape else (1 if probe.output.ndim == 1 else None),
        feature_layer=feature_layer or choice.layer,
        feature_reason="it was given by name" if feature_layer else choice.reason,
        reduction_layer=reduction_layer or "output",
        reduction_reason="it was given by name" if reduction_layer else "it is the model's output",
        layers=tuple(_report(record, choice) for record in probe.records),
        ranking=choice.ranking,
    )
    taps: dict[str, FeatureTap] = {}
    refusals: dict[str, str] = {}
    for record in probe.records:
        layout = record.reading.fallback if isinstance(record.reading, Refusal) else record.reading
        if layout is not None:
            taps[record.name] = FeatureTap(record.index, layout)
        elif isinstance(record.reading, Refusal):
            refusals[record.name] = record.reading.reason
    modules = {name: m for name, m in model.named_modules(remove_duplicate=False) if name}
    return Introspection(report, modules, probe.extent, taps, refusals)


def _report(record: Recorded, choice: Choice) -> LayerReport:
    layout = record.layout
    candidate = record.name in choice.ranking
    chosen = record.name == choice.layer
    return LayerReport(
        name=record.name,
        shape=tuple(record.tensor.shape),
        layout=layout.letters if layout else _letters(record),
        grid=layout.grid if layout else None,
        prefix_tokens=layout.prefix_tokens if layout else 0,
        gradient_reach=record.reach,
        candidate=candidate,
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
