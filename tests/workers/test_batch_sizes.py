"""What is learnt from memory that ran out: how many inputs fit at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from camserve.contracts.methods import Evaluate
from camserve.contracts.targets import TopTarget
from camserve.engine import Budget
from tests.workers.cards import TINY, entry_of, factory_card, settings, write_model
from tests.workers.factories import SHAPE
from tests.workers.jobs import compute_job, noise
from workers.batch_sizes import LONGEST_PATIENCE, PATIENCE, REMEMBERED, BatchSizes, LearntSizes
from workers.models import ResidentModel, load_model
from workers.rows import Row, read_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ResidentModel:
    folder = Path(tmp_path_factory.mktemp("models"))
    return load_model(entry_of(write_model(folder, "tiny", TINY)), "cpu", settings())


@pytest.fixture(scope="module")
def rows(model: ResidentModel) -> Callable[..., list[Row]]:
    def rows(count: int = 1, shape: tuple[int, ...] = SHAPE, **fields: Any) -> list[Row]:
        job = compute_job("j", *(torch.zeros(shape) for _ in range(count)), **fields)
        return list(read_rows(job, model, Budget()))

    return rows


def test_nothing_is_known_before_memory_ran_out(rows: Callable[..., list[Row]]) -> None:
    sizes = BatchSizes("tiny", 8)
    sizes.fitted(rows(8), 8)
    assert (sizes.at_once(rows(8)), sizes.smallest) == (8, 8)


def test_half_as_many_down_to_one(rows: Callable[..., list[Row]]) -> None:
    sizes = BatchSizes("tiny", 12)
    for tried, left in ((12, 6), (6, 3), (3, 1), (1, 1)):
        sizes.ran_out(rows(), tried)
        assert sizes.at_once(rows()) == left
        assert sizes.smallest == left


def fit(sizes: BatchSizes, rows: list[Row], times: int) -> list[int]:
    """How many are tried at once after each of so many full batches."""
    seen = []
    for _ in range(times):
        sizes.fitted(rows, sizes.at_once(rows))
        seen.append(sizes.at_once(rows))
    return seen


def test_it_grows_again_after_full_batches(rows: Callable[..., list[Row]]) -> None:
    sizes = BatchSizes("tiny", 8)
    sizes.ran_out(rows(), 6)
    for _ in range(PATIENCE):
        sizes.fitted(rows(2), 2)  # not as many as are known to fit: shows nothing
    assert sizes.at_once(rows()) == 3
    assert fit(sizes, rows(), PATIENCE) == [3] * (PATIENCE - 1) + [6]
    assert fit(sizes, rows(), PATIENCE) == [6] * (PATIENCE - 1) + [8]
    assert fit(sizes, rows(), PATIENCE) == [8] * PATIENCE


def test_what_is_tried_again_too_early_is_tried_ever_more_seldom(
    rows: Callable[..., list[Row]],
) -> None:
    """A limit that stays costs one failed pass in PATIENCE, then in twice as many, and so on."""
    sizes, waited = BatchSizes("tiny", 2), []
    for _ in range(9):
        sizes.ran_out(rows(), 2)
        count = 0
        while sizes.at_once(rows()) == 1:
            sizes.fitted(rows(), 1)
            count += 1
        waited.append(count)
    expected = [min(PATIENCE * 2**n, LONGEST_PATIENCE) for n in range(9)]
    assert waited == expected
    fit(sizes, rows(), LONGEST_PATIENCE)  # but once it fits for long, that is forgotten
    sizes.ran_out(rows(), 2)
    assert fit(sizes, rows(), PATIENCE)[-1] == 2


def test_kinds_of_rows_learn_by_themselves(rows: Callable[..., list[Row]]) -> None:
    sizes = BatchSizes("tiny", 8)
    sizes.ran_out(rows(8), 8)
    others: list[dict[str, Any]] = [
        {"shape": (1, 16, 16)},
        {"method": "scorecam"},
        {"precision": "bfloat16"},
        {"feature_layers": ("stem",)},
        {"targets": [TopTarget(top=2)]},
        {"kind": "predict"},
        {"evaluate": Evaluate()},
    ]
    assert [sizes.at_once(rows(**other)) for other in others] == [8] * len(others)
    assert sizes.at_once(rows(2)) == 4


def test_only_so_many_kinds_are_remembered(rows: Callable[..., list[Row]]) -> None:
    sizes = BatchSizes("tiny", 8)
    kinds = [rows(shape=(1, 8, width)) for width in range(8, 8 + REMEMBERED + 1)]
    for kind in kinds:
        sizes.ran_out(kind, 8)
    assert [sizes.at_once(kind) for kind in kinds] == [8] + [4] * REMEMBERED


def test_what_is_given_up_is_what_is_as_large(rows: Callable[..., list[Row]]) -> None:
    sizes = BatchSizes("tiny", 8)

    def hopeless(size: int, **fields: Any) -> bool:
        return sizes.is_hopeless(compute_job("j", torch.zeros(1, size, size), **fields).job)

    assert not hopeless(100)
    for size in (40, 30, 35):
        sizes.give_up(compute_job("j", noise(0), torch.zeros(1, size, size)).job)
    assert [hopeless(size) for size in (8, 29, 30, 100)] == [False, False, True, True]
    assert not hopeless(100, precision="bfloat16")
    assert not hopeless(100, method="scorecam")
    assert not sizes.is_hopeless(compute_job("j").job)


def test_a_worker_says_which_models_are_limited(
    model: ResidentModel, rows: Callable[..., list[Row]], tmp_path: Path
) -> None:
    mixing = load_model(
        entry_of(write_model(tmp_path, "mixing", factory_card("mixing"))), "cpu", settings()
    )
    learnt = LearntSizes(8)
    assert (learnt.of(model).most, learnt.of(mixing).most) == (8, 1)
    learnt.of(mixing).ran_out(rows(), 1)  # as ever
    assert learnt.limited == {}
    learnt.of(model).ran_out(rows(8), 8)
    assert learnt.limited == {"tiny": 4}
    anew = ResidentModel(model.explainer, model.card.model_copy(update={"version": "2"}), 0)
    assert learnt.of(anew).at_once(rows(8)) == 8
    assert learnt.limited == {}
