"""The model zoo with reference maps, where there is one beside the repository."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

__all__ = ["ZOO", "add_zoo_classifiers", "arrays", "cases", "needs_zoo"]

ZOO = Path(
    os.environ.get("CAMSERVE_TEST_ZOO", Path(__file__).parent.parent.parent / "shared" / "zoo")
)

needs_zoo = pytest.mark.skipif(
    not (ZOO / "index.json").is_file(), reason=f"the zoo of reference maps is not at {ZOO}"
)

_CLASSIFIERS = {"cifar10-resnet20": "", "cifar10-resnet56": "", "shapes-multilabel": "multi-label"}


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


def add_zoo_classifiers(repository: Path) -> None:
    """Folders with cards of ours for the zoo's image classifiers; none without a zoo."""
    for name, task in _CLASSIFIERS.items():
        source = ZOO / "models" / name
        if not source.is_dir():
            continue
        known = json.loads((source / "card.json").read_text())
        normalisation = known["input"].get("normalisation") or {}
        folder = repository / name
        folder.mkdir()
        (folder / "model.pt2").symlink_to(source / "model.pt2")
        (folder / "card.toml").write_text(
            'source = "export:model.pt2"\n'
            f"task = {json.dumps(task or 'classification')}\n"
            f"labels = {json.dumps(known['class_labels'])}\n"
            "[input]\n"
            f"mean = {json.dumps(normalisation.get('mean', [0.0]))}\n"
            f"std = {json.dumps(normalisation.get('std', [1.0]))}\n"
        )
