"""The automatic choice of the feature layer: the last feature map that matters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from camserve.engine.layout_reader import Refusal, cross
from camserve.engine.layouts import Layout
from camserve.engine.recording import Probe, Recorded
from camserve.engine.resized import is_resized

__all__ = ["Choice", "choose_layer"]

LEAST_REACH = 0.5

_TOO_LATE = "what it returns was used before it returned: a hook comes too late"


@dataclass(frozen=True)
class Choice:
    """The chosen layer (None: there is none), the candidates, best first, and why not the others.

    `faults`: for every recorded module that is no candidate, the reason.
    """

    layer: str | None
    reason: str
    ranking: tuple[str, ...]
    faults: dict[str, str]
    reasons: tuple[str, ...] = ()  # of each in the ranking, were it chosen

    def without(self, count: int) -> Choice:
        """The choice that is left when so many of the first fail in use."""
        if count == 0:
            return self
        late = dict.fromkeys(self.ranking[:count], _TOO_LATE)
        left = self.ranking[count:]
        if not left:
            return Choice(None, f"{_TOO_LATE}: name a feature layer", (), self.faults | late)
        reasons = self.reasons[count:]
        return Choice(left[0], reasons[0], left, self.faults | late, reasons)


def choose_layer(probe: Probe) -> Choice:
    """The last output in execution order that is a feature map and matters to the score.

    It matters if the score's gradient reaches half of its positions. For a dense output
    (segmentation) the last one at the lowest resolution. Of several modules that return the very
    same tensor, the outermost is named.
    """
    names = _outermost_names(probe.records)
    faults = {record.name: _fault(record, probe, names) for record in probe.records}
    maps = [record for record in probe.records if not faults[record.name]]
    fit, note = _that_matter(maps)
    for record in maps:
        if record not in fit:
            faults[record.name] = _short_reach(record)
    internals = {} if note else _inside_narrowing_modules(fit, probe.records)
    if len(internals) < len(fit):
        fit = [record for record in fit if record.name not in internals]
        faults |= internals
    ranked = _ranked(fit, dense=probe.output_layout is not None)
    ranking = tuple(names[record.name] for record in ranked)
    faults = {name: fault for name, fault in faults.items() if fault and name not in ranking}
    for record in ranked:
        if names[record.name] != record.name:
            faults[record.name] = f"it is the very tensor that {names[record.name]!r} returns"
    if not ranked:
        return Choice(None, _nothing_found(probe), (), faults)
    reasons = tuple(_reason(record, probe, note) for record in ranked)
    return Choice(ranking[0], reasons[0], ranking, faults, reasons)


def _outermost_names(records: list[Recorded]) -> dict[str, str]:
    """For each module that made a tensor, the outermost module at which the same map is found.

    A module that returns the tensor but has already used it inside (a backbone that returns its
    features beside their pooling) is passed over: a hook on it would miss that use.
    """
    names: dict[str, str] = {}
    depths: dict[str, int] = {}
    for record in records:
        source = record.source
        same = record is source or _same_gradient(record, source)
        if same and record.depth < depths.get(source.name, 10**6):
            names[source.name], depths[source.name] = record.name, record.depth
    return names


def _same_gradient(a: Recorded, b: Recorded) -> bool:
    if a.gradient is None or b.gradient is None:
        return False
    slack = 1e-4 * float(b.gradient.abs().max())
    return torch.allclose(a.gradient, b.gradient, rtol=0, atol=slack)


def _fault(record: Recorded, probe: Probe, names: dict[str, str]) -> str:
    """Why a record cannot be a candidate whatever its gradient; empty if it can."""
    if isinstance(record.reading, Refusal):
        return record.reading.reason
    if record.is_(probe.output_record):
        return "it is the model's output"
    if record.alias_of is not None:
        return f"it returns the very tensor of {names[record.source.name]!r}"
    if record.gradient is None:
        return "the score does not depend on it"
    if probe.output_layout is not None and is_resized(record.tensor.detach(), probe.output):
        return "it is only resized into the output"
    return ""


def _that_matter(maps: list[Recorded]) -> tuple[list[Recorded], str]:
    """The records whose positions the gradient reaches, and a note if the rule had to bend."""
    reaches = [record.reach or 0.0 for record in maps]
    fit = [record for record, reach in zip(maps, reaches, strict=True) if reach >= LEAST_REACH]
    if fit or not maps:
        return fit, ""
    if not any(reaches):
        return maps, (
            "every gradient is zero (is the head initialised with zeros?), so that only the "
            "connection to the score counts"
        )
    most = max(reaches)
    fit = [record for record, reach in zip(maps, reaches, strict=True) if reach == most]
    return fit, f"no map is reached at half of its positions; this one at {most:.0%}"


def _inside_narrowing_modules(fit: list[Recorded], records: list[Recorded]) -> dict[str, str]:
    """Candidates inside a module that lets the gradient through to few positions, with the reason.

    The attention of a ViT's last block is such a module: the class token alone comes out of it.
    Its key and value projections still see every token, but they are no features: the input of
    the attention, the block's first norm, is. Of nested such modules the innermost counts.
    """
    narrowing = [record for record in records if any(_narrows(record, inner) for inner in fit)]
    innermost = [
        outer
        for outer in narrowing
        if not any(inner.name.startswith(f"{outer.name}.") for inner in narrowing)
    ]
    return {
        inner.name: f"it is internal to {outer.name!r}, out of which few positions reach the score"
        for inner in fit
        for outer in innermost
        if _narrows(outer, inner)
    }


def _narrows(outer: Recorded, inner: Recorded) -> bool:
    if not inner.name.startswith(f"{outer.name}.") or outer.tensor.ndim != inner.tensor.ndim:
        return False
    if outer.layout is not None:
        # of the tensor where it was made: a backbone may return it and yet have pooled it inside
        reach = outer.source.reach
        return reach is not None and reach < LEAST_REACH
    # class attention: (B, T, C) goes in, the class token (B, 1, C) comes out
    is_tokens = inner.layout is not None and inner.layout.is_tokens
    return is_tokens and outer.tensor.shape[1] < inner.tensor.shape[1]


def _ranked(fit: list[Recorded], *, dense: bool) -> list[Recorded]:
    """Last first; for dense outputs the lowest resolution first."""
    latest = fit[::-1]
    if not dense:
        return latest
    return sorted(latest, key=lambda record: math.prod(_layout(record).grid))


def _layout(record: Recorded) -> Layout:
    assert record.layout is not None  # noqa: S101 - candidates have one
    return record.layout


def _short_reach(record: Recorded) -> str:
    return f"the score's gradient reaches only {record.reach or 0:.0%} of its positions"


def _reason(record: Recorded, probe: Probe, note: str) -> str:
    layout = _layout(record)
    what = f"{cross(layout.grid)} map" if len(layout.grid) > 1 else f"map of {layout.grid[0]} steps"
    if layout.frames is not None:
        what += ", frame by frame"
    if layout.prefix_tokens:
        what += f" behind {layout.prefix_tokens} prefix token{'s' * (layout.prefix_tokens > 1)}"
    if note:
        return f"the last {what}; {note}"
    if probe.output_layout is not None:
        return f"the last {what} at the lowest resolution of a dense model"
    return f"the last {what} whose positions the score's gradient reaches ({record.reach:.0%})"


def _nothing_found(probe: Probe) -> str:
    if not any(record.layout for record in probe.records):
        ambiguous = [
            f"{record.name!r}: {record.reading.reason}"
            for record in probe.records
            if isinstance(record.reading, Refusal) and "ambiguous" in record.reading.reason
        ]
        if ambiguous:
            return ambiguous[-1]
        return "no layer returns a map in proportion to the input: name a feature layer"
    return "no map between input and output has a gradient from the score: name a feature layer"
