"""How all processes log: one line an event, to standard error."""

from __future__ import annotations

import logging

__all__ = ["configure_logs"]

_NOISY = ("httpx", "httpx2", "httpcore", "httpcore2", "huggingface_hub", "transformers", "PIL")


def configure_logs(level: str) -> None:
    """Log at `level` and above; libraries that chatter are heard from warnings on."""
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
