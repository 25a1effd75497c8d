"""`camserve explain`: one input, or all of a folder."""

from __future__ import annotations

import argparse
import asyncio

from camserve.commands.batch import run_batch
from camserve.commands.explain_arguments import add_explain_arguments, explain_arguments
from camserve.commands.files import PICTURE_FORMS, find_sources
from camserve.commands.outputs import STDOUT, Output, output_of
from camserve.commands.service import add_service_arguments, reported
from camserve.commands.single import explain_one

__all__ = ["add_arguments", "run"]

_EPILOG = """\
examples:
  camserve explain cat.jpg --model resnet50 --label tabby -o overlay.png -o map.npy
  camserve explain cat.jpg --model resnet50 --top 3 --json
  camserve explain pictures/ --model resnet50 --out results/ --concurrency 16

exit codes: 0 done, 1 an explanation failed, 2 usage or a local file, 3 the service cannot be
reached or cannot do it now, 4 the service refused the request, 130 interrupted
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = "%(prog)s INPUT [INPUT ...] --model NAME [OPTIONS]"  # a mistake shows it, too
    parser.epilog = _EPILOG
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="a file, a URL, a folder, several, or -",
    )
    add_explain_arguments(parser)
    one = parser.add_argument_group("of one input")
    one.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        action="append",
        default=[],
        help="write .png, .jpg, .webp (the overlay), .npy (the map), .json or .zip; may be "
        "repeated; - is standard output",
    )
    one.add_argument(
        "--as", dest="form", choices=("png", "jpeg", "webp", "npy", "json", "zip"), default="png",
        help="what -o - writes (default: png)",
    )  # fmt: skip
    many = parser.add_argument_group("of a folder, or of several files")
    many.add_argument(
        "--out", metavar="FOLDER", help="where the results go; a second run goes on with the rest"
    )
    many.add_argument(
        "--concurrency", metavar="N", type=_count, default=8, help="at once (default: 8)"
    )
    many.add_argument(
        "--pattern",
        metavar="GLOB",
        action="append",
        default=[],
        help="only files whose path in the folder matches, as in '*.png'; may be repeated "
        "(default: all pictures and .npy)",
    )
    many.add_argument("--map", action="store_true", help="write the maps as .npy, too")
    many.add_argument(
        "--picture", choices=PICTURE_FORMS, default="png", help="kind of overlay (default: png)"
    )
    many.add_argument("--fail-fast", action="store_true", help="stop at the first failure")
    add_service_arguments(parser, timeout_s="120, of a folder 600 for each file")


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1024")
    return int(text)


def run(chosen: argparse.Namespace) -> int:
    return reported(chosen, lambda: _explain(chosen))


def _explain(chosen: argparse.Namespace) -> int:
    arguments = explain_arguments(chosen)
    if chosen.out is None:
        return explain_one(chosen, arguments, _outputs(chosen))
    if chosen.output:
        raise ValueError("-o is for one input, and --out for many: give one of them")
    return asyncio.run(run_batch(chosen, arguments, find_sources(chosen)))


def _outputs(chosen: argparse.Namespace) -> list[Output]:
    outputs = [output_of(text, chosen.form) for text in chosen.output]
    if sum(output.path is STDOUT for output in outputs) + chosen.json > 1:
        raise ValueError("only one of -o - and --json can have standard output")
    return outputs
