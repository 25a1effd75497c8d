"""Model folders for tests."""

from __future__ import annotations

import json
from pathlib import Path

from camserve.settings import Settings
from workers.repository import Entry, scan

__all__ = ["FACTORIES", "TINY", "entry_of", "factory_card", "settings", "write_model"]

FACTORIES = tuple(
    f"tests.workers.factories:{name}"
    for name in (
        *("tiny", "dense", "mixing", "steps", "misbehaving", "gated"),
        *("cramped", "hungry", "recording", "pausing"),
        *("no_module", "raising", "missing", "deadly"),
    )
)
INPUT = '[input]\nheight = 8\nwidth = 8\ncolors = "L"\n'


def factory_card(name: str = "tiny", head: str = "", **arguments: object) -> str:
    """A card for a callable of `tests.workers.factories`; `head`: more lines of the card."""
    given = "".join(f"{key} = {json.dumps(value)}\n" for key, value in arguments.items())
    return f'source = "factory:tests.workers.factories:{name}"\n{head}\n[arguments]\n{given}{INPUT}'


TINY = factory_card()


def write_model(models: Path, name: str, card: str) -> Path:
    """The new folder, with this card."""
    folder = models / name
    folder.mkdir(parents=True)
    (folder / "card.toml").write_text(card)
    return folder


def entry_of(folder: Path) -> Entry:
    """The entry of one model folder; raises InvalidCard."""
    repository = scan(folder.parent)
    if folder.name in repository.invalid:
        raise repository.invalid[folder.name]
    return repository.entries[folder.name]


def settings(**changes: object) -> Settings:
    return Settings(**{"factories": FACTORIES, "threads": 1} | changes)  # type: ignore[arg-type]
