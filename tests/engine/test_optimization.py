"""Faster ways to run a backbone: true to a float64 reference, verified before they are used."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from camserve.engine import ClassIndex, Explainer
from camserve.engine.execution import compiling
from camserve.engine.execution.compiling import CannotCompile, Compiler
from camserve.engine.execution.execution import Execution, RunBackbone
from camserve.engine.execution.folding import own_bytes, prepared
from camserve.engine.execution.identity import identity_of
from camserve.engine.execution.optimization import (
    COMPILED,
    OPERATIONS,
    PREPARED,
    optimize,
)
from camserve.engine.execution.trials import medians_s
from tests.engine.networks import (
    ClassTokenViT,
    MobileNetLike,
    PlainCNN,
    ResNetLike,
    VolumeCNN,
    randomised,
)
from tests.engine.truth import difference, hand_map, pearson

SHAPE = (3, 32, 32)


def explainer_of(model: torch.nn.Module, *shape: int) -> Explainer:
    return Explainer(randomised(model), torch.zeros(1, *(shape or SHAPE)))


def noise(count: int = 1, *shape: int) -> Tensor:
    return torch.randn(count, *(shape or SHAPE), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("make", [ResNetLike, MobileNetLike])
def test_folded_norms_and_another_layout_keep_the_map(make: type[torch.nn.Module]) -> None:
    explainer = explainer_of(make())
    backbone = explainer.split().split.backbone
    faster = prepared(backbone, "float32")
    assert faster is not None
    kinds = [str(node.target) for node in faster.graph.nodes]
    assert not any("batch_norm" in kind for kind in kinds)
    assert any("batch_norm" in str(node.target) for node in backbone.graph.nodes)  # as it was
    explainer.use_backbone("float32", faster)
    layer = explainer.report.feature_layer
    assert layer is not None
    for count in (1, 3):
        inputs = noise(count)
        found = explainer.explain(inputs, [[ClassIndex(2)]] * count)
        for row, [one] in enumerate(found):
            expected = hand_map(
                explainer.model, layer, inputs[row : row + 1], lambda output: output[2]
            )
            assert difference(one.map, expected) < 1e-5
    assert own_bytes(faster, backbone) > 0
    assert own_bytes(backbone, backbone) == 0


def test_a_norm_that_others_read_besides_or_that_follows_no_convolution_stays() -> None:
    class Shared(ResNetLike):
        """What is normalised is used without its norm as well."""

        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, 3, 3, 1, 1)
            self.norm = torch.nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            raw = self.first(x)
            return super().forward(raw + self.norm(raw) + self.norm(x))

    explainer = explainer_of(Shared())
    faster = prepared(explainer.split().split.backbone, "float32")
    assert faster is not None
    kinds = [str(node.target) for node in faster.graph.nodes]
    assert sum("batch_norm" in kind for kind in kinds) == 2
    whole = explainer.with_execution(None).explain(noise(), [[ClassIndex(1)]])
    explainer.use_backbone("float32", faster)
    assert difference(explainer.explain(noise(), [[ClassIndex(1)]])[0][0].map, whole[0][0].map) < (
        1e-5
    )


def test_weights_of_half_precision_are_cast_once_and_give_the_map_of_autocast() -> None:
    explainer = explainer_of(ClassTokenViT())
    backbone = explainer.split().split.backbone
    faster = prepared(backbone, "bfloat16")
    assert faster is not None
    dtypes = {weight.dtype for weight in faster.buffers()}
    assert torch.bfloat16 in dtypes
    expected = explainer.explain(noise(), [[ClassIndex(2)]], precision="bfloat16")
    found = optimize(explainer, "bfloat16", 2)
    again = explainer.explain(noise(), [[ClassIndex(2)]], precision="bfloat16")
    assert {trial.way for trial in found.trials} == {OPERATIONS, PREPARED}
    assert pearson(again[0][0].map, expected[0][0].map) > 0.999


def test_what_is_found_tells_times_and_errors_of_each_way() -> None:
    explainer = explainer_of(VolumeCNN(), 3, 12, 12, 12)
    found = optimize(explainer, "float32", 4)
    by_way = {trial.way: trial for trial in found.trials}
    for trial in by_way.values():
        assert trial.ratio is not None
        assert set(trial.ratio) == {1, 4}
        assert all(ratio > 0 for ratio in trial.ratio.values())
        assert trial.agreement is not None
        assert trial.agreement.error < 1e-5
    assert found.way in by_way
    assert found.bytes == by_way[found.way].bytes


@dataclass
class FakeCompiler:
    """Answers at once with what a compiler could have made. The real one is tried below."""

    run: RunBackbone | Exception

    @contextmanager
    def compiled(self, *_: object) -> Iterator[tuple[RunBackbone, int]]:
        if isinstance(self.run, Exception):
            raise self.run
        yield self.run, 7


def test_the_fastest_way_with_true_maps_is_used_and_costs_what_it_says() -> None:
    explainer = explainer_of(ResNetLike())
    known: list[Sequence[Tensor]] = []
    backbone = explainer.split().split.backbone

    def instant(inputs: Tensor) -> Sequence[Tensor]:
        """Knows the answers of all batches but the first of each kind."""
        for tried, answer in known:  # type: ignore[misc]
            if torch.equal(tried, inputs):
                return answer  # type: ignore[return-value]
        known.append((inputs.clone(), backbone(inputs)))  # type: ignore[arg-type]
        return known[-1][1]  # type: ignore[return-value]

    found = optimize(explainer, "float32", 2, FakeCompiler(instant))  # type: ignore[arg-type]
    assert found.way == COMPILED
    assert found.bytes == 7
    count = len(known)
    explainer.explain(noise(3), [[ClassIndex(0)]] * 3)
    assert len(known) == count + 1


@pytest.mark.parametrize(
    ("spoilt", "note"),
    [
        (lambda tensor: tensor * 1.01, "not those of the model"),
        (lambda tensor: tensor * float("nan"), "not those of the model"),
        (lambda tensor: tensor[:1], ""),
        (lambda _tensor: 1 / 0, "it fails: ZeroDivisionError"),
    ],
    ids=["one per cent", "nan", "one row", "raises"],
)
def test_a_way_that_is_not_true_is_never_used(spoilt: object, note: str) -> None:
    explainer = explainer_of(ResNetLike())
    backbone = explainer.split().split.backbone

    def wrong(inputs: Tensor) -> Sequence[Tensor]:
        return [spoilt(tensor) for tensor in backbone(inputs)]  # type: ignore[operator]

    expected = explainer.explain(noise(2), [[ClassIndex(1)]] * 2)
    found = optimize(explainer, "float32", 2, FakeCompiler(wrong))  # type: ignore[arg-type]
    assert found.way != COMPILED
    trial = next(trial for trial in found.trials if trial.way == COMPILED)
    assert trial.ratio is None
    assert note in trial.note
    assert trial.note
    again = explainer.explain(noise(2), [[ClassIndex(1)]] * 2)
    for [one], [other] in zip(again, expected, strict=True):
        assert difference(one.map, other.map) < 1e-5


def test_what_cannot_be_compiled_says_why() -> None:
    explainer = explainer_of(ResNetLike())
    compiler = FakeCompiler(CannotCompile("the disk is full"))
    found = optimize(explainer, "float32", 2, compiler)  # type: ignore[arg-type]
    assert found.trials[-1].note == "the disk is full"


needs_a_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="there is no C++ compiler here"
)


@needs_a_compiler
@pytest.mark.soak
def test_a_compiled_backbone_takes_any_number_of_inputs_and_is_kept(tmp_path: Path) -> None:
    explainer = explainer_of(PlainCNN())
    execution = explainer.split()
    compiler = Compiler(tmp_path / "model", 200)
    with compiler.compiled(execution.split, execution.batch, "float32") as (run, size):
        assert size > 0
        for count in (1, 2, 5):
            known = execution.split.backbone(noise(count))
            for one, other in zip(run(noise(count)), known, strict=True):
                assert difference(one, other) < 1e-5
    (package,) = (tmp_path / "model").glob("*.pt2")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {package.name, "lock"}
    made = package.stat().st_ino
    same = explainer_of(PlainCNN()).split()  # as after a restart
    with compiler.compiled(same.split, same.batch, "float32"):
        assert package.stat().st_ino == made
    package.write_bytes(b"cut off")
    assert "cannot be loaded" in refusal(compiler, execution)
    assert not package.exists()  # and is made again by the next


def refusal(compiler: Compiler, execution: Execution) -> str:
    """Why there is no compiled backbone."""
    with (
        pytest.raises(CannotCompile) as caught,
        compiler.compiled(execution.split, execution.batch, "float32"),
    ):
        pass
    return str(caught.value)


def test_a_compiler_that_is_not_done_in_time_is_ended(tmp_path: Path) -> None:
    execution = explainer_of(PlainCNN()).split()
    assert "not done in time" in refusal(Compiler(tmp_path, 0.5), execution)
    assert {path.name for path in tmp_path.iterdir()} == {"lock"}


def test_a_compiler_that_fails_says_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", os.fspath(broken))
    execution = explainer_of(PlainCNN()).split()
    assert refusal(Compiler(tmp_path / "made", 200), execution).startswith("the compiler failed: ")
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"lock"}


def test_what_ended_several_processes_is_tried_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels of another processor, say, end each process that calls them."""
    explainer = explainer_of(PlainCNN())
    execution = explainer.split()
    backbone = execution.split.backbone
    package = tmp_path / f"{identity_of(backbone, 'float32')}.pt2"
    package.touch()
    monkeypatch.setattr(compiling, "_loaded", lambda *_: backbone)
    compiler = Compiler(tmp_path, 5)
    for _ in range(4):  # of those who live nothing stays
        found = optimize(explainer, "float32", 2, compiler)
        assert COMPILED in {trial.way for trial in found.trials if trial.ratio}
    for _ in range(3):
        child = os.fork()
        if child == 0:
            with compiler.compiled(execution.split, execution.batch, "float32"):
                os._exit(1)
        os.waitpid(child, 0)
    assert "ended meanwhile" in refusal(compiler, execution)


def test_a_gpu_has_it_on_its_own_number_and_without_locks_that_cannot_be_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = explainer_of(PlainCNN()).split()
    split = execution.split
    package = tmp_path / f"{identity_of(split.backbone, 'float32')}.pt2"
    package.touch()
    asked: list[dict[str, object]] = []

    def load(path: str, **options: object) -> RunBackbone:
        assert path == str(package)
        asked.append(options)
        return split.backbone

    monkeypatch.setattr(torch._inductor, "aoti_load_package", load)
    for device in ("cpu", "cuda:1"):
        there = replace(split, device=torch.device(device))
        with Compiler(tmp_path, 5).compiled(there, execution.batch, "float32"):
            pass
    assert asked == [
        {"run_single_threaded": False, "device_index": -1},
        {"run_single_threaded": True, "device_index": 1},
    ]


def test_a_way_is_timed_from_an_idle_gpu_to_an_idle_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of launches alone the time says nothing, and those of others may still run."""

    class OnGpu(Tensor):
        is_cuda = True

    seen: list[str] = []

    def run(_inputs: Tensor) -> Sequence[Tensor]:
        seen.append("run")
        return ()

    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: seen.append("idle"))
    monkeypatch.setattr(time, "perf_counter", lambda: seen.append("clock") or 0.0)
    medians_s({"": run}, torch.zeros(1).as_subclass(OnGpu), nullcontext)
    text = " ".join(seen)
    assert (
        text.count("idle clock run idle clock") == text.count("run") - 1
    )  # the first is not timed


def test_workers_that_start_together_try_it_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial of one that lives is no sign of one that has died."""
    execution = explainer_of(PlainCNN()).split()
    backbone = execution.split.backbone
    (tmp_path / f"{identity_of(backbone, 'float32')}.pt2").touch()
    monkeypatch.setattr(compiling, "_loaded", lambda *_: backbone)
    compiler = Compiler(tmp_path, 60)
    inside = 0
    met = threading.Condition()

    def attempt(_number: int) -> bool:
        nonlocal inside
        with compiler.compiled(execution.split, execution.batch, "float32"), met:
            inside += 1
            met.notify_all()
            others_came = met.wait_for(lambda: inside > 1, timeout=0.1)
            inside -= 1
        return others_came

    with ThreadPoolExecutor(6) as threads:
        assert not any(threads.map(attempt, range(6)))


def test_a_folder_that_cannot_be_written_to_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    execution = explainer_of(ResNetLike()).split()
    why = refusal(Compiler(tmp_path / "file", 5), execution)
    assert "NotADirectoryError" in why or "FileExistsError" in why


def test_the_oldest_packages_of_a_model_are_forgotten(tmp_path: Path) -> None:
    for number in range(6):
        package = tmp_path / f"{number}.pt2"
        package.touch()
        os.utime(package, (number, number))
    Compiler(tmp_path, 5)._forget_old()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n}.pt2" for n in range(2, 6)]
