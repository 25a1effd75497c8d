"""`transformers:` beyond classifiers of pictures: segmentation, video, and plain backbones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from camserve.contracts.input_specs import TensorSpec
from camserve.errors import InvalidCard, UnsupportedModel
from tests.workers.cards import entry_of, settings, write_model
from tests.workers.preprocessing import assert_same_to_one_grey_level
from tests.workers.pretrained import PROCESSORS, config_of, save_pretrained
from tests.workers.test_transformers import write_processor
from workers.repository import Entry
from workers.sources import load
from workers.sources.image_processors import picture_fields


def entry_for(folder: Path, model: Any, task: str = "classification") -> Entry:
    card = f'source = "transformers:files"\ntask = "{task}"'
    made = write_model(folder, "m", card)
    model.save_pretrained(made / "files")
    return entry_of(made)


def built(name: str, config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return getattr(transformers, name)(config).eval()


SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
VIDEO = {**SMALL, "image_size": 16, "patch_size": 8, "num_frames": 4}


def segformer() -> Any:
    return transformers.SegformerConfig(
        hidden_sizes=[4, 4, 8, 8], depths=[1] * 4, num_attention_heads=[1] * 4,
        decoder_hidden_size=8, id2label={0: "sky", 1: "road"}, label2id={},
    )  # fmt: skip


def test_semantic_segmentation(tmp_path: Path) -> None:
    model = built("SegformerForSemanticSegmentation", segformer())
    entry = entry_for(tmp_path, model, "segmentation")
    processor = PROCESSORS["vit"] | {"image_processor_type": "SegformerImageProcessor"}
    write_processor(entry, processor | {"size": {"height": 64, "width": 96}})
    loaded = load(entry, settings())
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    logits = loaded.module.eval()(x).logits
    assert logits.shape == (2, 2, 16, 24)
    torch.testing.assert_close(logits, model(x).logits)
    assert loaded.labels == ("sky", "road")
    assert (loaded.input["height"], loaded.input["width"]) == (64, 96)


def test_masks_of_queries_are_refused(tmp_path: Path) -> None:
    entry = entry_for(tmp_path, built("SegformerForSemanticSegmentation", segformer()))
    file = entry.folder / "files" / "config.json"
    config = json.loads(file.read_text())
    for name in ("Mask2FormerForUniversalSegmentation", "DetrForObjectDetection"):
        file.write_text(json.dumps(config | {"architectures": [name]}))
        with pytest.raises(UnsupportedModel, match=f"a {name} answers with boxes or masks"):
            load(entry, settings())


MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
NORMALISE = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
             "image_mean": MEAN, "image_std": STD}  # fmt: skip


PLAIN = {"image_processor_type": "VideoMAEImageProcessor"}
CENTRED = {"image_processor_type": "VivitImageProcessor", "rescale_factor": 1 / 127.5,
           "offset": True}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "config", "processor"),
    [
        ("VideoMAE", {**VIDEO, "tubelet_size": 2}, PLAIN),
        ("Timesformer", VIDEO, PLAIN),
        ("Vivit", {**VIDEO, "tubelet_size": [2, 8, 8]}, CENTRED),
    ],
)  # fmt: skip
def test_video_classification(
    tmp_path: Path, name: str, config: dict[str, Any], processor: dict[str, Any]
) -> None:
    made = getattr(transformers, f"{name}Config")(**config, num_labels=3)
    model = built(f"{name}ForVideoClassification", made)
    entry = entry_for(tmp_path, model)
    write_processor(entry, NORMALISE | processor)
    loaded = load(entry, settings())
    spec = TensorSpec.model_validate(loaded.input)
    assert (spec.format, spec.shape) == ("BTCSS", (4, 3, 16, 16))

    clip = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16)).astype(np.float32)
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (spec.mean, spec.std))
    ours = torch.from_numpy((clip - mean) / std)[None]
    values = clip * processor.get("rescale_factor", 1 / 255) - (1 if "offset" in processor else 0)
    expected = (values - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    np.testing.assert_allclose(ours[0].numpy(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loaded.module.eval()(ours).logits, model(ours).logits)


def test_the_vivit_processor_of_transformers_does_the_same(tmp_path: Path) -> None:
    """The formula above, against transformers' own code, which needs no torchvision."""
    from transformers.models.vivit.image_processing_vivit import VivitImageProcessor

    own = VivitImageProcessor(do_resize=False, do_center_crop=False, image_mean=MEAN, image_std=STD)
    frame = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    theirs = np.asarray(own([frame], return_tensors="np")["pixel_values"])[0, 0]
    expected = (frame.transpose(2, 0, 1) / 127.5 - 1 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(
        STD, (3, 1, 1)
    )
    np.testing.assert_allclose(theirs, expected, rtol=1e-4, atol=1e-4)


def test_a_video_model_without_preprocessing(tmp_path: Path) -> None:
    config = transformers.TimesformerConfig(**VIDEO, num_labels=3)
    loaded = load(
        entry_for(tmp_path, built("TimesformerForVideoClassification", config)), settings()
    )
    assert loaded.input == {"format": "BTCSS", "shape": (4, 3, 16, 16)}


def test_video_preprocessing_that_says_too_little(tmp_path: Path) -> None:
    config = transformers.TimesformerConfig(**VIDEO, num_labels=3)
    entry = entry_for(tmp_path, built("TimesformerForVideoClassification", config))
    write_processor(entry, {"image_processor_type": "VideoMAEImageProcessor"})
    with pytest.raises(InvalidCard, match=r"a kind that camserve does not know \('image_mean'\)"):
        load(entry, settings())


def test_a_backbone_explains_its_embedding(tmp_path: Path) -> None:
    """Its pooled output, where it has one."""
    model = built("ResNetModel", config_of("resnet"))
    loaded = load(entry_for(tmp_path, model, "embedding"), settings())
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    output = loaded.module.eval()(x)
    torch.testing.assert_close(output, model(x).pooler_output[:, :, 0, 0])
    assert "encoder.stages.1" in dict(loaded.module.named_modules())
    assert loaded.labels == ()


def test_a_backbone_without_a_pooling_layer(tmp_path: Path) -> None:
    """transformers would give it one of random weights: the mean over positions takes its place."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = transformers.ViTModel(config_of("vit"), add_pooling_layer=False).eval()
    loaded = load(entry_for(tmp_path, model, "embedding"), settings())
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.module.eval()(x), model(x).last_hidden_state.mean(1))


def test_a_classifier_as_a_backbone(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", 'source = "transformers:files"\ntask = "embedding"')
    save_pretrained(folder / "files", "resnet", id2label={0: "a", 1: "b"}, label2id={})
    loaded = load(entry_of(folder), settings())
    assert loaded.module(torch.zeros(1, 3, 32, 32)).shape == (1, 8)
    assert loaded.labels == ()


def test_a_model_of_pictures_and_texts_is_refused(tmp_path: Path) -> None:
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 8}  # fmt: skip
    config = transformers.CLIPConfig(
        text_config={**tiny, "vocab_size": 9}, projection_dim=4,
        vision_config={**tiny, "image_size": 16, "patch_size": 8},
    )  # fmt: skip
    model = built("CLIPModel", config)
    with pytest.raises(
        UnsupportedModel, match=r"CLIPModel takes more than a picture.*CLIPVisionModel"
    ):
        load(entry_for(tmp_path / "both", model, "embedding"), settings())
    vision = built("CLIPVisionModel", config.vision_config)
    loaded = load(entry_for(tmp_path / "vision", vision, "embedding"), settings())
    assert loaded.module(torch.zeros(1, 3, 16, 16)).shape == (1, 8)


def test_mobilevit_takes_blue_first(tmp_path: Path) -> None:
    processor = transformers.MobileViTImageProcessorPil(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
    )
    fields = picture_fields(processor, config_of("vit"))
    assert fields["colors"] == "BGR"
    assert_same_to_one_grey_level(
        fields, lambda p: processor(p, return_tensors="np").pixel_values[0]
    )


def test_efficientnet_divides_twice(tmp_path: Path) -> None:
    processor = transformers.EfficientNetImageProcessorPil(size={"height": 40, "width": 32})
    fields = picture_fields(processor, config_of("vit"))
    assert_same_to_one_grey_level(
        fields, lambda p: processor(p, return_tensors="np").pixel_values[0]
    )


def test_steps_that_camserve_does_not_have() -> None:
    processor = transformers.DPTImageProcessorPil(keep_aspect_ratio=True)
    with pytest.raises(ValueError, match="keep_aspect_ratio"):
        picture_fields(processor, config_of("vit"))
