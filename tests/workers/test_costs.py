"""What a job costs: known before it begins, and not paid twice."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from camserve.contracts.jobs import ScalarTarget
from camserve.contracts.methods import Evaluate
from camserve.contracts.targets import ClassIndexTarget, TopTarget
from camserve.engine import ClassIndex, Finer, Reduction
from camserve.engine.evaluation import joint_map, rank_correlation, shuffled_weights
from camserve.errors import ErrorCode
from camserve.vocabulary import METHODS
from tests.workers.cards import TINY, entry_of, factory_card, settings, write_model
from tests.workers.factories import FAULTY
from tests.workers.jobs import compute_job, failed, noise, read, run
from workers.costs import passes_of
from workers.models import ResidentModel, load_model

EVERYTHING = Evaluate(metrics=("deletion", "insertion", "randomisation"), steps=4, baseline="mean")


@pytest.fixture
def model(tmp_path: Path) -> ResidentModel:
    return load_model(entry_of(write_model(tmp_path, "tiny", TINY)), "cpu", settings())


@pytest.fixture
def rows_run(model: ResidentModel) -> Iterator[list[int]]:
    """The inputs of each forward pass."""
    sizes: list[int] = []
    handle = model.explainer.model.register_forward_pre_hook(
        lambda _module, args: sizes.append(len(args[0]))
    )
    yield sizes
    handle.remove()


@pytest.mark.parametrize("method", [m for m in METHODS if m != "guided-gradcam"])
@pytest.mark.parametrize("evaluate", [None, EVERYTHING])
def test_a_job_takes_the_passes_that_it_was_said_to(
    model: ResidentModel, rows_run: list[int], method: Any, evaluate: Evaluate | None
) -> None:
    targets: list[Any] = [TopTarget(top=2)]
    if method != "finercam":
        targets.append(ScalarTarget(reduction="similarity", reference=0))
    job = compute_job("j", noise(0), noise(1), targets=targets, method=method, evaluate=evaluate)
    expected = passes_of(job.job, model.explainer)
    with_one_less = run(model, job, passes=expected - 1)
    assert failed(with_one_less[0]).extensions == {"needed": expected, "limit": expected - 1}
    assert rows_run == []
    about, _ = read(run(model, job, passes=expected)[0])
    assert about.forward_passes == expected
    if method != "ablationcam":  # of which most are of the head alone
        assert sum(rows_run) == expected


def test_what_a_failed_batch_took_is_not_held_against_its_inputs(tmp_path: Path) -> None:
    folder = tmp_path / "signs"
    folder.mkdir()
    card = factory_card("misbehaving", folder=str(folder))
    model = load_model(entry_of(write_model(tmp_path, "bad", card)), "cpu", settings())
    job = compute_job("j", noise(0), noise(1, FAULTY), method="scorecam")
    (outcome,) = run(model, job, passes=passes_of(job.job, model.explainer))
    assert failed(outcome).code is ErrorCode.INTERNAL


def test_the_tensors_of_a_failed_batch_are_gone_when_it_is_tried_again(
    model: ResidentModel,
) -> None:
    """Else what ran out of memory together runs out of it one by one."""
    kept: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def head(_module: object, args: tuple[torch.Tensor]) -> None:
        gc.collect()
        alive.extend(one() is not None for one in kept)
        if len(args[0]) > 1:
            kept.append(weakref.ref(args[0]))
            raise torch.OutOfMemoryError("too many at once")

    handle = model.explainer.model.get_submodule("head").register_forward_pre_hook(head)
    outcomes = run(model, *(compute_job(str(n), noise(n)) for n in range(3)))
    handle.remove()
    assert [read(outcome)[0].batch_size for outcome in outcomes] == [1, 1, 1]
    assert alive == [False] * 3


def test_maps_of_shuffled_weights_are_of_the_same_scalar(model: ResidentModel) -> None:
    """With finercam's own options, and against the class that is the best other one by right."""
    weights = shuffled_weights(model.explainer.model)
    image = noise(0)[None]

    def truth(target: Any, **options: Any) -> float:
        ((own,),) = model.explainer.explain(image, [[target]], **options)
        ((other,),) = model.explainer.explain(image, [[own.target]], weights=weights, **options)
        size = tuple(image.shape[2:])
        return rank_correlation(joint_map(own.maps, size), joint_map(other.maps, size))

    asked = Evaluate(metrics=("randomisation",))
    finer: dict[str, Any] = {"comparisons": 1, "comparison_strength": 0.2}
    cases: list[tuple[Any, dict[str, Any], float]] = [
        (
            ClassIndexTarget(class_index=1),
            {"method": "finercam", "method_options": finer},
            truth(ClassIndex(1), method="finercam", finer=Finer(1, 0.2)),
        ),
        (
            ScalarTarget(reduction="class_margin", class_index=1),
            {},
            truth(Reduction("class_margin", class_index=1)),
        ),
    ]
    for target, options, expected in cases:
        job = compute_job("j", noise(0), targets=[target], evaluate=asked, **options)
        about, _ = read(run(model, job)[0])
        assert about.rows[0].evaluation[0].value == pytest.approx(expected, abs=1e-6)
