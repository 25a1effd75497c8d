"""The hosts that the operator lets camserve call: a setting, as patterns of origins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Self

from app.outbound.addresses import is_public
from app.outbound.urls import DEFAULT_PORTS, Address, HttpUrl, MalformedUrl, host_of
from camserve.errors import UrlNotAllowed, shortened

__all__ = ["AllowList"]

_ENTRY = re.compile(
    r"(?:(https?)://)?(\*|\[[^\]/]+(?:/[0-9]+)?\]|[^:/\[\]]+(?:/[0-9]+)?)(?::([0-9]{1,5}))?"
)
_SUFFIX = "*."


@dataclass(frozen=True)
class _Entry:
    """host: `*`, a name, or `*.` and a name; or a network, of addresses that need not be public."""

    scheme: str
    host: str | IPv4Network | IPv6Network
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Self:
        found = _ENTRY.fullmatch(text)
        if found is None:
            raise ValueError(_EXPECTED.format(entry=text))
        scheme, host, port = found[1] or "https", found[2], found[3]
        if port is not None and not 1 <= int(port) <= 65535:
            raise ValueError(f"{text!r} has a port that is none: 1 to 65535")
        return cls(scheme, _pattern(host, text), None if port is None else int(port))

    def names(self, url: HttpUrl) -> bool:
        """Whether it lets that URL be called, if its addresses pass."""
        port = DEFAULT_PORTS[self.scheme] if self.port is None else self.port
        return url.scheme == self.scheme and url.port == port and self.names_host(url)

    def names_host(self, url: HttpUrl) -> bool:
        if not isinstance(self.host, str):
            return url.address is not None and url.address in self.host
        if self.host == "*":
            return True
        if self.host.startswith(_SUFFIX):
            return url.host.endswith(self.host.removeprefix("*"))
        return url.host == self.host

    def opens(self, address: Address, port: int) -> bool:
        """Whether it lets that address be connected to though it is not public."""
        return (
            not isinstance(self.host, str)
            and address in self.host
            and (self.port is None or self.port == port)
        )


_EXPECTED = (
    "{entry!r} is no host: write images.example.com, *.example.com, * (any public host), "
    "an address or network such as 10.0.0.0/8 or [fd00::/8], each with http:// in front where "
    "https is not used, and :port behind where the port is another"
)


def _pattern(host: str, entry: str) -> str | IPv4Network | IPv6Network:
    """Raises ValueError."""
    if host == "*":
        return host
    bare = host[1:-1] if host.startswith("[") else host
    try:
        return ip_network(bare)
    except ValueError as error:
        if "host bits" in str(error):
            raise ValueError(f"{entry!r} is no network: {error}") from None
    try:
        name, _ = host_of(host.removeprefix(_SUFFIX))
    except MalformedUrl:
        raise ValueError(_EXPECTED.format(entry=entry)) from None
    return f"{_SUFFIX}{name}" if host.startswith(_SUFFIX) else name


@dataclass(frozen=True)
class AllowList:
    """Which URLs may be called, and at which addresses.

    `host` and `*.host` name hosts, `*` any host; they have https on 443 unless they say
    `http://` or a port. Their addresses must be public. A network, such as `10.0.0.0/8`, names the
    addresses in it as hosts, and lets the other entries' names resolve to them.
    """

    setting: str
    entries: tuple[_Entry, ...]

    @classmethod
    def parse(cls, setting: str, texts: Sequence[str]) -> Self:
        """Raises ValueError with the setting's name and the entry at fault."""
        try:
            return cls(setting, tuple(_Entry.parse(text) for text in texts))
        except ValueError as error:
            raise ValueError(f"{setting}: {error}") from None

    def __bool__(self) -> bool:
        return bool(self.entries)

    def check_url(self, url: HttpUrl) -> None:
        """Raises UrlNotAllowed with the rule that it breaks: off, host, scheme or port; address for
        one that is written in the URL."""
        if not self.entries:
            raise UrlNotAllowed(
                "off",
                "URLs are not called here, unless the operator names the hosts that may be in "
                f"{self.setting}",
            )
        if any(entry.names(url) for entry in self.entries):
            if url.address is not None:
                self.check_address(url.address, url.port)
            return
        known = [entry for entry in self.entries if entry.names_host(url)]
        host = shortened(url.host)
        if not known:
            raise UrlNotAllowed(
                "host", f"{host} is not among the hosts that {self.setting} names", host=host
            )
        if all(entry.scheme != url.scheme for entry in known):
            other = known[0].scheme
            raise UrlNotAllowed(
                "scheme",
                f"{self.setting} names {host} for {other} alone: write {other}://",
                host=host,
            )
        raise UrlNotAllowed(
            "port", f"{self.setting} does not name port {url.port} of {host}", host=host
        )

    def check_address(self, address: Address, port: int) -> None:
        """Raises UrlNotAllowed. Its words name no address: what a name means inside of a network is
        nobody's business outside."""
        if not is_public(address) and not any(one.opens(address, port) for one in self.entries):
            raise UrlNotAllowed(
                "address",
                f"the host is at an address that is not public, and {self.setting} does not name "
                "its network",
            )
