"""What all commands that ask a service have in common: where it is, and how its errors are said."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

from camserve.client import (
    ClientError,
    ExplanationFailed,
    ProblemError,
    Refused,
    TimedOut,
    Unreachable,
    Wait,
)
from camserve.client.endpoint import DEFAULT_URL
from camserve.commands.exit_codes import ExitCode
from camserve.environment import API_KEY, URL

__all__ = [
    "add_service_arguments",
    "client_options",
    "document_of",
    "exit_code_of",
    "messages",
    "reported",
    "sentence",
]

_CODES = {Unreachable: "unreachable", TimedOut: "timed_out"}


def add_service_arguments(parser: argparse.ArgumentParser, *, timeout_s: str) -> None:
    """timeout_s: the default, for people."""
    group = parser.add_argument_group("the service")
    group.add_argument(
        "--url", metavar="URL", help=f"where it is (default: ${URL}, else {DEFAULT_URL})"
    )
    group.add_argument("--api-key", metavar="KEY", help=f"default: ${API_KEY}")
    group.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        help=f"for an answer in all, with its retries (default: {timeout_s})",
    )
    group.add_argument("--json", action="store_true", help="for scripts; errors on stderr, too")
    group.add_argument("-v", "--verbose", action="store_true", help="say what is waited for")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def client_options(
    chosen: argparse.Namespace, *, timeout_s: float, reconnect_s: float
) -> dict[str, Any]:
    """Arguments of a client, as the command line says."""

    def say(wait: Wait) -> None:
        if chosen.verbose:
            messages().print(f"waiting {wait.seconds:.1f} s: {wait.reason}", style="dim")

    return {
        "base_url": chosen.url,
        "api_key": chosen.api_key,
        "timeout_s": chosen.timeout or timeout_s,
        "reconnect_s": reconnect_s,
        "on_wait": say,
    }


def messages() -> Console:
    """Of what is said to people beside the output. Text of others is no markup."""
    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True, emoji=False)


def reported(chosen: argparse.Namespace, work: Callable[[], int]) -> int:
    """The exit code of `work`, or of the error that it raises, which is said."""
    try:
        return work()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # whoever read the output has enough of it
        sys.stderr.close()
        return ExitCode.OK
    except (ClientError, OSError, ValueError, TypeError) as error:
        if chosen.json:
            sys.stderr.write(json.dumps(document_of(error)) + "\n")
        else:
            page = f" ({error.href})" if isinstance(error, ProblemError) and error.href else ""
            messages().print(f"camserve {chosen.command}: {sentence(error)}{page}")
        return exit_code_of(error)


def exit_code_of(error: Exception) -> ExitCode:
    """What an error means to a script."""
    match error:
        case ExplanationFailed():
            return ExitCode.FAILED
        case Refused():
            return ExitCode.REFUSED
        case ClientError():
            return ExitCode.UNAVAILABLE
        case _:
            return ExitCode.USAGE


def sentence(error: Exception) -> str:
    """What an error says, to people."""
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ClientError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def document_of(error: Exception) -> dict[str, Any]:
    """The problem document of an error: the service's own, or one like it."""
    if isinstance(error, ProblemError):
        return error.problem
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), None)
    if code is None:
        code = "unexpected_answer" if isinstance(error, ClientError) else "usage"
    document = {"code": code, "detail": sentence(error)}
    if isinstance(error, TimedOut) and error.explanation_id:
        document["explanation"] = f"/v1/explanations/{error.explanation_id}"
    return document
