"""Which form of answer (`Accept`, `?as=`) and how long to wait for it (`Prefer`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from camserve.errors import InvalidRequest, NotAcceptable

__all__ = [
    "ANSWER_FORM",
    "JPEG",
    "JSON",
    "NPY",
    "PICTURES",
    "PNG",
    "SHORT_NAMES",
    "WEBP",
    "ZIP",
    "Preference",
    "accepts_coding",
    "choose_form",
    "list_members",
    "parse_prefer",
    "refuse_answer_form",
]

ANSWER_FORM = "as"  # the one query parameter that goes with every body

JSON = "application/json"
NPY = "application/x-npy"
ZIP = "application/zip"
PNG = "image/png"
JPEG = "image/jpeg"
WEBP = "image/webp"
PICTURES = (PNG, JPEG, WEBP)
SHORT_NAMES = {"json": JSON, "npy": NPY, "zip": ZIP, "png": PNG, "jpeg": JPEG, "webp": WEBP}
_ALIASES = {"jpg": "jpeg"}

# quoted texts may hold commas and semicolons; one without an end goes to the end of the header
_QUOTED = r'"(?:[^"\\]|\\.)*+(?:"|\\?$)'
_ENTRY = re.compile(rf"(?:{_QUOTED}|[^,])++", re.DOTALL)
_PREFERENCE = re.compile(rf"\s*([^\s=;]+)\s*(?:=\s*({_QUOTED}|[^\s;]*))?", re.DOTALL)
_SECONDS = re.compile(r"[0-9]+")


def choose_form(accept: Sequence[str], as_form: str | None, possible: Sequence[str]) -> str:
    """The best of `possible` (media types, the default first). Raises NotAcceptable.

    accept: the values of all `Accept` headers. `as_form`, one of `SHORT_NAMES`, is for people with
    only a URL, and wins.
    """
    if as_form is not None:
        form = SHORT_NAMES.get(_ALIASES.get(as_form, as_form), "")
        if form not in possible:
            names = [name for name, media in SHORT_NAMES.items() if media in possible]
            raise NotAcceptable(as_form, names)
        return form
    best, best_quality = None, 0.0
    asked = ",".join(accept).strip(", ") or "*/*"
    ranges = [_parse_range(part) for part in asked.split(",") if part.strip()]
    for form in possible:
        # the most specific range that fits a form decides its quality (RFC 9110, 12.5.1)
        fitting = [(specific, q) for media, specific, q in ranges if _fits(form, media)]
        quality = max(fitting)[1] if fitting else 0.0
        if quality > best_quality:
            best, best_quality = form, quality
    if best is None:
        raise NotAcceptable(asked, possible)
    return best


def accepts_coding(accept_encoding: Sequence[str], coding: str) -> bool:
    """Whether the `Accept-Encoding` headers name the coding, and not only to refuse it."""
    named = [_parse_range(part) for part in ",".join(accept_encoding).split(",")]
    return any(name == coding and quality > 0 for name, _, quality in named)


def refuse_answer_form(fields: Mapping[str, object]) -> None:
    """Raises InvalidRequest for a body that says what only the URL can."""
    if ANSWER_FORM in fields:
        value = fields[ANSWER_FORM]
        example = value if value in SHORT_NAMES else "png"
        raise InvalidRequest(
            f"{ANSWER_FORM} is no field of the body: put ?{ANSWER_FORM}={example} into the URL",
            field=ANSWER_FORM,
        )


def _parse_range(text: str) -> tuple[str, int, float]:
    """(media range, how specific it is, quality)."""
    media, *parameters = [part.strip().lower() for part in text.split(";")]
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                quality = min(max(float(value), 0.0), 1.0)
            except ValueError:
                quality = 0.0
    specific = 0 if media == "*/*" else 1 if media.endswith("/*") else 2
    return media, specific, quality


def _fits(form: str, media: str) -> bool:
    if media.endswith("/*"):
        return media == "*/*" or form.startswith(media[:-1])
    return form == media


@dataclass(frozen=True)
class Preference:
    """`Prefer` of RFC 7240: what the client asks of the waiting."""

    respond_async: bool = False
    wait_s: float | None = None

    def patience_s(self, limit_s: float) -> float | None:
        """How long the client asks us to wait, at most `limit_s`; None if it does not say.

        `respond-async, wait=10` is one wish: wait ten seconds, and only then answer 202.
        """
        if self.wait_s is not None:
            return min(self.wait_s, limit_s)
        return 0.0 if self.respond_async else None

    def applied(self, limit_s: float) -> str | None:
        """For the header `Preference-Applied`: what is honoured."""
        names = ["respond-async"] if self.respond_async else []
        if self.wait_s is not None:
            names.append(f"wait={min(self.wait_s, limit_s):g}")
        return ", ".join(names) or None


def list_members(headers: Sequence[str]) -> list[str]:
    """The members of a header that is a list, and may come several times (RFC 9110, 5.6.1): what is
    between its commas, but for those in quotes."""
    return _ENTRY.findall(",".join(headers))


def parse_prefer(headers: Sequence[str]) -> Preference:
    """All `Prefer` headers as one list, by the letter of RFC 7240, 2: the first of several
    instances counts, and what is unknown or has no meaning is ignored, never an error."""
    given: dict[str, str] = {}
    for entry in list_members(headers):
        if found := _PREFERENCE.match(entry):
            given.setdefault(found[1].lower(), (found[2] or "").strip('"'))
    wait = given.get("wait", "")
    return Preference("respond-async" in given, float(wait) if _SECONDS.fullmatch(wait) else None)
