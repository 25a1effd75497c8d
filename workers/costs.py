"""What a job takes, before it is begun: forward passes of single inputs."""

from __future__ import annotations

from camserve.contracts.jobs import Job, ScalarTarget
from camserve.contracts.methods import Evaluate
from camserve.engine import Explainer

__all__ = ["passes_of"]


def passes_of(job: Job, explainer: Explainer) -> int:
    """Raises LayerNotFound, InvalidRequest or NotExplainable for layers that will not do."""
    explanation = explainer.passes(
        job.method,
        feature_layer=job.feature_layers or None,
        feature_format=job.feature_format,
        channels=job.method_options.channels,
    )
    maps = sum(target.count for target in job.targets)
    of_an_input = explanation + _evaluation(job.evaluate, maps, explanation)
    references = sum(
        isinstance(target, ScalarTarget) and isinstance(target.reference, int)
        for target in job.targets
    )
    return references + len(job.inputs) * of_an_input


def _evaluation(asked: Evaluate | None, maps: int, explanation: int) -> int:
    """A curve for each map; the network with shuffled weights is explained once."""
    if asked is None:
        return 0
    curves = sum(metric != "randomisation" for metric in asked.metrics)
    again = explanation if "randomisation" in asked.metrics else 0
    return maps * curves * (asked.steps + 1) + again
