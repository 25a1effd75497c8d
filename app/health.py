"""`python -m app.health livez`: a container's health check, which has no curl."""

from __future__ import annotations

import sys
from http.client import HTTPConnection

from camserve.settings import Settings

TIMEOUT_S = 3.0


def main() -> int:
    """0 if the API on this machine answers the named path with 200."""
    path = sys.argv[1] if len(sys.argv) > 1 else "livez"
    port = Settings.from_environment().port
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", f"/{path}")
        return 0 if connection.getresponse().status == 200 else 1
    except OSError:
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
