"""`camserve serve`: all of the service on one machine."""

from __future__ import annotations

import argparse
import asyncio
import sys

from camserve.commands.exit_codes import ExitCode
from camserve.launcher import serve
from camserve.settings import Settings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Its settings are environment variables: see docs/settings.md."


def run(_: argparse.Namespace) -> int:
    try:
        settings = Settings.from_environment()
    except ValueError as error:
        sys.stderr.write(f"camserve serve: {error}\n")
        return ExitCode.USAGE
    try:
        return asyncio.run(serve(settings))
    except KeyboardInterrupt:  # before the parts were started
        return ExitCode.INTERRUPTED
