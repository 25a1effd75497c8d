"""`camserve COMMAND`, or `python -m camserve COMMAND`: the command line."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from camserve import __version__

__all__ = ["COMMANDS", "main"]


class Command(NamedTuple):
    """`module` offers `add_arguments(parser)` and `run(arguments) -> exit code`."""

    help: str
    module: str
    extra: str | None = None
    """What must be installed besides camserve itself."""


COMMANDS: Final = {
    "serve": Command(
        "run the API, the workers and, unless CAMSERVE_REDIS_URL is set, a server",
        "camserve.commands.serve",
    ),
    "explain": Command(
        "explain a picture or an array, or all of a folder", "camserve.commands.explain", "client"
    ),
    "predict": Command(
        "ask a model what it sees, without a map", "camserve.commands.predict", "client"
    ),
    "models": Command("list the models", "camserve.commands.models", "client"),
    "layers": Command("list the layers of a model", "camserve.commands.layers", "client"),
    "dead-letters": Command(
        "list, replay and purge the jobs that were given up",
        "camserve.commands.dead_letters",
        "client",
    ),
    "keys": Command("make, list and revoke API keys", "camserve.commands.keys"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code. `camserve --help` imports none of them."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="camserve", description="Grad-CAM over HTTP.")
    parser.add_argument("--version", action="version", version=__version__)
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        of_command = parsers.add_parser(name, help=command.help, description=command.help)
        if given[:1] == [name]:
            try:
                module = importlib.import_module(command.module)
            except ModuleNotFoundError as error:
                if command.extra is None:
                    raise
                parser.error(f"{name} needs {error.name}: pip install 'camserve[{command.extra}]'")
            module.add_arguments(of_command)
            of_command.set_defaults(run=module.run)
    chosen = parser.parse_args(given)
    chosen.given = given
    return int(chosen.run(chosen))


if __name__ == "__main__":
    sys.exit(main())
