"""How many inputs and targets a request may have: one rule for all bodies and protocols."""

from __future__ import annotations

from camserve.errors import TooLarge
from camserve.settings import Settings

__all__ = ["check_inputs", "check_targets"]


def check_inputs(count: int, settings: Settings) -> None:
    """Raises TooLarge for more than a request may have."""
    _check("inputs", count, settings.max_inputs)


def check_targets(count: int, settings: Settings) -> None:
    """Raises TooLarge for more than a request may have."""
    _check("targets", count, settings.max_targets)


def _check(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise TooLarge(f"{count} {what} are more than {limit}: send several requests", limit=limit)
