"""`factory:`: the operator's own Python, and only what the operator allowed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from camserve.errors import CamserveError, InvalidCard, ModelUnavailable, UnsupportedModel
from tests.workers.cards import FACTORIES, TINY, entry_of, factory_card, write_model
from tests.workers.factories import SHAPE, tiny
from workers.sources.factory import load_factory

INPUT = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_the_card_gives_the_arguments(tmp_path: Path) -> None:
    entry = entry_of(write_model(tmp_path, "m", factory_card(classes=5, seed=7)))
    module = load_factory(entry, FACTORIES).module
    assert torch.equal(module(INPUT), tiny(5, seed=7)(INPUT))


def test_weights_from_safetensors(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", f'weights = "w.safetensors"\n{TINY}')
    save_file(tiny(seed=3).state_dict(), folder / "w.safetensors")
    module = load_factory(entry_of(folder), FACTORIES).module
    assert torch.equal(module(INPUT), tiny(seed=3)(INPUT))
    assert not torch.equal(module(INPUT), tiny(seed=0)(INPUT))


def test_a_factory_that_is_not_allowed_is_not_even_imported(tmp_path: Path) -> None:
    card = 'source = "factory:this:antigravity"\n'
    sys.modules.pop("this", None)
    with pytest.raises(InvalidCard, match=r"not allowed; add it to CAMSERVE_FACTORIES"):
        load_factory(entry_of(write_model(tmp_path, "m", card)), FACTORIES)
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    ("card", "kind", "reason"),
    [
        (factory_card("missing"), ModelUnavailable, "cannot be imported .AttributeError"),
        ('source = "factory:no.such:thing"', ModelUnavailable, "cannot be imported .ModuleNotFo"),
        ('source = "factory:nocolon"', ModelUnavailable, "cannot be imported"),
        (factory_card("no_module"), InvalidCard, "did not return a torch.nn.Module"),
        (factory_card("raising"), ModelUnavailable, "raised OSError: the disk is full"),
        (factory_card(clases=5), ModelUnavailable, "unexpected keyword argument 'clases'"),
        (f'weights = "w.safetensors"\n{TINY}', ModelUnavailable, "'w.safetensors' are missing"),
    ],
)
def test_what_can_be_wrong(
    tmp_path: Path, card: str, kind: type[CamserveError], reason: str
) -> None:
    entry = entry_of(write_model(tmp_path, "m", card))
    allowed = (*FACTORIES, "no.such:thing", "nocolon")
    with pytest.raises(kind, match=reason) as refusal:
        load_factory(entry, allowed)
    assert "model 'm'" in str(refusal.value)


def test_a_module_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "camserve_broken_factory.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    card = 'source = "factory:camserve_broken_factory:make"'
    entry = entry_of(write_model(tmp_path / "models", "m", card))
    with pytest.raises(ModelUnavailable, match="ZeroDivisionError"):
        load_factory(entry, ["camserve_broken_factory:make"])


def test_weights_of_another_model(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", f'weights = "w.safetensors"\n{TINY}')
    save_file(tiny(classes=4).state_dict(), folder / "w.safetensors")
    with pytest.raises(InvalidCard, match=r"do not fit the module: size mismatch for head"):
        load_factory(entry_of(folder), FACTORIES)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights_are_not_opened(tmp_path: Path, name: str, zipped: bool) -> None:
    folder = write_model(tmp_path, "m", f'weights = "{name}"\n{TINY}')
    torch.save(tiny().state_dict(), folder / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsupportedModel, match=r"a pickle runs code; .*safetensors.torch.save_"):
        load_factory(entry_of(folder), FACTORIES)


def test_torch_script_as_weights(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", f'weights = "w.pt"\n{TINY}')
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.trace(tiny(), INPUT), folder / "w.pt")
    with pytest.raises(
        UnsupportedModel, match=r"a TorchScript file, .*safetensors.torch.save_file"
    ):
        load_factory(entry_of(folder), FACTORIES)


def test_weights_of_no_known_kind(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", f'weights = "w.safetensors"\n{TINY}')
    (folder / "w.safetensors").write_text("weights")
    with pytest.raises(InvalidCard, match=r"not a safetensors file .*safetensors.torch.save_file"):
        load_factory(entry_of(folder), FACTORIES)
