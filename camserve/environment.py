"""Which environment variables of camserve's belong to whom; the settings of the service are those
of `camserve.settings`."""

from __future__ import annotations

from typing import Final

__all__ = ["API_KEY", "PREFIX", "URL", "is_setting"]

PREFIX: Final = "CAMSERVE_"
_TEST_PREFIX: Final = f"{PREFIX}TEST_"  # read by the test suite

URL: Final = f"{PREFIX}URL"
"""Where clients find the service."""

API_KEY: Final = f"{PREFIX}API_KEY"
"""What clients show it."""


def is_setting(variable: str) -> bool:
    """Whether a variable (in capitals) must be one of the service's settings.

    Those of clients are not: one shell may start the service, and ask it.
    """
    if variable in (URL, API_KEY) or variable.startswith(_TEST_PREFIX):
        return False
    return variable.startswith(PREFIX)
