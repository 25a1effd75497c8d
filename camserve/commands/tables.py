"""Standard output: tables for people, JSON for scripts."""

from __future__ import annotations

import sys

from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.table import Table

from camserve.contracts.layers import Layers, layer_names

__all__ = ["layers_text", "print_json", "print_table"]

_WIDE = 1000  # columns: what goes into a file or a pipe is not folded


def print_table(shown: Table | str) -> None:
    """Print a table or a line; names of others are no markup."""
    console = Console(markup=False, highlight=False, emoji=False, soft_wrap=isinstance(shown, str))
    if isinstance(shown, Table):
        shown.box = box.SIMPLE_HEAD if console.is_terminal else None
        if not console.is_terminal:
            console.width = _WIDE
            shown.pad_edge = False
    console.print(shown)


def print_json(message: BaseModel) -> None:
    """As one line of JSON."""
    sys.stdout.write(message.model_dump_json() + "\n")


def layers_text(layers: Layers | None) -> str:
    return " + ".join(layer_names(layers))
