"""Which addresses are somebody's public ones.

A table of our own: what `ipaddress.is_global` says differs between releases of Python, and it calls
global what leads back inside (IPv4 inside of IPv6 by 6to4, NAT64 or the compatible form, site-local
addresses, multicast).
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Final

from app.outbound.urls import Address

__all__ = ["is_public"]

_SPECIAL_IPV4: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local: the metadata of clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# The registries give out global unicast addresses from here alone. Outside are loopback, ULA,
# link-local, site-local, multicast, and IPv4 as mapped, compatible, translated or by NAT64.
_UNICAST: Final = IPv6Network("2000::/3")
_SPECIAL_IPV6: Final = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)


def is_public(address: Address) -> bool:
    """Whether it is an ordinary address of the internet, by IANA's registries of special ones."""
    if isinstance(address, IPv6Address):
        return address in _UNICAST and not any(address in one for one in _SPECIAL_IPV6)
    return not any(address in one for one in _SPECIAL_IPV4)
