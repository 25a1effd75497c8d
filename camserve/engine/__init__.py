"""Grad-CAM on torch modules; needs torch alone.

explainer = Explainer(model, torch.zeros(1, 3, 224, 224))
[[attribution]] = explainer.explain(image, [[ClassIndex(207)]])
attribution.map  # (7, 7), signed
"""

from camserve.engine.attributions import Attribution
from camserve.engine.cam import grad_cam
from camserve.engine.diagnostics import Diagnostic
from camserve.engine.explainer import Explainer
from camserve.engine.reductions import REDUCTIONS
from camserve.engine.reports import LayerReport, ModelReport
from camserve.engine.targets import ClassIndex, Reduction, Target, Top

__all__ = [
    "REDUCTIONS",
    "Attribution",
    "ClassIndex",
    "Diagnostic",
    "Explainer",
    "LayerReport",
    "ModelReport",
    "Reduction",
    "Target",
    "Top",
    "grad_cam",
]
