"""API keys: what one is, what is kept of it, and how it is found."""

from __future__ import annotations

import hashlib
import hmac
import re
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camserve import api_keys
from camserve.api_keys import KeyRing, Scope, new_key, parse_keys, render_keys

NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")


def test_a_key_has_256_bits_behind_a_prefix_that_scanners_find() -> None:
    secrets = {new_key("a", [Scope.EXPLAIN])[0] for _ in range(100)}
    assert len(secrets) == 100
    assert all(re.fullmatch(r"camserve_[0-9a-f]{64}", secret) for secret in secrets)


def test_kept_is_the_hash_and_nothing_else() -> None:
    secret, kept = new_key("a", [Scope.EXPLAIN], 5)
    assert kept.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    text = render_keys([kept])
    assert secret.removeprefix("camserve_") not in text
    assert kept.sha256 in text


def test_admin_includes_explain_and_that_metrics() -> None:
    assert list(Scope) == ["metrics", "explain", "admin"]
    for rank, scope in enumerate(Scope):
        key = new_key("a", [scope])[1]
        assert [key.may(other) for other in Scope] == [n <= rank for n in range(3)]


@given(st.dictionaries(NAMES, st.none() | st.integers(1, 1_000_000), max_size=4))
def test_what_is_written_is_read(rates: dict[str, int | None]) -> None:
    keys = tuple(
        new_key(name, [scope for scope in Scope if scope is Scope.EXPLAIN or rate], rate)[1]
        for name, rate in rates.items()
    )
    assert parse_keys(render_keys(keys)) == keys


SECRET, KEPT = new_key("a", [Scope.EXPLAIN])
GOOD = f'[keys.a]\nscopes = ["explain"]\nsha256 = "{KEPT.sha256}"\ncreated = 2026-01-31\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x", "not TOML"),
        ("keys = 3", r"tables \[keys.NAME\]"),
        (f'keys = ["{SECRET}"]', r"tables \[keys.NAME\]"),
        (f'{SECRET} = "a"', r"more than the tables"),
        (f'[keys.{SECRET}]\nscopes = ["explain"]', "key number 1: name: begins with"),
        (f'keys.a = "{SECRET}"', r"\[keys.a\] is a table"),
        (GOOD.replace("sha256", "key"), r"\[keys.a\]: (sha256: Field required|beside)"),
        (GOOD.replace(KEPT.sha256, SECRET), r"\[keys.a\]: sha256: the SHA-256 of the key in 64"),
        (GOOD.replace(KEPT.sha256, KEPT.sha256.upper()), "sha256: the SHA-256"),
        (
            GOOD.replace('"explain"', '"explain", "root"'),
            "scopes: a list of some of metrics, explain, admin",
        ),
        (GOOD.replace('"explain"', ""), "scopes: a list"),
        (GOOD.replace('["explain"]', '"explain"'), "scopes: a list"),
        (GOOD + 'name = "b"\n', r"\[keys.a\] is a table"),
        (GOOD + "rate_limit_per_minute = 0\n", "rate_limit_per_minute: a whole number from 1"),
        (GOOD + "rate_limit_per_minute = true\n", "rate_limit_per_minute: a whole number from 1"),
        (GOOD + "rate_limit_per_minute = 1000001\n", "rate_limit_per_minute: a whole number"),
        (GOOD + f'note = "{SECRET}"\n', r"beside .*scopes.* there is nothing to say"),
        (GOOD.replace("2026-01-31", '"yesterday"'), "created: a date"),
        (GOOD + GOOD.replace("keys.a", "keys.b"), "'a' and 'b' are the same key"),
    ],
    ids=count(),
)
def test_a_wrong_file_says_what_is_wrong_and_repeats_no_secret(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        parse_keys(text)
    shown = [str(caught.value), repr(caught.value.__cause__)]
    assert not any(SECRET.removeprefix("camserve_") in one.lower() for one in shown)


def test_a_limit_at_its_edge() -> None:
    (key,) = parse_keys(GOOD + "rate_limit_per_minute = 1000000\n")
    assert key.rate_limit_per_minute == 1_000_000


@pytest.mark.parametrize("name", ["", "-a", "a b", "a:b", "a.b", "ä", "a\n", "a" * 65])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(ValueError, match="name: begins with a letter or digit"):
        new_key(name, [Scope.EXPLAIN])


def test_only_the_very_bytes_are_the_key() -> None:
    ring = KeyRing([KEPT])
    assert ring.find(SECRET.encode()) is KEPT
    wrong = (SECRET[:-1], SECRET.upper(), f"{SECRET} ", SECRET.removeprefix("camserve_"), "")
    for presented in (
        *(one.encode() for one in wrong),
        KEPT.sha256.encode(),
        b"\xff\x00",
        b"a" * 10**6,
    ):
        assert ring.find(presented) is None
    assert KeyRing().find(SECRET.encode()) is None


def test_how_long_it_takes_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the hashes is compared, and in constant time, wherever the right one is."""
    made = [new_key(f"k{n}", [Scope.EXPLAIN]) for n in range(5)]
    ring = KeyRing(key for _, key in made)
    compared: list[str] = []
    real = hmac.compare_digest

    def compare(kept: str, presented: str) -> bool:
        compared.append(kept)
        return real(kept, presented)

    monkeypatch.setattr(api_keys.hmac, "compare_digest", compare)
    for presented in (made[0][0].encode(), made[4][0].encode(), b"none"):
        compared.clear()
        ring.find(presented)
        assert compared == [key.sha256 for _, key in made]
