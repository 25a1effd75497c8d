"""Finds the fastest way to run a model's backbone whose maps are those of the model as it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from camserve.engine.execution.capturing import can_capture, capture
from camserve.engine.execution.compiling import CannotCompile, Compiler
from camserve.engine.execution.execution import RunBackbone, in_precision
from camserve.engine.execution.folding import own_bytes, prepared
from camserve.engine.execution.trials import Agreement, medians_s
from camserve.engine.execution.verification import COUNTS, Verification
from camserve.vocabulary import Precision

if TYPE_CHECKING:
    from camserve.engine.explainer import Explainer

__all__ = ["Optimized", "Trial", "optimize"]

LARGEST_ERROR = 1e-3
"""Relative error of a map in float32 that is still taken for the same map."""
LEAST_PEARSON = 0.999
"""Of a map in half precision, with that in float32."""
AS_GOOD_AS = 1e-4
"""How much less it may be than that of autocast, which is what half precision means."""
PAYS = 0.97
"""A way that takes a larger share of the time is not worth its memory."""


@dataclass(frozen=True)
class Trial:
    """One way to run the backbone. ratio: its time over that of the model's whole forward pass in
    float32, by the number of inputs, None if it was not measured. note: why not, or why it is not
    used."""

    way: str
    ratio: dict[int, float] | None = None
    agreement: Agreement | None = None
    bytes: int = 0
    note: str = ""


@dataclass(frozen=True)
class Optimized:
    """What was found for one precision: `way` is the one that is used; all that were tried."""

    precision: Precision
    way: str
    trials: tuple[Trial, ...]

    @property
    def bytes(self) -> int:
        """Of weights and captured graphs, besides the model's."""
        return next(trial.bytes for trial in self.trials if trial.way == self.way)


OPERATIONS = "operation by operation"
PREPARED = "norms folded, channels last"
COMPILED = "compiled"
CAPTURED = "{}, captured"
"""Of each of them, on a GPU."""


@dataclass(frozen=True)
class _Way:
    """counts: the numbers of inputs that it is verified with."""

    name: str
    run: RunBackbone
    bytes: int = 0
    counts: Collection[int] = COUNTS


def optimize(
    explainer: Explainer, precision: Precision, batch: int, compiler: Compiler | None = None
) -> Optimized:
    """Have the explainer run its backbone in this precision in the fastest way that is true.

    Each way is verified by its maps before it is used: against those of the model as it is, in
    float32. batch: as many inputs as usually share a pass. compiler: None: nothing is compiled.
    Jobs may be explained meanwhile. Raises NotSplittable of an explainer that is not split.
    """
    trying, execution = _Trying(explainer, precision), explainer.split()
    ways, notes = trying.without_compiler(), list[Trial]()
    with ExitStack() as trial:
        if compiler is not None:
            compiled = compiler.compiled(execution.split, execution.batch, precision)
            try:
                ways.append(_Way(COMPILED, *trial.enter_context(compiled)))
            except CannotCompile as error:
                notes.append(Trial(COMPILED, note=str(error)))
        if can_capture(execution.split.device):
            captured, failures = trying.captured(ways, batch)
            ways, notes = [*ways, *captured], [*notes, *failures]
        judged = trying.judged(ways, sorted({1, batch}))
    best = _best(judged)
    if best.way != OPERATIONS:
        run = next(way.run for way in ways if way.name == best.way)
        explainer.use_backbone(precision, run)
    return Optimized(precision, best.way, (*judged, *notes))


class _Trying:
    def __init__(self, explainer: Explainer, precision: Precision) -> None:
        self._explainer = explainer
        self._precision = precision
        self._execution = explainer.split()
        self._verification = Verification(explainer, self._execution)

    def without_compiler(self) -> list[_Way]:
        backbone = self._execution.split.backbone
        ways = [_Way(OPERATIONS, self._execution.operations(self._precision))]
        faster = prepared(backbone, self._precision)
        if faster is not None:
            run = in_precision(faster, self._precision)
            ways.append(_Way(PREPARED, run, own_bytes(faster, backbone)))
        return ways

    def captured(self, ways: Sequence[_Way], most: int) -> tuple[list[_Way], list[Trial]]:
        """The same ways without their launches, of up to so many inputs, and those that cannot be
        had so."""
        made, failures = list[_Way](), list[Trial]()
        for way in ways:
            name = CAPTURED.format(way.name)
            alone = self._explainer.alone_in_process
            try:
                run = capture(way.run, self._execution, most, alone)
            except Exception as error:  # noqa: BLE001 - it then runs as it did
                note = f"it cannot be captured: {type(error).__name__}"
                failures.append(Trial(name, note=note))
            else:
                made.append(_Way(name, run, way.bytes + run.memory, run.graphs))
        return made, failures

    def judged(self, ways: Sequence[_Way], batches: Sequence[int]) -> list[Trial]:
        """The first way is the measure of what half precision may cost."""
        agreements: dict[str, Agreement | str] = {way.name: self._agreement(way) for way in ways}
        usual = agreements[ways[0].name]
        true = [way for way in ways if self._is_true(agreements[way.name], usual)]
        ratios = self._ratios(true, batches)
        return [self._trial(way, agreements[way.name], ratios.get(way.name)) for way in ways]

    def _trial(self, way: _Way, found: Agreement | str, ratio: dict[int, float] | None) -> Trial:
        if isinstance(found, str):
            return Trial(way.name, bytes=way.bytes, note=found)
        note = "" if ratio else "its maps are not those of the model"
        return Trial(way.name, ratio, found, way.bytes, note)

    def _agreement(self, way: _Way) -> Agreement | str:
        """With the model as it is; a text where it fails."""
        execution = self._execution.with_backbone(self._precision, way.run)
        try:
            return self._verification.agreement(execution, self._precision, way.counts)
        except Exception as error:  # noqa: BLE001 - it is then not used, whatever it was
            return f"it fails: {type(error).__name__}"

    def _is_true(self, found: Agreement | str, usual: Agreement | str) -> bool:
        if isinstance(found, str):
            return False
        if self._precision == "float32":
            return found.error <= LARGEST_ERROR
        least = LEAST_PEARSON
        if isinstance(usual, Agreement):
            least = min(least, usual.pearson - AS_GOOD_AS)
        return found.pearson >= least

    def _ratios(self, ways: Sequence[_Way], batches: Sequence[int]) -> dict[str, dict[int, float]]:
        ratios: dict[str, dict[int, float]] = {way.name: {} for way in ways}
        for batch in batches:
            noise = self._verification.inputs
            inputs = torch.cat([noise] * math.ceil(batch / 2), self._execution.batch)
            inputs = inputs.narrow(self._execution.batch, 0, batch).contiguous()
            runs = {way.name: way.run for way in ways}
            times = medians_s({"": self._whole, **runs}, inputs, self._explainer.alone)
            for way in ways:
                ratios[way.name][batch] = times[way.name] / times[""]
        return ratios

    def _whole(self, inputs: Tensor) -> tuple[Tensor, ...]:
        self._explainer.model(inputs.clone())
        return ()


def _best(trials: Sequence[Trial]) -> Trial:
    """The fastest; the first unless another one pays."""
    first, *others = trials
    best = first
    for trial in others:
        if _time_of(trial) < PAYS * _time_of(best):
            best = trial
    return best


def _time_of(trial: Trial) -> float:
    """Geometric mean over the batch sizes; infinity of what must not be used."""
    if not trial.ratio:
        return math.inf
    return statistics.geometric_mean(trial.ratio.values())
