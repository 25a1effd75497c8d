"""Public addresses, against the standard library's tables and the forms that they miss."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.outbound.addresses import is_public

PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.0", "172.15.255.255"),
    *("172.32.0.0", "192.167.255.255", "192.169.0.0", "223.255.255.255", "11.0.0.0", "128.0.0.0"),
    *("2606:4700:4700::1111", "2001:4860:4860::8888", "2001:200::", "2a00:1450::1", "2003::1"),
]
INSIDE = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.9.9.9"),
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1"),
    *("192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1"),
    *("239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "ff0e::1"),
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::8.8.8.8", "::ffff:0:10.0.0.1"),
    *("2002:7f00:1::", "2002:808:808::1", "2001::1", "2001:0:7f00:1::", "64:ff9b::10.0.0.1"),
    *("64:ff9b:1::a00:1", "2001:db8::1", "3fff::1", "5f00::1", "100::1", "2001:2::1", "2001:20::1"),
    *("4000::1", "e000::1"),
]


@pytest.mark.parametrize("text", PUBLIC)
def test_public_ones(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", INSIDE)
def test_all_others(text: str) -> None:
    assert not is_public(ip_address(text))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_nothing_is_public_that_the_standard_library_calls_otherwise(
    address: IPv4Address | IPv6Address,
) -> None:
    odd = (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or not address.is_global
    )
    assert not (is_public(address) and odd)


@given(st.ip_addresses(v=4))
def test_no_form_of_ipv4_in_ipv6_is_public(address: IPv4Address) -> None:
    number = int(address)
    for form in (
        number,  # compatible
        0xFFFF << 32 | number,  # mapped
        0xFFFF << 48 | number,  # translated
        0x64FF9B << 96 | number,  # NAT64
        0x2002 << 112 | number << 80,  # 6to4
        0x20010000 << 96 | number ^ 0xFFFFFFFF,  # Teredo
    ):
        assert not is_public(IPv6Address(form))
