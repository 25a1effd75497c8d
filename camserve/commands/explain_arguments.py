"""What is asked of an explanation, on the command line; the service checks the values."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any, Final, TypeAlias, get_args

from camserve.contracts.options import Colormap, Convention, Dtype, Fusion, Upsampling, View
from camserve.vocabulary import METHODS, PRECISIONS, REDUCTIONS

__all__ = [
    "INPUT_OPTIONS",
    "add_cache_argument",
    "add_explain_arguments",
    "add_texts",
    "explain_arguments",
]

Texts: TypeAlias = Mapping[str, tuple[str, str, str]]

# option: (name of the argument, metavar, help)
INPUT_OPTIONS: Final[Texts] = {
    "--format": ("format", "LABELS", "dimensions of an array: SSC"),
    "--precision": ("precision", "NAME", ", ".join(PRECISIONS)),
    "--execution": ("execution", "DEVICE", "auto, cpu, cuda, cuda:1"),
    "--priority": ("priority", "NAME", "interactive, bulk"),
}
_TEXTS: Final[Texts] = {
    "--reduction": ("reduction", "NAME", f"a scalar by its name: {', '.join(REDUCTIONS)}"),
    "--method": ("method", "NAME", ", ".join(METHODS)),
    "--feature-format": ("feature_format", "LABELS", "dimensions of the layer's output: BSSC"),
    "--reduction-layer": ("reduction_layer", "NAME", "whose output is the score: softmax"),
    "--convention": ("convention", "NAME", ", ".join(get_args(Convention))),
    "--upsampling": ("upsampling", "NAME", ", ".join(get_args(Upsampling))),
    "--fusion": ("fusion", "NAME", f"of several layers: {', '.join(get_args(Fusion))}"),
}
_LOOKS: Final[Texts] = {
    "--view": ("view", "NAME", ", ".join(get_args(View))),
    "--colormap": ("colormap", "NAME", ", ".join(get_args(Colormap))),
    "--dtype": ("dtype", "NAME", f"of maps: {', '.join(get_args(Dtype))}"),
    "--size": ("size", "SIZE", "original, input, feature, 640 or 640x480"),
    "--scale": ("scale", "NAME", "each, shared"),
}
_NUMBERS: Final = {
    "--alpha": ("alpha", "0..1", "opacity of strong evidence"),
    "--threshold": ("threshold", "0..1", "weaker evidence gets no colour"),
}
_OBJECTS: Final = {
    "--params": ("params", "of the reduction"),
    "--method-options": ("method_options", "of the method"),
    "--evaluate": ("evaluate", "put the map to the test"),
}
_REPEATED: Final = {
    "--label": ("class_label", "LABEL", "a class by its label"),
    "--expression": ("expression", "TEXT", "a scalar of your own: 'x[3] - x[5]'"),
    "--layer": ("feature_layer", "NAME", "the feature layer; of several the maps are fused"),
}


def add_explain_arguments(parser: argparse.ArgumentParser) -> None:
    """The fields of the API, most by their own names; see docs/explaining.md."""
    parser.add_argument("-m", "--model", metavar="NAME", required=True)
    group = parser.add_argument_group("what to explain, and how (see docs/explaining.md)")
    group.add_argument(
        "--class",
        dest="class_index",
        metavar="N",
        type=_indices,
        action="extend",
        help="a class, counted from 0; several by commas, or repeated",
    )
    group.add_argument("--top", metavar="N", type=int, help="the best classes of each input")
    for option, (name, metavar, text) in _REPEATED.items():
        group.add_argument(option, dest=name, metavar=metavar, action="append", help=text)
    add_texts(group, _TEXTS)
    add_texts(group, INPUT_OPTIONS)
    for option, (name, text) in _OBJECTS.items():
        group.add_argument(option, dest=name, metavar="JSON", type=_json_object, help=text)
    group.add_argument("--mask", metavar="FILE", help="a picture, the region of the reduction")
    group.add_argument(
        "--deadline-ms", type=int, metavar="MS", help="after which the answer is of no use"
    )
    add_cache_argument(group)
    look = parser.add_argument_group("how it looks")
    add_texts(look, _LOOKS)
    for option, (name, metavar, text) in _NUMBERS.items():
        look.add_argument(option, dest=name, metavar=metavar, type=float, help=text)
    look.add_argument("--color-bar", action="store_true", default=None)


def add_cache_argument(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--no-cache",
        action="store_true",
        default=None,
        help="compute it afresh, though the service knows the result",
    )


def add_texts(group: argparse._ArgumentGroup, options: Texts) -> None:
    """Options that take a text, whose meaning the service knows."""
    for option, (name, metavar, text) in options.items():
        group.add_argument(option, dest=name, metavar=metavar, help=text)


def explain_arguments(chosen: argparse.Namespace) -> dict[str, Any]:
    """Those that were given, as the client takes them."""
    tables = (_TEXTS, INPUT_OPTIONS, _LOOKS, _NUMBERS, _OBJECTS, _REPEATED)
    names = [row[0] for table in tables for row in table.values()]
    names += ["model", "class_index", "top", "deadline_ms", "color_bar", "no_cache"]
    given = {name: getattr(chosen, name) for name in names}
    layers = given["feature_layer"]
    if layers is not None and len(layers) == 1:
        given["feature_layer"] = layers[0]
    return {name: value for name, value in given.items() if value is not None}


def _indices(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no class index: give a number") from None


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")
    return value
