"""How a network is run: split at its feature layer, and each part as fast as it can be had.

explainer.split()  # backbone and head apart, from now on
optimize(explainer, "float32", batch=8)  # the fastest backbone whose maps are true
explainer.explain(image, targets, recall=Recall(cache, "resnet50", [digest]))  # head only, if known
"""

from camserve.engine.execution.activations import ActivationCache, Recall
from camserve.engine.execution.compiling import Compiler
from camserve.engine.execution.optimization import Optimized, Trial, optimize
from camserve.engine.execution.tracing import NotSplittable

__all__ = [
    "ActivationCache",
    "Compiler",
    "NotSplittable",
    "Optimized",
    "Recall",
    "Trial",
    "optimize",
]
