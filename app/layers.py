"""The layers of a request, held against the model's card."""

from __future__ import annotations

from collections.abc import Sequence

from app.targets import is_of_logits
from camserve.contracts.cards import ResolvedCard
from camserve.contracts.jobs import JobTarget
from camserve.contracts.layers import layer_names
from camserve.contracts.requests import ExplanationRequest
from camserve.errors import InvalidRequest, LayerNotFound
from camserve.maps.conventions import find_convention
from camserve.vocabulary import VIRTUAL_LAYERS

__all__ = ["check_layers", "reduction_layer"]

# what makes probabilities of a task's logits; a regression's output is what it means already
_PROBABILITIES = {
    "classification": "softmax",
    "segmentation": "softmax",
    "multi-label": "sigmoid",
}


def check_layers(request: ExplanationRequest, card: ResolvedCard) -> None:
    """Raises LayerNotFound for a name that no module of the model bears.

    Whether a layer that exists can be explained, or has a tensor at a path, is for the engine to
    say.
    """
    for feature in layer_names(request.feature_layer):
        if feature.partition(":")[0] not in card.modules:
            raise LayerNotFound(feature, card.candidates or card.modules)
    reduction = request.reduction_layer
    known = (*VIRTUAL_LAYERS, *card.modules)
    if reduction is not None and reduction.partition(":")[0] not in known:
        raise LayerNotFound(reduction, known)


def reduction_layer(
    request: ExplanationRequest, targets: Sequence[JobTarget], card: ResolvedCard
) -> str | None:
    """The reduction layer of a job: that of the request, or what convention and targets ask for.

    None where it is the model card's.
    """
    score = find_convention(request.convention).score
    asked = request.reduction_layer
    if asked is not None or card.scores == "probabilities":
        return asked
    if score != "output":
        return _PROBABILITIES.get(card.task)
    of_logits = [is_of_logits(target) for target in targets]
    if card.task != "multi-label" or not any(of_logits):
        return None
    if not all(of_logits):
        raise InvalidRequest(
            "log_odds and entropy of a multi-label model are those of its sigmoids: ask for them "
            "in a request of their own, or give reduction_layer=sigmoid",
            field="reduction_layer",
        )
    return "sigmoid"
