"""What an explanation costs beside a plain forward pass: `python -m benchmarks.engine [--quick]`.

ResNet-50 of transformers with random weights (nothing is downloaded; time does not depend on the
weights). What is compared runs in turns, in one process, and the medians are put in proportion, so
that a busy machine slows both sides.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from camserve.engine import ClassIndex, Explainer
from workers.sources.libraries import hide_broken_torchvision

__all__ = ["Ratio", "main", "measure"]


@dataclass(frozen=True)
class Ratio:
    """Median time of one thing over that of another; `target`: what it should not exceed."""

    what: str
    value: float
    target: float | None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What an explanation costs.")
    parser.add_argument("--quick", action="store_true", help="few rounds, about 20 s on a laptop")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    ratios = measure(rounds=5 if options.quick else 25, device=options.device)
    print(f"ResNet-50, 224x224, {options.device}, {torch.get_num_threads()} CPU threads")
    print(f"{'':52}{'ratio':>7}  target")
    for ratio in ratios:
        target = "" if ratio.target is None else f"<= {ratio.target:.2f}"
        print(f"{ratio.what:52}{ratio.value:7.3f}  {target}")


def measure(*, rounds: int, device: str) -> list[Ratio]:
    """All ratios, each from `rounds` interleaved runs."""
    hide_broken_torchvision()  # transformers would stumble over it
    from transformers import ResNetConfig, ResNetForImageClassification  # noqa: PLC0415

    torch.manual_seed(0)
    model = ResNetForImageClassification(ResNetConfig(num_labels=1000)).to(device)
    explainer = Explainer(model, torch.zeros(1, 3, 224, 224))
    ratios = []
    for batch in (1, 8):
        inputs = torch.randn(batch, 3, 224, 224, device=device)
        times = _interleaved(
            {
                "forward": partial(_forward, model, inputs),
                "1 class": partial(_explain, explainer, inputs, 1),
                "10 classes": partial(_explain, explainer, inputs, 10),
                "100 classes": partial(_explain, explainer, inputs, 100),
                "full backward": partial(_full_backward, model, inputs),
            },
            rounds=rounds if batch == 1 else max(3, rounds // 3),
        )
        for above, below, target in (
            ("1 class", "forward", 1.10),
            ("10 classes", "1 class", 1.06),
            ("100 classes", "1 class", None),
            ("full backward", "forward", None),
        ):
            what = f"batch {batch}: {_TITLES[above]} / {_TITLES[below]}"
            ratios.append(Ratio(what, times[above] / times[below], target))
    return ratios


_TITLES = {
    "forward": "plain forward",
    "1 class": "Grad-CAM",
    "10 classes": "Grad-CAM of 10 classes",
    "100 classes": "Grad-CAM of 100 classes",
    "full backward": "full-graph forward + backward",
}


def _interleaved(runs: dict[str, Callable[[], None]], *, rounds: int) -> dict[str, float]:
    """Median seconds of each, taken in turns after one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(rounds + 1):
        for name, run in runs.items():
            start_s = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_number:
                times[name].append(time.perf_counter() - start_s)
    return {name: statistics.median(values) for name, values in times.items()}


def _forward(model: nn.Module, inputs: Tensor) -> None:
    with torch.inference_mode():
        model(inputs)


def _explain(explainer: Explainer, inputs: Tensor, classes: int) -> None:
    targets = [[ClassIndex(index) for index in range(classes)]] * len(inputs)
    explainer.explain(inputs, targets)


def _full_backward(model: nn.Module, inputs: Tensor) -> None:
    """What recording the whole network costs: the input requires grad."""
    leaf = inputs.clone().requires_grad_()
    score = model(leaf).logits[:, 0].sum()
    torch.autograd.grad(score, leaf)


if __name__ == "__main__":
    main()
