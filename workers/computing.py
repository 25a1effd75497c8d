"""The jobs of one model on the device: portion by portion, and back while the next one runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from camserve.broker import Begun
from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import Job
from camserve.engine.execution import ActivationCache
from camserve.errors import ErrorCode
from camserve.settings import Settings
from workers.attempts import Outcome
from workers.batch_sizes import LearntSizes
from workers.compute import Limits, explain_jobs
from workers.device_thread import DeviceThread
from workers.failures import failure_of
from workers.held_jobs import HeldJobs
from workers.job_traces import done_together
from workers.memory import free_memory
from workers.metrics import WorkerMetrics
from workers.models import ResidentModel
from workers.portions import Work, portions
from workers.predictions import predict_jobs
from workers.presence import Presence
from workers.proof import Proof
from workers.rows import ComputeJob

__all__ = ["GIVE_WAY_S", "Computing"]

SHORT_MS = 1000.0
GIVE_WAY_S = 0.01  # longest time that all else waits for the next batch to start


@dataclass(frozen=True, eq=False)
class _Done:
    """One job, computed."""

    begun: Begun
    job: Job
    outcome: Outcome


class Computing:
    """One per worker. thread: the one that computes. make_room: evicts all models but the named
    one, as far as nobody uses them, and says whether there were any. next_is_ready: whether the
    device will be given other jobs at once."""

    def __init__(
        self,
        thread: DeviceThread,
        held: HeldJobs,
        presence: Presence,
        proof: Proof,
        metrics: WorkerMetrics,
        *,
        settings: Settings,
        worker: str,
        device: str,
        make_room: Callable[[str], bool],
        next_is_ready: Callable[[], bool],
    ) -> None:
        self._thread = thread
        self._held = held
        self._presence = presence
        self._proof = proof
        self._metrics = metrics
        self._worker = worker
        self._device = device
        self._make_room = make_room
        self._next_is_ready = next_is_ready
        self._returning: set[asyncio.Task[None]] = set()
        self._learnt = LearntSizes(settings.max_batch)
        self.activations = ActivationCache(settings.activation_cache_mb * 1_000_000)
        """Of inputs of all models."""
        self._limits = Limits(
            max_batch=settings.max_batch,
            forward_passes=settings.max_forward_passes,
            seconds=settings.costly_time_limit_s,
            output_numbers=settings.max_output_megapixels * 1_000_000,
        )

    @property
    def limited_batches(self) -> dict[str, int]:
        """Inputs at once, of each model whose batches the device's memory limits."""
        return self._learnt.limited

    def is_short(self, work: Work) -> bool:
        """Whether jobs of one model will take the device for a moment, as far as is known."""
        if any(job.is_costly for _, job in work):
            return False
        kinds = {job.kind for _, job in work}
        longest_ms = [self._presence.longest_ms(work[0][0].model, kind) for kind in kinds]
        return sum(longest_ms) < SHORT_MS

    async def run(self, model: ResidentModel, work: Work) -> None:
        """Compute all of it. Whatever is raised fails the jobs of its portion.

        Returns when the device is done; the last portion may still be on its way back, as
        `returned` tells. What nobody wants any more is not computed, and costly jobs are stopped
        for it.
        """
        for number, planned in enumerate(portions(work, self._limits.max_batch)):
            # the first has just begun; the others had to wait for it
            portion = await self._held.drop_unwanted(planned) if number else planned
            if not portion:
                continue
            done = await self._computed(model, portion)
            tight = [one for one in done if self._may_fit_alone(model, one)]
            await self._return([one for one in done if one not in tight])
            if tight:
                await self._return(await self._with_room(model, tight))

    async def _with_room(self, model: ResidentModel, tight: Sequence[_Done]) -> Sequence[_Done]:
        """What there was no memory for, once more if that of other models can be had."""
        if self._make_room(model.card.name):
            try:
                await self._thread.run(partial(free_memory, self._device), model.card.name)
            except Exception:  # noqa: BLE001 - a job must not be left without an answer
                await self._proof.renew()
            tight = await self._computed(model, [(one.begun, one.job) for one in tight])
        for one in tight:
            if _is_too_large(one.outcome):
                self._learnt.of(model).give_up(one.job)
        return tight

    async def _computed(self, model: ResidentModel, portion: Work) -> list[_Done]:
        kind = portion[0][1].kind
        explain = partial(explain_jobs, progress=self._held.progress)
        sizes = self._learnt.of(model)
        before = sizes.times_out_of_memory
        call = partial(
            predict_jobs if kind == "predict" else explain,
            model,
            [
                ComputeJob(
                    held.job_id,
                    job,
                    held.payload,
                    self._held.withdrawn(held),
                    self._held.staged(held),
                )
                for held, job in portion
            ],
            limits=self._limits,
            worker=self._worker,
            device=self._device,
            sizes=sizes,
            activations=self.activations if self.activations.limit_bytes else None,
        )
        lookups = self.activations.hits, self.activations.misses
        traces = self._held.traces([begun for begun, _ in portion])
        try:
            with done_together("batch", "compute", model.card.name, traces):
                outcomes, took_ms = await self._thread.run(call, model.card.name)
        except Exception as error:  # noqa: BLE001 - a job must not be left without an answer
            outcomes = [failure_of(error, f"computing with {model.card.name}")] * len(portion)
        else:
            inputs = sum(len(job.inputs) for _, job in portion)
            self._presence.learn(model.card.name, kind, took_ms, inputs=inputs)
        hits, misses = self.activations.hits - lookups[0], self.activations.misses - lookups[1]
        self._metrics.looked_up_activations(model.card.name, hits=hits, misses=misses)
        self._metrics.ran_out_of_memory(model.card.name, sizes.times_out_of_memory - before)
        if any(map(_is_unforeseen, outcomes)):
            await self._proof.renew()  # else the device may be at fault, and not the job
        return [_Done(*of_job, outcome) for of_job, outcome in zip(portion, outcomes, strict=True)]

    async def _return(self, done: Sequence[_Done]) -> None:
        """Commit beside what the device does next: one portion at a time, so that a device never
        gets far ahead of a slow server."""
        await self.returned()
        task = asyncio.create_task(self._commit(done))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _commit(self, done: Sequence[_Done]) -> None:
        if self._next_is_ready():
            # what starts the next batch goes first: the device waits for it
            await self._thread.has_started_next(GIVE_WAY_S)
        await self._held.commit_all([one.begun for one in done], [one.outcome for one in done])

    async def returned(self) -> None:
        """Return when all that was computed has been committed."""
        while self._returning:
            await asyncio.wait(self._returning)

    def _may_fit_alone(self, model: ResidentModel, one: _Done) -> bool:
        """Whether there was no memory for the job, and evicting others may still help: one that
        never fits must not evict them again and again."""
        return _is_too_large(one.outcome) and not self._learnt.of(model).is_hopeless(one.job)


def _is_too_large(outcome: Outcome) -> bool:
    return isinstance(outcome, FailureMessage) and outcome.code is ErrorCode.TOO_LARGE_FOR_DEVICE


def _is_unforeseen(outcome: Outcome) -> bool:
    return isinstance(outcome, FailureMessage) and outcome.code is ErrorCode.INTERNAL
