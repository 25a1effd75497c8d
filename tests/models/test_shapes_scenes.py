"""The scene generator: reproducible, balanced, honest about where the shape is."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.shapes.distractors import clutter, coverage, occluder
from models.shapes.outlines import LABELS, OUTLINES
from models.shapes.scenes import POINTING, SIZE, TEST, TRAINING, VALIDATION, group, scene

ROOT = Path(__file__).parents[2]

FINGERPRINT = """
import hashlib
from models.shapes.scenes import scene
digest = hashlib.sha256()
for seed in (0, 7, 2_000_003):
    item = scene(seed)
    digest.update(item.picture.tobytes() + item.mask.tobytes() + bytes([item.label]))
print(digest.hexdigest())
"""


def test_a_seed_is_the_same_scene_in_another_process():
    here = hashlib.sha256()
    for seed in (0, 7, 2_000_003):
        item = scene(seed)
        here.update(item.picture.tobytes() + item.mask.tobytes() + bytes([item.label]))
    there = subprocess.run(
        [sys.executable, "-c", FINGERPRINT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here.hexdigest()


def test_seeds_give_different_scenes_and_splits_share_none():
    pictures = {scene(seed).picture.tobytes() for seed in range(20)}
    assert len(pictures) == 20
    assert not set(TRAINING) & set(VALIDATION)
    assert not set(TEST) & (set(TRAINING) | set(VALIDATION))
    assert set(POINTING) <= set(TEST)


def test_classes_have_equal_shares():
    assert len(LABELS) == 8
    for split in (TRAINING, VALIDATION, TEST, POINTING):
        counts = np.bincount([seed % len(LABELS) for seed in split])
        assert len(set(counts.tolist())) == 1
    assert [scene(seed).name for seed in range(8)] == list(LABELS)


@pytest.mark.parametrize("seed", range(40))
def test_mask_is_where_the_shape_was_drawn(seed):
    with_shape, (mask,) = group(seed, (seed % 8,), grain=False)
    without, _ = group(seed, (), grain=False)
    change = np.abs(with_shape.astype(int) - without).sum(axis=2)
    # Outside the mask only the soft shadow and a thin stroke or two differ.
    assert np.median(change[mask]) > 60
    assert np.median(change[~mask]) == 0
    assert 0.015 < mask.mean() < 0.26
    frame = np.concatenate([mask[[0, -1]].ravel(), mask[:, [0, -1]].ravel()])
    assert not frame.any()


@pytest.mark.parametrize("seed", range(8))
def test_a_larger_picture_is_the_same_scene(seed):
    small, (small_mask,) = group(seed, (seed % 8,), SIZE, grain=False)
    large, (large_mask,) = group(seed, (seed % 8,), 3 * SIZE, grain=False)
    pooled = large.reshape(SIZE, 3, SIZE, 3, 3).mean(axis=(1, 3))
    assert np.abs(pooled - small).mean() < 4
    centre = large_mask[1::3, 1::3]
    assert (centre & small_mask).sum() / (centre | small_mask).sum() > 0.93


@pytest.mark.parametrize("name", LABELS)
def test_outlines_fill_the_unit_circle_and_stay_inside(name):
    for seed in range(20):
        reach = np.hypot(*OUTLINES[name](np.random.default_rng(seed)).T)
        assert 0.9 < reach.max() <= 1.0 + 1e-9


def test_distractors_are_smaller_than_shapes_or_thin():
    rng = np.random.default_rng(0)
    shapes = [scene(seed).mask.mean() for seed in range(80)]
    areas = [coverage(clutter(rng), SIZE).mean() for _ in range(300)]
    fronts = [coverage(occluder(rng), SIZE).mean() for _ in range(100)]
    assert np.mean(areas) < 0.3 * np.mean(shapes)
    assert max(fronts) < 0.03


def test_two_shapes_keep_apart():
    for seed in range(20):
        _, (first, second) = group(seed, (4, 6))
        assert not (first & second).any()


def test_more_shapes_than_find_room_are_refused():
    with pytest.raises(ValueError, match="room for 3"):
        group(0, (0, 1, 2, 3))
