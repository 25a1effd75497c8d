"""`timm:`: weights from a file or the hub, preprocessing and labels as timm's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from camserve.errors import CamserveError, InvalidCard, ModelUnavailable, UnsupportedModel
from tests.service import ROOT, free_port
from tests.torchvision_shim import environment, needs_torchvision
from tests.workers.cards import entry_of, settings, write_model
from tests.workers.hub_stand_in import HubStandIn
from tests.workers.preprocessing import assert_same_to_one_grey_level
from tests.workers.test_hub import Loader
from workers.repository import Entry
from workers.sources import libraries, load
from workers.sources.timm import input_fields, load_timm

pytestmark = needs_torchvision

NAME = "test_resnet.r160_in1k"  # half a million parameters, made for timm's own tests
BORDER = {"input_size": (3, 160, 160), "crop_pct": 1.0, "crop_mode": "border",
          "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}  # fmt: skip
REPO = "timm/test_resnet.r160_in1k"


def model(**arguments: Any) -> torch.nn.Module:
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(NAME, **arguments).eval()


def entry_for(folder: Path, name: str = NAME, more: str = "", **arguments: Any) -> Entry:
    """A card with weights beside it, those of `model(**arguments)`."""
    given = "".join(f"{key} = {value!r}\n" for key, value in arguments.items())
    card = f'source = "timm:{name}"\nweights = "w.safetensors"\n{more}\n[arguments]\n{given}'
    made = write_model(folder, "m", card)
    save_file(model(**arguments).state_dict(), made / "w.safetensors")
    return entry_of(made)


def test_weights_labels_and_preprocessing(tmp_path: Path) -> None:
    entry = entry_for(tmp_path)
    assert entry.is_local
    loaded = load(entry, settings())
    x = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.module.eval()(x), model()(x))
    assert len(loaded.labels) == 1000
    assert loaded.labels[207] == "golden retriever"
    assert loaded.input["height"] == 160
    assert loaded.input["resize_to"] == 168  # 160 / 0.95, rounded down


def test_a_model_of_the_operators_own_classes(tmp_path: Path) -> None:
    loaded = load(entry_for(tmp_path, num_classes=5), settings())
    assert loaded.labels == ()
    assert loaded.module(torch.zeros(1, 3, 160, 160)).shape == (1, 5)


@pytest.mark.parametrize(
    "name",
    ["resnet50.a1_in1k", "vit_base_patch16_clip_224.openai", "vit_base_patch16_siglip_224.webli",
     "beit_base_patch16_224.in22k_ft_in22k_in1k", "inception_v3.tf_in1k", "convnext_tiny.in12k"],
)  # fmt: skip
def test_preprocessing_is_timms_own(name: str) -> None:
    import timm

    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    assert_same_to_one_grey_level(
        input_fields(config, channels=3, model="m"), timm.data.create_transform(**config)
    )


def test_preprocessing_that_camserve_does_not_have() -> None:
    for changes in ({}, {"input_size": (3, 160, 120), "crop_mode": "center"}):
        with pytest.raises(InvalidCard, match=r"has no counterpart in camserve: write \[input\]"):
            input_fields(BORDER | changes, channels=3, model="m")


def test_a_card_may_say_what_camserve_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda *_, **__: BORDER)
    entry = entry_for(tmp_path / "a")
    with pytest.raises(InvalidCard, match="no counterpart"):
        load(entry, settings())
    entry = entry_for(tmp_path / "b", more="[input]\nheight = 160\nwidth = 160")
    assert load(entry, settings()).input == {}


def test_an_input_of_another_size(tmp_path: Path) -> None:
    name = "test_vit"
    import timm

    card = f'source = "timm:{name}"\nweights = "w.safetensors"\n[arguments]\nimg_size = 96\n'
    folder = write_model(tmp_path, "m", card)
    save_file(timm.create_model(name, img_size=96).state_dict(), folder / "w.safetensors")
    loaded = load(entry_of(folder), settings())
    assert (loaded.input["height"], loaded.input["width"]) == (96, 96)
    assert loaded.module(torch.zeros(1, 3, 96, 96)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, {"colors": "L"}), (4, {"shape": [4, 160, 160]})]
)
def test_other_numbers_of_channels(channels: int, expected: dict[str, Any]) -> None:
    fields = input_fields(BORDER | {"crop_mode": "center"}, channels=channels, model="m")
    assert {key: fields[key] for key in expected} == expected
    assert "mean" not in fields


@pytest.mark.parametrize(
    ("card", "kind", "reason"),
    [
        ("timm:resnet5o", InvalidCard, r"no model 'resnet5o'; did you mean .*resnet50"),
        ("timm:resnet50.a1_in2k", InvalidCard, r"no model .*; did you mean resnet50.a1_in1k"),
        ("timm:hf-hub:people/model", InvalidCard, "timm has no model"),
        ("timm:gcvit_tiny.in1k", UnsupportedModel, r"no safetensors weights of .*weights ="),
    ],
)  # fmt: skip
def test_names_that_will_not_do(
    tmp_path: Path, card: str, kind: type[CamserveError], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        load(entry_of(write_model(tmp_path, "m", f'source = "{card}"')), settings())


@pytest.mark.parametrize(
    ("arguments", "kind", "reason"),
    [
        ({"checkpoint_path": "x.pth"}, InvalidCard, "'checkpoint_path' is camserve's to give"),
        ({"pretrained_cfg": "x"}, InvalidCard, "'pretrained_cfg' is camserve's to give"),
        ({"num_clases": 3}, ModelUnavailable, "timm cannot build .*num_clases"),
    ],
)
def test_arguments_that_will_not_do(
    tmp_path: Path, arguments: dict[str, Any], kind: type[CamserveError], reason: str
) -> None:
    given = "".join(f"{key} = {value!r}\n" for key, value in arguments.items())
    card = f'source = "timm:{NAME}"\nweights = "w.safetensors"\n[arguments]\n{given}'
    with pytest.raises(kind, match=reason):
        load(entry_of(write_model(tmp_path, "m", card)), settings())


def test_a_classifier_without_trained_weights_is_refused(tmp_path: Path) -> None:
    """timm would give it a random one: maps of noise, and no error."""
    card = f'source = "timm:{NAME}"\n[arguments]\nnum_classes = 5\n'
    with pytest.raises(UnsupportedModel, match="the classifier would have no trained weights"):
        load_timm(entry_of(write_model(tmp_path, "m", card)), tmp_path)


def test_a_torchvision_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "_broken", ["operator torchvision::nms does not exist"])
    with pytest.raises(ModelUnavailable) as refusal:
        load_timm(entry_for(tmp_path), None)
    for part in ("beside torch 2", "torchvision::nms does not exist", "built for this torch"):
        assert part in str(refusal.value)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = entry_for(tmp_path)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelUnavailable, match=r"pip install 'camserve\[timm\]'"):
        load_timm(entry, None)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubStandIn]:
    served = tmp_path / "served"
    served.mkdir()
    save_file(model().state_dict(), served / "model.safetensors")
    (served / "config.json").write_text('{"architecture": "test_resnet"}')
    with HubStandIn(REPO, served) as running:
        yield running


def test_fetched_once_and_then_used_without_the_hub(hub: HubStandIn, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_model(models, "tiny", f'source = "timm:{NAME}"')
    write_model(models, "other", 'source = "timm:test_vit.r160_in1k"')
    shim = environment(tmp_path / "shim")
    process = Loader(hub.url, models, tmp_path / "cache", shim)
    try:
        assert process.load("other").startswith("InvalidCard model 'other': there is no folder")
        assert process.load("tiny") == "loaded bilinear (0.5, 0.5, 0.5)\n"
        count = len(hub.asked)
        assert process.load("tiny") == "loaded bilinear (0.5, 0.5, 0.5)\n"
        assert len(hub.asked) == count
    finally:
        process.close()
    later = Loader(f"http://127.0.0.1:{free_port()}", models, tmp_path / "cache", shim)
    try:
        assert later.load("tiny") == "loaded bilinear (0.5, 0.5, 0.5)\n"
        refusal = later.load("other")
        assert refusal.startswith("ModelUnavailable")
        for way_out in ("Connect the worker", "HF_ENDPOINT", 'weights = "model.safetensors"'):
            assert way_out in refusal
    finally:
        later.close()


def test_a_worker_with_a_broken_torchvision(tmp_path: Path) -> None:
    """Without the shim: timm says why, and a model of transformers loads all the same."""
    from tests.workers.pretrained import PROCESSORS, save_pretrained
    from tests.workers.test_transformers import write_processor

    broken = tmp_path / "broken" / "torchvision"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms is not')")
    models = tmp_path / "models"
    write_model(models, "cnn", f'source = "timm:{NAME}"\nweights = "w.safetensors"')
    vit = entry_of(write_model(models, "vit", 'source = "transformers:files"'))
    save_pretrained(vit.folder / "files", "vit")
    write_processor(vit, PROCESSORS["vit"])
    process = Loader("", models, tmp_path / "cache", {"PYTHONPATH": str(broken.parent)})
    try:
        assert process.load("vit") == "loaded bilinear (0.5, 0.5, 0.5)\n"
        assert "operator torchvision::nms is not" in process.load("cnn")
    finally:
        process.close()


def test_the_shim_is_no_part_of_the_product() -> None:
    for path in (*ROOT.glob("workers/**/*.py"), *ROOT.glob("camserve/**/*.py")):
        assert "torchvision_cpu" not in path.read_text()
