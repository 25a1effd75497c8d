"""Where the API may listen without keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from camserve.exposure import check_exposure
from camserve.loopback import is_loopback
from camserve.settings import Settings

LOOPBACK = (
    "127.0.0.1",
    "127.1.2.3",
    "::1",
    "0:0:0:0:0:0:0:1",
    "localhost",
    "LocalHost",
    "::ffff:127.0.0.1",
)
PUBLIC = (
    *(
        "0.0.0.0",
        "::",
        "",
        "192.168.1.2",
        "8.8.8.8",
        "fe80::1%eth0",
        "::ffff:8.8.8.8",
        "::ffff:0.0.0.0",
    ),
    # names, and spellings that a resolver may read otherwise than we do
    *(
        "example.com",
        "localhost.example.com",
        "localhost.",
        "127.1",
        "2130706433",
        "0x7f.1",
        "[::1]",
    ),
    *(" 127.0.0.1", "127.0.0.1 ", "127.0.0.1.", "128.0.0.1"),
)


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    check_exposure(Settings(host=host))


@pytest.mark.parametrize("host", PUBLIC)
def test_public(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(
        ValueError, match=r"(?s)add NAME.*CAMSERVE_API_KEYS_FILE.*CAMSERVE_ALLOW_ANONYMOUS=true"
    ):
        check_exposure(Settings(host=host))
    check_exposure(Settings(host=host, allow_anonymous=True))
    check_exposure(Settings(host=host, api_keys_file=Path("keys.toml")))
