"""The engine beside pytorch-grad-cam, Captum and torch-cam: ResNet-50, in turns.

Each library runs in a process and an environment of its own, with the same weights, inputs and
number of threads, and explains only when it is its turn. Nothing is measured before its maps are
ours: scaled, at another size or without what is negative, as the library does it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.agreement import agreement
from benchmarks.executions import Execution, executions
from benchmarks.figures import Missing, Row, Target, at_least
from benchmarks.networks import NETWORKS, pictures
from benchmarks.options import Options
from benchmarks.rivals.children import ENVIRONMENTS, Child, child
from benchmarks.rivals.environments import Unavailable
from benchmarks.running import saved
from benchmarks.timing import in_turns, timed
from camserve.engine import ClassIndex

__all__ = ["as_theirs", "check", "measure"]

NETWORK = NETWORKS["resnet50"]
SIGNED = ("Captum",)  # the others answer without what is negative
LEAST_PEARSON = 0.999
# at batch 8, by the number of classes
TARGETS = {
    1: {"pytorch-grad-cam": at_least(4), "Captum": at_least(1.5)},
    10: {"pytorch-grad-cam": at_least(25), "Captum": at_least(25)},
}


def measure(options: Options) -> Iterator[Row]:
    if options.device != "cpu":
        yield Missing("the libraries", "they are compared on the CPU alone")
        return
    torch.set_num_threads(options.threads)
    known = executions(NETWORK, options)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        model = saved(NETWORK, folder / "model")
        rivals: dict[str, Child] = {}
        for library in ENVIRONMENTS:
            try:
                one = stack.enter_context(child(library, model, options.threads, folder))
                yield from _checked(library, one, known[0], folder, rivals)
            except (Unavailable, RuntimeError) as error:
                yield Missing(library, str(error))
        batches = (2,) if options.tiny else (8,) if options.quick else (1, 8)
        for batch in batches:
            for classes in (1, 10):
                runs = _runs(rivals, known, batch, classes, folder)
                yield from _compared(runs, rivals, known, (batch, classes), options.lasting(20))


def _checked(
    library: str, rival: Child, ours: Execution, folder: Path, rivals: dict[str, Child]
) -> Iterator[Row]:
    """Takes the rival in if its maps are ours."""
    path = _saved_inputs(2, folder)
    classes = _best(ours, 2, 2)
    found = rival.maps(path, classes)
    targets = [[ClassIndex(index) for index in row] for row in classes]
    explained = ours.explain(pictures(2, NETWORK.shape), targets)
    expected = torch.stack([torch.stack([one.map for one in row]) for row in explained])
    if problem := check(torch.from_numpy(found), expected, signed=library in SIGNED):
        yield Missing(library, problem)
    else:
        rivals[library] = rival


def check(found: Tensor, ours: Tensor, *, signed: bool) -> str:
    """Why (N, K, *S) maps are not ours; empty if they are."""
    expected = as_theirs(ours, tuple(found.shape[2:]), signed=signed)
    pearson = agreement(found.flatten(0, 1), expected.flatten(0, 1)).pearson
    return "" if pearson >= LEAST_PEARSON else f"it answers other maps: Pearson {pearson:.4f}"


def as_theirs(ours: Tensor, size: tuple[int, ...], *, signed: bool) -> Tensor:
    """(N, K, *size): our signed maps, as a library that scales by linear interpolation has them."""
    known = ours if signed else ours.relu()
    return torch.nn.functional.interpolate(known, size, mode="bilinear", align_corners=False)


def _compared(
    runs: Mapping[str, Callable[[], float]], rivals: Iterable[str], known: Sequence[Execution],
    what: tuple[int, int], budget_s: float,
) -> Iterator[Row]:  # fmt: skip
    """what: how many inputs, and classes of each."""
    batch, classes = what
    turns = in_turns(runs, budget_s=budget_s, most=12)
    title = f"batch {batch}, {classes} class{'es' * (classes > 1)}"
    for name in rivals:
        for execution in known:
            # in half precision they could be faster, too
            marked = batch == 8 and execution.name == "optimised"
            target: Target | None = TARGETS[classes].get(name) if marked else None
            yield turns.ratio(f"{title}: {name} / {execution.name}", name, execution.name, target)


def _runs(
    rivals: Mapping[str, Child], known: Sequence[Execution], batch: int, classes: int, folder: Path
) -> dict[str, Callable[[], float]]:
    inputs, path = pictures(batch, NETWORK.shape), _saved_inputs(batch, folder)
    asked = _best(known[0], batch, classes)
    targets = [[ClassIndex(index) for index in row] for row in asked]
    runs: dict[str, Callable[[], float]] = {
        one.name: partial(timed, partial(one.explain, inputs, targets)) for one in known
    }
    return runs | {name: partial(rival.seconds, path, asked) for name, rival in rivals.items()}


def _saved_inputs(batch: int, folder: Path) -> Path:
    path = folder / f"{batch}.npy"
    np.save(path, pictures(batch, NETWORK.shape).numpy())
    return path


def _best(ours: Execution, batch: int, classes: int) -> list[list[int]]:
    """The best classes of each input."""
    ranking: list[list[int]] = (
        ours.explainer.output(pictures(batch, NETWORK.shape)).topk(classes).indices.tolist()
    )
    return ranking
