"""What one explanation is to compute, with all names looked up."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from camserve.engine.budget import Budget
from camserve.engine.head import Watched
from camserve.engine.introspection import FeatureTap
from camserve.engine.methods.finer import Finer
from camserve.engine.scores import Reader
from camserve.errors import InvalidRequest
from camserve.vocabulary import METHODS, PRECISIONS, Method, Precision

__all__ = ["Plan", "check_choices"]


@dataclass(frozen=True)
class Plan:
    """What to compute, with all names looked up."""

    reduction: nn.Module | None
    path: str | None
    reader: Reader
    method: Method = "gradcam"
    taps: tuple[FeatureTap, ...] = ()
    precision: Precision = "float32"
    finer: Finer | None = None
    channels: int | None = None
    chunk: int = 8
    budget: Budget = field(default_factory=Budget)

    @property
    def passes(self) -> int:
        """Forward passes that one input with targets takes.

        Score-CAM and Ablation-CAM take one more for each channel, guided Grad-CAM one for the
        gradient in the input. That Ablation-CAM tries its head once is not counted.
        """
        if self.method == "guided-gradcam":
            return 2
        if self.method not in ("scorecam", "ablationcam"):
            return 1
        return 1 + sum(min(tap.channels, self.channels or tap.channels) for tap in self.taps)

    def watched(self, *, cut: bool = True) -> Watched:
        """cut: differentiate from the feature layers on; else they only end the backbone."""
        taps = [(tap.module, tap.index) for tap in self.taps]
        return Watched(taps, self.reduction, self.path, self.reader.layer, cut)


def check_choices(method: Method, precision: Precision, channels: int | None, chunk: int) -> None:
    """Raises InvalidRequest for a name or number that means nothing."""
    if method not in METHODS or precision not in PRECISIONS:
        raise InvalidRequest(
            f"method {method!r} in {precision!r}: there are {', '.join(METHODS)} in "
            f"{', '.join(PRECISIONS)}"
        )
    for name, value in (("channels", channels), ("chunk", chunk)):
        if value is not None and value < 1:
            raise InvalidRequest(f"{name}: at least 1, not {value}", field=name, minimum=1)
