"""Every order of dimensions, against einsum; and what cannot be arranged, with the way out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np
import pytest

from app.arrangement import arranged
from camserve.contracts.input_specs import InputSpec, PictureSpec, TensorSpec
from camserve.errors import CamserveError, InvalidInput, InvalidRequest, TooLarge

MODELS: dict[str, InputSpec] = {
    "picture": PictureSpec(height=4, width=5),
    "picture, channels last": PictureSpec(height=4, width=5, format="BSSC"),
    "sequence": TensorSpec(format="BCT", shape=(3, 0)),
    "tokens": TensorSpec(format="BTC", shape=(0, 3)),
    "sequence, batch last": TensorSpec(format="CTB", shape=(3, 6)),
    "volume": TensorSpec(format="BCSSS", shape=(2, 4, 5, 6)),
    "video": TensorSpec(format="BTCSS", shape=(0, 3, 4, 5)),
    "video, channels first": TensorSpec(format="BCTSS", shape=(3, 0, 4, 5)),
    "spectrogram": TensorSpec(format="BCST", shape=(2, 4, 0)),
    "film of volumes": TensorSpec(format="BTCSSS", shape=(2, 3, 4, 5, 6)),
}


def named(labels: str) -> str:
    """Labels with a letter of its own for each dimension: CSS as chw."""
    space = iter("hwd")
    return "".join(next(space) if letter == "S" else letter.lower() for letter in labels)


def orders(labels: str) -> Iterator[str]:
    """All orders of the dimensions."""
    yield from sorted({"".join(order) for order in itertools.permutations(labels)})


def inputs_of(spec: InputSpec, count: int = 1) -> np.ndarray:
    """(count, *shape), as the model takes them, any size where any will do."""
    shape = [size or 7 for size in spec.shape]
    return np.random.default_rng(len(shape)).normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_every_order_arrives_in_the_models_own(name: str) -> None:
    spec = MODELS[name]
    model = spec.format.replace("B", "")
    (truth,) = inputs_of(spec)
    for labels in orders(model):
        sent = np.einsum(f"{named(model)}->{named(labels)}", truth)
        (one,) = arranged(sent, spec, labels, 32)
        np.testing.assert_array_equal(one.array, truth)
        assert np.shares_memory(one.array, sent)
        check_order(one.order, model, labels)


def check_order(order: tuple[int, ...], model: str, labels: str) -> None:
    """Maps, which have the model's S and T, come back in the client's order."""
    places = "".join(place for place in named(model) if place in "hwdt")
    theirs = "".join(place for place in named(labels) if place in "hwdt")
    grid = np.random.default_rng(1).normal(size=range(2, 2 + len(places)))
    expected = np.einsum(f"{places}->{theirs}", grid)
    np.testing.assert_array_equal(np.transpose(grid, order), expected)


@pytest.mark.parametrize("name", ["picture", "tokens", "video"])
def test_a_dimension_b_may_stand_anywhere_and_gives_several_inputs(name: str) -> None:
    spec = MODELS[name]
    model = spec.format.replace("B", "")
    truth = inputs_of(spec, 3)
    for labels in orders(f"B{model}"):
        sent = np.einsum(f"b{named(model)}->{named(labels)}", truth)
        found = arranged(sent, spec, labels, 3)
        assert len(found) == 3
        for one, expected in zip(found, truth, strict=True):
            np.testing.assert_array_equal(one.array, expected)
            check_order(one.order, model, labels)


def test_without_labels_it_is_the_models_own_order_with_or_without_a_batch_of_one() -> None:
    for spec in MODELS.values():
        (truth,) = inputs_of(spec)
        for sent in (truth, truth[None]):
            (one,) = arranged(sent, spec, None, 1)
            np.testing.assert_array_equal(one.array, truth)
            assert one.order == tuple(range(len(one.order)))


GRAY = PictureSpec(height=4, width=5, colors="L")
GRAY_LAST = PictureSpec(height=4, width=5, colors="L", format="BSSC")
VOLUME = TensorSpec(format="BCSSS", shape=(1, 4, 5, 6))
WAVE = TensorSpec(format="BT", shape=(0,))
ECG = TensorSpec(format="BCT", shape=(1, 0))


@pytest.mark.parametrize(
    ("spec", "labels", "sent", "axis"),
    [
        (GRAY, "SS", (4, 5), 0),
        (GRAY, None, (4, 5), 0),
        (GRAY_LAST, "SS", (4, 5), 2),
        (GRAY_LAST, None, (4, 5), 2),
        (VOLUME, "SSS", (4, 5, 6), 0),
        (VOLUME, None, (4, 5, 6), 0),
        (ECG, "T", (9,), 0),
        (ECG, None, (9,), 0),
    ],
)
def test_the_only_channel_may_be_left_out(
    spec: InputSpec, labels: str | None, sent: tuple[int, ...], axis: int
) -> None:
    array = np.random.default_rng(0).normal(size=sent)
    (one,) = arranged(array, spec, labels, 1)
    np.testing.assert_array_equal(one.array, np.expand_dims(array, axis))


@pytest.mark.parametrize("labels", ["CT", "TC"])
def test_a_channel_of_one_goes_where_the_model_has_none(labels: str) -> None:
    wave = np.random.default_rng(0).normal(size=9)
    sent = wave[None] if labels == "CT" else wave[:, None]
    (one,) = arranged(sent, WAVE, labels, 1)
    np.testing.assert_array_equal(one.array, wave)
    batch = np.stack([sent, 2 * sent], axis=1)
    twice = arranged(batch, WAVE, labels[0] + "B" + labels[1], 2)
    np.testing.assert_array_equal(twice[1].array, 2 * wave)


def test_both_at_once_batch_and_no_channel() -> None:
    volumes = np.random.default_rng(0).normal(size=(4, 3, 5, 6))
    found = arranged(volumes, VOLUME, "SBSS", 3)
    for number, one in enumerate(found):
        np.testing.assert_array_equal(one.array, volumes[None, :, number])


RGB = MODELS["picture"]
WRONG: dict[str, tuple[InputSpec, str | None, tuple[int, ...], type[CamserveError], str]] = {
    "another shape": (RGB, None, (3, 5, 4), InvalidInput,
        r"is \[3, 5, 4\]; the model takes \[3, 4, 5\] \(channels, height, width\), format CSS"),
    "channels last, unlabelled": (RGB, None, (4, 5, 3), InvalidInput, "give the format"),
    "several, unlabelled": (RGB, None, (2, 3, 4, 5), InvalidInput, "several inputs with a B"),
    "the shape as it was sent": (RGB, "SSC", (5, 4, 3), InvalidInput, r"shape is \[5, 4, 3\]"),
    "any length": (ECG, None, (2, 9), InvalidInput, r"takes \[1, any\] \(channels, time\)"),
    "too few labels": (RGB, "SC", (4, 5, 3), InvalidInput,
        r"format 'SC' labels 2 dimensions, the tensor has 3: its shape is \[4, 5, 3\]"),
    "too many labels": (RGB, "SSCB", (4, 5, 3), InvalidInput, "labels 4 dimensions"),
    "no channel of three": (RGB, "SS", (4, 5), InvalidInput,
        r"dimensions SS is none for this model: its inputs have CSS \(channels, height, width\)"),
    "time for space": (RGB, "CST", (3, 4, 5), InvalidInput, "Say with format"),
    "unspecified": (RGB, "CUU", (3, 4, 5), InvalidInput, "its inputs have CSS"),
    "channels for none": (WAVE, "CT", (2, 9), InvalidInput, r"its inputs have T \(time\)"),
    "only a batch": (WAVE, "B", (9,), InvalidInput, r"its inputs have T \(time\)"),
    "a number": (WAVE, None, (), InvalidInput, r"shape is \[\]; the model takes \[any\]"),
    "another letter": (RGB, "HWC", (4, 5, 3), InvalidRequest, "height x width x channels is SSC"),
    "small letters": (RGB, "ssc", (4, 5, 3), InvalidRequest, "letters B, C, S, T and U"),
    "no letter": (RGB, "", (4, 5, 3), InvalidRequest, "letters B, C, S, T and U"),
    "two channels": (RGB, "CCS", (4, 5, 3), InvalidRequest, "has C more than once"),
    "two batches": (RGB, "BBCSS", (1, 1, 3, 4, 5), InvalidRequest, "has B more than once"),
    "four spaces": (RGB, "SSSS", (1, 3, 4, 5), InvalidRequest, "more than three dimensions S"),
    "volume": (MODELS["volume"], "SSSC", (4, 5, 7, 2), InvalidInput,
        r"takes \[2, 4, 5, 6\] \(channels, space 1, space 2, space 3\)"),
    "spectrogram": (MODELS["spectrogram"], None, (2, 5, 9), InvalidInput,
        r"takes \[2, 4, any\] \(channels, space, time\)"),
    "too many": (RGB, "BCSS", (33, 3, 4, 5), TooLarge,
        "dimension B of the tensor has 33 inputs, more than 32: send several requests"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_arranged_is_told_with_the_way_out(case: str) -> None:
    spec, labels, shape, error, message = WRONG[case]
    with pytest.raises(error, match=message) as caught:
        arranged(np.zeros(shape, np.float32), spec, labels, 32)
    assert type(caught.value) is error
    told = caught.value.extensions
    if "the model takes" in str(caught.value):
        labelled = {} if labels is None else {"field": "format"}
        assert told == {"shape": list(shape), "expected": list(spec.shape), **labelled}
    if error is TooLarge:
        assert told["limit"] == 32


def test_a_huge_dimension_b_costs_nothing() -> None:
    many = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (10**12, 4), (0, 0))
    with pytest.raises(TooLarge, match="1000000000000 inputs"):
        arranged(many, WAVE, "BT", 32)


def test_models_say_what_each_dimension_is() -> None:
    with pytest.raises(ValueError, match=re.escape("has a U: say what each dimension is")):
        TensorSpec(format="BCU", shape=(1, 0))


@pytest.mark.parametrize("axis", range(4))
def test_a_wrong_size_is_seen_on_every_axis(axis: int) -> None:
    shape = list(MODELS["volume"].shape)
    shape[axis] += 1
    with pytest.raises(InvalidInput, match="the model takes"):
        arranged(np.zeros(shape, np.float32), MODELS["volume"], None, 1)
