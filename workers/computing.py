"""The jobs of one model on the device: portion by portion, each committed when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from camserve.contracts.failures import FailureMessage
from camserve.errors import ErrorCode
from camserve.settings import Settings
from workers.attempts import Outcome
from workers.compute import Limits, explain_jobs
from workers.device_thread import DeviceThread
from workers.failures import failure_of
from workers.held_jobs import HeldJobs
from workers.models import ResidentModel
from workers.portions import Work, portions
from workers.predictions import predict_jobs
from workers.presence import Presence
from workers.proof import Proof
from workers.rows import ComputeJob

__all__ = ["Computing"]

COSTLY_SHARE: Final = 0.8  # of the time limit of a batch, for the passes of one job


class Computing:
    """One per worker. thread: the one that computes."""

    def __init__(
        self,
        thread: DeviceThread,
        held: HeldJobs,
        presence: Presence,
        proof: Proof,
        settings: Settings,
        *,
        worker: str,
        device: str,
    ) -> None:
        self._thread = thread
        self._held = held
        self._presence = presence
        self._proof = proof
        self._worker = worker
        self._device = device
        self._limits = Limits(
            max_batch=settings.max_batch,
            forward_passes=settings.max_forward_passes,
            # a job must end by itself before the process ends that outlasts the limit
            seconds=COSTLY_SHARE * settings.job_time_limit_s,
            output_numbers=settings.max_output_megapixels * 1_000_000,
        )

    async def run(self, model: ResidentModel, work: Work) -> None:
        """Compute and commit all of it. Whatever is raised fails the jobs of its portion."""
        for portion in portions(work, self._limits.max_batch):
            kind = portion[0][1].kind
            explain = partial(explain_jobs, progress=self._held.progress)
            call = partial(
                predict_jobs if kind == "predict" else explain,
                model,
                [ComputeJob(held.job_id, job, held.payload) for held, job in portion],
                limits=self._limits,
                worker=self._worker,
                device=self._device,
            )
            held = [begun for begun, _ in portion]
            outcomes: Sequence[Outcome]
            try:
                outcomes, took_ms = await self._thread.run(call, model.card.name)
            except Exception as error:  # noqa: BLE001 - a job must not be left without an answer
                failure = failure_of(error, f"computing with {model.card.name}")
                outcomes = [failure] * len(held)
            else:
                self._presence.learn(model.card.name, kind, took_ms)
            if any(map(_is_unforeseen, outcomes)):
                await self._proof.renew()  # else the device may be at fault, and not the job
            await self._held.commit_all(held, outcomes)


def _is_unforeseen(outcome: Outcome) -> bool:
    return isinstance(outcome, FailureMessage) and outcome.code is ErrorCode.INTERNAL
