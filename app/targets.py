"""Checks a request against the model's card, and resolves labels to class indices."""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
    """The class of that label: as it is spelt, else whatever its case, else as a synonym."""
    folded = label.casefold()
    # ImageNet labels list synonyms: "tabby, tabby cat"
    looks: tuple[Callable[[str], bool], ...] = (
        lambda known: known == label,
        lambda known: known.casefold() == folded,
        lambda known: folded in {part.strip() for part in known.casefold().split(",")},
    )
    for fits in looks:
        found = [index for index, known in enumerate(card.labels) if fits(known)]
        if len(found) == 1:
            return found[0]
        if found:  # ImageNet has two cranes
            raise InvalidRequest(
                f"{len(found)} classes have the label {label!r}: give one of the class indices "
                f"{', '.join(map(str, found))}",
                field="class_label",
                candidates=found,
            )
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
