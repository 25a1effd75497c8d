"""What the operator is told of jobs that were given up."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from camserve.contracts.base import Message
from camserve.contracts.requests import Priority
from camserve.contracts.states import State

__all__ = ["DeadLetter", "DeadLetterList", "LostAttempt", "Purged", "Replay"]


class LostAttempt(Message):
    """A run that its worker did not end."""

    worker: str = Field(description="Name of the worker process, as its log has it.")
    started_at: datetime = Field(description="When it began.")
    ended_at: datetime | None = Field(description="When the worker was given up; null if not seen.")
    ended_by: Literal["death", "lease"] | None = Field(
        description="`death`: the worker's process ended; `lease`: it was silent for longer than "
        "CAMSERVE_LEASE_S. Null if not seen."
    )


class Replay(Message):
    """The latest replay of a dead letter, which is a job of its own."""

    id: str = Field(description="Of the new job.")
    state: State | None = Field(description="How it is; null if it is not kept any more.")
    explanation: str | None = Field(
        description="Address of the explanation; null if it is a prediction or a load."
    )


class DeadLetter(Message):
    """A job whose worker was lost in every attempt that it was granted."""

    id: str = Field(description="Of the job: of an explanation, the id that its caller has.")
    kind: Literal["explain", "predict", "load"] = Field(description="What was asked for.")
    model: str = Field(description="Name of the model.")
    model_version: str = Field(description="Digest of its card and files when it was accepted.")
    reason: str = Field(description="Why it was given up.")
    input_digest: str | None = Field(
        description="SHA-256 of the tensors that the workers got: equal for equal inputs, and what "
        "goes with them."
    )
    request_id: str | None = Field(description="Of the request that made it, as logs have it.")
    replay_of: str | None = Field(description="Id of the dead letter that it was a replay of.")
    priority: Priority
    execution: str = Field(description="Which devices it was for, as `auto`.")
    attempts: tuple[LostAttempt, ...] = Field(description="Its runs, the first one first.")
    created_at: datetime = Field(description="When it was accepted.")
    died_at: datetime = Field(description="When it was given up.")
    replayable_until: datetime | None = Field(
        description="How long its input is kept; null if it cannot be replayed any more."
    )
    replay: Replay | None = Field(description="Null if it was never replayed.")
    href: str = Field(description="Address of the dead letter.")


class DeadLetterList(Message):
    """Dead letters, the newest accepted first."""

    dead_letters: tuple[DeadLetter, ...]
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last.")


class Purged(Message):
    purged: int = Field(description="How many dead letters were forgotten.")
