"""How many inputs the device takes at once: fewer after it ran out of memory, then slowly more."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

from camserve.contracts.jobs import Job
from workers.models import ResidentModel
from workers.rows import Row, way_of

__all__ = ["BatchSizes", "LearntSizes"]

logger = logging.getLogger(__name__)

PATIENCE: Final = 16  # full batches that must fit before twice as many are tried
LONGEST_PATIENCE: Final = 1024
REMEMBERED: Final = 64  # kinds of rows, the last that ran out of memory


@dataclass
class _Learnt:
    """at_once: what is tried; grown: after less had fitted. fitted: full batches of so many that
    there was room for."""

    at_once: int
    patience: int = PATIENCE
    fitted: int = 0
    grown: bool = False


class BatchSizes:
    """Of one model on one device; written in the compute thread only.

    most: inputs that share a forward pass while there is room. any_size: whether callers decide how
    large an input is.

    What a row takes is decided by the way to compute it, its shape and its number of targets: each
    such kind of row has a size of its own. As long as memory never ran out, nothing is known, and
    nothing is looked up.
    """

    def __init__(self, model: str, most: int, *, any_size: bool = False) -> None:
        self.most = most
        self.any_size = any_size
        self._model = model
        self.times_out_of_memory = 0
        self._learnt: OrderedDict[Hashable, _Learnt] = OrderedDict()
        self._hopeless: dict[Hashable, int] = {}

    def at_once(self, rows: Sequence[Row]) -> int:
        """How many rows like these may share a forward pass, or variants of one: 1 to `most`."""
        known = self._known(rows)
        return self.most if known is None else known.at_once

    def ran_out(self, rows: Sequence[Row], tried: int) -> None:
        """So many did not fit: from now on half as many are tried.

        Somebody else may have needed the memory: after `patience` full batches, twice as many are
        tried again. Whenever that is too early, the patience doubles.
        """
        self.times_out_of_memory += 1
        known = self._learnt.pop(_kind(rows), None)
        patience = PATIENCE if known is None else known.patience * (2 if known.grown else 1)
        self._learnt[_kind(rows)] = _Learnt(max(tried // 2, 1), min(patience, LONGEST_PATIENCE))
        while len(self._learnt) > REMEMBERED:
            self._learnt.popitem(last=False)

    def fitted(self, rows: Sequence[Row], tried: int) -> None:
        """There was room for so many."""
        known = self._known(rows)
        if known is None or tried < known.at_once:
            return
        known.fitted += 1
        if known.fitted < known.patience:
            return
        if known.at_once == self.most:  # a limit no more, and not for the first time
            del self._learnt[_kind(rows)]
            return
        known.at_once, known.fitted, known.grown = min(2 * known.at_once, self.most), 0, True
        logger.info("model %s: %d inputs at once are tried again", self._model, known.at_once)

    def give_up(self, job: Job) -> None:
        """Some input of the job does not fit, however few are computed at once."""
        way, size = _scale(job)
        self._hopeless[way] = min(size, self._hopeless.get(way, size))

    def is_hopeless(self, job: Job) -> bool:
        """Whether an input that is no larger was given up."""
        way, size = _scale(job)
        return way in self._hopeless and size >= self._hopeless[way]

    @property
    def smallest(self) -> int:
        """The least that any kind of row is limited to; `most` if none is. From any thread."""
        return min((known.at_once for known in self._learnt.copy().values()), default=self.most)

    def _known(self, rows: Sequence[Row]) -> _Learnt | None:
        return self._learnt.get(_kind(rows)) if self._learnt else None


class LearntSizes:
    """The batch sizes of each model that a worker has computed with."""

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._of_models: dict[str, tuple[str, BatchSizes]] = {}

    def of(self, model: ResidentModel) -> BatchSizes:
        """Those of this version of the model; of one that mixes its inputs, always 1."""
        name, version = model.card.name, model.card.version
        known, sizes = self._of_models.get(name, (None, None))
        if sizes is None or known != version:
            most = self._max_batch if model.explainer.report.rows_are_independent else 1
            spec = model.card.input
            sizes = BatchSizes(name, most, any_size=spec is not None and 0 in spec.shape)
            self._of_models[name] = (version, sizes)
        return sizes

    @property
    def limited(self) -> dict[str, int]:
        """Inputs at once, of each model whose batches the device's memory limits. From any
        thread."""
        known = {model: sizes for model, (_, sizes) in self._of_models.copy().items()}
        return {m: sizes.smallest for m, sizes in known.items() if sizes.smallest < sizes.most}


def _scale(job: Job) -> tuple[Hashable, int]:
    """The way to compute it, and the numbers of its largest input."""
    way = (job.kind, job.method, job.precision, job.evaluate is not None)
    return way, max((math.prod(one.shape) for one in job.inputs), default=0)


def _kind(rows: Sequence[Row]) -> Hashable:
    """What decides how much memory each row of a batch takes."""
    return way_of(rows[0]), max(sum(one.count for one in row.job.job.targets) for row in rows)
