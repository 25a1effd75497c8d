"""`camserve keys add|list|remove`: who may use the service."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from camserve.api_keys import Scope, new_key
from camserve.commands.exit_codes import ExitCode
from camserve.key_file import read_keys, rewriting
from camserve.settings import Settings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The file is the one that CAMSERVE_API_KEYS_FILE names: see docs/trust.md."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="make a key; it is printed once, and kept as a hash")
    add.add_argument("name", metavar="NAME", help="who will use it, as logs will say")
    add.add_argument(
        "--scope",
        action="append",
        choices=[str(scope) for scope in Scope],
        help="what it may do; may be repeated; admin includes explain, which includes metrics "
        "(default: explain)",
    )
    add.add_argument(
        "--rate",
        type=int,
        metavar="N",
        help="calls a minute that make work, instead of the settings' limit",
    )
    actions.add_parser("list", help="the keys, without what is secret")
    remove = actions.add_parser("remove", help="revoke a key, at once and without a restart")
    remove.add_argument("name", metavar="NAME")


def run(arguments: argparse.Namespace) -> int:
    """The exit code: 2 for a file or an argument that is none, 1 for a name that is not as said."""
    actions: dict[str, Callable[[Path, argparse.Namespace], int]] = {
        "add": _add,
        "list": _list,
        "remove": _remove,
    }
    try:
        path = Settings.from_environment().api_keys_file
        if path is None:
            return _fail(
                ExitCode.USAGE, "CAMSERVE_API_KEYS_FILE is not set: say in which file the keys are"
            )
    except ValueError as error:
        return _fail(ExitCode.USAGE, str(error))
    try:
        return actions[arguments.action](path, arguments)
    except ValueError as error:
        return _fail(ExitCode.USAGE, f"{path}: {error}")
    except OSError as error:
        return _fail(ExitCode.USAGE, f"{path}: {error.strerror}")


def _add(path: Path, arguments: argparse.Namespace) -> int:
    try:
        secret, key = new_key(
            arguments.name, map(Scope, arguments.scope or [Scope.EXPLAIN]), arguments.rate
        )
    except ValueError as error:
        return _fail(ExitCode.USAGE, str(error))
    with rewriting(path) as keys:
        if key.name in keys:
            return _fail(
                ExitCode.FAILED,
                f"there is a key {key.name!r} already: remove it first, or take another name",
            )
        keys[key.name] = key
    # the key alone is standard output, for scripts
    sys.stderr.write(f"The key {key.name!r}. Keep it: it is not shown again, nor kept here.\n")
    sys.stdout.write(f"{secret}\n")
    return ExitCode.OK


def _list(path: Path, _: argparse.Namespace) -> int:
    rows = [("NAME", "SCOPES", "RATE", "CREATED")]
    for key in read_keys(path):
        rate = key.rate_limit_per_minute
        scopes = ",".join(sorted(key.scopes))
        rows.append((key.name, scopes, f"{rate}/min" if rate else "-", key.created.isoformat()))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    return ExitCode.OK


def _remove(path: Path, arguments: argparse.Namespace) -> int:
    with rewriting(path) as keys:
        if keys.pop(arguments.name, None) is None:
            known = ", ".join(keys) or "none"
            return _fail(ExitCode.FAILED, f"there is no key {arguments.name!r}; there are: {known}")
    sys.stderr.write(f"The key {arguments.name!r} opens nothing any more.\n")
    return ExitCode.OK


def _fail(code: int, why: str) -> int:
    sys.stderr.write(f"camserve keys: {why}\n")
    return code
