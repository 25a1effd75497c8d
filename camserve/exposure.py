"""May the API listen where it is told to? Without keys, only where nobody else can reach it."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from camserve.settings import Settings

__all__ = ["check_exposure", "is_loopback"]


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


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address that a server listens on.

    A name is not looked up, since it may mean another address a moment later: but for `localhost`
    (RFC 6761, 6.3) it counts as public. So do all spellings that are no plain address, and the
    empty one, which is every interface.
    """
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback
