"""Checks a request's targets against the model's card, and resolves them for a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from camserve.contracts.cards import ResolvedCard
from camserve.contracts.jobs import JobTarget, ScalarTarget
from camserve.contracts.reductions import ReductionParameters, Reference
from camserve.contracts.targets import (
    ClassIndexTarget,
    ClassLabelTarget,
    ExpressionTarget,
    ReductionTarget,
    Target,
    TopTarget,
)
from camserve.errors import ClassIndexOutOfRange, InvalidRequest, UnknownLabel, near_names
from camserve.expressions import MAX_NODES, parse
from camserve.vocabulary import REDUCTIONS, REDUCTIONS_OF_LOGITS, VIRTUAL_LAYERS

__all__ = ["default_targets", "is_of_logits", "resolve_targets"]


def default_targets(card: ResolvedCard) -> tuple[Target, ...]:
    """What is explained where nobody says: the best class; of an embedding, its norm."""
    if card.task == "embedding":
        return (ReductionTarget(reduction="norm"),)
    return (TopTarget(top=1),)


def is_of_logits(target: JobTarget) -> bool:
    """Whether its formula takes a softmax or sigmoid of its own."""
    return isinstance(target, ScalarTarget) and target.reduction in REDUCTIONS_OF_LOGITS


def resolve_targets(
    targets: Iterable[Target],
    card: ResolvedCard,
    reduction_layer: str | None = None,
    *,
    max_expression_nodes: int = MAX_NODES,
) -> tuple[JobTarget, ...]:
    """Targets as a worker takes them.

    reduction_layer: the one that was asked for; how many values a module returns is not known here.
    max_expression_nodes: of each expression of the request; those of the card are the operator's.
    Raises ClassIndexOutOfRange, UnknownLabel, InvalidExpression, InvalidRequest.
    """
    resolved = tuple(_resolve(target, card, max_expression_nodes) for target in targets)
    if (reduction_layer or card.reduction_layer or "output") in VIRTUAL_LAYERS:
        for target in resolved:
            _check_values(target, card)
    return resolved


def _resolve(target: Target, card: ResolvedCard, max_expression_nodes: int) -> JobTarget:
    match target:
        case ClassLabelTarget():
            return ClassIndexTarget(class_index=_index_of(target.class_label, card))
        case ExpressionTarget():
            parse(target.expression, max_nodes=max_expression_nodes)
            return ScalarTarget(expression=target.expression)
        case ReductionTarget(reduction=name) if name in card.reductions:
            if target.params != ReductionParameters():
                raise InvalidRequest(
                    f"reduction {name!r} is the model card's own, {card.reductions[name]!r}: it "
                    "takes no params",
                    field="params",
                )
            return ScalarTarget(reduction=name, expression=card.reductions[name])
        case ReductionTarget():
            return _of_reduction(target, card)
        case _:
            return target


def _of_reduction(target: ReductionTarget, card: ResolvedCard) -> ScalarTarget:
    names = (*REDUCTIONS, *card.reductions)
    if target.reduction not in REDUCTIONS:
        near = near_names(target.reduction, names)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
        raise InvalidRequest(
            f"there is no reduction {target.reduction!r}: {hint}", field="reduction", near=near
        )
    params, region = target.params, target.params.region
    reference = params.reference
    return ScalarTarget(
        reduction=target.reduction,
        class_index=params.class_index,
        against=params.against,
        index=params.index,
        region=region if region is None or isinstance(region, str) else "given",
        reference=reference.input
        if isinstance(reference, Reference)
        else ("given" if reference is not None else None),
    )


def _check_values(target: JobTarget, card: ResolvedCard) -> None:
    """Raises ClassIndexOutOfRange or InvalidRequest for a value that the output does not have."""
    classes = card.classes
    if classes is None:
        return
    match target:
        case ClassIndexTarget():
            _check_classes(target.indices, classes)
        case TopTarget() if target.top > classes:
            raise InvalidRequest(
                f"top: the model has only {classes} class{'es' if classes > 1 else ''}",
                field="top",
                maximum=classes,
            )
        case ScalarTarget():
            given = (target.class_index, target.against)
            _check_classes([one for one in given if one is not None], classes)
            _check_reduction(target, card, classes)


def _check_classes(indices: Sequence[int], classes: int) -> None:
    for index in indices:
        if index >= classes:
            raise ClassIndexOutOfRange(index, classes)


def _check_reduction(target: ScalarTarget, card: ResolvedCard, values: int) -> None:
    if card.scores == "probabilities" and is_of_logits(target):
        raise InvalidRequest(
            f"{target.reduction} is computed from logits, and this model gives probabilities: name "
            "the layer before its softmax as reduction_layer",
            field="reduction_layer",
        )
    if target.reduction == "class_margin" and values == 1:
        raise InvalidRequest("class_margin needs another class: the model has one output")
    if target.reduction == "segmentation" and len(card.output_shape or ()) < 2:
        raise InvalidRequest(
            "segmentation needs a score for each class and position, and this model gives one "
            "score for each class: give class_index",
            field="reduction",
        )
    if target.reduction == "output":
        _check_index(target.index, values)


def _check_index(index: int | None, values: int) -> None:
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
