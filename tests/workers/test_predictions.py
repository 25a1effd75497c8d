"""Predictions through the step that uses the device, and beside explanations in one claim."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import Job, PredictionResult, output_name
from camserve.contracts.methods import Evaluate
from camserve.contracts.states import State
from camserve.contracts.wire import metadata_of
from camserve.errors import ErrorCode
from tests.workers import jobs
from tests.workers.bench import Bench, Start, eventually
from tests.workers.cards import entry_of, factory_card, settings, write_model
from tests.workers.factories import FAULTY, SLOW
from tests.workers.jobs import compute_job, noise, read
from workers.attempts import Outcome
from workers.compute import Limits
from workers.models import ResidentModel, load_model
from workers.predictions import predict_jobs
from workers.rows import ComputeJob


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ResidentModel:
    folder = Path(tmp_path_factory.mktemp("models"))
    card = factory_card("misbehaving", folder=str(folder))
    return load_model(entry_of(write_model(folder, "tiny", card)), "cpu", settings())


@pytest.fixture
def forwards(model: ResidentModel) -> Iterator[list[int]]:
    sizes: list[int] = []
    handle = model.explainer.model.register_forward_pre_hook(
        lambda _module, inputs: sizes.append(len(inputs[0]))
    )
    yield sizes
    handle.remove()


def predict(
    model: ResidentModel, *work: ComputeJob, max_batch: int = 8, numbers: float = float("inf")
) -> list[Outcome]:
    limits = Limits(max_batch=max_batch, output_numbers=numbers)
    return predict_jobs(model, work, limits=limits, worker="w", device="cpu")


def job(job_id: str, *inputs: torch.Tensor, **fields: object) -> ComputeJob:
    return compute_job(job_id, *inputs, kind="predict", targets=(), **fields)


def outputs_of(result: object) -> tuple[PredictionResult, list[torch.Tensor]]:
    assert isinstance(result, bytes), result
    about = PredictionResult.model_validate_json(metadata_of(result))
    tensors = load(result)
    assert set(tensors) == {output_name(index) for index in range(len(about.rows))}
    return about, [tensors[output_name(index)] for index in range(len(about.rows))]


def truth(model: ResidentModel, *inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.explainer.model(torch.stack(inputs))


def test_a_result_is_the_models_output(model: ResidentModel) -> None:
    (outcome,) = predict(model, job("j", noise(0), noise(1)))
    about, outputs = outputs_of(outcome)
    assert torch.equal(torch.stack(outputs), truth(model, noise(0), noise(1)))
    assert outputs[0].dtype == torch.float32
    assert (about.output_format, about.batch_size, about.precision) == ("C", 2, "float32")
    assert (about.worker, about.device) == ("w", "cpu")
    assert about.model_version == model.card.version


def test_requests_share_a_forward_but_not_with_other_shapes(
    model: ResidentModel, forwards: list[int]
) -> None:
    larger = noise(3).repeat(1, 2, 2)
    work = [job("a", noise(0)), job("b", noise(1), noise(2)), job("c", larger),
            job("d", noise(4), precision="bfloat16")]  # fmt: skip
    found = [outputs_of(outcome) for outcome in predict(model, *work)]
    assert sorted(forwards) == [1, 1, 3]
    assert [about.batch_size for about, _ in found] == [3, 3, 1, 1]
    assert torch.equal(found[2][1][0], truth(model, larger)[0])
    assert not torch.equal(found[3][1][0], truth(model, noise(4))[0])
    forwards.clear()
    predict(model, job("a", *map(noise, range(5))), max_batch=2)
    assert forwards == [2, 2, 1]


def test_the_guilty_job_fails_alone(model: ResidentModel) -> None:
    good, bad, damaged = predict(
        model, job("good", noise(0)), job("bad", noise(1), noise(2, FAULTY)),
        ComputeJob("damaged", jobs.document(noise(0), kind="predict"), b"x"),
    )  # fmt: skip
    assert torch.equal(outputs_of(good)[1][0], truth(model, noise(0))[0])
    for failure, code in ((bad, ErrorCode.INTERNAL), (damaged, ErrorCode.INVALID_INPUT)):
        assert isinstance(failure, FailureMessage)
        assert failure.code is code
        assert "secret" not in failure.detail


def test_more_numbers_than_the_service_answers_with(model: ResidentModel) -> None:
    two = job("two", noise(0), noise(1))  # of three classes each
    (fits,) = predict(model, two, numbers=6)
    outputs_of(fits)
    (refused,) = predict(model, two, numbers=5)
    assert isinstance(refused, FailureMessage)
    assert refused.code is ErrorCode.TOO_LARGE
    assert "fewer or smaller inputs" in refused.detail


@pytest.mark.parametrize("name", ["mixing", "dense"])
def test_models_that_mix_and_dense_ones(tmp_path: Path, name: str) -> None:
    model = load_model(entry_of(write_model(tmp_path, name, factory_card(name))), "cpu", settings())
    about, outputs = outputs_of(predict(model, job("j", noise(0), noise(1)))[0])
    assert about.batch_size == (1 if name == "mixing" else 2)
    assert about.output_format == ("C" if name == "mixing" else "CSS")
    for index, output in enumerate(outputs):
        torch.testing.assert_close(output, truth(model, noise(index))[0], rtol=1e-5, atol=1e-6)


async def enqueued(bench: Bench, *inputs: torch.Tensor, model: str) -> str:
    return await jobs.enqueue(bench.queue, *inputs, model=model, kind="predict", targets=())


@pytest.mark.anyio
async def test_beside_explanations_in_one_claim(start: Start, tmp_path: Path) -> None:
    """A blocker holds the device while jobs of both kinds gather; one claim takes them all."""
    bench = await start(max_batch=8)
    await bench.answer(await jobs.enqueue(bench.queue, noise(9), model="slow"))
    blocker = await jobs.enqueue(bench.queue, noise(0, SLOW), model="slow")
    await eventually(lambda: asyncio.to_thread((tmp_path / "entered").exists))
    explanations = [await jobs.enqueue(bench.queue, noise(i), model="slow") for i in (1, 2)]
    predictions = [await enqueued(bench, noise(i), model="slow") for i in (1, 2, 3)]
    faulty = await enqueued(bench, noise(4, FAULTY), model="slow")
    costly = await jobs.enqueue(
        bench.queue, noise(5), model="slow", evaluate=Evaluate(metrics=("deletion",), steps=2)
    )
    (tmp_path / "go").touch()
    await bench.answer(blocker)
    scores = {}
    for index, job_id in enumerate(explanations, 1):
        about, _ = await bench.answer(job_id)
        assert about.batch_size == 2
        scores[index] = about.rows[0].score
    for index, job_id in enumerate(predictions, 1):
        record = await bench.done(job_id)
        assert record.state is State.SUCCEEDED, record.failure
        _, (output,) = outputs_of(await bench.queue.result(job_id))
        if index in scores:
            assert float(output[0]) == pytest.approx(scores[index], rel=1e-5)
    assert (await bench.done(faulty)).state is State.FAILED
    about, _ = await bench.answer(costly)
    assert about.rows[0].evaluation


@pytest.mark.anyio
async def test_it_is_loaded_on_first_demand(start: Start) -> None:
    bench = await start()
    record = await bench.done(await enqueued(bench, noise(0), model="tiny"))
    assert record.state is State.SUCCEEDED
    assert Job.model_validate_json(record.document).kind == "predict"
    read(await bench.queue.result(await _explained(bench)))


async def _explained(bench: Bench) -> str:
    job_id = await jobs.enqueue(bench.queue, noise(0))
    await bench.done(job_id)
    return job_id
