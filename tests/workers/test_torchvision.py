"""`torchvision:`: published weights are fetched once and never unpickled; presets are followed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from camserve.contracts.input_specs import TensorSpec
from camserve.errors import CamserveError, InvalidCard, ModelUnavailable, UnsupportedModel
from tests.service import free_port
from tests.torchvision_shim import needs_torchvision
from tests.workers.cards import entry_of, settings, write_model
from tests.workers.hub_stand_in import FileServer
from tests.workers.preprocessing import assert_same_to_one_grey_level
from workers.repository import Entry
from workers.sources import libraries, load
from workers.sources.torchvision import input_fields, load_torchvision

pytestmark = needs_torchvision

NAME = "shufflenet_v2_x0_5"


def network(name: str = NAME, **arguments: Any) -> nn.Module:
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torchvision.models.get_model(name, weights=None, **arguments).eval()


def entry_for(folder: Path, module: nn.Module, name: str = NAME, **arguments: Any) -> Entry:
    given = "".join(f"{key} = {value!r}\n" for key, value in arguments.items())
    card = f'source = "torchvision:{name}"\nweights = "w.safetensors"\n[arguments]\n{given}'
    made = write_model(folder, "m", card)
    save_file(module.state_dict(), made / "w.safetensors")
    return entry_of(made)


def test_weights_from_a_file(tmp_path: Path) -> None:
    module = network()
    entry = entry_for(tmp_path, module)
    assert entry.is_local
    loaded = load(entry, settings())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.module.eval()(x), module(x))
    assert len(loaded.labels) == 1000
    assert loaded.labels[0] == "tench"
    assert loaded.input["height"] == 224
    assert loaded.input["resize_to"] == 256


def test_a_model_of_the_operators_own_classes(tmp_path: Path) -> None:
    entry = entry_for(tmp_path, network(num_classes=4), num_classes=4)
    loaded = load(entry, settings())
    assert loaded.labels == ()
    assert loaded.module(torch.zeros(1, 3, 64, 64)).shape == (1, 4)


@pytest.mark.parametrize("name", ["resnet50", "vit_h_14", "inception_v3", "swin_v2_t"])
def test_preprocessing_is_the_presets(name: str) -> None:
    import torchvision

    models = torchvision.models
    for published in models.get_model_weights(name):
        fields = input_fields(published, models.get_model_builder(name))
        assert_same_to_one_grey_level(fields, published.transforms())


def test_segmentation(tmp_path: Path) -> None:
    """Its output is a mapping of logits for each pixel; nothing but its own weights is fetched."""
    name = "lraspp_mobilenet_v3_large"
    module = network(name, weights_backbone=None)
    loaded = load(entry_for(tmp_path, module, name), settings())
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.module.eval()(x)["out"], module(x)["out"])
    assert loaded.labels[:2] == ("__background__", "aeroplane")
    assert (loaded.input["height"], loaded.input["resize_to"]) == (520, 520)


def test_video(tmp_path: Path) -> None:
    import torchvision

    models = torchvision.models
    for name, frames in (("r3d_18", 0), ("mvit_v2_s", 16)):
        published = models.get_model_weights(name).DEFAULT
        spec = TensorSpec.model_validate(input_fields(published, models.get_model_builder(name)))
        assert (spec.format, spec.shape[:2]) == ("BCTSS", (3, frames))
        clip = torch.randint(0, 256, (16, 3, *spec.shape[2:]), dtype=torch.uint8)
        preset = published.transforms()
        preset.resize_size = list(spec.shape[2:])  # the clip has the size already
        mean, std = (torch.tensor(v).reshape(3, 1, 1, 1) for v in (spec.mean, spec.std))
        ours = (clip.float().transpose(0, 1) - mean) / std
        torch.testing.assert_close(ours, preset(clip), rtol=1e-4, atol=1e-4)
    module = network("r3d_18", num_classes=3)
    loaded = load(entry_for(tmp_path, module, "r3d_18", num_classes=3), settings())
    assert loaded.module(torch.zeros(1, 3, 4, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "reason"),
    [
        ("resnet5O", {}, InvalidCard, r"has no model 'resnet5O'; did you mean .*resnet50"),
        ("resnet50", {"weights": "V9"}, InvalidCard, r"weights 'V9'; there are IMAGENET1K_V1, IM"),
        ("fasterrcnn_resnet50_fpn", {}, UnsupportedModel, "it is a detector"),
        ("raft_small", {}, UnsupportedModel, "it compares two pictures"),
        ("quantized_resnet18", {}, UnsupportedModel, "rounding has no gradient"),
        ("resnet18", {"progress": True}, InvalidCard, "may not give 'progress'"),
        ("resnet18", {"clases": 3}, ModelUnavailable, r"cannot build 'resnet18'.*'clases'"),
    ],
)  # fmt: skip
def test_cards_that_will_not_do(
    tmp_path: Path, name: str, arguments: dict[str, Any], kind: type[CamserveError], reason: str
) -> None:
    given = "".join(f"{key} = {json.dumps(value)}\n" for key, value in arguments.items())
    card = f'source = "torchvision:{name}"\nweights = "w.safetensors"\n[arguments]\n{given}'
    with pytest.raises(kind, match=reason):
        load(entry_of(write_model(tmp_path, "m", card)), settings())


def test_a_torchvision_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "_broken", ["operator torchvision::nms does not exist"])
    with pytest.raises(ModelUnavailable, match=r"nms does not exist\): install the torchvision"):
        load_torchvision(entry_for(tmp_path, network()))


class Published:
    """A server of one file of weights, which torchvision's enum points to."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import torchvision

        monkeypatch.setenv("TORCH_HOME", str(folder / "home"))
        self.folder = folder / "served"
        self.folder.mkdir()
        self.module = network()
        content = folder / "weights"
        torch.save(self.module.state_dict(), content)
        digest = hashlib.sha256(content.read_bytes()).hexdigest()[:8]
        self.file = self.folder / f"tiny-{digest}.pth"
        content.rename(self.file)
        self.cached = folder / "home" / "hub" / "checkpoints" / self.file.name
        self.member = torchvision.models.get_model_weights(NAME).DEFAULT
        self._monkeypatch = monkeypatch
        self.entry = entry_of(write_model(folder, "m", f'source = "torchvision:{NAME}"'))

    def served_at(self, url: str) -> None:
        self._monkeypatch.setattr(self.member.value, "url", f"{url}/{self.file.name}")


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    return Published(tmp_path, monkeypatch)


@pytest.fixture
def server(published: Published) -> Iterator[FileServer]:
    with FileServer(published.folder) as running:
        published.served_at(running.url)
        yield running


def test_fetched_once_and_then_used_without_a_network(
    published: Published, server: FileServer
) -> None:
    assert not published.entry.is_local
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        loaded = load(published.entry, settings())
        torch.testing.assert_close(loaded.module.eval()(x), published.module(x))
    assert len(server.asked) == 2, server.asked  # a question, and the file
    published.served_at(f"http://127.0.0.1:{free_port()}")
    load(published.entry, settings())


def test_a_download_with_another_hash_is_not_kept(published: Published, server: FileServer) -> None:
    published.file.write_bytes(published.file.read_bytes() + b"more")
    with pytest.raises(ModelUnavailable, match="invalid hash value"):
        load(published.entry, settings())
    assert not published.cached.exists()


def test_without_a_network(published: Published) -> None:
    published.served_at(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ModelUnavailable) as refusal:
        load(published.entry, settings())
    for way_out in ("Connect the worker", str(published.cached), 'weights = "model.safetensors"'):
        assert way_out in str(refusal.value)


class _Mischief:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, (str(self.path), "w"))


def test_published_weights_are_not_unpickled(published: Published, tmp_path: Path) -> None:
    published.cached.parent.mkdir(parents=True)
    published.served_at("http://127.0.0.1:1")
    torch.save(_Mischief(tmp_path / "ran"), published.cached)
    with pytest.raises(ModelUnavailable, match="UnpicklingError"):
        load(published.entry, settings())
    assert not (tmp_path / "ran").exists()
