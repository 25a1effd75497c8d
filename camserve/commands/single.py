"""One input: a summary for people, JSON for scripts, or files."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any, cast

from rich.table import Table

from camserve.client import Client, Explanation, Input, Result
from camserve.client.calls import Form
from camserve.commands.exit_codes import ExitCode
from camserve.commands.outputs import STDOUT, Output
from camserve.commands.service import client_options, messages
from camserve.commands.tables import layers_text, print_json, print_table

__all__ = ["explain_one"]

_RECONNECT_S = 3.0


def explain_one(
    chosen: argparse.Namespace, arguments: dict[str, Any], outputs: list[Output]
) -> int:
    """Explain, and write what was asked for. Raises ClientError, OSError, ValueError."""
    given = _input(chosen.inputs)
    with Client(**client_options(chosen, timeout_s=120, reconnect_s=_RECONNECT_S)) as client:
        with messages().status(f"explaining {chosen.inputs[0]} …"):
            explanation = client.explain(given, mask=chosen.mask, **arguments)
        for output in outputs:
            for path in _write(explanation, output):
                if path != STDOUT and not chosen.json:
                    messages().print(f"wrote {path}")
    if chosen.json:
        print_json(explanation.document)
    elif not outputs:
        _summarise(explanation, client.base_url)
    return ExitCode.OK


def _input(names: list[str]) -> Input:
    if len(names) > 1:
        raise ValueError("several inputs need --out FOLDER, where their results go")
    if names[0] == "-":
        return io.BytesIO(sys.stdin.buffer.read())
    if Path(names[0]).is_dir():
        raise ValueError(f"{names[0]} is a folder: say by --out FOLDER where its results go")
    return names[0]


def _write(explanation: Explanation, output: Output) -> list[Any]:
    match output.form:
        case "json":
            return [output.write(explanation.document.model_dump_json().encode() + b"\n")]
        case "zip":
            return [output.write(explanation.archive())]
        case form:
            return _write_each(explanation.results, output, form)


def _write_each(results: tuple[Result, ...], output: Output, form: str) -> list[Any]:
    """One file for each result: of several, their numbers go behind the name."""
    if output.path is STDOUT and len(results) > 1:
        raise ValueError(f"there are {len(results)} results: name a file, or take --as zip or json")
    paths = []
    for number, result in enumerate(results):
        data = result.npy() if form == "npy" else result.overlay(cast("Form", form))
        paths.append(output.write(data, f"-{number}" if len(results) > 1 else ""))
    return paths


def _summarise(explanation: Explanation, base_url: str) -> None:
    table = Table("class", "label", "score", "layer")
    for result in explanation.results:
        target = result.target
        table.add_row(
            "" if target.class_index is None else str(target.class_index),
            target.class_label or target.expression or target.reduction or "",
            "not finite" if result.score is None else f"{result.score:.4g}",
            layers_text(result.feature_layer),
        )
    print_table(table)
    for number, result in enumerate(explanation.results):
        # lines, since a table would cut or fold what does not fit a terminal
        print_table(f"result {number}: overlay {base_url.rstrip('/')}{result.summary.overlay.href}")
        for tested in result.evaluation:
            value = "not finite" if tested.value is None else f"{tested.value:.4f}"
            print_table(f"result {number}: {tested.metric} {value}: {tested.meaning}")
        for found in result.diagnostics:
            print_table(f"result {number}: {found.code}: {found.advice}")
    took = explanation.timings_ms.total
    what = f"{explanation.results[0].method} of {explanation.model}"
    print_table(f"{what}{f', {took:.0f} ms' if took is not None else ''}: {explanation.id}")
