"""Grad-CAM on torch modules; needs torch alone.

explainer = Explainer(model, torch.zeros(1, 3, 224, 224))
[[attribution]] = explainer.explain(image, [[ClassIndex(207)]])
attribution.map  # (7, 7), signed
"""

from camserve.engine.attributions import Attribution
from camserve.engine.budget import Budget
from camserve.engine.diagnostics import Diagnostic
from camserve.engine.exhaustion import is_out_of_memory
from camserve.engine.explainer import Explainer
from camserve.engine.methods.finer import Finer
from camserve.engine.predictions import Prediction
from camserve.engine.reports import LayerReport, ModelReport
from camserve.engine.targets import ClassIndex, Reduction, Region, Target, Top

__all__ = [
    "Attribution",
    "Budget",
    "ClassIndex",
    "Diagnostic",
    "Explainer",
    "Finer",
    "LayerReport",
    "ModelReport",
    "Prediction",
    "Reduction",
    "Region",
    "Target",
    "Top",
    "is_out_of_memory",
]
