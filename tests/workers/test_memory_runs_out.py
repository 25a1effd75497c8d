"""A device without room: what is too much at once is computed in parts, what is too much alone is
refused, and nobody else notices."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from camserve.contracts.jobs import ScalarTarget
from camserve.contracts.methods import Evaluate
from camserve.contracts.targets import TopTarget
from camserve.errors import ErrorCode
from camserve.vocabulary import METHODS
from tests.workers.bench import Start
from tests.workers.cards import TINY, entry_of, factory_card, settings, write_model
from tests.workers.jobs import compute_job, enqueue, failed, failure, load_job, noise, read, run
from workers import computing
from workers.attempts import Outcome
from workers.batch_sizes import PATIENCE, LearntSizes
from workers.compute import Limits, explain_jobs
from workers.models import ResidentModel, load_model
from workers.predictions import predict_jobs
from workers.rows import ComputeJob

ONE = 64
"""Numbers of an input of SHAPE."""

BFLOAT, LARGER = "give precision=bfloat16", "name a larger device by execution"


@pytest.fixture(scope="module", autouse=True)
def imports_are_frozen() -> Iterator[None]:
    """As in a worker's process, so that a collection takes no time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def cramped(tmp_path: Path) -> Callable[..., ResidentModel]:
    def cramped(numbers: int) -> ResidentModel:
        card = factory_card("cramped", device=str(tmp_path), numbers=numbers)
        folder = write_model(tmp_path / str(numbers), "cramped", card)
        return load_model(entry_of(folder), "cpu", settings())

    return cramped


@pytest.fixture
def forwards() -> Iterator[Callable[[ResidentModel], list[int]]]:
    """Batch sizes of a model's forward passes, those that fail included."""
    handles = []

    def of(model: ResidentModel) -> list[int]:
        sizes: list[int] = []
        handles.append(
            model.explainer.model.register_forward_pre_hook(
                lambda _module, inputs: sizes.append(len(inputs[0]))
            )
        )
        return sizes

    yield of
    for handle in handles:
        handle.remove()


def same(ours: Outcome, truth: Outcome) -> bool:
    maps, others = read(ours)[1], read(truth)[1]
    return len(maps) == len(others) and all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(maps, others, strict=True)
    )


def test_a_batch_is_halved_until_it_fits(
    cramped: Callable[..., ResidentModel], forwards: Callable[[ResidentModel], list[int]]
) -> None:
    tight, wide = cramped(3 * ONE), cramped(100 * ONE)
    jobs = [compute_job(str(n), noise(n)) for n in range(8)]
    seen = forwards(tight)
    outcomes = run(tight, *jobs)
    assert seen == [8, 4, 2, 2, 2, 2]
    assert [read(outcome)[0].batch_size for outcome in outcomes] == [2] * 8
    assert all(same(*pair) for pair in zip(outcomes, run(wide, *jobs), strict=True))


def test_later_batches_begin_with_what_fitted_and_grow_again(
    cramped: Callable[..., ResidentModel],
    forwards: Callable[[ResidentModel], list[int]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The memory was somebody else's; once it is there again, batches are whole again."""
    model = cramped(8 * ONE)
    seen, learnt = forwards(model), LearntSizes(8)

    def explain(count: int) -> list[int]:
        seen.clear()
        job = compute_job("j", *(noise(n) for n in range(count)))
        (outcome,) = explain_jobs(
            model, [job], limits=Limits(), worker="w", device="cpu", sizes=learnt.of(model)
        )
        assert len(read(outcome)[1]) == count
        return list(seen)

    (tmp_path / "pressure").touch()
    assert explain(4) == [4, 2, 1, 1, 1, 1]
    assert "cpu has no memory for 4 x (1, 8, 8) to tiny" in caplog.text
    assert learnt.limited == {"cramped": 1}
    assert explain(4) == [1] * 4
    (tmp_path / "pressure").unlink()
    explain(PATIENCE)
    assert explain(4) == [2, 2]
    explain(8 * PATIENCE)
    assert explain(8) == [8]
    assert learnt.limited == {}


@pytest.mark.parametrize("method", [m for m in METHODS if m != "guided-gradcam"])  # no ReLU
def test_every_method_gives_the_same_maps_a_few_inputs_at_a_time(
    cramped: Callable[..., ResidentModel], method: Any
) -> None:
    """Of Score-CAM and Ablation-CAM it is the variants of an input that are too many."""
    tight, wide = cramped(3 * ONE), cramped(100 * ONE)
    job = compute_job("j", noise(0), noise(1), targets=[TopTarget(top=2)], method=method)
    (ours,), (truth,) = run(tight, job), run(wide, job)
    assert same(ours, truth)
    assert read(ours)[0].forward_passes == read(truth)[0].forward_passes


def test_evaluations_too(
    cramped: Callable[..., ResidentModel], forwards: Callable[[ResidentModel], list[int]]
) -> None:
    tight, wide = cramped(3 * ONE), cramped(100 * ONE)
    asked = Evaluate(metrics=("deletion", "insertion", "randomisation"), steps=10)
    job = compute_job("j", noise(0), evaluate=asked)
    seen = forwards(tight)
    all_at_once = forwards(wide)
    (ours,), (truth,) = run(tight, job), run(wide, job, max_batch=16)
    assert max(all_at_once) == 11
    assert max(seen) == 8
    assert max(seen[seen.index(2) :]) == 2
    (about, _), (expected, _) = read(ours), read(truth)
    for one, other in zip(about.rows[0].evaluation, expected.rows[0].evaluation, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-4)
        assert one.curve == pytest.approx(other.curve, rel=1e-4)


def test_predictions_too(
    cramped: Callable[..., ResidentModel], forwards: Callable[[ResidentModel], list[int]]
) -> None:
    tight = cramped(3 * ONE)
    seen = forwards(tight)
    job = compute_job("j", *(noise(n) for n in range(5)), targets=(), kind="predict")
    (outcome,) = predict_jobs(tight, [job], limits=Limits(), worker="w", device="cpu")
    assert isinstance(outcome, bytes)
    assert seen == [5, 2, 2, 1]


def large(job_id: str = "large", **fields: Any) -> ComputeJob:
    """An input of 16 x 16: four times ONE."""
    return compute_job(job_id, noise(9).repeat(1, 2, 2), **fields)


@pytest.mark.parametrize(
    ("fields", "remedies"),
    [
        ({}, f"{BFLOAT}, or {LARGER}"),
        ({"precision": "float16"}, LARGER),
        (
            {"method": "scorecam", "precision": "bfloat16"},
            f"ask for gradcam without evaluate, or {LARGER}",
        ),
        (
            {"targets": [TopTarget(top=2)]},
            f"ask for fewer targets at once, or {BFLOAT}, or {LARGER}",
        ),
    ],
)
def test_an_input_that_does_not_fit_alone_is_refused(
    cramped: Callable[..., ResidentModel],
    forwards: Callable[[ResidentModel], list[int]],
    fields: dict[str, Any],
    remedies: str,
) -> None:
    model = cramped(3 * ONE)
    seen = forwards(model)
    small, refused = run(model, compute_job("small", noise(0)), large(**fields))
    read(small)
    told = failed(refused)
    assert told.code is ErrorCode.TOO_LARGE_FOR_DEVICE
    assert told.extensions == {"shape": [1, 16, 16], "device": "cpu"}
    assert told.detail.endswith(f"has: {remedies}")
    assert len(seen) <= 1 + 5  # it is not tried for ever
    read(run(model, compute_job("next", noise(1)))[0])


def test_who_decides_how_large_an_input_is_may_send_a_smaller_one(tmp_path: Path) -> None:
    card = factory_card("cramped", device=str(tmp_path), numbers=3 * ONE).split("[input]")[0]
    card += '[input]\nkind = "tensor"\nformat = "BCSS"\nshape = [1, 0, 0]\nprobe = [1, 8, 8]\n'
    folder = write_model(tmp_path, "cramped", card)
    (outcome,) = run(load_model(entry_of(folder), "cpu", settings()), large(precision="bfloat16"))
    assert failed(outcome).detail.endswith(f"has: send a smaller input, or {LARGER}")


def test_an_input_alone_is_tried_again_once_memory_was_given_back(
    cramped: Callable[..., ResidentModel],
    forwards: Callable[[ResidentModel], list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is left over from before, and refers to itself, may be all that was in the way."""
    from workers import attempts

    model = cramped(4 * ONE)
    seen, pressure = forwards(model), tmp_path / "pressure"
    pressure.touch()
    monkeypatch.setattr(attempts, "free_memory", lambda _device: pressure.unlink())
    read(run(model, large())[0])
    assert seen == [1, 1]


def test_a_job_of_a_small_and_a_large_input_fails_whole(
    cramped: Callable[..., ResidentModel],
) -> None:
    job = compute_job("j", noise(0), noise(1).repeat(1, 2, 2), noise(2))
    (outcome,) = run(cramped(3 * ONE), job)
    assert failed(outcome).code is ErrorCode.TOO_LARGE_FOR_DEVICE


def test_an_input_that_others_are_compared_with_may_be_the_large_one(
    cramped: Callable[..., ResidentModel],
) -> None:
    targets = [ScalarTarget(reduction="similarity", reference=1)]
    job = compute_job("j", noise(0), noise(1).repeat(1, 2, 2), targets=targets)
    (outcome,) = run(cramped(3 * ONE), job)
    assert failed(outcome).code is ErrorCode.TOO_LARGE_FOR_DEVICE


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_real_gpu_runs_out(tmp_path: Path) -> None:  # pragma: no cover
    model = load_model(entry_of(write_model(tmp_path, "tiny", TINY)), "cuda:0", settings())
    inputs = [noise(n).repeat(1, 256, 256) for n in range(8)]  # 2048 x 2048
    job = compute_job("j", *inputs)

    def explain(*jobs: ComputeJob) -> list[Outcome]:
        return explain_jobs(model, jobs, limits=Limits(), worker="w", device="cuda:0")

    (truth,) = explain(job)
    taken = torch.cuda.max_memory_allocated()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction(0.6 * taken / total)
        (ours,) = explain(job)
        assert same(ours, truth)
        assert read(ours)[0].batch_size < 8
        (refused,) = explain(compute_job("large", noise(0).repeat(1, 1024, 1024)))
        assert failed(refused).code is ErrorCode.TOO_LARGE_FOR_DEVICE
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    read(explain(job)[0])


@pytest.fixture
def shared(models: Path, tmp_path: Path) -> Path:
    """`big` and `other` on one simulated device, with room for 6 inputs less 3 for the other."""
    for name in ("big", "other"):
        card = factory_card("cramped", device=str(tmp_path), numbers=6 * ONE, weight=3 * ONE)
        write_model(models, name, card)
    return tmp_path


@pytest.mark.anyio
async def test_models_that_are_in_the_way_are_evicted(start: Start, shared: Path) -> None:
    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(0), model="other"))
    await bench.answer(await enqueue(bench.queue, noise(0), model="big"))
    assert bench.loop._residency.resident == ("other", "big")
    large = await enqueue(bench.queue, noise(0).repeat(1, 2, 2), model="big")
    await bench.answer(large)
    assert bench.loop._residency.resident == ("big",)
    await bench.answer(await enqueue(bench.queue, noise(1), model="other"))


@pytest.mark.anyio
async def test_a_device_that_gives_no_memory_back_leaves_no_job_unanswered(
    start: Start, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(device: str) -> None:
        raise RuntimeError(f"{device}: device-side assert triggered")

    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(0), model="other"))
    monkeypatch.setattr(computing, "free_memory", fail)
    large = await enqueue(bench.queue, noise(0).repeat(1, 2, 2), model="big")
    await bench.answer(large)  # the device proves to be well
    await bench.answer(await enqueue(bench.queue, noise(1), model="other"))


@pytest.mark.anyio
async def test_what_never_fits_evicts_once(start: Start, shared: Path) -> None:
    """Else whoever sends pictures that are too large keeps all other models out."""
    bench = await start()
    await bench.answer(await enqueue(bench.queue, noise(0), model="big"))
    for evicted in (True, False):
        await bench.answer(await enqueue(bench.queue, noise(0), model="other"))
        hopeless = await enqueue(bench.queue, noise(0).repeat(1, 4, 4), model="big")
        told = failure(await bench.done(hopeless))
        assert told["code"] == ErrorCode.TOO_LARGE_FOR_DEVICE
        assert ("other" in bench.loop._residency.resident) is not evicted
        await bench.answer(await enqueue(bench.queue, noise(1), model="big"))


@pytest.mark.anyio
async def test_a_model_for_which_there_is_no_memory(
    start: Start, models: Path, tmp_path: Path
) -> None:
    """Loading evicts the others; what does not fit even so is unavailable, and says why."""
    device = {"device": str(tmp_path), "numbers": 4 * ONE, "weight": 2 * ONE}
    for name in ("first", "second"):
        write_model(models, name, factory_card("cramped", weights=3 * ONE, **device))
    write_model(models, "huge", factory_card("cramped", weights=5 * ONE, **device))
    bench = await start()
    for name in ("first", "second", "first"):
        await bench.answer(await enqueue(bench.queue, noise(0), model=name))
        assert bench.loop._residency.resident == (name,)
    told = failure(await bench.done(await load_job(bench.queue, "huge")))
    assert told["code"] == ErrorCode.MODEL_UNAVAILABLE
    assert "does not fit into the memory of cpu" in told["detail"]
    card = await bench.card("huge")
    assert card is not None
    assert card.problem is not None
    assert card.problem.detail == told["detail"]
    await bench.answer(await enqueue(bench.queue, noise(0), model="first"))
