"""From a folder to a model that is ready, and the card that says what was learnt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from camserve.contracts.cards import ResolvedCard
from camserve.contracts.input_specs import PictureSpec, TensorSpec
from camserve.engine import ClassIndex
from camserve.errors import CamserveError, ErrorCode, InvalidCard
from tests.service import ROOT
from tests.workers.cards import TINY, entry_of, factory_card, settings, write_model
from tests.workers.jobs import noise
from tests.workers.pretrained import PROCESSORS, save_pretrained
from workers.models import ResidentModel, declared_card, load_model, unavailable_card


def load(folder: Path) -> ResidentModel:
    return load_model(entry_of(folder), "cpu", settings())


def test_the_resolved_card(tmp_path: Path) -> None:
    head = 'title = "T"\ndescription = "D"\nlicense = "L"\norigin = "O"\nlabels = ["a", "b", "c"]'
    folder = write_model(tmp_path, "tiny", factory_card(head=head))
    model = load(folder)
    card = model.card
    assert (card.name, card.state, card.problem) == ("tiny", "ready", None)
    assert (card.title, card.description, card.license, card.origin) == ("T", "D", "L", "O")
    assert card.version == entry_of(folder).version
    assert card.source == "factory:tests.workers.factories:tiny"
    assert card.input == PictureSpec(height=8, width=8, colors="L")
    assert card.labels == ("a", "b", "c")
    assert (card.classes, card.output_shape, card.task, card.scores) == (
        3, (3,), "classification", "logits",
    )  # fmt: skip
    numbers = 4 * 9 + 4 + 6 * 4 * 9 + 6 + 6 * 3 + 3
    assert card.parameters == numbers
    assert model.bytes == 4 * numbers
    assert card.feature_layer == "body"
    assert card.reduction_layer == "output"
    assert card.candidates == ("body", "stem")
    assert card.modules == ("stem", "body", "head")
    assert [(layer.name, layer.shape, layer.format) for layer in card.layers] == [
        ("stem", (1, 4, 4, 4), "BCSS"), ("body", (1, 6, 4, 4), "BCSS"), ("head", (1, 3), "BC"),
    ]  # fmt: skip
    assert [layer.rank for layer in card.layers] == [2, 1, None]
    assert card.feature_reason
    assert all(layer.reason for layer in card.layers)
    assert ResolvedCard.model_validate_json(card.model_dump_json()) == card


def test_the_model_that_camserve_ships() -> None:
    card = load(ROOT / "models" / "shapes").card
    assert (card.classes, card.feature_layer) == (8, "stage3")
    assert card.label(6) == "star"
    assert card.input is not None
    assert (card.input.shape, card.input.mean) == ((3, 128, 128), (0.5, 0.5, 0.5))


def test_layers_of_the_card(tmp_path: Path) -> None:
    head = 'feature_layer = "stem"\nreduction_layer = "softmax"'
    model = load(write_model(tmp_path, "m", factory_card(head=head)))
    assert (model.card.feature_layer, model.card.reduction_layer) == ("stem", "softmax")
    assert "given by name" in str(model.card.feature_reason)
    [[attribution]] = model.explainer.explain(noise(0)[None], [[ClassIndex(1)]])
    assert 0 < attribution.score < 1


def test_a_layer_that_is_not_there(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", factory_card(head='feature_layer = "boddy"'))
    with pytest.raises(InvalidCard, match="no layer 'boddy'; did you mean 'body'") as refusal:
        load(folder)
    assert refusal.value.extensions["candidates"] == ["body", "stem"]


def test_the_count_of_labels(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", factory_card(head='labels = ["a", "b"]'))
    with pytest.raises(InvalidCard, match="2 labels for an output of 3 classes"):
        load(folder)


def test_the_card_wins_over_the_source(tmp_path: Path) -> None:
    card = 'source = "transformers:."\nlabels = ["x", "y"]\n[input]\nmean = [0.1]\nfilter = "box"\n'
    folder = write_model(tmp_path, "m", card)
    save_pretrained(folder, "vit", id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSORS["vit"]))
    resolved = load(folder).card
    assert resolved.labels == ("x", "y")
    assert resolved.input == PictureSpec(
        height=32, width=32, resize_to=(32, 32), mean=(0.1,), std=(0.5, 0.5, 0.5), filter="box"
    )


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "must give height and width of a picture, or format and shape"),
        (
            "[input]\nheight = 8\nwidth = 8\nshape = [1, 8, 8]",
            "input.shape is for arrays and input.h",
        ),
        ('[input]\nformat = "BCT"\nshape = [3]', "shape has 1 sizes for the dimensions 'CT'"),
        ('[input]\nformat = "CT"\nshape = [3, 4]', "needs a B"),
        ('[input]\nformat = "BC"\nshape = [3]', "neither S nor T"),
        ('[input]\nformat = "BCT"\nshape = [0, 8]', "number of channels must be given"),
        ('[input]\nformat = "BCT"\nshape = [3, 8]\nprobe = [3, 9]', "does not fit shape"),
        ('[input]\nformat = "BCHW"\nshape = [3, 8, 8]', "input.format"),
        ('[input]\nformat = "BCT"\nshape = [3, 8]\nmean = [1, 2]', "mean has 2 values for 3"),
        ("[input]\nheight = 8", "must give width"),
        ("[input]\nheight = 8\nwidth = 0", "input.width: Input should be greater than or equal"),
        ('[input]\nheight = 8\nwidth = 8\ncolors = "CMYK"', "input.colors: "),
        ("[input]\nheight = 8\nwidth = 8\nmean = [0, 0]", "mean has 2 values for 3 channels"),
        ("[input]\nheight = 8\nwidth = 8\nstd = [0]", "std must not be 0"),
    ],
)
def test_an_input_that_cannot_be(tmp_path: Path, given: str, reason: str) -> None:
    card = f'source = "factory:tests.workers.factories:tiny"\n{given}'
    with pytest.raises(InvalidCard, match=reason) as refusal:
        load(write_model(tmp_path, "m", card))
    assert "model 'm'" in str(refusal.value)


def test_it_is_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading ends with an explanation: what cannot be explained is found out now."""
    folder = write_model(tmp_path, "m", TINY)

    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("no kernel for this device")

    monkeypatch.setattr("workers.models.Explainer.explain", refuse)
    with pytest.raises(RuntimeError, match="no kernel"):
        load(folder)


def test_cards_of_models_that_are_not_loaded(tmp_path: Path) -> None:
    entry = entry_of(write_model(tmp_path, "m", 'title = "T"\n' + TINY))
    declared = declared_card(entry)
    assert (declared.state, declared.title, declared.version) == ("declared", "T", entry.version)
    error = CamserveError("broken", hint="mend it")
    unavailable = unavailable_card("m", entry, error)
    assert (unavailable.state, unavailable.title) == ("unavailable", "T")
    assert unavailable.problem is not None
    assert unavailable.problem.code is ErrorCode.INTERNAL
    assert unavailable.problem.extensions == {"hint": "mend it"}
    unreadable = unavailable_card("m", None, InvalidCard("bad TOML"))
    assert unreadable.problem is not None
    assert (unreadable.state, unreadable.problem.detail) == ("unavailable", "bad TOML")


def test_weights_are_frozen_and_the_model_evaluates(tmp_path: Path) -> None:
    module = load(write_model(tmp_path, "m", TINY)).explainer._model
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert torch.is_grad_enabled()


STEPS = """
source = "factory:tests.workers.factories:steps"
[reductions]
difference = "x[0] - x[1]"
[input]
format = "BTC"
shape = [0, 3]
std = [0.5, 1.0, 2.0]
"""


def test_a_card_of_sequences(tmp_path: Path) -> None:
    model = load(write_model(tmp_path, "steps", STEPS))
    card = model.card
    assert isinstance(card.input, TensorSpec)
    assert (card.input.format, card.input.shape, card.input.probe_shape) == ("BTC", (0, 3), (64, 3))
    assert (card.feature_layer, card.output_format) == ("front", "BC")
    assert card.reductions == {"difference": "x[0] - x[1]"}
    assert [(one.name, one.format, one.grid) for one in card.layers] == [
        ("front", "BCT", (32,)), ("head", "BC", None),
    ]  # fmt: skip
    [[attribution]] = model.explainer.explain(torch.randn(1, 11, 3), [[ClassIndex(1)]])
    assert attribution.map.shape == (6,)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ('reductions = {tilt = "x[9]"}', r"reductions.tilt: column 3: index 9 is out of range"),
        ('reductions = {tilt = "x"}', "reductions.tilt: .*has to be one number"),
        ('reductions = {tilt = "x[0"}', r"reductions.tilt: column 2"),
        ('reductions = {sum = "x[0]"}', "built-in reduction of that name"),
        ('reductions = {"My tilt" = "x[0]"}', "reductions"),
        ('feature_format = "BTC"', "4 dimensions"),
        ('output_format = "BCT"', "output of 2 dimensions"),
        ('feature_layer = "body:1"', "no layer 'body:1'"),
    ],
)
def test_a_card_that_the_network_contradicts(tmp_path: Path, head: str, reason: str) -> None:
    if "feature_format" in head:
        head += '\nfeature_layer = "body"'
    with pytest.raises(InvalidCard, match=reason):
        load(write_model(tmp_path, "m", factory_card(head=head)))


def test_a_logarithm_needs_positive_outputs_and_is_no_mistake(tmp_path: Path) -> None:
    head = 'reductions = {one = "log(x[0])", other = "log(-x[0])"}'
    assert load(write_model(tmp_path, "m", factory_card(head=head))).card.reductions


def test_several_layers_of_a_card(tmp_path: Path) -> None:
    head = 'feature_layer = ["body", "stem"]\nfeature_format = "BCSS"'
    model = load(write_model(tmp_path, "m", factory_card(head=head)))
    assert model.card.feature_layer == ("body", "stem")
    [[attribution]] = model.explainer.explain(noise(0)[None], [[ClassIndex(1)]])
    assert len(attribution.maps) == 2


def test_quantized_weights_take_a_quarter_of_the_memory(tmp_path: Path) -> None:
    models = {}
    for name, head in (("plain", ""), ("small", 'quantization = "int8"\n')):
        folder = write_model(tmp_path, name, f'{head}source = "export:model.pt2"')
        (folder / "model.pt2").symlink_to(ROOT / "models" / "shapes" / "model.pt2")
        models[name] = load(folder)
    plain, small = models["plain"], models["small"]
    assert small.card.quantization == "int8"
    assert small.card.parameters == plain.card.parameters
    assert small.bytes < 0.35 * plain.bytes
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    [[exact]] = plain.explainer.explain(image, [[ClassIndex(1)]])
    [[close]] = small.explainer.explain(image, [[ClassIndex(1)]])
    both = torch.stack([exact.map.flatten(), close.map.flatten()])
    assert float(torch.corrcoef(both)[0, 1]) >= 0.98
