"""`python -m app.child --sockets 5,6`: one of several processes that answer at one address."""

from __future__ import annotations

import argparse
import socket
import sys

from app.process import run
from camserve.settings import Settings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", required=True, help="descriptors of those that listen")
    numbers = parser.parse_args().sockets.split(",")
    # the supervisor has read the same settings
    return run(Settings.from_environment(), [socket.socket(fileno=int(one)) for one in numbers])


if __name__ == "__main__":
    sys.exit(main())
