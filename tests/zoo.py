"""The model zoo with reference maps, where there is one beside the repository."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

__all__ = ["ZOO", "add_zoo_models", "arrays", "cases", "needs_zoo"]

ZOO = Path(
    os.environ.get("CAMSERVE_TEST_ZOO", Path(__file__).parent.parent.parent / "shared" / "zoo")
)

needs_zoo = pytest.mark.skipif(
    not (ZOO / "index.json").is_file(), reason=f"the zoo of reference maps is not at {ZOO}"
)

# task, and what of the input its file does not tell
_MODELS = {
    "cifar10-resnet20": ("classification", ""),
    "cifar10-resnet56": ("classification", ""),
    "shapes-multilabel": ("multi-label", ""),
    "shapes-unet": ("segmentation", ""),
    "digits-angle": ("regression", ""),
    "volumes-cnn3d": ("classification", ""),
    "vowels-tcn": ("classification", 'format = "BCT"\nshape = [12, 0]\n'),
}
_REDUCTIONS = {"digits-angle": 'reductions = {tilt = "x[0]", upright = "-abs(x[0])"}\n'}


@cache
def cases() -> list[dict[str, Any]]:
    """All cases of the index; none without a zoo."""
    index = ZOO / "index.json"
    return json.loads(index.read_text())["cases"] if index.is_file() else []


def arrays(case: dict[str, Any], *names: str) -> list[np.ndarray]:
    """The named arrays of a case, float64, with batch and target axes flattened into the first."""
    with np.load(ZOO / case["file"]) as stored:
        lead = stored["presum"].ndim - len(case["feature_format"].replace("BC", ""))
        return [stored[n].astype(float).reshape(-1, *stored[n].shape[lead:]) for n in names]


def add_zoo_models(repository: Path) -> None:
    """Folders with cards of ours for the zoo's models; none without a zoo.

    `<name>` loads the torch.export program, and `<name>-onnx` the ONNX file of the same network.
    """
    for name, (task, spec) in _MODELS.items():
        source = ZOO / "models" / name
        if not source.is_dir():
            continue
        known = json.loads((source / "card.json").read_text())
        normalisation = known["input"].get("normalisation") or {}
        for folder, file in ((name, "model.pt2"), (f"{name}-onnx", "model.onnx")):
            kind = "export" if file.endswith(".pt2") else "onnx"
            (repository / folder).mkdir()
            (repository / folder / file).symlink_to(source / file)
            (repository / folder / "card.toml").write_text(
                f'source = "{kind}:{file}"\n'
                f"task = {json.dumps(task)}\n"
                f"labels = {json.dumps(known['class_labels'] or [])}\n"
                f"{_REDUCTIONS.get(name, '')}"
                f"[input]\n{spec}"
                f"mean = {json.dumps(normalisation.get('mean', [0.0]))}\n"
                f"std = {json.dumps(normalisation.get('std', [1.0]))}\n"
            )
