"""`camserve predict`: what the model itself says."""

from __future__ import annotations

import argparse
import io
import sys
from typing import Any

import numpy as np
from rich.table import Table

from camserve.client import Client, Input
from camserve.commands.exit_codes import ExitCode
from camserve.commands.explain_arguments import INPUT_OPTIONS, add_cache_argument, add_texts
from camserve.commands.outputs import output_of
from camserve.commands.service import add_service_arguments, client_options, messages, reported
from camserve.commands.tables import print_json, print_table
from camserve.contracts.predictions import ClassPrediction, InputPrediction, Prediction

__all__ = ["add_arguments", "run"]

_SHOWN_VALUES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s INPUT [INPUT ...] --model NAME [OPTIONS]"
    parser.add_argument(
        "inputs", metavar="INPUT", nargs="+", help="a file, a URL, several, or - for stdin"
    )
    parser.add_argument("-m", "--model", metavar="NAME", required=True)
    parser.add_argument("--top", metavar="N", type=int, help="how many of the best classes")
    parser.add_argument(
        "-o", "--output", metavar="FILE.npy", help="write the model's raw output; - is stdout"
    )
    how = parser.add_argument_group("how")
    add_texts(how, INPUT_OPTIONS)
    add_cache_argument(how)
    add_service_arguments(parser, timeout_s="120")


def run(chosen: argparse.Namespace) -> int:
    return reported(chosen, lambda: _predict(chosen))


def _predict(chosen: argparse.Namespace) -> int:
    names = ["model", "top", "no_cache", *(row[0] for row in INPUT_OPTIONS.values())]
    arguments: dict[str, Any] = {name: getattr(chosen, name) for name in names}
    output = output_of(chosen.output, "npy") if chosen.output else None
    if output is not None and output.form != "npy":
        raise ValueError(f"{chosen.output}: the raw output of a model is a .npy file")
    inputs = [_input(name) for name in chosen.inputs]
    with Client(**client_options(chosen, timeout_s=120, reconnect_s=3)) as client:
        if output is not None:
            file = io.BytesIO()
            np.save(file, client.outputs(inputs, **arguments))
            path = output.write(file.getvalue())
            messages().print(f"wrote {path}")
            return ExitCode.OK
        prediction = client.predict(inputs, **arguments)
    if chosen.json:
        print_json(prediction)
    else:
        _show(prediction, chosen.inputs)
    return ExitCode.OK


def _input(name: str) -> Input:
    return io.BytesIO(sys.stdin.buffer.read()) if name == "-" else name


def _show(prediction: Prediction, names: list[str]) -> None:
    table = Table("input", "class", "label", "score", "probability", "share")
    for result in prediction.results:
        name = result.input_name or names[min(result.input, len(names) - 1)]
        for one in result.predictions:
            table.add_row(name, *_cells(one))
    if table.row_count:
        print_table(table)
    for result in prediction.results:
        if result.values is not None:
            print_table(f"{result.input_name or result.input}: {_values(result)}")
        for found in result.diagnostics:
            print_table(f"{result.input_name or result.input}: {found.code}: {found.advice}")


def _cells(one: ClassPrediction) -> list[str]:
    numbers = (one.score, one.probability, one.share)
    shown = ["" if number is None else f"{number:.4g}" for number in numbers]
    return [str(one.class_index), one.class_label or "", *shown]


def _values(result: InputPrediction) -> str:
    """The first of them: the rest is for --json and -o."""
    values: Any = result.values
    while isinstance(values, list) and values and isinstance(values[0], list):
        values = values[0]
    shown = ["not finite" if one is None else f"{one:.4g}" for one in values[:_SHOWN_VALUES]]
    first = ", ".join(shown)
    shape = "x".join(map(str, result.output_shape))
    return f"{first}{', …' if len(values) > _SHOWN_VALUES else ''} (shape {shape})"
