"""`transformers:` from a folder: weights, preprocessing and labels are the model's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from camserve.errors import InvalidCard, ModelUnavailable, UnsupportedModel
from tests.workers.cards import entry_of, settings, write_model
from tests.workers.preprocessing import assert_same_to_one_grey_level, pictures
from tests.workers.pretrained import PROCESSORS, config_of, save_pretrained
from workers.repository import Entry
from workers.sources import Loaded, load
from workers.sources.image_processors import picture_fields

KINDS = ["vit", "resnet", "convnext"]


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    folder = write_model(tmp_path, "m", 'source = "transformers:files"')
    (folder / "files").mkdir()
    return entry_of(folder)


def write_processor(entry: Entry, processor: dict[str, Any]) -> None:
    text = json.dumps(processor)
    (entry.folder / "files" / "preprocessor_config.json").write_text(text)


def load_entry(entry: Entry) -> Loaded:
    return load(entry, settings())


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_preprocessing_are_the_models_own(entry: Entry, kind: str) -> None:
    model = save_pretrained(entry.folder / "files", kind, num_labels=4)
    write_processor(entry, PROCESSORS[kind])
    loaded = load_entry(entry)
    own = transformers.AutoImageProcessor.from_pretrained(entry.folder / "files", backend="pil")

    def values(picture: Image.Image) -> torch.Tensor:
        return own(picture, return_tensors="pt")["pixel_values"]

    assert_same_to_one_grey_level(loaded.input, lambda picture: values(picture)[0])
    expected = values(pictures()[0])
    with torch.no_grad():
        torch.testing.assert_close(loaded.module.eval()(expected).logits, model(expected).logits)


def test_labels_come_from_the_configuration(entry: Entry) -> None:
    names = {0: "ant", 1: "bee", 2: "wasp", 10: "hornet"}
    save_pretrained(entry.folder / "files", "resnet", id2label=names, label2id={})
    assert load_entry(entry).labels == ("ant", "bee", "wasp", "hornet")


def test_invented_labels_are_dropped(entry: Entry) -> None:
    save_pretrained(entry.folder / "files", "resnet", num_labels=3)
    assert load_entry(entry).labels == ()


def test_without_preprocessing_only_the_size_is_known(entry: Entry) -> None:
    save_pretrained(entry.folder / "files", "vit")
    assert load_entry(entry).input == {"height": 32, "width": 32}


def test_preprocessing_that_cannot_be_read_is_not_passed_over(entry: Entry) -> None:
    save_pretrained(entry.folder / "files", "vit")
    write_processor(entry, {"image_processor_type": "NoSuchProcessor"})
    with pytest.raises(ModelUnavailable, match="its preprocessing cannot be read"):
        load_entry(entry)


def test_half_precision_weights_are_computed_in_full(entry: Entry) -> None:
    save_pretrained(entry.folder / "files", "resnet").half().save_pretrained(entry.folder / "files")
    assert {p.dtype for p in load_entry(entry).module.parameters()} == {torch.float32}


@pytest.mark.parametrize("change", ["overwritten", "cut short"])
def test_a_loaded_model_does_without_its_file(entry: Entry, change: str) -> None:
    """A copy over it, while the model is resident, would change it, or end the process."""
    expected = save_pretrained(entry.folder / "files", "vit").state_dict()
    module = load_entry(entry).module
    weights = entry.folder / "files" / "model.safetensors"
    size = weights.stat().st_size
    with weights.open("r+b") as file:
        file.write(bytes(size))
        file.truncate(size if change == "overwritten" else 0)
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])


def test_pickled_weights_are_refused(entry: Entry) -> None:
    folder = entry.folder / "files"
    model = save_pretrained(folder, "resnet")
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match=r"has no model.safetensors.* save_pretrained"):
        load_entry(entry)


def test_a_backbone_without_a_classifier_is_refused(entry: Entry) -> None:
    """transformers would give it a random classifier."""
    folder = entry.folder / "files"
    model = save_pretrained(folder, "vit")
    model.vit.save_pretrained(folder)
    with pytest.raises(UnsupportedModel, match=r"lack 'classifier.bias' and 1 more"):
        load_entry(entry)


def test_sharded_weights(entry: Entry) -> None:
    folder = entry.folder / "files"
    model = save_pretrained(folder, "resnet")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="2KB")
    assert (folder / "model.safetensors.index.json").is_file()
    weights = dict(load_entry(entry).module.state_dict())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("text", ["{", '{"model_type": "no-such-model"}', '{"model_type": "bert"}'])
def test_a_configuration_of_no_image_classifier(entry: Entry, text: str) -> None:
    save_pretrained(entry.folder / "files", "resnet")
    (entry.folder / "files" / "config.json").write_text(text)
    with pytest.raises(ModelUnavailable, match="model 'm': "):
        load_entry(entry)


def test_a_model_of_code_is_not_run(entry: Entry, tmp_path: Path) -> None:
    folder, mark = entry.folder / "files", tmp_path / "ran"
    save_pretrained(folder, "resnet")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "evil.C", "AutoModelForImageClassification": "evil.M"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    with pytest.raises(ModelUnavailable):
        load_entry(entry)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"do_resize": False}, {"resize": "none", "height": 32, "width": 32}),
        ({"do_rescale": False}, {"scale": 1.0}),
        ({"resample": 0}, {"filter": "nearest"}),
        ({"resample": 1}, {"filter": "lanczos"}),
        (
            {"size": {"height": 40, "width": 48}, "do_center_crop": True,
             "crop_size": {"height": 32, "width": 36}},
            {"resize": "stretch", "resize_to": (40, 48), "height": 32, "width": 36},
        ),
        (
            {"size": {"shortest_edge": 40}, "do_center_crop": True,
             "crop_size": {"height": 32, "width": 32}, "processor": "CLIPImageProcessor"},
            {"resize": "shortest_edge", "resize_to": 40, "height": 32, "width": 32},
        ),
    ],
)  # fmt: skip
def test_what_processors_can_say(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    name = changes.pop("processor", "ViTImageProcessor")
    options = PROCESSORS["vit"] | changes
    options.pop("image_processor_type")
    processor = getattr(transformers, f"{name}Pil")(**options)
    fields = picture_fields(processor, config_of("vit"))
    assert {key: fields.get(key) for key in expected} == expected


def test_a_gray_model() -> None:
    assert picture_fields(None, config_of("vit", num_channels=1))["colors"] == "L"


def test_preprocessing_of_an_unknown_kind(entry: Entry) -> None:
    save_pretrained(entry.folder / "files", "vit")
    write_processor(entry, PROCESSORS["vit"] | {"size": {"longest_edge": 32}})
    with pytest.raises(InvalidCard, match="of a kind that camserve does not know"):
        load_entry(entry)
