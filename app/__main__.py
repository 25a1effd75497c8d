"""`python -m app`: the HTTP front end, in as many processes as CAMSERVE_API_PROCESSES says."""

from __future__ import annotations

import asyncio
import sys

from app.supervisor import CONFIGURATION_ERROR, supervise
from camserve.settings import Settings


def main() -> int:
    try:
        settings = Settings.from_environment()
    except ValueError as error:
        print(f"camserve: {error}", file=sys.stderr)  # noqa: T201 - before logging is set up
        return CONFIGURATION_ERROR
    if settings.api_processes > 1:
        return asyncio.run(supervise(settings))
    from app.process import run  # noqa: PLC0415 - which a supervisor has no use for

    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
