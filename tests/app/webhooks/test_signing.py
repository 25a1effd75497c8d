"""Signatures that the library of Standard Webhooks verifies."""

from __future__ import annotations

import base64
import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from app.main import create_app
from app.webhooks.signing import Signer
from camserve.settings import Settings


def secret(number: int, length: int = 32) -> str:
    return "whsec_" + base64.b64encode(bytes([number]) * length).decode()


BODY = '{"type":"explanation.succeeded","data":{"name":"käse"}}'.encode()


def test_a_receiver_verifies_it() -> None:
    headers = Signer("X", [secret(1)]).headers("msg_1", BODY)
    assert Webhook(secret(1)).verify(BODY, headers)["type"] == "explanation.succeeded"
    assert headers["webhook-id"] == "msg_1"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60


@pytest.mark.parametrize("change", ["body", "webhook-id", "webhook-timestamp", "secret"])
def test_whatever_is_changed_is_noticed(change: str) -> None:
    headers = Signer("X", [secret(1)]).headers("msg_1", BODY)
    body, key = BODY, secret(1)
    if change == "body":
        body += b" "
    elif change == "secret":
        key = secret(2)
    else:
        headers[change] = (
            "1" + headers[change][1:] if change == "webhook-id" else str(int(headers[change]) - 1)
        )
    with pytest.raises(WebhookVerificationError):
        Webhook(key).verify(body, headers)


def test_while_secrets_are_changed_either_verifies() -> None:
    headers = Signer("X", [secret(1), secret(2)]).headers("msg_1", BODY)
    for number in (1, 2):
        Webhook(secret(number)).verify(BODY, headers)
    assert len(headers["webhook-signature"].split(" ")) == 2


def test_lengths_at_the_edge() -> None:
    for length in (24, 64):
        Signer("X", [secret(1, length)])
    for length in (23, 65):
        with pytest.raises(ValueError, match="24 to 64"):
            Signer("X", [secret(1, length)])


@pytest.mark.parametrize(
    "wrong", ["", "hunter2hunter2", "whsec_", "whsec_!!!", secret(1)[6:], f"whsec_{'a' * 43}"]
)
def test_what_is_no_secret_is_an_error_that_does_not_repeat_it(wrong: str) -> None:
    settings = Settings(
        redis_url="redis://unused", webhook_hosts=("a.example",), webhook_secret=(wrong,)
    )
    with pytest.raises(ValueError, match="CAMSERVE_WEBHOOK_SECRET") as caught:
        create_app(settings)
    assert wrong in ("", "whsec_") or wrong not in str(caught.value)
    assert wrong in ("", "whsec_") or wrong not in repr(settings)


def test_hosts_without_a_secret_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"CAMSERVE_WEBHOOK_SECRET is not set.*openssl"):
        create_app(Settings(redis_url="redis://unused", webhook_hosts=("a.example",)))


def test_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMSERVE_WEBHOOK_SECRET", f"{secret(1)}, {secret(2)}")
    monkeypatch.setenv("CAMSERVE_WEBHOOK_HOSTS", "a.example,http://10.0.0.0/8")
    settings = Settings.from_environment()
    assert [one.get_secret_value() for one in settings.webhook_secret] == [secret(1), secret(2)]
    assert settings.webhook_hosts == ("a.example", "http://10.0.0.0/8")
