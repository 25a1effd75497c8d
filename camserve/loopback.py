"""Which addresses are this very machine."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

__all__ = ["is_loopback"]


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
