"""From a model folder to a model that is ready to explain, and the card that says so."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import ValidationError

from camserve.contracts.cards import CardState, InputSpec, LayerSummary, ModelCard, ResolvedCard
from camserve.contracts.failures import FailureMessage
from camserve.engine import Explainer, ModelReport, Top
from camserve.errors import CamserveError, InvalidCard
from camserve.settings import Settings
from workers.repository import Entry
from workers.sources import Loaded, load

__all__ = ["ResidentModel", "declared_card", "load_model", "unavailable_card"]


@dataclass(frozen=True)
class ResidentModel:
    """A loaded, introspected and warmed-up model."""

    explainer: Explainer
    card: ResolvedCard
    bytes: int


def load_model(entry: Entry, device: str, settings: Settings) -> ResidentModel:
    """Load, move to the device, choose the layers, run one explanation. Seconds to minutes.

    Raises InvalidCard, UnsupportedModel, ModelUnavailable or NotExplainable.
    """
    loaded = load(entry, settings)
    spec = _input_spec(entry, loaded.input)
    module = loaded.module.to(device)
    probe = torch.zeros(1, *spec.shape, device=device)
    explainer = Explainer(
        module,
        probe,
        feature_layer=entry.card.feature_layer,
        reduction_layer=entry.card.reduction_layer,
    )
    explainer.explain(probe, [[Top(1)]])  # warm-up: allocators, kernels, the whole path
    card = _ready_card(entry, spec, loaded, explainer.report)
    weights = [*module.parameters(), *module.buffers()]
    return ResidentModel(explainer, card, sum(t.numel() * t.element_size() for t in weights))


def declared_card(entry: Entry) -> ResolvedCard:
    """The card of a model that has not been loaded yet."""
    return _card(entry.name, entry.version, entry.card, "declared")


def unavailable_card(name: str, entry: Entry | None, error: CamserveError) -> ResolvedCard:
    """The card of a model that could not be loaded, with the reason."""
    problem = FailureMessage.of(error)
    if entry is None:  # not even its card could be read
        return ResolvedCard(name=name, version="", state="unavailable", problem=problem, source="")
    return _card(name, entry.version, entry.card, "unavailable").model_copy(
        update={"problem": problem}
    )


def _card(name: str, version: str, card: ModelCard, state: CardState) -> ResolvedCard:
    return ResolvedCard(
        name=name,
        version=version,
        state=state,
        source=card.source,
        title=card.title or name,
        description=card.description,
        license=card.license,
        origin=card.origin,
        task=card.task,
        scores=card.scores,
        labels=card.labels,
    )


def _ready_card(entry: Entry, spec: InputSpec, loaded: Loaded, report: ModelReport) -> ResolvedCard:
    labels = entry.card.labels or loaded.labels
    if labels and report.classes is not None and len(labels) != report.classes:
        raise InvalidCard(
            f"model {entry.name!r}: {len(labels)} labels for an output of {report.classes} classes"
        )
    learnt = {
        "input": spec,
        "labels": labels,
        "classes": report.classes,
        "output_shape": report.output_shape,
        "parameters": sum(tensor.numel() for tensor in loaded.module.parameters()),
        "feature_layer": report.feature_layer,
        "feature_reason": report.feature_reason,
        "reduction_layer": report.reduction_layer,
        "reduction_reason": report.reduction_reason,
        "candidates": tuple(report.candidates()),
        "layers": tuple(
            LayerSummary(
                name=layer.name,
                shape=layer.shape,
                layout=layer.layout,
                candidate=layer.candidate,
                reason=layer.reason,
            )
            for layer in report.layers
        ),
        "modules": tuple(name for name, _ in loaded.module.named_modules() if name),
    }
    return _card(entry.name, entry.version, entry.card, "ready").model_copy(update=learnt)


def _input_spec(entry: Entry, known: dict[str, object]) -> InputSpec:
    """What the source knows, overridden by what the card says."""
    fields = {**known, **entry.card.input}
    missing = [name for name in ("height", "width") if name not in fields]
    if missing:
        raise InvalidCard(
            f"model {entry.name!r}: the card's [input] must give {' and '.join(missing)}, "
            "which the source does not fix"
        )
    try:
        return InputSpec.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "input"
        raise InvalidCard(f"model {entry.name!r}, input.{field}: {first['msg']}") from error
