"""The words in which an explanation is asked for, once for the contracts and the engine."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, get_args

__all__ = [
    "BASELINES",
    "EXECUTION",
    "MAX_TARGETS",
    "METHODS",
    "MODEL_NAME",
    "PRECISIONS",
    "REDUCTIONS",
    "REDUCTIONS_OF_LOGITS",
    "VIRTUAL_LAYERS",
    "Baseline",
    "Method",
    "Metric",
    "Precision",
    "Takes",
]

MAX_TARGETS: Final = 1000
"""Of a message; a service allows fewer, by its setting of this name."""

VIRTUAL_LAYERS: Final = ("output", "softmax", "sigmoid")
"""Reduction layers that are no modules: the model's output, and what may be put behind it."""


class Takes(NamedTuple):
    """The parameters that a reduction must have, and those that it may have."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


REDUCTIONS: Final[Mapping[str, Takes]] = MappingProxyType(
    {
        "class_score": Takes(("class_index",)),
        "class_margin": Takes(("class_index",), ("against",)),
        "log_odds": Takes(("class_index",)),
        "segmentation": Takes(("class_index",), ("region",)),
        "output": Takes((), ("index",)),
        "sum": Takes(),
        "mean": Takes(),
        "max": Takes(),
        "norm": Takes(),
        "entropy": Takes(),
        "similarity": Takes(("reference",)),
    }
)

REDUCTIONS_OF_LOGITS: Final = ("log_odds", "entropy")
"""Those whose formula takes a softmax of its own: of probabilities they would be another number."""

Method = Literal[
    "gradcam",
    "gradcam++",
    "hirescam",
    "xgradcam",
    "layercam",
    "eigencam",
    "eigengradcam",
    "scorecam",
    "ablationcam",
    "guided-gradcam",
    "finercam",
]
METHODS: Final[tuple[Method, ...]] = get_args(Method)

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)

MODEL_NAME: Final = "[a-z0-9][a-z0-9._-]{0,63}"
"""A name that fits into a path, a key and a folder of any system: no brace, which would end a key's
hash tag, and no capitals, which some file systems do not tell apart."""

EXECUTION: Final = "auto|cpu|cuda(?::(?:0|[1-9][0-9]?))?"
"""Where a job may be executed: by any worker, on a CPU, on any GPU, or on one of them as its worker
calls it, `cuda:0` to `cuda:99`. One spelling each, and few: an execution becomes part of a key."""

Metric = Literal["deletion", "insertion", "randomisation"]

Baseline = Literal["blur", "mean", "zero"]
BASELINES: Final[tuple[Baseline, ...]] = get_args(Baseline)
