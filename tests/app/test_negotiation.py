"""Accept, `?as=` and Prefer, by the letter of RFC 9110 and RFC 7240."""

from __future__ import annotations

import pytest

from app.negotiation import JSON, NPY, PICTURES, choose_form, parse_prefer
from camserve.errors import NotAcceptable

FORMS = (JSON, NPY, *PICTURES)

CHOICES = [
    ([], JSON),
    ([""], JSON),
    (["*/*"], JSON),
    (["application/*"], JSON),
    (["image/*"], "image/png"),
    (["image/webp"], "image/webp"),
    (["IMAGE/PNG ; Q=0.4"], "image/png"),
    (["application/json;q=0.2, image/jpeg;q=0.9"], "image/jpeg"),
    (["image/*;q=0.5, image/png;q=0.1"], "image/jpeg"),
    (["*/*;q=0.1, application/x-npy"], NPY),
    (["application/json;q=0, */*"], NPY),
    (["text/html", "application/x-npy;q=0.1"], NPY),
    (["application/json;q=nonsense, image/png;q=0.1"], "image/png"),
    (["image/avif,image/webp,image/apng,image/*,*/*;q=0.8"], "image/png"),
    ([","], JSON),
]


@pytest.mark.parametrize(("accept", "form"), CHOICES)
def test_the_best_form_that_is_acceptable(accept: list[str], form: str) -> None:
    assert choose_form(accept, None, FORMS) == form


@pytest.mark.parametrize("accept", ["text/html", "image/png;q=0", "application/json;q=0.0, text/*"])
def test_406_names_what_is_possible(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="application/x-npy, image/png") as caught:
        choose_form([accept], None, FORMS)
    assert caught.value.extensions["possible"] == list(FORMS)


def test_as_wins_over_accept() -> None:
    assert choose_form(["application/json"], "webp", FORMS) == "image/webp"
    assert choose_form([], "jpg", FORMS) == choose_form([], "jpeg", FORMS) == "image/jpeg"
    with pytest.raises(NotAcceptable, match="png, jpeg, webp") as caught:
        choose_form(["*/*"], "npy", PICTURES)
    assert caught.value.extensions["possible"] == ["png", "jpeg", "webp"]
    with pytest.raises(NotAcceptable):
        choose_form([], "", FORMS)


PREFERENCES = [
    ([], None, None),
    (["respond-async"], 0.0, "respond-async"),
    (["Respond-Async; foo=bar"], 0.0, "respond-async"),
    (["wait=10"], 10.0, "wait=10"),
    (['wait="10"'], 10.0, "wait=10"),
    (["wait=0"], 0.0, "wait=0"),
    (["handling=lenient, wait=5"], 5.0, "wait=5"),
    (["return=minimal", "wait = 5"], 5.0, "wait=5"),
    (["respond-async, wait=10"], 10.0, "respond-async, wait=10"),
    (["wait=100"], 30.0, "wait=30"),
    (["unknown"], None, None),
    # the first instance of a preference is the one that counts
    (["wait=1, wait=20"], 1.0, "wait=1"),
    (["wait=1", "WAIT=20"], 1.0, "wait=1"),
    (["wait=soon, wait=20"], None, None),
    # texts in quotes are no lists
    (['foo="a, wait=0"'], None, None),
    (['foo="; \\", respond-async", wait=5'], 5.0, "wait=5"),
    (['foo; bar="x, wait=0", respond-async'], 0.0, "respond-async"),
    (['foo="wait=0, respond-async'], None, None),
    (["wait=99999999999"], 30.0, "wait=30"),
    ([", ,;=,wait=5,"], 5.0, "wait=5"),
    # what cannot be complied with is ignored (RFC 7240, 2), and not said to be applied
    *(([text], None, None) for text in ("wait", "wait=", "wait=-1", "wait=1.5", "wait=soon")),
    (["respond-async, wait=soon"], 0.0, "respond-async"),
]


@pytest.mark.parametrize(("headers", "patience_s", "applied"), PREFERENCES)
def test_prefer_is_a_list(
    headers: list[str], patience_s: float | None, applied: str | None
) -> None:
    preference = parse_prefer(headers)
    assert preference.patience_s(30.0) == patience_s
    assert preference.applied(30.0) == applied


def test_a_hostile_prefer_is_read_in_no_time() -> None:
    for text in ('"\\' * 30_000, '"' * 60_000, "a;" * 30_000, "=" * 60_000, " " * 60_000):
        assert parse_prefer([f"{text}", "wait=5"]).patience_s(30.0) in {None, 5.0}
