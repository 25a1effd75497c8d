"""The step that uses the device: what shares a forward, what fails alone, what comes out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import ScalarTarget
from camserve.contracts.targets import ClassIndexTarget, TopTarget
from camserve.engine import Attribution, ClassIndex, Diagnostic, Reduction, Top
from camserve.errors import ErrorCode
from tests.workers.cards import entry_of, factory_card, settings, write_model
from tests.workers.factories import FAULTY, SHAPE
from tests.workers.jobs import compute_job, document, noise, payload, read, run
from workers.attempts import Outcome
from workers.compute import Limits, explain_jobs
from workers.models import ResidentModel, load_model
from workers.rows import ComputeJob


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ResidentModel:
    folder = Path(tmp_path_factory.mktemp("models"))
    card = factory_card("misbehaving", folder=str(folder))
    return load_model(entry_of(write_model(folder, "tiny", card)), "cpu", settings())


@pytest.fixture
def forwards(model: ResidentModel) -> Iterator[list[int]]:
    """Batch sizes of the forward passes."""
    sizes: list[int] = []
    handle = model.explainer._model.register_forward_pre_hook(
        lambda _module, inputs: sizes.append(len(inputs[0]))
    )
    yield sizes
    handle.remove()


def explain(model: ResidentModel, *jobs: ComputeJob, max_batch: int = 8) -> list[Outcome]:
    return explain_jobs(model, jobs, limits=Limits(max_batch=max_batch), worker="w", device="cpu")


def failed(outcome: Outcome) -> FailureMessage:
    assert isinstance(outcome, FailureMessage)
    return outcome


def same(ours: list[torch.Tensor], truth: list[Attribution]) -> bool:
    pairs = list(zip(ours, [attribution.map for attribution in truth], strict=True))
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in pairs)


def test_a_result_is_what_the_engine_says(model: ResidentModel) -> None:
    (outcome,) = explain(model, compute_job("j", noise(0)))
    about, maps = read(outcome)
    [[truth]] = model.explainer.explain(noise(0)[None], [[ClassIndex(0)]])
    assert same(maps, [truth])
    assert maps[0].dtype == torch.float32
    (row,) = about.rows
    assert (row.input, row.target, row.class_index) == (0, 0, 0)
    assert row.score == pytest.approx(truth.score)
    assert (about.feature_layers, about.reduction_layer) == (("body",), "output")
    assert about.model_version == model.card.version
    assert (about.worker, about.device, about.batch_size) == ("w", "cpu", 1)
    assert about.compute_ms > 0


def test_jobs_with_different_targets_share_one_forward(
    model: ResidentModel, forwards: list[int]
) -> None:
    targets = [
        [ClassIndexTarget(class_index=1)],
        [TopTarget(top=2)],
        [ScalarTarget(reduction="entropy")],
        [ScalarTarget(reduction="class_margin", class_index=0, against=2)],
    ]  # fmt: skip
    jobs = [compute_job(str(i), noise(i), targets=asked) for i, asked in enumerate(targets)]
    outcomes = explain(model, *jobs)
    assert forwards == [4]
    asked = [[ClassIndex(1)], [Top(2)], [Reduction("entropy")],
             [Reduction("class_margin", class_index=0, against=2)]]  # fmt: skip
    for index, outcome in enumerate(outcomes):
        about, maps = read(outcome)
        assert about.batch_size == 4
        [truth] = model.explainer.explain(noise(index)[None], [asked[index]])
        assert same(maps, truth)
        assert [row.class_index for row in about.rows] == [a.class_index for a in truth]
        assert [row.score for row in about.rows] == pytest.approx([a.score for a in truth])


def test_other_layers_and_shapes_do_not_share(model: ResidentModel, forwards: list[int]) -> None:
    jobs = [
        compute_job("a", noise(0)),
        compute_job("b", noise(1), feature_layers=("stem",)),
        compute_job("c", noise(2), reduction_layer="softmax"),
        compute_job("d", noise(3).repeat(1, 2, 2)),
        compute_job("e", noise(4)),
        compute_job("f", noise(5).double()),
    ]
    outcomes = [read(outcome) for outcome in explain(model, *jobs)]
    assert sorted(forwards) == [1, 1, 1, 1, 2]
    assert [about.batch_size for about, _ in outcomes] == [2, 1, 1, 1, 2, 1]
    assert outcomes[1][0].feature_layers == ("stem",)
    assert outcomes[2][0].reduction_layer == "softmax"
    assert outcomes[3][1][0].shape == (8, 8)
    [[truth]] = model.explainer.explain(
        noise(2)[None], [[ClassIndex(0)]], reduction_layer="softmax"
    )
    assert same(outcomes[2][1], [truth])


def test_more_inputs_than_fit_are_cut_into_chunks(
    model: ResidentModel, forwards: list[int]
) -> None:
    jobs = [compute_job("a", *map(noise, range(5))), compute_job("b", noise(5))]
    (first, second) = map(read, explain(model, *jobs, max_batch=4))
    assert forwards == [4, 2]
    assert [row.input for row in first[0].rows] == [0, 1, 2, 3, 4]
    truth = model.explainer.explain(
        torch.stack([noise(i) for i in range(6)]), [[ClassIndex(0)]] * 6
    )
    assert same(first[1] + second[1], [attribution for [attribution] in truth])


def test_targets_expand_in_order(model: ResidentModel) -> None:
    targets = [
        ClassIndexTarget(class_index=(2, 0)),
        TopTarget(top=3),
        ScalarTarget(reduction="norm"),
    ]
    about, maps = read(explain(model, compute_job("j", noise(0), noise(1), targets=targets))[0])
    truth = model.explainer.explain(
        torch.stack([noise(0), noise(1)]),
        [[ClassIndex(2), ClassIndex(0), Top(3), Reduction("norm")]] * 2,
    )
    assert [(row.input, row.target) for row in about.rows] == [
        (i, target) for i in (0, 1) for target in (0, 0, 1, 1, 1, 2)
    ]
    assert [row.class_index for row in about.rows] == [a.class_index for of in truth for a in of]
    assert [row.class_index for row in about.rows][:2] == [2, 0]
    assert about.rows[5].class_index is None
    scores = [row.score for row in about.rows[2:5]]
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
    assert same(maps, [attribution for of in truth for attribution in of])


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"targets": [ClassIndexTarget(class_index=3)]}, ErrorCode.CLASS_INDEX_OUT_OF_RANGE),
        ({"targets": [TopTarget(top=4)]}, ErrorCode.INVALID_REQUEST),
        ({"feature_layers": ("boddy",)}, ErrorCode.LAYER_NOT_FOUND),
        ({"feature_layers": ("head",)}, ErrorCode.NOT_EXPLAINABLE),
    ],
)
def test_an_impossible_job_fails_alone(
    model: ResidentModel, fields: dict[str, Any], code: ErrorCode
) -> None:
    jobs = [compute_job("a", noise(0)), compute_job("bad", noise(1), **fields),
            compute_job("c", noise(2))]  # fmt: skip
    first, bad, last = explain(model, *jobs)
    assert failed(bad).code is code
    for outcome, seed in ((first, 0), (last, 2)):
        [truth] = model.explainer.explain(noise(seed)[None], [[ClassIndex(0)]])
        assert same(read(outcome)[1], truth)


def test_an_exception_of_the_model_fails_only_the_guilty_job(
    model: ResidentModel, forwards: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [compute_job("a", noise(0)), compute_job("bad", noise(1, FAULTY)),
            compute_job("c", noise(2))]  # fmt: skip
    first, bad, last = explain(model, *jobs)
    read(first)
    read(last)
    assert forwards == [3, 1, 1, 1]
    failure = failed(bad)
    assert failure.code is ErrorCode.INTERNAL
    assert "ArithmeticError" in failure.detail
    assert "secret" not in failure.model_dump_json()
    (line,) = caplog.records  # the number leads to the traceback
    assert line.__dict__["error_id"] == failure.extensions["error_id"]
    assert "a secret of the model" in caplog.text


def test_a_job_of_which_one_input_is_faulty_fails_whole(model: ResidentModel) -> None:
    (outcome,) = explain(model, compute_job("j", noise(0), noise(1, FAULTY), noise(2)))
    assert failed(outcome).code is ErrorCode.INTERNAL


def test_a_model_that_takes_one_input_at_once(model: ResidentModel) -> None:
    """As programs do that were exported with a fixed batch of one."""

    def only_one(_module: object, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > 1:
            raise RuntimeError("expected a batch of 1")

    handle = model.explainer._model.register_forward_pre_hook(only_one)
    try:
        several, one = explain(
            model, compute_job("a", noise(0), noise(1)), compute_job("b", noise(2))
        )
    finally:
        handle.remove()
    assert len(read(several)[1]) == 2
    assert len(read(one)[1]) == 1


@pytest.mark.parametrize(
    "damaged",
    [b"", b"garbage", payload(noise(0))[:-10], payload(noise(0)), payload(noise(0), noise(1)[0])],
)
def test_a_damaged_payload_fails_alone(model: ResidentModel, damaged: bytes) -> None:
    bad = ComputeJob("bad", document(noise(0), noise(1)), damaged)
    good, refused = explain(model, compute_job("good", noise(0)), bad)
    read(good)
    assert failed(refused).code is ErrorCode.INVALID_INPUT


def test_a_score_that_is_not_finite_is_null(model: ResidentModel) -> None:
    about, maps = read(explain(model, compute_job("j", torch.full(SHAPE, float("inf"))))[0])
    (row,) = about.rows
    assert row.score is None
    assert [d.code for d in row.diagnostics] == [Diagnostic.NONFINITE]
    assert row.diagnostics[0].advice == Diagnostic.NONFINITE.advice
    assert maps[0].shape == (4, 4)


def test_a_job_without_inputs_has_an_empty_result(model: ResidentModel) -> None:
    about, maps = read(explain(model, compute_job("j"))[0])
    assert (about.rows, maps) == ((), [])


def test_it_computes_in_a_thread_without_gradients_left_behind(model: ResidentModel) -> None:
    outcomes: list[Outcome] = []
    thread = threading.Thread(
        target=lambda: outcomes.extend(explain(model, compute_job("j", noise(0))))
    )
    thread.start()
    thread.join()
    read(outcomes[0])
    assert all(parameter.grad is None for parameter in model.explainer._model.parameters())


def test_labels_are_those_of_the_version_that_computes(tmp_path: Path) -> None:
    card = factory_card(head='labels = ["ant", "bee", "wasp"]')
    model = load_model(entry_of(write_model(tmp_path, "tiny", card)), "cpu", settings())
    targets = [ClassIndexTarget(class_index=1), ScalarTarget(expression="x[0]")]
    (outcome,) = run(model, compute_job("j", noise(0), targets=targets))
    assert [row.class_label for row in read(outcome)[0].rows] == ["bee", None]
