"""Activations that are known need no backbone: another class of the same input runs the head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from camserve.engine import Budget, ClassIndex, Explainer
from camserve.engine.execution.activations import ActivationCache, Recall
from tests.engine.networks import ResNetLike, UNet, randomised
from tests.engine.truth import difference

AMPLE = 10_000_000


class Counted:
    """An explainer that tells how many inputs its backbone got in each pass."""

    def __init__(self, explainer: Explainer) -> None:
        self.passes: list[int] = []
        execution = explainer.split()
        for precision in ("float32", "bfloat16"):
            run = execution.operations(precision)

            def counted(inputs: Tensor, run: object = run) -> Sequence[Tensor]:
                self.passes.append(len(inputs))
                return run(inputs)  # type: ignore[operator,no-any-return]

            explainer.use_backbone(precision, counted)
        self.explainer = explainer


def counted() -> Counted:
    return Counted(Explainer(randomised(ResNetLike()), torch.zeros(1, 3, 32, 32)))


def inputs(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_another_class_and_another_method_run_the_head_alone() -> None:
    network, cache, one = counted(), ActivationCache(AMPLE), inputs(1)
    explainer = network.explainer
    explainer.explain(one, [[ClassIndex(0)]], recall=Recall(cache, "m", ["a"]))
    again = Recall(cache, "m", ["a"])
    budget = Budget()
    [[found]] = explainer.explain(
        one, [[ClassIndex(3)]], method="layercam", recall=again, budget=budget
    )
    assert network.passes == [1]
    assert again.hits == {0}
    assert budget.spent == 0
    [[expected]] = explainer.explain(one, [[ClassIndex(3)]], method="layercam")
    assert torch.equal(found.map, expected.map)
    assert found.score == expected.score


def test_a_batch_computes_only_what_is_not_known_each_row_its_own() -> None:
    network, cache, three = counted(), ActivationCache(AMPLE), inputs(3)
    explainer = network.explainer
    explainer.explain(three[1:2], [[ClassIndex(0)]], recall=Recall(cache, "m", ["b"]))
    recall = Recall(cache, "m", ["a", "b", "c"])
    targets = [[ClassIndex(n)] for n in range(3)]
    found = explainer.explain(three, targets, recall=recall)
    assert network.passes == [1, 2]
    assert recall.hits == {1}
    for [one], [known] in zip(found, explainer.explain(three, targets), strict=True):
        assert difference(one.map, known.map) < 1e-5  # a batch of another size rounds otherwise
    explainer.explain(three, targets, recall=Recall(cache, "m", ["c", "b", "a"]))
    assert network.passes == [1, 2, 3]  # of the call without recall


def test_skips_of_a_segmentation_are_remembered_too() -> None:
    explainer = Explainer(randomised(UNet()), torch.zeros(1, 3, 32, 32))
    explainer.split()
    cache, two = ActivationCache(AMPLE), inputs(2)
    targets = [[ClassIndex(1)], [ClassIndex(2)]]
    explainer.explain(two, [[ClassIndex(0)]] * 2, recall=Recall(cache, "m", ["a", "b"]))
    recall = Recall(cache, "m", ["a", "b"])
    found = explainer.explain(two, targets, recall=recall)
    assert recall.hits == {0, 1}
    for [one], [known] in zip(found, explainer.explain(two, targets), strict=True):
        assert torch.equal(one.map, known.map)


def test_precisions_models_and_inputs_are_told_apart_and_fresh_ones_replace_what_is_known() -> None:
    network, cache, one = counted(), ActivationCache(AMPLE), inputs(1)
    explain, asked = network.explainer.explain, [[ClassIndex(0)]]
    explain(one, asked, recall=Recall(cache, "m", ["a"]))
    explain(one, asked, recall=Recall(cache, "m", ["a"]), precision="bfloat16")
    explain(one, asked, recall=Recall(cache, "another", ["a"]))
    explain(one, asked, recall=Recall(cache, "m", ["b"]))
    assert len(network.passes) == 4
    other = inputs(2)[1:]
    explain(other, asked, recall=Recall(cache, "m", ["a"], fresh=frozenset({0})))
    assert len(network.passes) == 5
    [[found]] = explain(one, asked, recall=Recall(cache, "m", ["a"]))  # as if it were `other`
    [[expected]] = explain(other, asked)
    assert torch.equal(found.map, expected.map)


def test_an_input_without_a_key_is_neither_looked_up_nor_kept() -> None:
    network, cache, one = counted(), ActivationCache(AMPLE), inputs(1)
    for _ in range(2):
        recall = Recall(cache, "m", [None])
        network.explainer.explain(one, [[ClassIndex(0)]], recall=recall)
        assert recall.hits == set()
    assert network.passes == [1, 1]
    assert len(cache) == cache.bytes == 0


def test_the_limit_is_kept_the_least_recently_used_go_and_a_model_is_forgotten() -> None:
    row = (torch.zeros(1, 25),)  # 100 bytes
    cache = ActivationCache(250)
    cache.put("m", "a", row)
    cache.put("m", "b", row)
    assert cache.get("m", "a") is not None
    cache.put("n", "c", row)
    assert cache.get("m", "b") is None
    assert (len(cache), cache.bytes) == (2, 200)
    cache.put("m", "large", (torch.zeros(1, 100),))
    assert cache.get("m", "large") is None
    cache.put("m", "a", row)
    assert cache.bytes == 200
    cache.keep_only({"n"})
    assert cache.get("m", "a") is None
    assert cache.get("n", "c") is not None
    assert cache.bytes == 100
    cache.clear()
    assert cache.get("n", "c") is None
    assert cache.bytes == 0


def test_what_half_precision_made_infinite_is_computed_again_in_float32() -> None:
    """The rows that are tried again are not those that the keys are of."""
    network, cache, two = counted(), ActivationCache(AMPLE), inputs(2)
    two[1] *= 1e38  # overflows behind the first layer in half precision, and in float32 as well
    recall = Recall(cache, "m", ["a", "b"])
    targets = [[ClassIndex(0)], [ClassIndex(1)]]
    found = network.explainer.explain(two, targets, recall=recall, precision="bfloat16")
    again = Recall(cache, "m", ["a", "b"])
    repeated = network.explainer.explain(two, targets, recall=again, precision="bfloat16")
    assert again.hits == {0, 1}
    for [one], [known] in zip(found, repeated, strict=True):
        assert torch.equal(one.map.nan_to_num(), known.map.nan_to_num())
