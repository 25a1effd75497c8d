"""`python -m camserve serve`, or `camserve serve`: the command line."""

from __future__ import annotations

import argparse
import asyncio
import sys

from camserve.settings import Settings

__all__ = ["main"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="camserve", description="Grad-CAM over HTTP.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "serve", help="run the API, the workers and, unless CAMSERVE_REDIS_URL is set, a server"
    )
    parser.parse_args()
    try:
        settings = Settings.from_environment()
    except ValueError as error:
        parser.error(str(error))
    from camserve.launcher import serve  # noqa: PLC0415 - `camserve --help` need not wait for it

    try:
        return asyncio.run(serve(settings))
    except KeyboardInterrupt:  # before the parts were started
        return 130


if __name__ == "__main__":
    sys.exit(main())
