"""Checks a request against the model's card, and resolves labels to class indices."""

from __future__ import annotations

from collections.abc import Iterable

from camserve.contracts.cards import ResolvedCard
from camserve.contracts.jobs import JobTarget
from camserve.contracts.options import Convention
from camserve.contracts.targets import ClassIndexTarget, ClassLabelTarget, Target, TopTarget
from camserve.errors import (
    ClassIndexOutOfRange,
    InvalidRequest,
    LayerNotFound,
    UnknownLabel,
)

__all__ = ["VIRTUAL_LAYERS", "check_layers", "reduction_layer", "resolve_targets"]

VIRTUAL_LAYERS = ("output", "softmax", "sigmoid")


def resolve_targets(targets: Iterable[Target], card: ResolvedCard) -> tuple[JobTarget, ...]:
    """Targets as a worker takes them. Raises ClassIndexOutOfRange, UnknownLabel, InvalidRequest."""
    return tuple(_resolve(target, card) for target in targets)


def _resolve(target: Target, card: ResolvedCard) -> JobTarget:
    if isinstance(target, ClassLabelTarget):
        return ClassIndexTarget(class_index=_index_of(target.class_label, card))
    if card.classes is None:
        return target
    if isinstance(target, ClassIndexTarget):
        for index in target.indices:
            if index >= card.classes:
                raise ClassIndexOutOfRange(index, card.classes)
    elif isinstance(target, TopTarget):
        if target.top > card.classes:
            raise InvalidRequest(
                f"top: the model has only {card.classes} classes", field="top", maximum=card.classes
            )
    else:
        for given in (target.params.class_index, target.params.against):
            if given is not None and given >= card.classes:
                raise ClassIndexOutOfRange(given, card.classes)
    return target


def _index_of(label: str, card: ResolvedCard) -> int:
    if label in card.labels:
        return card.labels.index(label)
    folded = [known.casefold() for known in card.labels]
    if label.casefold() in folded:
        return folded.index(label.casefold())
    # ImageNet labels list synonyms: "tabby, tabby cat"
    synonyms = [{part.strip() for part in known.split(",")} for known in folded]
    holding = [index for index, parts in enumerate(synonyms) if label.casefold() in parts]
    if len(holding) == 1:
        return holding[0]
    raise UnknownLabel(label, card.labels)


def check_layers(feature: str | None, reduction: str | None, card: ResolvedCard) -> None:
    """Raises LayerNotFound for a name that no module of the model bears.

    Whether a layer that exists can be explained is for the engine to say.
    """
    if feature is not None and feature not in card.modules:
        raise LayerNotFound(feature, card.candidates or card.modules)
    if reduction is not None and reduction not in (*VIRTUAL_LAYERS, *card.modules):
        raise LayerNotFound(reduction, (*VIRTUAL_LAYERS, *card.modules))


def reduction_layer(asked: str | None, convention: Convention, card: ResolvedCard) -> str | None:
    """The reduction layer of a job: MATLAB scores probabilities, the others the model's output."""
    if asked is not None or convention != "matlab" or card.scores == "probabilities":
        return asked
    return {"classification": "softmax", "multi-label": "sigmoid"}.get(card.task)
