"""The list of hosts: what each entry lets through, and what it does not."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from app.main import create_app
from app.outbound.allow_list import AllowList
from app.outbound.urls import parse_url
from camserve.errors import UrlNotAllowed
from camserve.settings import Settings


def rule(url: str, *entries: str) -> str | None:
    """The rule that a URL breaks."""
    try:
        AllowList.parse("CAMSERVE_FETCH_HOSTS", entries).check_url(parse_url(url))
    except UrlNotAllowed as error:
        return error.rule if "CAMSERVE_FETCH_HOSTS" in str(error) else "nameless"
    return None


@pytest.mark.parametrize(
    ("entry", "url", "broken"),
    [
        ("a.example", "https://a.example/x", None),
        ("A.Example", "https://a.EXAMPLE/x", None),
        ("a.example", "https://b.example/x", "host"),
        ("a.example", "https://x.a.example/x", "host"),
        ("a.example", "https://a.example.evil.test/", "host"),
        ("a.example", "https://evila.example/", "host"),
        ("a.example", "http://a.example/", "scheme"),
        ("a.example", "https://a.example:8443/", "port"),
        ("a.example", "https://a.example:80/", "port"),
        ("a.example:8443", "https://a.example:8443/", None),
        ("a.example:8443", "https://a.example/", "port"),
        ("http://a.example", "http://a.example/", None),
        ("http://a.example", "https://a.example/", "scheme"),
        ("http://a.example:8080", "http://a.example:8080/", None),
        ("https://a.example", "https://a.example/", None),
        ("*.a.example", "https://x.a.example/", None),
        ("*.a.example", "https://x.y.a.example/", None),
        ("*.a.example", "https://a.example/", "host"),
        ("*.a.example", "https://evila.example/", "host"),
        ("*", "https://a.example/", None),
        ("*", "http://a.example/", "scheme"),
        ("*", "https://a.example:22/", "port"),
        ("*", "https://1.1.1.1/", None),
        ("*", "https://127.0.0.1/", "address"),
        ("*", "https://[::1]/", "address"),
        ("*", "https://[::ffff:10.0.0.1]/", "address"),
        ("*:8443", "https://a.example:8443/", None),
        ("http://*", "http://169.254.169.254/latest/meta-data/", "address"),
        ("10.0.0.0/8", "https://10.1.2.3/", None),
        ("10.0.0.0/8", "https://11.1.2.3/", "host"),
        ("10.0.0.0/8", "http://10.1.2.3/", "scheme"),
        ("10.0.0.0/8", "https://10.1.2.3:81/", "port"),
        ("10.0.0.0/8", "https://a.example/", "host"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/", None),
        ("http://127.0.0.1:8080", "http://127.0.0.2:8080/", "host"),
        ("http://127.0.0.1:8080", "http://[::ffff:7f00:1]:8080/", "host"),
        ("1.1.1.1", "https://1.1.1.1/", None),
        ("[::1]", "https://[::1]/", None),
        ("[fd00::/8]:8443", "https://[fd12::1]:8443/", None),
        ("[fd00::/8]", "https://[fe80::1]/", "host"),
    ],
)
def test_what_an_entry_lets_through(entry: str, url: str, broken: str | None) -> None:
    assert rule(url, entry) == broken


def test_several_entries_let_through_what_any_of_them_does() -> None:
    entries = ("a.example", "http://b.example:81")
    assert rule("https://a.example/", *entries) is None
    assert rule("http://b.example:81/", *entries) is None
    assert rule("http://a.example:81/", *entries) == "scheme"


def test_none_at_all_says_how_to_turn_it_on() -> None:
    assert rule("https://a.example/") == "off"
    assert not AllowList.parse("X", ())


@pytest.mark.parametrize(
    ("entries", "address", "port", "passes"),
    [
        (["*"], "1.1.1.1", 443, True),
        (["*"], "10.0.0.1", 443, False),
        (["a.example"], "127.0.0.1", 443, False),
        (["a.example", "10.0.0.0/8"], "10.0.0.1", 443, True),
        (["a.example", "10.0.0.0/8"], "10.0.0.1", 8443, True),  # the name's entry said which port
        (["a.example", "10.0.0.0/8"], "192.168.0.1", 443, False),
        (["a.example", "10.0.0.0/8:8443"], "10.0.0.1", 8443, True),
        (["a.example", "10.0.0.0/8:8443"], "10.0.0.1", 443, False),
        (["127.0.0.1"], "::ffff:127.0.0.1", 443, False),
    ],
)
def test_addresses_that_names_resolve_to(
    entries: list[str], address: str, port: int, passes: bool
) -> None:
    allowed = AllowList.parse("X", entries)
    if passes:
        return allowed.check_address(ip_address(address), port)
    with pytest.raises(UrlNotAllowed) as caught:
        allowed.check_address(ip_address(address), port)
    assert caught.value.rule == "address"
    assert address not in str(caught.value)
    return None


@pytest.mark.parametrize(
    "entry",
    [
        *("", "https://", "ftp://a.example", "a.example/path", "a b", "*a.example", "a.*", "**"),
        *("a.example:0", "a.example:65536", "a.example:x", "10.0.0.1/8", "10.0.0.0/33", "fd00::/8"),
        *(
            "[fd00::/8",
            "user@a.example",
            "2130706433",
            "bücher.example",
            "a.example.",
            "*.10.0.0.0/8",
        ),
    ],
)
def test_an_entry_that_means_nothing_is_an_error_at_the_start(entry: str) -> None:
    settings = Settings(redis_url="redis://unused", fetch_hosts=("a.example", entry))
    with pytest.raises(ValueError, match="CAMSERVE_FETCH_HOSTS: "):
        create_app(settings)
