"""`camserve layers MODEL`: which layers of a model can be explained, and why."""

from __future__ import annotations

import argparse

from rich.table import Table

from camserve.client import Client
from camserve.commands.exit_codes import ExitCode
from camserve.commands.service import add_service_arguments, client_options, reported
from camserve.commands.tables import layers_text, print_json, print_table

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "--all", action="store_true", help="also those that Grad-CAM cannot explain"
    )
    add_service_arguments(parser, timeout_s="30")


def run(chosen: argparse.Namespace) -> int:
    return reported(chosen, lambda: _show(chosen))


def _show(chosen: argparse.Namespace) -> int:
    with Client(**client_options(chosen, timeout_s=30, reconnect_s=2)) as client:
        found = client.layers(chosen.model)
    shown = [layer for layer in found.layers if chosen.all or layer.rank is not None]
    if chosen.json:
        print_json(found.model_copy(update={"layers": tuple(shown)}))
        return ExitCode.OK
    if not found.layers:
        print_table(f"{found.model} was not loaded yet: explain something with it first")
        return ExitCode.OK
    table = Table("rank", "layer", "shape", "format", "map", "why")
    for layer in shown:
        table.add_row(
            str(layer.rank or ""),
            layer.name,
            _sizes(layer.shape),
            layer.format,
            _sizes(layer.grid or ()),
            layer.reason,
        )
    print_table(table)
    print_table(f"explained by default: {layers_text(found.feature_layer)}, {found.feature_reason}")
    print_table(f"score by default: {found.reduction_layer}, {found.reduction_reason}")
    return ExitCode.OK


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
