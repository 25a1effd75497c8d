"""A resident model is made faster beside the jobs, its card says how, and inputs are remembered."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from redis.asyncio import Redis

from camserve import measures
from camserve.contracts.cards import Optimization
from camserve.contracts.jobs import JobResult
from camserve.contracts.targets import ClassIndexTarget, TopTarget
from camserve.contracts.wire import metadata_of
from tests.workers.bench import Bench, Start, eventually
from tests.workers.cards import factory_card, write_model
from tests.workers.jobs import enqueue, noise
from tests.workers.test_metrics import total
from workers import loop as loop_module
from workers import optimizing

pytestmark = pytest.mark.anyio

SECOND = ClassIndexTarget(class_index=1)


@pytest.fixture(autouse=True)
def _looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "LOOK_S", 0.02)


async def optimized(bench: Bench, model: str, *precisions: str) -> tuple[Optimization, ...]:
    """The card's, once it tells of all these."""

    async def are_told() -> tuple[Optimization, ...] | None:
        card = await bench.card(model)
        found = {one.precision for one in card.optimizations} if card else set()
        return card.optimizations if card and found.issuperset(precisions) else None

    return await eventually(are_told)


async def test_the_card_tells_how_each_precision_that_was_asked_for_is_run(
    start: Start, tmp_path: Path
) -> None:
    bench = await start(optimization="fold", max_batch=4)
    before = await bench.answer(await enqueue(bench.queue, noise(0)))
    (found,) = await optimized(bench, "tiny", "float32")
    assert found.way in {way.way for way in found.ways}
    for way in found.ways:
        assert way.time_ratio is not None
        assert set(way.time_ratio) == {"1", "4"}
        assert way.map_error is not None
        assert way.map_error < 1e-3
    after = await bench.answer(await enqueue(bench.queue, noise(0)))
    torch.testing.assert_close(after[1], before[1], rtol=1e-4, atol=1e-6)
    await bench.answer(await enqueue(bench.queue, noise(0), precision="bfloat16"))
    both = await optimized(bench, "tiny", "float32", "bfloat16")
    assert len(both) == 2


async def test_what_the_trial_took_is_given_back_once_it_is_over(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and graphs of the ways that lost, whether or not one has won."""
    freed: list[str] = []

    async def is_freed(times: int) -> bool:
        return len(freed) == times

    monkeypatch.setattr(optimizing, "free_memory", freed.append)
    bench = await start(optimization="fold")
    await bench.answer(await enqueue(bench.queue, noise(0)))
    await optimized(bench, "tiny", "float32")
    await eventually(lambda: is_freed(1))

    def fail(*_: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(optimizing, "optimize", fail)
    await bench.answer(await enqueue(bench.queue, noise(0), precision="bfloat16"))
    await eventually(lambda: is_freed(2))


async def test_what_is_not_to_be_optimized_is_not(start: Start, models: Path) -> None:
    write_model(models, "plain", factory_card(head='optimization = "none"'))
    write_model(models, "int8", factory_card(head='quantization = "int8"'))
    write_model(models, "mixing", factory_card("mixing"))
    bench = await start(optimization="fold")
    for model in ("plain", "int8", "mixing", "tiny"):
        await bench.answer(await enqueue(bench.queue, noise(0), model=model))
    await optimized(bench, "tiny", "float32")  # the last to become resident
    for model in ("plain", "int8", "mixing"):
        card = await bench.card(model)
        assert card is not None
        assert card.optimizations == ()
        assert card.undivided is None or model == "mixing"
    assert "mixes its inputs" in ((await bench.card("mixing")) or card).undivided


async def test_another_class_of_a_known_input_runs_the_head_alone(
    start: Start, redis: Redis
) -> None:
    bench = await start(activation_cache_mb=1)
    fields = {"input_digest": "d" * 64}
    first, _ = await bench.answer(await enqueue(bench.queue, noise(0), **fields))
    again, [found] = await bench.answer(
        await enqueue(bench.queue, noise(0), targets=[SECOND], method="layercam", **fields)
    )
    assert (first.recalled, first.forward_passes) == (0, 1)
    assert (again.recalled, again.forward_passes) == (1, 0)
    undigested, [expected] = await bench.answer(
        await enqueue(bench.queue, noise(0), targets=[SECOND], method="layercam")
    )
    assert undigested.recalled == 0
    assert torch.equal(found, expected)
    predicted = await bench.done(await enqueue(bench.queue, noise(0), kind="predict", **fields))
    about = metadata_of(await bench.queue.result(predicted.id) or b"")
    assert '"recalled":1' in about

    async def is_told() -> bool:
        return await total(redis, measures.ACTIVATION_LOOKUPS, "tiny", "hit") == 2

    await eventually(is_told)
    assert await total(redis, measures.ACTIVATION_LOOKUPS, "tiny", "miss") == 1
    status = await eventually(lambda: _remembering(bench))
    assert status == 6 * 4 * 4 * 4  # float32 of (6, 4, 4)


async def _remembering(bench: Bench) -> int:
    status = await bench.status()
    return status.activation_bytes if status else 0


@pytest.mark.parametrize(
    ("first", "second", "recalled"),
    [
        ("use", "use", 1),
        ("use", "refresh", 0),
        ("refresh", "use", 1),
        ("use", "bypass", 0),
        ("bypass", "use", 0),
    ],
)
async def test_a_job_says_whether_caches_may_answer_it(
    start: Start, first: str, second: str, recalled: int
) -> None:
    bench = await start(activation_cache_mb=1)
    for caching in (first, second):
        about, _ = await bench.answer(
            await enqueue(bench.queue, noise(0), input_digest="d" * 64, caching=caching)
        )
    assert about.recalled == recalled


async def test_what_is_known_is_of_this_load_of_the_model(start: Start, models: Path) -> None:
    bench = await start(activation_cache_mb=1)
    fields = {"input_digest": "d" * 64}
    await bench.answer(await enqueue(bench.queue, noise(0), **fields))
    (models / "tiny" / "card.toml").write_text(factory_card(head='title = "another version"'))

    async def is_replaced() -> bool:
        card = await bench.card("tiny")
        return card is not None and card.state == "ready" and card.title == "another version"

    await eventually(is_replaced)
    about, _ = await bench.answer(await enqueue(bench.queue, noise(0), **fields))
    assert about.recalled == 0


async def test_inputs_of_several_jobs_share_a_pass_with_what_is_known(start: Start) -> None:
    bench = await start(activation_cache_mb=1, max_batch=8)
    await bench.answer(await enqueue(bench.queue, noise(1), input_digest="1" * 64))
    inputs = [noise(seed) for seed in range(3)]
    ids = [
        await enqueue(bench.queue, one, input_digest=str(seed) * 64, targets=[TopTarget(top=2)])
        for seed, one in enumerate(inputs)
    ]
    answers = [await bench.answer(one) for one in ids]
    assert [about.recalled for about, _ in answers] == [0, 1, 0]
    for one, (_, maps) in zip(inputs, answers, strict=True):
        alone: tuple[JobResult, list[torch.Tensor]] = await bench.answer(
            await enqueue(bench.queue, one, targets=[TopTarget(top=2)])
        )
        torch.testing.assert_close(maps, alone[1], rtol=1e-4, atol=1e-6)


async def test_none_is_remembered_where_there_is_no_room_for_it(start: Start) -> None:
    bench = await start(activation_cache_mb=0)
    for _ in range(2):
        about, _ = await bench.answer(await enqueue(bench.queue, noise(0), input_digest="d" * 64))
    assert about.recalled == 0
