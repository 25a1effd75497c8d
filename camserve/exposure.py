"""May the API listen where it is told to? Without keys, only where nobody else can reach it."""

from __future__ import annotations

from camserve.loopback import is_loopback
from camserve.settings import Settings

__all__ = ["check_exposure"]


def check_exposure(settings: Settings) -> None:
    """Raises ValueError for a public address without keys, unless the operator wants just that."""
    if settings.api_keys_file or settings.allow_anonymous or is_loopback(settings.host):
        return
    raise ValueError(
        f"CAMSERVE_HOST is {settings.host!r}, which others can reach, and there are no API keys: "
        "make some (CAMSERVE_API_KEYS_FILE=keys.toml camserve keys add NAME) and set "
        "CAMSERVE_API_KEYS_FILE, or serve everybody with CAMSERVE_ALLOW_ANONYMOUS=true; see "
        "docs/trust.md"
    )
