"""A URL as camserve calls it: http or https, one spelling, nothing that two readers read
differently.

Parsed once, and never again: what was checked is what is connected to and asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import quote, unquote, urljoin

__all__ = ["DEFAULT_PORTS", "Address", "HttpUrl", "MalformedUrl", "host_of", "parse_url"]

Address = IPv4Address | IPv6Address

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
MAX_LENGTH: Final = 2048
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_PARTS = re.compile(r"https?://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# "ends in a number" of the URL standard: such a host is an IPv4 address, in whatever base
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_NEVER = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029]")
# all that RFC 3986 lets stand in a path or a query, and % of what is escaped already
_UNESCAPED: Final = "/%:@!$&'()*+,;=~-._?"


class MalformedUrl(ValueError):
    """A URL that is none, or that could be read in two ways; the text says what to write."""


@dataclass(frozen=True)
class HttpUrl:
    """host: lower case, a name or the canonical form of an address, without brackets. target: path
    and query, ASCII. address: of a host that is one."""

    scheme: str
    host: str
    port: int
    target: str
    address: Address | None = field(compare=False, default=None)

    @property
    def origin(self) -> str:
        """`https://images.example.com:8443`, without a port that goes without saying."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """The value of the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def file_name(self) -> str | None:
        """Last segment of the path, unescaped; None if it ends in a slash."""
        path = self.target.partition("?")[0]
        return unquote(path.rpartition("/")[2]) or None

    def joined(self, location: str) -> HttpUrl:
        """Where a redirect with that `Location` leads. Raises MalformedUrl."""
        try:
            return parse_url(urljoin(f"{self.origin}{self.target}", location.strip(" \t")))
        except MalformedUrl:
            raise
        except ValueError as error:
            raise MalformedUrl("not a URL") from error

    def __str__(self) -> str:
        return f"{self.origin}{self.target}"


def parse_url(text: str) -> HttpUrl:
    """Raises MalformedUrl for whatever is not plainly an http or https URL."""
    if len(text) > MAX_LENGTH:
        raise MalformedUrl(f"longer than {MAX_LENGTH} characters")
    if _NEVER.search(text):
        raise MalformedUrl("holds a space, a backslash or a control character: escape it as %20")
    scheme = _SCHEME.match(text)
    if scheme is None:
        raise MalformedUrl("begins with no scheme: write https://…")
    if scheme[1].lower() not in DEFAULT_PORTS:
        raise MalformedUrl(f"has the scheme {scheme[1][:20]}: only https and http are fetched")
    parts = _PARTS.fullmatch(text)
    if parts is None:
        raise MalformedUrl("has no // behind its scheme")
    authority, path, query = parts[1], parts[2] or "/", parts[3] or ""
    if "@" in authority:
        raise MalformedUrl("holds a user name or password: nobody's are sent")
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise MalformedUrl("has a host that is none, or a port that is no number")
    name, number = found[1], found[2]
    host, address = host_of(name)
    port = DEFAULT_PORTS[scheme[1].lower()] if number is None else int(number)
    if not 1 <= port <= 65535:
        raise MalformedUrl("has a port that is none: 1 to 65535")
    return HttpUrl(scheme[1].lower(), host, port, _escaped(path + query), address)


def host_of(text: str) -> tuple[str, Address | None]:
    """The host in its one spelling, and its address if it is one: `Example.COM`, `192.0.2.1`,
    `[2001:db8::1]`. Raises MalformedUrl."""
    if not text.isascii():
        raise MalformedUrl(
            "has a host of other letters than ASCII: write its xn-- form, which says one thing only"
        )
    host = text.lower()
    if host.startswith("["):
        try:
            address: Address = IPv6Address(host[1:-1])
        except ValueError:
            raise MalformedUrl("has brackets around what is no IPv6 address") from None
        if "%" in host:
            raise MalformedUrl("has an IPv6 address with a zone, which only one machine knows")
        return str(address), address
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]) or (not labels[-1] and _NUMBER.fullmatch(labels[-2:][0])):
        try:
            address = ip_address(host)
        except ValueError:
            raise MalformedUrl(
                "has a number for a host: write an IPv4 address as four decimal numbers"
            ) from None
        return str(address), address
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise MalformedUrl("has a host that is no name: letters, digits, - and dots between them")
    return host, None


def _escaped(target: str) -> str:
    return quote(target, safe=_UNESCAPED)
