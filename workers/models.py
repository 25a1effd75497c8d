"""From a model folder to a model that is ready to explain, and the card that says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import nn

from camserve.contracts.cards import CardState, LayerSummary, ModelCard, ResolvedCard, Scores
from camserve.contracts.failures import FailureMessage
from camserve.contracts.input_specs import InputSpec
from camserve.contracts.layers import as_layers, layer_names
from camserve.engine import Explainer, ModelReport, Top
from camserve.engine.execution import NotSplittable
from camserve.errors import CamserveError, InvalidCard, RequestError
from camserve.settings import Settings
from camserve.vocabulary import Precision
from workers.card_checks import check_reductions, input_spec
from workers.repository import Entry
from workers.sources import Loaded, fetched

__all__ = ["ResidentModel", "declared_card", "load_model", "unavailable_card"]


# Building a module is not thread-safe: transformers replaces torch's initialisers meanwhile, so
# that a module built beside it would keep unset weights. And of those that are built and have not
# found room yet there is never more than one. Downloads may run side by side.
_one_builder = threading.Lock()


@dataclass(frozen=True)
class ResidentModel:
    """A loaded, introspected and warmed-up model."""

    explainer: Explainer
    card: ResolvedCard
    bytes: int
    asked: set[Precision] = field(default_factory=set, compare=False)
    """Precisions that jobs have asked for."""
    identity: Hashable = field(default_factory=object, compare=False)
    """Of this very load: what is remembered of inputs is of these weights."""


def load_model(
    entry: Entry, device: str, settings: Settings, room: Callable[[float], None] = lambda _: None
) -> ResidentModel:
    """Load, move to the device, choose the layers, run one explanation. Seconds to minutes.

    room: is called with the bytes of the weights before they are moved. Modules are built and tried
    one at a time. Raises InvalidCard, UnsupportedModel, ModelUnavailable or NotExplainable.
    """
    build = fetched(entry, settings)
    with _one_builder:
        return _placed(entry, build(), device, settings, room)


def _placed(
    entry: Entry,
    loaded: Loaded,
    device: str,
    settings: Settings,
    room: Callable[[float], None],
) -> ResidentModel:
    spec = input_spec(entry, loaded.input)
    room(_bytes(loaded.module))
    module = loaded.module.to(device)
    parameters = sum(tensor.numel() for tensor in module.parameters())
    shape = list(spec.probe_shape)
    shape.insert(spec.format.index("B"), 1)
    probe = torch.zeros(shape, device=device)
    try:
        explainer = Explainer(
            module,
            probe,
            input_format=spec.format,
            feature_layer=layer_names(entry.card.feature_layer),
            feature_format=entry.card.feature_format,
            reduction_layer=entry.card.reduction_layer,
            output_format=entry.card.output_format,
            output_scores=entry.card.scores,
            quantization=entry.card.quantization,
        )
    except RequestError as error:  # of a card, not of a request
        raise InvalidCard(f"model {entry.name!r}: {error}", **error.extensions) from error
    check_reductions(entry, explainer.report)
    undivided = _divide(explainer, entry.card, settings)
    explainer.explain(probe, [[Top(1)]])  # warm-up: allocators, kernels, the whole path
    card = _ready_card(entry, spec, loaded, explainer.report, parameters)
    return ResidentModel(
        explainer, card.model_copy(update={"undivided": undivided}), _bytes(module)
    )


def _divide(explainer: Explainer, card: ModelCard, settings: Settings) -> str | None:
    """Have backbone and head run apart, if that is of use; why not, if it is not possible."""
    wanted = settings.optimization != "none" or settings.activation_cache_mb > 0
    if not wanted or card.optimization == "none" or not explainer.report.feature_layers:
        return None
    try:
        explainer.split()
    except NotSplittable as error:
        return str(error)
    return None


def _bytes(module: nn.Module) -> int:
    """Of its weights: parameters and buffers."""
    weights = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in weights)


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
        scores=card.scores or "logits",
        quantization=card.quantization,
        labels=card.labels,
        feature_format=card.feature_format,
        reductions=card.reductions,
    )


def _ready_card(
    entry: Entry, spec: InputSpec, loaded: Loaded, report: ModelReport, parameters: int
) -> ResolvedCard:
    labels = entry.card.labels or loaded.labels
    if labels and report.classes is not None and len(labels) != report.classes:
        raise InvalidCard(
            f"model {entry.name!r}: {len(labels)} labels for an output of {report.classes} classes"
        )
    scores: Scores = "probabilities" if report.ends_in_probabilities else "logits"
    learnt = {
        "input": spec,
        "scores": scores,
        "labels": labels,
        "classes": report.classes,
        "output_shape": report.output_shape,
        "output_format": report.output_format,
        "parameters": parameters,
        "feature_layer": as_layers(report.feature_layers) if report.feature_layers else None,
        "feature_reason": report.feature_reason,
        "reduction_layer": report.reduction_layer,
        "reduction_reason": report.reduction_reason,
        "candidates": tuple(report.candidates()),
        "layers": tuple(
            LayerSummary(
                name=layer.name,
                rank=layer.rank,
                shape=layer.shape,
                format=layer.format,
                grid=layer.grid,
                prefix_tokens=layer.prefix_tokens,
                gradient_reach=layer.gradient_reach,
                gradient_energy=layer.gradient_energy,
                reason=layer.reason,
            )
            for layer in report.layers
        ),
        "modules": tuple(name for name, _ in loaded.module.named_modules() if name),
    }
    return _card(entry.name, entry.version, entry.card, "ready").model_copy(update=learnt)
