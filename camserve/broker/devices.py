"""Where a job may be executed: what a request may name, and which workers that suits."""

from __future__ import annotations

import re
from typing import Final

from camserve import vocabulary

__all__ = ["AUTO", "EXECUTION", "executions_of", "fits"]

AUTO: Final = "auto"

EXECUTION: Final = re.compile(vocabulary.EXECUTION)


def executions_of(device: str) -> tuple[str, ...]:
    """What a worker on `device` (as torch spells it) executes; what suits it alone comes last.

    `cpu`: auto, cpu. `cuda:1`: auto, cuda, cuda:1. A bare `cuda` is torch's first GPU: `cuda:0`.
    A device that no request can name executes what is left to `auto`.
    """
    kind, _, index = device.partition(":")
    named = dict.fromkeys((AUTO, kind, f"{kind}:{index or 0}"))
    return tuple(one for one in named if EXECUTION.fullmatch(one))


def fits(execution: str, device: str) -> bool:
    """Whether a worker on `device` takes jobs with this execution. False for a malformed one."""
    return execution in executions_of(device)
