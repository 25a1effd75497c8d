"""`camserve models`: which models there are."""

from __future__ import annotations

import argparse

from rich.table import Table

from camserve.client import Client
from camserve.commands.exit_codes import ExitCode
from camserve.commands.service import add_service_arguments, client_options, reported
from camserve.commands.tables import layers_text, print_json, print_table
from camserve.contracts.explanations import ModelList
from camserve.contracts.input_specs import InputSpec, PictureSpec

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_service_arguments(parser, timeout_s="30")


def run(chosen: argparse.Namespace) -> int:
    return reported(chosen, lambda: _show(chosen))


def _show(chosen: argparse.Namespace) -> int:
    with Client(**client_options(chosen, timeout_s=30, reconnect_s=2)) as client:
        models = client.models()
    if chosen.json:
        print_json(ModelList(models=models))
        return ExitCode.OK
    table = Table("model", "state", "task", "classes", "input", "layer", "queue")
    for model in models:
        table.add_row(
            model.name,
            model.state,
            model.task,
            str(model.classes or ""),
            _input_text(model.input),
            layers_text(model.feature_layer),
            str(model.queue_depth),
        )
    print_table(table)
    for model in models:
        if model.problem:
            detail = model.problem.detail.removeprefix(f"model {model.name!r}: ")
            print_table(f"{model.name}: {detail}")
    return ExitCode.OK


def _input_text(spec: InputSpec | None) -> str:
    if spec is None:
        return ""
    if isinstance(spec, PictureSpec):
        return f"{spec.colors} {spec.width}x{spec.height}"
    return f"{spec.format} {'x'.join(str(size or '?') for size in spec.shape)}"
