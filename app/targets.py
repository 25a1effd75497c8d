"""Checks a request against the model's card, and resolves labels to class indices."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from camserve.contracts.cards import ResolvedCard
from camserve.contracts.jobs import JobTarget
from camserve.contracts.options import Convention
from camserve.contracts.targets import (
    REDUCTIONS_OF_LOGITS,
    ClassIndexTarget,
    ClassLabelTarget,
    ReductionTarget,
    Target,
    TopTarget,
)
from camserve.errors import (
    ClassIndexOutOfRange,
    InvalidRequest,
    LayerNotFound,
    UnknownLabel,
)
from camserve.maps.conventions import find_convention

__all__ = ["VIRTUAL_LAYERS", "check_layers", "reduction_layer", "resolve_targets"]

VIRTUAL_LAYERS = ("output", "softmax", "sigmoid")
# what makes probabilities of a task's logits; a regression's output is what it means already
_PROBABILITIES = {
    "classification": "softmax",
    "segmentation": "softmax",
    "multi-label": "sigmoid",
}


def resolve_targets(
    targets: Iterable[Target], card: ResolvedCard, reduction_layer: str | None = None
) -> tuple[JobTarget, ...]:
    """Targets as a worker takes them. Raises ClassIndexOutOfRange, UnknownLabel, InvalidRequest.

    reduction_layer: the one that was asked for; how many values a module returns is not known here.
    """
    resolved = tuple(_resolve(target, card) for target in targets)
    if (reduction_layer or card.reduction_layer or "output") in VIRTUAL_LAYERS:
        for target in resolved:
            if isinstance(target, ReductionTarget):
                _check_reduction(target, card)
    return resolved


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
                f"top: the model has only {card.classes} class{'es' if card.classes > 1 else ''}",
                field="top",
                maximum=card.classes,
            )
    else:
        for given in (target.params.class_index, target.params.against):
            if given is not None and given >= card.classes:
                raise ClassIndexOutOfRange(given, card.classes)
    return target


def _check_reduction(target: ReductionTarget, card: ResolvedCard) -> None:
    """Raises InvalidRequest for a value that the model's output does not have."""
    if card.scores == "probabilities" and target.reduction in REDUCTIONS_OF_LOGITS:
        raise InvalidRequest(
            f"{target.reduction} is computed from logits, and this model gives probabilities: name "
            "the layer before its softmax as reduction_layer",
            field="reduction_layer",
        )
    values, index = card.classes, target.params.index
    if target.reduction == "class_margin" and values == 1:
        raise InvalidRequest("class_margin needs another class: the model has one output")
    if target.reduction != "output" or values is None:
        return
    if index is None and values > 1:
        wrong = f"the output has {values} values: give index, 0 to {values - 1}"
    elif index is not None and index >= values:
        known = f"0 to {values - 1}" if values > 1 else "it has one value, of index 0"
        wrong = f"output index {index} is out of range: {known}"
    else:
        return
    raise InvalidRequest(wrong, field="index", minimum=0, maximum=values - 1)


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
    """The reduction layer of a job: that of the request, or what the convention scores.

    None where it is the model card's.
    """
    score = find_convention(convention).score
    if asked is not None or score == "output" or card.scores == "probabilities":
        return asked
    return _PROBABILITIES.get(card.task)
