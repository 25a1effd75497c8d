"""What a Grad-CAM costs beside a plain forward pass of the same network.

The forward pass is eager, in float32, under `inference_mode`. What is compared runs in turns, in
one process, with the same threads. `exact` is the engine as it is asked by default; the others are
faster, and their maps are held against the exact ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.agreement import agreement
from benchmarks.executions import Execution, executions
from benchmarks.figures import Figure, Target, at_least, at_most
from benchmarks.networks import NETWORKS, TINY, Network, pictures
from benchmarks.options import Options
from benchmarks.timing import in_turns, timed
from camserve.engine import ClassIndex, Explainer

__all__ = ["measure"]

BATCHES = (1, 8, 32)
CLASSES = (1, 10, 100)
MANY_BATCH = 8  # the largest that 100 classes are asked of
MARKED = (NETWORKS["resnet50"].name, 8)  # the network and the batch that the targets are set for
COST = {"exact": at_most(1.05), "optimised": at_most(0.80), "bfloat16": at_most(0.50)}
MORE_CLASSES = {10: at_most(1.06), 100: at_most(1.25)}
MOST_ERROR = {"optimised": at_most(1e-3)}
LEAST_PEARSON = {"bfloat16": at_least(0.999)}


def measure(options: Options) -> Iterator[Figure]:
    """All networks, batches, numbers of classes and executions."""
    torch.set_num_threads(options.threads)
    if options.tiny:
        yield from _network(TINY, (2,), options)
        return
    for name, network in NETWORKS.items():
        marked = name == "resnet50"
        yield from _network(network, (1, 8) if options.quick and marked else
                            (8,) if options.quick else BATCHES, options)  # fmt: skip


def _network(network: Network, batches: Sequence[int], options: Options) -> Iterator[Figure]:
    model = network.build().to(options.device)
    known = executions(network, options)
    for batch in batches:
        inputs = pictures(batch, network.shape).to(options.device)
        yield from _costs(network.name, model, known, inputs, options)
        yield from _errors(network.name, known, inputs)


def _costs(
    name: str, model: nn.Module, known: Sequence[Execution], inputs: Tensor, options: Options
) -> Iterator[Figure]:
    batch = len(inputs)
    numbers = CLASSES if batch <= MANY_BATCH else CLASSES[:-1]
    asked = {classes: _best(known[0].explainer, inputs, classes) for classes in numbers}
    runs: dict[str, Callable[[], float]] = {
        "forward": partial(timed, partial(_forward, model, inputs))
    }
    for execution in known:
        for classes in numbers if execution.precision == "float32" else numbers[:1]:
            explain = partial(_explain, execution, inputs, asked[classes])
            runs[f"{execution.name} {classes}"] = partial(timed, explain)
    turns = in_turns(runs, budget_s=options.lasting(6))
    what = f"{name}, batch {batch}"
    marked = (name, batch) == MARKED and options.device == "cpu"
    yield Figure(f"{what}: forward, an input", turns.median_s("forward") / batch * 1000, "ms")
    for execution in known:
        target = COST[execution.name] if marked and execution.is_fast_here else None
        yield turns.ratio(
            f"{what}: {execution.title} / forward", f"{execution.name} 1", "forward", target
        )
    for execution in (one for one in known if one.precision == "float32"):
        for classes in numbers[1:]:
            target = MORE_CLASSES[classes] if marked else None
            name = execution.name
            title = f"{what}: {name}, {classes} classes / 1"
            yield turns.ratio(title, f"{name} {classes}", f"{name} 1", target)


def _errors(name: str, known: Sequence[Execution], inputs: Tensor) -> Iterator[Figure]:
    """Of the maps of each execution, against the exact ones."""
    what, marked = f"{name}, batch {len(inputs)}", (name, len(inputs)) == MARKED
    best = _best(known[0].explainer, inputs, 1)
    maps = {one.name: _explain(one, inputs, best) for one in known}
    for execution in known:
        if execution.name == "exact":
            continue
        found = agreement(maps[execution.name], maps["exact"])
        error: Target | None = MOST_ERROR.get(execution.name) if marked else None
        pearson: Target | None = LEAST_PEARSON.get(execution.name) if marked else None
        yield Figure(f"{what}: {execution.name}, relative error", found.relative_error, "", error)
        yield Figure(f"{what}: {execution.name}, Pearson", found.pearson, "", pearson)


def _forward(model: nn.Module, inputs: Tensor) -> None:
    with torch.inference_mode():
        model(inputs)


def _best(explainer: Explainer, inputs: Tensor, classes: int) -> list[list[ClassIndex]]:
    """The best classes of each input, as people ask for them."""
    ranking = explainer.output(inputs).topk(classes).indices.tolist()
    return [[ClassIndex(index) for index in row] for row in ranking]


def _explain(
    execution: Execution, inputs: Tensor, targets: Sequence[Sequence[ClassIndex]]
) -> Tensor:
    """(N, *S) maps of the first class."""
    explained = execution.explain(inputs, targets)
    return torch.stack([row[0].map for row in explained])
