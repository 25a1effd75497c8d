"""`camserve dead-letters list|replay|purge`: the jobs that were given up."""

from __future__ import annotations

import argparse

from rich.table import Table

from camserve.client import Client
from camserve.commands.exit_codes import ExitCode
from camserve.commands.service import add_service_arguments, client_options, reported
from camserve.commands.tables import print_json, print_table
from camserve.contracts.dead_letters import DeadLetter, DeadLetterList, Purged

__all__ = ["add_arguments", "run"]

_DIGEST = 12  # characters that are shown: enough to see which are equal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Where there are API keys, one with the scope admin is needed."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="those that are kept, newest first")
    replay = actions.add_parser("replay", help="have them done again, as new jobs")
    replay.add_argument("ids", metavar="ID", nargs="+")
    purge = actions.add_parser("purge", help="forget them, with the inputs that are kept")
    which = purge.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", metavar="ID", nargs="*", default=[])
    which.add_argument("--all", action="store_true", help="all of them")
    for place in (listed, which):
        place.add_argument("-m", "--model", metavar="NAME", help="those of this model")
    for action in (listed, replay, purge):
        add_service_arguments(action, timeout_s="30")


def run(chosen: argparse.Namespace) -> int:
    actions = {"list": _list, "replay": _replay, "purge": _purge}
    return reported(chosen, lambda: actions[chosen.action](chosen))


def _client(chosen: argparse.Namespace) -> Client:
    return Client(**client_options(chosen, timeout_s=30, reconnect_s=2))


def _list(chosen: argparse.Namespace) -> int:
    with _client(chosen) as client:
        letters = tuple(client.dead_letters(model=chosen.model))
    if chosen.json:
        print_json(DeadLetterList(dead_letters=letters, next_cursor=None))
        return ExitCode.OK
    table = Table("id", "kind", "given up", "input", "attempts", "replay")
    for letter in letters:
        table.add_row(
            letter.id,
            letter.kind,
            f"{letter.died_at:%Y-%m-%d %H:%M:%S}",
            (letter.input_digest or "")[:_DIGEST],
            str(len(letter.attempts)),
            _replay_text(letter),
        )
    print_table(table if letters else "no dead letters")
    return ExitCode.OK


def _replay(chosen: argparse.Namespace) -> int:
    with _client(chosen) as client:
        for job_id in chosen.ids:
            letter = client.replay(job_id)
            if chosen.json:
                print_json(letter)
            elif letter.replay is not None:
                print_table(f"{job_id} is done again: {letter.replay.explanation or letter.href}")
    return ExitCode.OK


def _purge(chosen: argparse.Namespace) -> int:
    with _client(chosen) as client:
        if chosen.ids:
            purged = sum(client.purge(job_id) for job_id in chosen.ids)
        else:
            purged = client.purge(model=chosen.model)
    if chosen.json:
        print_json(Purged(purged=purged))
    else:
        print_table(f"{purged} forgotten")
    return ExitCode.OK


def _replay_text(letter: DeadLetter) -> str:
    if letter.replay is not None:
        return str(letter.replay.state or "not kept any more")
    if letter.replayable_until is None:
        return "not possible any more"
    return f"until {letter.replayable_until:%H:%M:%S}"
