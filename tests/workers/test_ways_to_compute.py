"""What a job can ask of the engine, through the step that uses the device."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from camserve.contracts.jobs import (
    ScalarTarget,
    input_name,
    reference_name,
    region_name,
)
from camserve.contracts.methods import Evaluate, MethodOptions
from camserve.contracts.targets import ClassIndexTarget, TopTarget
from camserve.engine import ClassIndex, Finer, Reduction, Top
from camserve.errors import ErrorCode
from camserve.expressions import parse
from camserve.vocabulary import METHODS
from tests.workers.cards import TINY, entry_of, factory_card, settings, write_model
from tests.workers.jobs import compute_job, document, failed, noise, read, run
from workers.models import ResidentModel, load_model
from workers.rows import ComputeJob, batches, read_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ResidentModel:
    folder = Path(tmp_path_factory.mktemp("models"))
    return load_model(entry_of(write_model(folder, "tiny", TINY)), "cpu", settings())


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> ResidentModel:
    """A score for each class and position."""
    folder = Path(tmp_path_factory.mktemp("dense"))
    card = factory_card("dense", head='task = "segmentation"')
    return load_model(entry_of(write_model(folder, "dense", card)), "cpu", settings())


@pytest.mark.parametrize("method", [m for m in METHODS if m != "guided-gradcam"])
def test_every_method_is_the_engines(model: ResidentModel, method: Any) -> None:
    options: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    if method in ("scorecam", "ablationcam"):
        options, arguments = {"channels": 3}, {"channels": 3}
    if method == "finercam":
        options = {"comparisons": 1, "comparison_strength": 0.5}
        arguments = {"finer": Finer(1, 0.5)}
    job = compute_job(
        "j",
        noise(0),
        noise(1),
        method=method,
        method_options=MethodOptions(**options),
        targets=[TopTarget(top=2)],
    )
    about, maps = read(run(model, job)[0])
    truth = model.explainer.explain(
        torch.stack([noise(0), noise(1)]), [[Top(2)]] * 2, method=method, **arguments
    )
    expected = [one.map for row in truth for one in row]
    assert all(
        torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(maps, expected, strict=True)
    )
    extra = 3 if method in ("scorecam", "ablationcam") else 0
    assert about.forward_passes == 2 * (1 + extra)


def test_a_method_that_the_model_cannot_do_says_so(model: ResidentModel) -> None:
    job = compute_job("j", noise(0), feature_layers=("head",), method="scorecam")
    assert failed(run(model, job)[0]).code is ErrorCode.NOT_EXPLAINABLE


def test_several_layers_have_a_map_each(model: ResidentModel) -> None:
    job = compute_job("j", noise(0), feature_layers=("stem", "body"))
    about, maps = read(run(model, job)[0])
    assert about.feature_layers == ("stem", "body")
    for one, layer in zip(maps, about.feature_layers, strict=True):
        [[truth]] = model.explainer.explain(noise(0)[None], [[ClassIndex(0)]], feature_layer=layer)
        assert torch.allclose(one, truth.map, rtol=1e-5, atol=1e-7)


def test_what_is_computed_in_another_way_does_not_share_a_forward(model: ResidentModel) -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"method": "layercam"},
        {"precision": "bfloat16"},
        {"feature_layers": ("stem",)},
        {"reduction_layer": "softmax"},
        {"method": "finercam", "method_options": MethodOptions(comparisons=1)},
        {"method": "finercam", "method_options": MethodOptions(comparisons=2)},
        {"feature_format": "BCSS"},
        {"convention": "paper", "upsampling": "nearest", "fusion": "max"},  # but this one does
    ]
    jobs = [compute_job(str(n), noise(n), **way) for n, way in enumerate(ways)]
    abouts = [read(outcome)[0] for outcome in run(model, *jobs)]
    assert [about.batch_size for about in abouts] == [2, 1, 1, 1, 1, 1, 1, 1, 2]
    assert [about.precision for about in abouts][2] == "bfloat16"


def test_costly_jobs_run_by_themselves(model: ResidentModel) -> None:
    jobs = [
        compute_job(str(n), noise(n), method="scorecam", method_options=MethodOptions(channels=2))
        for n in range(2)
    ]
    assert all(job.job.is_costly for job in jobs)
    assert document(noise(0), evaluate=Evaluate()).is_costly
    assert not document(noise(0), method="finercam").is_costly
    rows = [row for job in jobs for row in _rows(job, model)]
    assert [len(batch) for batch in batches(rows, 8)] == [1, 1]
    abouts = [read(outcome)[0] for outcome in run(model, *jobs)]
    assert [about.forward_passes for about in abouts] == [3, 3]


def _rows(job: ComputeJob, model: ResidentModel) -> list[Any]:
    from camserve.engine import Budget

    return list(read_rows(job, model, Budget()))


def test_inputs_of_different_length_are_never_padded(model: ResidentModel) -> None:
    """Each row of a batch has the very shape that was sent."""
    inputs = [noise(0), noise(1).repeat(1, 2, 1), noise(2), noise(3).repeat(1, 2, 1)]
    job = compute_job("j", *inputs)
    found = list(batches(_rows(job, model), 8))
    assert sorted([row.index for row in batch] for batch in found) == [[0, 2], [1, 3]]
    _, maps = read(run(model, job)[0])
    for one, tensor in zip(maps, inputs, strict=True):
        [[truth]] = model.explainer.explain(tensor[None], [[ClassIndex(0)]])
        assert torch.allclose(one, truth.map, rtol=1e-5, atol=1e-7)


def test_a_request_over_its_budget_fails_alone_and_at_once(model: ResidentModel) -> None:
    dear = compute_job("dear", noise(0), noise(1), method="scorecam")  # 6 channels each
    cheap = compute_job("cheap", noise(2))
    first, second = run(model, dear, cheap, passes=13)
    failure = failed(first)
    assert failure.code is ErrorCode.OVER_BUDGET
    assert failure.extensions["needed"] == 14
    assert failure.extensions["limit"] == 13
    read(second)
    about, _ = read(run(model, dear, passes=14)[0])
    assert about.forward_passes == 14


def test_expressions_regions_and_references(dense: ResidentModel) -> None:
    """As they travel: the text, a mask beside the input, a vector or another input's output."""
    inputs = [noise(0), noise(1)]
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[2:4, 4:8] = True
    outputs = dense.explainer.output(torch.stack(inputs))
    vector = torch.linspace(-1, 1, outputs[0].numel())
    targets = [
        ScalarTarget(expression="x[1, 1, 2]"),
        ScalarTarget(reduction="corner", expression="x[0, 0, 0]"),
        ScalarTarget(reduction="segmentation", class_index=1, region="given"),
        ScalarTarget(reduction="segmentation", class_index=0, region="all"),
        ScalarTarget(reduction="segmentation", class_index=0),
        ScalarTarget(reduction="similarity", reference="given"),
        ScalarTarget(reduction="similarity", reference=1),
    ]
    tensors = {input_name(index): one for index, one in enumerate(inputs)}
    tensors |= {region_name(2, index): region.clone() for index in range(2)}
    tensors |= {reference_name(5): vector}
    job = ComputeJob("j", document(*inputs, targets=targets), save(tensors))
    about, maps = read(run(dense, job)[0])
    asked = [
        parse("x[1, 1, 2]"),
        parse("x[0, 0, 0]"),
        Reduction("segmentation", 1, region=region),
        Reduction("segmentation", 0, region="all"),
        Reduction("segmentation", 0, region="predicted"),
        Reduction("similarity", reference=vector),
        Reduction("similarity", reference=outputs[1]),
    ]
    truth = dense.explainer.explain(torch.stack(inputs), [asked] * 2)
    expected = [one.map for row in truth for one in row]
    assert all(
        torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(maps, expected, strict=True)
    )
    assert about.rows[13].score == pytest.approx(1.0)  # the second input compared with itself
    assert about.forward_passes == 3  # that of the reference, too
    missing = {name: one for name, one in tensors.items() if name != region_name(2, 1)}
    (outcome,) = run(dense, ComputeJob("j", job.job, save(missing)))
    assert failed(outcome).code is ErrorCode.INVALID_INPUT


def test_maps_are_put_to_the_test(model: ResidentModel) -> None:
    asked = Evaluate(metrics=("deletion", "insertion", "randomisation"), steps=4, baseline="zero")
    targets = [TopTarget(top=2), ScalarTarget(expression="x[0] - x[1]")]
    job = compute_job("j", noise(0), targets=targets, evaluate=asked)
    about, _ = read(run(model, job)[0])
    assert about.forward_passes == 1 + 3 * (5 + 5) + 1
    probabilities = model.explainer.output(noise(0)[None], reduction_layer="softmax")[0]
    nothing = model.explainer.output(torch.zeros(1, 1, 8, 8), reduction_layer="softmax")[0]
    logits = model.explainer.output(noise(0)[None])[0]
    for row in about.rows:
        results = {result.metric: result for result in row.evaluation}
        assert list(results) == ["deletion", "insertion", "randomisation"]
        curve = results["deletion"].curve
        assert len(curve) == 5
        # of a class its probability, of anything else the scalar itself
        index = row.class_index
        whole = logits[0] - logits[1] if index is None else probabilities[index]
        assert curve[0] == pytest.approx(float(whole), rel=1e-5)
        if index is not None:
            assert curve[-1] == pytest.approx(float(nothing[index]), rel=1e-5)
        assert results["insertion"].curve[0] == pytest.approx(curve[-1], rel=1e-5)
        heights = [(a + b) / 2 for a, b in itertools.pairwise(curve)]
        assert results["deletion"].value == pytest.approx(sum(heights) / 4)
        assert -1 <= (results["randomisation"].value or 0) <= 1
        assert results["randomisation"].curve == ()
    (outcome,) = run(model, job, passes=20)
    assert failed(outcome).code is ErrorCode.OVER_BUDGET


def test_strangers_do_not_share_a_forward_where_rows_depend_on_each_other(tmp_path: Path) -> None:
    card = factory_card("mixing")
    mixing = load_model(entry_of(write_model(tmp_path, "mixing", card)), "cpu", settings())
    jobs = [compute_job(str(n), noise(n)) for n in range(3)]
    for seed, outcome in enumerate(run(mixing, *jobs)):
        about, (one,) = read(outcome)
        assert about.batch_size == 1
        [[truth]] = mixing.explainer.explain(noise(seed)[None], [[ClassIndex(0)]])
        assert torch.equal(one, truth.map)


def test_the_default_of_a_class_target_is_that_of_the_job(model: ResidentModel) -> None:
    job = compute_job("j", noise(0), targets=[ClassIndexTarget(class_index=(2, 1))])
    about, _ = read(run(model, job)[0])
    assert [row.class_index for row in about.rows] == [2, 1]
