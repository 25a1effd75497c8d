"""docs/layers.md: which layers are chosen automatically, family by family, and why.

    python -m tests.engine.layer_table

writes it anew.
"""

from __future__ import annotations

import itertools
import warnings
from functools import cache
from pathlib import Path

import torch

from camserve.engine import Explainer
from tests.engine.families import FAMILIES, Family
from tests.engine.networks import randomised

__all__ = ["PAGE", "explainer_of", "page"]

PAGE = Path(__file__).parent.parent.parent / "docs" / "layers.md"
_HEAD = """\
# The layers that are chosen

Written by `python -m tests.engine.layer_table` from the networks of `tests/engine/families.py`, \
which are small and have random weights; a test compares. Names and sizes are those of these \
networks: in a network of full size the last stage has another number, and the map more cells.

How the choice is made, and how to make another, is told in [models.md](models.md#how-the-layers-\
are-chosen); `GET /v1/models/{name}/layers` shows it for a model of yours.

The reduction layer is always the model's output (its `logits` where it returns several things), \
because that is what a class index counts; `softmax` or `sigmoid` is put behind it on request.
"""


@cache
def explainer_of(family: Family) -> Explainer:
    """The network of a family, its layers chosen. No weights of a few hundredths, in which small
    networks of transformers start and their features vanish."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = randomised(family.build())
        return Explainer(network, torch.zeros(family.shape), input_format=family.format)


def page() -> str:
    parts = [_HEAD]
    for group, families in itertools.groupby(FAMILIES, key=lambda family: family.group):
        parts.append(f"\n## {group[0].upper()}{group[1:]}\n\n{_table(list(families))}")
    return "".join(parts)


def _table(families: list[Family]) -> str:
    lines = [
        "| family | input | feature layer | its output | reduction layer | why |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for family in families:
        report = explainer_of(family).report
        chosen = next(layer for layer in report.layers if layer.name == report.feature_layer)
        size = "x".join(map(str, family.shape))
        output = "x".join(map(str, chosen.shape))
        result = "x".join(map(str, report.output_shape))
        lines.append(
            f"| {family.name} | {family.format} {size} | `{chosen.name}` "
            f"| {chosen.format} {output} | `{report.reduction_layer}`, {report.output_format} of "
            f"{result} | {report.feature_reason} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
