"""Score-CAM and Ablation-CAM run their variants as rows: in chunks, or one by one where need be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camserve.engine import ClassIndex, Explainer
from camserve.errors import NotExplainable
from camserve.vocabulary import Method
from tests.engine.curved import SEEDS, Curved, Relu, curved
from tests.engine.formulas import PERTURBING, truth
from tests.engine.networks import randomised
from tests.engine.truth import difference


@pytest.mark.parametrize("method", PERTURBING)
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_change_nothing(method: Method, chunk: int) -> None:
    model, inputs = curved()
    sizes: list[int] = []
    explainer = Explainer(model, inputs[:1], feature_layer="features")
    model.tail.register_forward_pre_hook(lambda _m, args: sizes.append(len(args[0])))
    ((one,),) = explainer.explain(inputs[:1], [[ClassIndex(1)]], method=method, chunk=chunk)
    trial = [2] if method == "ablationcam" and chunk > 1 else []
    assert sizes == [1, *trial, *{1: [1] * 6, 3: [3, 3], 100: [6]}[chunk]]
    assert difference(one.map, truth(method, model, inputs[:1], 1)) <= 1e-5


# Heads that know the number of inputs from before the layer: more rows there will not do.


class ReshapesToOldCount(Curved):
    """An error behind the layer: the linear layer gets one row of m times the width."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        features = self.features(functional.relu(self.stem(x)))
        pooled = functional.relu(self.tail(features)).square().flatten(2).mean(2)
        return self.head(pooled.reshape(rows, -1))


class PoolsToOldCount(Curved):
    """No error: the rows silently become positions, and the scores their mean."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        features = self.features(functional.relu(self.stem(x)))
        pooled = functional.relu(self.tail(features)).square().flatten(2)
        pooled = pooled.transpose(0, 1).reshape(7, rows, -1).transpose(0, 1)
        return self.head(pooled.mean(2))


class ConcatenatesSkip(Curved):
    """A skip from before the layer has one row, and `cat` does not broadcast."""

    def before(self, x: Tensor, relu: Relu = functional.relu) -> Tensor:
        stem = relu(self.stem(x))
        self.skip = functional.max_pool2d(stem, 2)
        return relu(self.features[0](stem))

    def after(self, features: Tensor, relu: Relu = functional.relu) -> Tensor:
        mixed = features[:, 2:] + features[:, :4]
        return super().after(torch.cat([self.skip[:, :2], mixed], 1), relu)

    def forward(self, x: Tensor) -> Tensor:
        stem = functional.relu(self.stem(x))
        self.skip = functional.max_pool2d(stem, 2)
        return self.after(self.features(stem))


class ScalesByOldCount(Curved):
    """No error and as many scores as variants, but other ones."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(functional.relu(self.stem(x)))
        return self.after(features * len(features) / len(x))


@pytest.mark.parametrize(
    "network", [ReshapesToOldCount, PoolsToOldCount, ConcatenatesSkip, ScalesByOldCount]
)
@pytest.mark.parametrize("method", PERTURBING)
@pytest.mark.parametrize("chunk", [1, 4])
def test_heads_that_take_no_more_rows_than_inputs(
    network: type[Curved], method: Method, chunk: int
) -> None:
    _, inputs = curved()
    model = randomised(network(), seed=SEEDS[2])
    expected = [truth(method, model, inputs[:1], 1), truth(method, model, inputs[1:], 3)]
    rows = Explainer(model.double(), inputs[:1], feature_layer="features").explain(
        inputs, [[ClassIndex(1)], [ClassIndex(3)]], method=method, chunk=chunk
    )
    for (one,), map_by_hand in zip(rows, expected, strict=True):
        assert difference(one.map, map_by_hand) <= 1e-12


def test_ablation_runs_the_backbone_once_a_chunk_where_the_head_takes_the_rows() -> None:
    model, inputs = curved()
    explainer = Explainer(model, inputs[:1], feature_layer="features")
    rows = {name: [] for name in ("stem", "tail")}
    for name, seen in rows.items():
        model.get_submodule(name).register_forward_pre_hook(
            lambda _m, args, seen=seen: seen.append(len(args[0]))
        )
    explainer.explain(inputs[:1], [[ClassIndex(1)]], method="ablationcam", chunk=4)
    assert rows["stem"] == [1, 1, 1, 1]  # the inputs, the trial, six channels in two chunks
    assert rows["tail"] == [1, 2, 4, 2]


class OverTheBatch(Curved):
    """Normalises over the batch: a stranger beside an input changes its scores."""

    def after(self, features: Tensor, relu: Relu = functional.relu) -> Tensor:
        spread = features - features.mean((0, 2, 3), keepdim=True)
        return super().after(features + spread / 3, relu)


class OneInputOnly(Curved):
    """As a program that was exported for a batch of one."""

    def after(self, features: Tensor, relu: Relu = functional.relu) -> Tensor:
        if len(features) != 1:
            raise ValueError("one input only")
        return super().after(features, relu)


@pytest.mark.parametrize("network", [OverTheBatch, OneInputOnly])
@pytest.mark.parametrize("method", PERTURBING)
def test_variants_run_one_by_one_where_rows_are_not_independent(
    network: type[Curved], method: Method
) -> None:
    inputs = curved()[1][:1]
    model = randomised(network(), seed=SEEDS[2])
    expected = truth(method, model, inputs, 1)
    ((one,),) = Explainer(model.double(), inputs, feature_layer="features").explain(
        inputs, [[ClassIndex(1)]], method=method, chunk=100
    )
    assert difference(one.map, expected) <= 1e-12


def test_the_head_is_tried_once_a_layer_and_what_it_says_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, inputs = curved()
    stubborn = ReshapesToOldCount().double()
    stubborn.load_state_dict(model.state_dict())
    explainer = Explainer(stubborn, inputs[:1], feature_layer="features")
    with caplog.at_level("INFO", logger="camserve.engine"):
        explainer.explain(inputs, [[ClassIndex(1)]] * 2, method="ablationcam")
    (record,) = caplog.records
    assert "ablationcam at 'features' runs whole passes" in record.message
    assert "RuntimeError: " in record.message


def test_a_refusal_of_our_own_is_no_reason_to_try_again() -> None:
    """Dimensions of channels apart from each other: no whole pass would help."""

    class TwoChannels(Curved):
        class Layer(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.unflatten(1, (2, 3)).movedim(1, 3)

        def __init__(self) -> None:
            super().__init__()
            self.split = self.Layer()

        def forward(self, x: Tensor) -> Tensor:
            features = self.split(self.features(functional.relu(self.stem(x))))
            features = features.movedim(3, 1).flatten(1, 2)
            pooled = functional.relu(self.tail(features)).square().flatten(2).mean(2)
            return self.head(pooled)

    model, inputs = curved()
    network = TwoChannels().double()
    network.load_state_dict(model.state_dict())
    explainer = Explainer(network, inputs[:1])
    passes: list[int] = []
    network.register_forward_pre_hook(lambda _m, args: passes.append(len(args[0])))
    with pytest.raises(NotExplainable, match="several channel dimensions"):
        explainer.explain(
            inputs[:1],
            [[ClassIndex(1)]],
            method="ablationcam",
            feature_layer="split",
            feature_format="BCSUS",
        )
    assert passes == [1, 1]
