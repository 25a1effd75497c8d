"""Launches captured in CUDA graphs, on a stand-in for torch's: the same results, which last."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from camserve.engine import ClassIndex, Explainer
from camserve.engine.exclusion import computing
from camserve.engine.execution import capturing, optimization
from camserve.engine.execution.capturing import Captured, capture, captured_sizes
from camserve.engine.execution.execution import Execution, RunBackbone
from camserve.engine.execution.optimization import (
    CAPTURED,
    COMPILED,
    OPERATIONS,
    PREPARED,
    optimize,
)
from tests.engine.cuda_graphs import StandIn, installed
from tests.engine.networks import ClassTokenViT, PlainCNN, ResNetLike, UNet, randomised
from tests.engine.test_optimization import FakeCompiler, explainer_of, noise
from tests.engine.truth import difference, pearson


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    yield installed(monkeypatch)
    capturing._stream.cache_clear()


@pytest.fixture
def _is_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is captured, as a device would have it, and the first of it."""

    def medians(runs: Mapping[str, RunBackbone], *_: object) -> dict[str, float]:
        return {name: 0.5 if name.endswith(" captured") else 1.0 for name in runs}

    monkeypatch.setattr(optimization, "medians_s", medians)


class BatchLast(nn.Module):
    """Inputs (C, H, W, N); the features have their inputs in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.network = PlainCNN()
        self.turned = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        features = self.turned(self.network.features(x.permute(3, 0, 1, 2)).permute(2, 0, 1, 3))
        return self.network.head(features.permute(1, 2, 0, 3).flatten(2).mean(2))


def captured(explainer: Explainer, most: int) -> tuple[Captured, Execution]:
    execution = explainer.split()
    run = capture(execution.split.backbone, execution, most, explainer.alone_in_process)
    return run, execution


@pytest.mark.parametrize("make", [ResNetLike, ClassTokenViT, UNet])
def test_results_are_those_of_the_backbone_and_stay_so(
    cuda: StandIn, make: type[nn.Module]
) -> None:
    """Of any number of inputs, also between those that are captured, and of more than the most."""
    run, execution = captured(explainer_of(make()), 11)
    given = [torch.randn(count, 3, 32, 32) for count in (*range(1, 13), 3, 9, 1)]
    with torch.no_grad():
        expected = [execution.split.backbone(inputs) for inputs in given]
        found = [run(inputs) for inputs in given]
    for ours, theirs, inputs in zip(found, expected, given, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.shape == other.shape
            assert difference(one, other) < 1e-5, len(inputs)
    assert cuda.replays == len(captured_sizes(11)) + len(given) - 1


def test_inputs_may_be_counted_by_another_dimension(cuda: StandIn) -> None:
    explainer = Explainer(
        randomised(BatchLast()), torch.zeros(3, 32, 32, 1), input_format="CSSB",
        feature_layer="turned", feature_format="SBCS",
    )  # fmt: skip
    run, execution = captured(explainer, 10)
    assert (execution.batch, execution.split.batches) == (3, (1,))
    before = cuda.replays
    explainer.use_backbone("float32", run)
    whole = explainer.with_execution(None)
    for count in (1, 9, 2, 10):
        inputs, targets = torch.randn(3, 32, 32, count), [[ClassIndex(1)]] * count
        pairs = zip(explainer.explain(inputs, targets), whole.explain(inputs, targets), strict=True)
        for [one], [other] in pairs:
            assert difference(one.map, other.map) < 1e-5
    assert cuda.replays == before + 4


@pytest.mark.parametrize("most", [1, 2, 7, 8, 9, 12, 33, 64, 100])
def test_few_sizes_are_captured_and_little_is_padded(most: int) -> None:
    sizes = captured_sizes(most)
    assert (sizes[0], sizes[-1]) == (1, most)
    assert len(sizes) <= 8 + 4 * 4
    for count in range(1, most + 1):
        fitting = min(size for size in sizes if size >= count)
        assert fitting == count or (count > 8 and fitting < 1.25 * count)


@pytest.mark.usefixtures("_is_fastest")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_captured_is_tried_like_the_others_and_used(cuda: StandIn, precision: str) -> None:
    explainer = explainer_of(ResNetLike())
    expected = explainer.explain(noise(3), [[ClassIndex(2)]] * 3)
    compiler = FakeCompiler(explainer.split().operations(precision))  # type: ignore[arg-type]
    found = optimize(explainer, precision, 4, compiler)  # type: ignore[arg-type]
    names = [OPERATIONS, PREPARED, COMPILED]
    assert [trial.way for trial in found.trials] == [*names, *map(CAPTURED.format, names)]
    assert all(trial.ratio and trial.agreement for trial in found.trials)
    assert found.way == "operation by operation, captured"
    used = cuda.graphs_of(None)
    assert len(used) == 4  # those of the other ways are gone
    buffer = 4 * 3 * 32 * 32 * 4
    assert found.bytes == buffer + sum(graph.nbytes for graph in used)
    folded = next(trial for trial in found.trials if trial.way == CAPTURED.format(PREPARED))
    plain = next(trial for trial in found.trials if trial.way == PREPARED)
    assert folded.bytes > plain.bytes + buffer
    before = cuda.replays
    again = explainer.explain(noise(3), [[ClassIndex(2)]] * 3, precision=precision)  # type: ignore[arg-type]
    assert cuda.replays == before + 1
    for [one], [other] in zip(again, expected, strict=True):
        assert pearson(one.map, other.map) > 0.999
    assert precision == "float32" or cuda.cached_casts == {False}


@pytest.mark.usefixtures("_is_fastest")
def test_graphs_go_with_their_model(cuda: StandIn) -> None:
    explainer = explainer_of(PlainCNN())
    optimize(explainer, "float32", 2)
    optimize(explainer, "bfloat16", 2)  # which leaves the other's
    explainer.explain(noise(2), [[ClassIndex(0)]] * 2)
    explainer.explain(noise(2), [[ClassIndex(0)]] * 2, precision="bfloat16")
    used = [weakref.ref(graph) for graph in cuda.graphs_of(None)]
    assert len(used) == 4
    del explainer
    gc.collect()
    assert not any(reference() for reference in used)


class Waiting(FakeCompiler):
    """Makes a backbone that waits for the device, as one that asks for a number does."""

    def __init__(self, run: RunBackbone) -> None:
        def waiting(inputs: Tensor) -> Sequence[Tensor]:
            assert inputs.sum().item() < float("inf")
            return run(inputs)

        super().__init__(waiting)


@pytest.mark.usefixtures("_is_fastest")
def test_what_cannot_be_captured_runs_as_it_did_and_so_does_the_rest(cuda: StandIn) -> None:
    explainer = explainer_of(ResNetLike())
    expected = explainer.explain(noise(2), [[ClassIndex(1)]] * 2)
    compiler = Waiting(explainer.split().split.backbone)  # type: ignore[arg-type]
    found = optimize(explainer, "float32", 2, compiler)  # type: ignore[arg-type]
    by_way = {trial.way: trial for trial in found.trials}
    failed = by_way[CAPTURED.format(COMPILED)]
    assert failed.note == "it cannot be captured: RuntimeError"
    assert failed.ratio is None
    assert by_way[COMPILED].ratio
    assert by_way[CAPTURED.format(OPERATIONS)].ratio
    assert cuda.current is cuda.default
    assert len(cuda.graphs_of(None)) == 2  # of the way that is used
    again = explainer.explain(noise(2), [[ClassIndex(1)]] * 2)
    for [one], [other] in zip(again, expected, strict=True):
        assert difference(one.map, other.map) < 1e-5


@pytest.mark.usefixtures("_is_fastest")
def test_the_graph_of_every_size_is_verified(cuda: StandIn) -> None:
    explainer = explainer_of(PlainCNN())
    backbone = explainer.split().split.backbone

    def wrong(inputs: Tensor) -> Sequence[Tensor]:
        (features,) = backbone(inputs)
        return [features + (len(inputs) == 3 and cuda.is_capturing)]

    found = optimize(explainer, "float32", 4, FakeCompiler(wrong))  # type: ignore[arg-type]
    by_way = {trial.way: trial for trial in found.trials}
    assert by_way[COMPILED].ratio
    assert by_way[CAPTURED.format(COMPILED)].note == "its maps are not those of the model"
    assert by_way[CAPTURED.format(OPERATIONS)].ratio


def test_the_smallest_capture_is_tried_first_and_a_failure_is_the_last(cuda: StandIn) -> None:
    """Torch keeps the memory of what failed."""
    tried: list[int] = []

    def failing(inputs: Tensor) -> Sequence[Tensor]:
        tried.append(len(inputs))
        return [inputs * inputs.max().item()]

    explainer = explainer_of(PlainCNN())
    execution = explainer.split()
    with pytest.raises(RuntimeError, match="failed due to a previous error"):
        capture(failing, execution, 8, explainer.alone_in_process)
    assert set(tried) == {1}
    explainer.explain(noise(1), [[ClassIndex(0)]])  # nothing is locked


def test_no_memory_for_a_large_batch_leaves_nothing_behind(cuda: StandIn) -> None:
    explainer = explainer_of(PlainCNN())
    backbone = explainer.split().split.backbone

    def large(inputs: Tensor) -> Sequence[Tensor]:
        if len(inputs) > 3 and cuda.is_capturing:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return backbone(inputs)  # type: ignore[no-any-return]

    found = optimize(explainer, "float32", 4, FakeCompiler(large))  # type: ignore[arg-type]
    failed = next(trial for trial in found.trials if trial.way == CAPTURED.format(COMPILED))
    assert failed.note == "it cannot be captured: OutOfMemoryError"
    assert cuda.current is cuda.default
    assert explainer.explain(noise(4), [[ClassIndex(0)]] * 4)


def test_it_is_warmed_up_on_the_stream_that_captures_it(cuda: StandIn) -> None:
    explainer = explainer_of(PlainCNN())
    execution = explainer.split()
    ran: list[tuple[object, bool, int]] = []

    def watched(inputs: Tensor) -> Sequence[Tensor]:
        ran.append((cuda.current, cuda.is_capturing, len(inputs)))
        return execution.split.backbone(inputs)  # type: ignore[no-any-return]

    capture(watched, execution, 3, explainer.alone_in_process)
    (stream,) = {stream for stream, _, _ in ran}
    assert stream is not cuda.default
    one_size = [False] * 3 + [True]
    assert [capturing for _, capturing, _ in ran] == one_size * 3
    assert [count for _, capturing, count in ran if capturing] == [1, 3, 2]
    assert cuda.default.waited_for == [stream] * 3  # what follows waits for all of it
    assert set(cuda.modes) == {"thread_local"}


def test_nobody_computes_while_launches_are_captured(cuda: StandIn) -> None:
    explainer, other = explainer_of(PlainCNN()), explainer_of(ResNetLike())
    execution = explainer.split()
    came_early: list[bool] = []
    threads: list[threading.Thread] = []

    def watched(inputs: Tensor) -> Sequence[Tensor]:
        if cuda.is_capturing:
            done = threading.Event()

            def explain() -> None:
                other.explain(noise(1), [[ClassIndex(0)]])
                done.set()

            threads.append(threading.Thread(target=explain))
            threads[-1].start()
            came_early.append(done.wait(0.2))
        return execution.split.backbone(inputs)  # type: ignore[no-any-return]

    capture(watched, execution, 2, explainer.alone_in_process)
    for thread in threads:
        thread.join()
    assert came_early == [False, False]


def test_captures_wait_for_what_computes_and_let_it_in_between(cuda: StandIn) -> None:
    """A job may come between two sizes."""
    explainer = explainer_of(PlainCNN())
    execution = explainer.split()
    entered: list[int] = []

    @contextmanager
    def alone() -> Iterator[None]:
        with computing():  # nobody is left inside from the capture before
            entered.append(len(cuda.graphs))
        with explainer.alone_in_process():
            yield

    capture(execution.split.backbone, execution, 3, alone)
    assert entered == [0, 1, 2]


def test_on_a_cpu_nothing_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise AssertionError("there is no GPU")

    for name in ("graph_pool_handle", "CUDAGraph", "graph", "Stream", "memory_snapshot"):
        monkeypatch.setattr(torch.cuda, name, missing)
    explainer = explainer_of(PlainCNN())
    found = optimize(explainer, "float32", 2, FakeCompiler(explainer.split().split.backbone))  # type: ignore[arg-type]
    assert {trial.way for trial in found.trials} <= {OPERATIONS, PREPARED, COMPILED}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_real_gpu_captures(precision: str) -> None:  # pragma: no cover
    explainer = Explainer(randomised(ResNetLike()).cuda(), torch.zeros(1, 3, 32, 32))
    execution = explainer.split()
    run = execution.operations(precision)  # type: ignore[arg-type]
    made = capture(run, execution, 10, explainer.alone_in_process)
    given = [torch.randn(count, 3, 32, 32, device="cuda") for count in (*range(1, 12), 3)]
    with torch.no_grad():
        found = [made(inputs) for inputs in given]
        expected = [run(inputs) for inputs in given]
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert pearson(one.float(), other.float()) > 0.999
    assert made.memory > 0
    with pytest.raises(RuntimeError):
        capture(lambda x: [x * x.max().item()], execution, 2, explainer.alone_in_process)
    names = {trial.way: trial for trial in optimize(explainer, precision, 8).trials}  # type: ignore[arg-type]
    assert names[CAPTURED.format(OPERATIONS)].ratio
    assert explainer.explain(given[4], [[ClassIndex(1)]] * 5, precision=precision)  # type: ignore[arg-type]
    del made, found, expected
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
