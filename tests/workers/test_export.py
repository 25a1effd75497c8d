"""`export:`: loads torch.export programs, and nothing that could run code."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from camserve.contracts.input_specs import PROBE_SIZE, TensorSpec
from camserve.errors import ErrorCode, ModelUnavailable, UnsupportedModel
from tests.workers.cards import entry_of, write_model
from tests.workers.factories import SHAPE, tiny
from tests.workers.programs import CARD, PROGRAM, SHAPES, rewritten
from workers.repository import Entry
from workers.sources.export import load_export


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported tiny model with a free batch size."""
    path = Path(tmp_path_factory.mktemp("program")) / "model.pt2"
    _export(path, batch=2, dynamic=True)
    return path


def _export(path: Path, *, batch: int, dynamic: bool) -> None:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    example = torch.zeros(batch, *SHAPE)
    exported = torch.export.export(tiny().eval(), (example,), dynamic_shapes=shapes)
    torch.export.save(exported, path)


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return entry_of(write_model(tmp_path, "m", CARD))


def test_the_model_that_camserve_ships(entry: Entry) -> None:
    (entry.folder / "model.pt2").symlink_to(SHAPES)
    loaded = load_export(entry)
    assert loaded.input == {"height": 128, "width": 128}
    assert loaded.labels == ()
    assert "stage3.conv2" in dict(loaded.module.named_modules())


def test_an_unflattened_program_computes_what_the_model_computed(
    entry: Entry, program: Path
) -> None:
    (entry.folder / "model.pt2").symlink_to(program)
    loaded = load_export(entry)
    assert loaded.input == {"height": 8, "width": 8, "colors": "L"}
    inputs = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1))
    assert torch.equal(loaded.module(inputs), tiny()(inputs))


def test_a_missing_file(entry: Entry) -> None:
    with pytest.raises(ModelUnavailable, match=r"the file 'model.pt2' is missing"):
        load_export(entry)


def _torch_script(path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.trace(tiny(), torch.zeros(1, *SHAPE)), path)


def _pickled_module(path: Path) -> None:
    torch.save(tiny(), path)


def _state_dict(path: Path) -> None:
    torch.save(tiny().state_dict(), path)


def _old_pickle(path: Path) -> None:
    torch.save(tiny().state_dict(), path, _use_new_zipfile_serialization=False)


def _random_bytes(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 8)


def _compiled_library(path: Path) -> None:
    rewritten(path, add={"archive/data/aotinductor/model/model.so": b"\x7fELF"})


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (_torch_script, "is a TorchScript file, whose submodules cannot be hooked"),
        (_pickled_module, "a pickle runs code"),
        (_state_dict, "a pickle runs code"),
        (_old_pickle, "a pickle runs code"),
        (_random_bytes, "is not a torch.export program"),
        (_compiled_library, "can run code"),
    ],
)
def test_other_formats_are_refused_with_the_way_out(
    entry: Entry, write: Callable[[Path], None], reason: str
) -> None:
    write(entry.folder / "model.pt2")
    with pytest.raises(UnsupportedModel, match=reason) as refusal:
        load_export(entry)
    assert refusal.value.error_code is ErrorCode.UNSUPPORTED_MODEL
    assert "torch.export.save(torch.export.export(" in str(refusal.value)


class _Mischief:
    """A pickle of it creates a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (open, (str(self.path), "w"))


def _torch_pickle(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_a_pickle_hidden_in_a_program_is_not_opened(entry: Entry, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    evil = _torch_pickle((_Mischief(mark),))
    rewritten(entry.folder / "model.pt2", add={"model/data/sample_inputs/model.pt": evil})
    with pytest.raises(UnsupportedModel):
        load_export(entry)
    assert not mark.exists()


def test_a_custom_object_in_a_program_is_not_opened(entry: Entry, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    constants = {
        "config": {"x": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True,
                         "tensor_meta": None}}
    }  # fmt: skip
    rewritten(
        entry.folder / "model.pt2",
        add={
            "model/data/constants/opaque_obj_0": pickle.dumps(_Mischief(mark)),
            "model/data/constants/model_constants_config.json": json.dumps(constants).encode(),
        },
    )
    with pytest.raises(UnsupportedModel, match="can run code"):
        load_export(entry)
    assert not mark.exists()


@pytest.mark.parametrize(
    "expression",
    ["open('{}', 'w')", "Symbol('s0', positive=open('{}', 'w'))", "[].__class__", "(lambda: 1)()"],
)
def test_code_in_a_symbolic_size_does_not_run(
    entry: Entry, tmp_path: Path, expression: str
) -> None:
    mark = tmp_path / "ran"
    with zipfile.ZipFile(SHAPES) as source:
        graph = source.read(PROGRAM).decode()
    known = "Symbol('s40', positive=True, integer=True)"
    assert known in graph
    changed = graph.replace(known, expression.format(mark))
    rewritten(entry.folder / "model.pt2", add={PROGRAM: changed.encode()})
    with pytest.raises(UnsupportedModel, match="symbolic size"):
        load_export(entry)
    assert not mark.exists()


def test_a_damaged_program(entry: Entry) -> None:
    rewritten(entry.folder / "model.pt2", add={PROGRAM: b"{}"})
    with pytest.raises(UnsupportedModel, match=rf"torch {torch.__version__[:4]}.* cannot read"):
        load_export(entry)


def test_a_program_of_another_archive_version(entry: Entry) -> None:
    rewritten(entry.folder / "model.pt2", add={"model/archive_version": b"7"})
    with pytest.raises(UnsupportedModel) as refusal:
        load_export(entry)
    for part in (
        f"torch {torch.__version__} cannot read 'model.pt2'",
        "written by torch 2.13.0+cpu (archive version 7, schema 8.",
        "does not match our current archive version 0",
        "write it again with torch.export.save and the torch that the worker runs",
    ):
        assert part in str(refusal.value)


def test_a_program_of_another_schema(entry: Entry) -> None:
    """As a later torch writes it: its version and this one's are both told."""
    with zipfile.ZipFile(SHAPES) as source:
        program = json.loads(source.read(PROGRAM))
    program |= {"schema_version": {"major": 99, "minor": 3}, "torch_version": "3.1.4"}
    rewritten(entry.folder / "model.pt2", add={PROGRAM: json.dumps(program).encode()})
    with pytest.raises(UnsupportedModel) as refusal:
        load_export(entry)
    said = str(refusal.value)
    assert f"torch {torch.__version__} cannot read 'model.pt2', written by torch 3.1.4" in said
    assert "schema 99.3" in said


def test_a_program_for_another_batch_size(entry: Entry) -> None:
    _export(entry.folder / "model.pt2", batch=3, dynamic=False)
    with pytest.raises(UnsupportedModel, match=r"batches of exactly 3: write it with a free batch"):
        load_export(entry)


class _Blocks(nn.Module):
    """Takes sequences whose length is a multiple of 23."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], x.shape[1], -1, 23).mean(2)


BATCH = torch.export.Dim("batch")


def _length(**limits: int) -> torch.export.Dim:
    return torch.export.Dim("length", **limits)


@pytest.mark.parametrize(
    ("module", "shape", "dims", "expected"),
    [
        (nn.Conv3d(1, 2, 3), (1, 9, 8, 7), {}, {"format": "BCSSS", "shape": [1, 9, 8, 7]}),
        (nn.Conv2d(5, 2, 3), (5, 9, 8), {}, {"format": "BCSS", "shape": [5, 9, 8]}),
        (nn.Conv1d(4, 2, 3), (4, 90), {2: _length(min=8, max=500)},
         {"format": "BCT", "shape": [4, 0]}),
        (nn.Conv1d(4, 2, 3), (4, 190), {2: _length(min=180, max=500)},
         {"format": "BCT", "shape": [4, 0], "probe": [4, 180]}),
        (nn.Conv1d(4, 2, 3), (4, 20), {2: _length(min=8, max=30)},
         {"format": "BCT", "shape": [4, 0], "probe": [4, 30]}),
        (_Blocks(), (4, 69), {2: 23 * _length(min=1, max=50)},
         {"format": "BCT", "shape": [4, 0], "probe": [4, 23 * round(PROBE_SIZE / 23)]}),
    ],
)  # fmt: skip
def test_volumes_sequences_and_other_tensors(
    entry: Entry, module: nn.Module, shape: tuple[int, ...], dims: dict[int, Any], expected: Any
) -> None:
    """Free sizes are 0; a probe is named where the program does not take the usual one."""
    example = torch.zeros(2, *shape)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: BATCH, **dims},))
    torch.export.save(program, entry.folder / "model.pt2")
    loaded = load_export(entry)
    assert loaded.input == expected
    probe = TensorSpec.model_validate(loaded.input).probe_shape
    assert loaded.module(torch.zeros(3, *probe)).shape[0] == 3
