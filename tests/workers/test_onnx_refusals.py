"""`onnx:`: what cannot be loaded is refused with a reason and a remedy; nothing crashes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from camserve.errors import CamserveError, InvalidCard, ModelUnavailable, UnsupportedModel
from tests.workers.factories import SHAPE, tiny
from tests.workers.onnx_files import IMAGE, make, new_entry, node, write
from workers.repository import Entry
from workers.sources.onnx import load_onnx

RELU = node("Relu", ["x"], ["y"])


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return new_entry(tmp_path)


def test_a_missing_file(entry: Entry) -> None:
    with pytest.raises(ModelUnavailable, match=r"the file 'model.onnx' is missing"):
        load_onnx(entry)


def _torch_script() -> bytes:
    buffer = io.BytesIO()
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.trace(tiny(), torch.zeros(1, *SHAPE)), buffer)
    return buffer.getvalue()


def _pickled(**more: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(tiny().state_dict(), buffer, **more)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_torch_script, "TorchScript file, whose submodules cannot be hooked; .*torch.export.save"),
        (_pickled, "a pickle runs code; .*torch.export.save"),
        (lambda: _pickled(_use_new_zipfile_serialization=False), "a pickle runs code"),
        (lambda: b"", "is not an ONNX file, or a damaged one"),
        (lambda: b"not a model at all", "is not an ONNX file, or a damaged one"),
        (lambda: bytes(range(256)) * 9, "is not an ONNX file, or a damaged one"),
        (lambda: make([RELU]).SerializeToString()[:-9], "write it again"),
    ],
)
def test_what_is_no_onnx_file(entry: Entry, content: Callable[[], bytes], reason: str) -> None:
    (entry.folder / "model.onnx").write_bytes(content())
    with pytest.raises(UnsupportedModel, match=reason):
        load_onnx(entry)


CLASSIFIER = make(
    [
        node("Conv", ["x", "W"], ["c"], pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["c"], ["p"]),
        node("Flatten", ["p"], ["y"]),
    ],
    {"W": np.ones((2, 3, 3, 3), np.float32)},
)


def test_damaged_files_never_crash(entry: Entry) -> None:
    """Cut anywhere, or with any byte changed: loaded, or refused, and nothing else."""
    whole = CLASSIFIER.SerializeToString()
    generator = np.random.default_rng(0)
    refused = 0
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= int(generator.integers(1, 256))
        for content in (whole[:at], bytes(changed)):
            (entry.folder / "model.onnx").write_bytes(content)
            try:
                load_onnx(entry)
            except UnsupportedModel:
                refused += 1
    assert refused > len(whole)


SELECTION = node("NonMaxSuppression", ["x", "x"], ["y"])
LOOP_BODY = helper.make_graph(
    [node("Identity", ["go"], ["on"]), node("Relu", ["v"], ["w"])],
    "body",
    [
        helper.make_tensor_value_info(name, kind, [])
        for name, kind in (("at", 7), ("go", 9), ("v", 1))
    ],
    [helper.make_tensor_value_info(name, kind, []) for name, kind in (("on", 9), ("w", 1))],
)
HUGE = np.array([2**20, 2**20])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: make([SELECTION]), r"uses NonMaxSuppression \(opset 17\).*torch.export.save"),
        (
            lambda: make([node("QuantizeLinear", ["x", "s"], ["y"])],
                         {"s": np.array(1, np.float32)}, opset=13),
            r"uses QuantizeLinear \(opset 13\), whose rounding has no gradient: export the network",
        ),
        (
            lambda: make([node("Loop", ["", "", "x"], ["y"], body=LOOP_BODY)]),
            r"uses Loop \(opset 17\)",
        ),
        (
            lambda: make([node("BatchNormalization", ["x", *"sbmv"], ["y"], training_mode=1)],
                         {name: np.ones(3, np.float32) for name in "sbmv"}),
            "uses BatchNormalization in training mode",
        ),
        (
            lambda: make([node("Resize", ["x", "roi", "s"], ["y"],
                               coordinate_transformation_mode="tf_crop_and_resize")],
                         {"roi": np.zeros(8, np.float32), "s": np.ones(4, np.float32)}),
            "uses Resize with coordinate_transformation_mode 'tf_crop_and_resize'",
        ),
        (
            lambda: make([node("FusedConv", ["x"], ["y"], domain="com.microsoft")],
                         opset_imports=[helper.make_opsetid("", 17),
                                        helper.make_opsetid("com.microsoft", 1)]),
            "the operator 'FusedConv' of 'com.microsoft'.*without the optimisations of one runtime",
        ),
        (lambda: make([node("Nonsense", ["x"], ["y"])]), "not a valid ONNX model.*Nonsense"),
        (lambda: make([node("Relu", ["nothing"], ["y"])]), "not a valid ONNX model.*nothing"),
        (
            lambda: make([node("Conv", ["x", "W"], ["y"])], {"W": np.ones((2, 3), np.float32),}),
            None,
        ),
        (lambda: make([RELU], shape=(4, *IMAGE[1:])), "for batches of exactly 4.*dynamic_axes"),
        (lambda: make([RELU], shape=("N", 7)), "2 dimensions.*there is nothing spatial in it"),
        (lambda: make([RELU], shape=("N", *[2] * 5)), "6 dimensions.*these are too many"),
        (
            lambda: make([node("Cast", ["x"], ["y"], to=1)], kind=TensorProto.INT64),
            "not of floating-point numbers.*not of tokens",
        ),
        (
            lambda: make([node("ConstantOfShape", ["s"], ["o"]), RELU], {"s": HUGE}),
            r"a tensor of shape \[1048576, 1048576\], which is too large",
        ),
    ],
)  # fmt: skip
def test_what_camserve_cannot_explain(
    entry: Entry, model: Callable[[], onnx.ModelProto], reason: str | None
) -> None:
    write(entry, model())
    if reason is None:  # nonsense that ONNX's checks let through fails in the probe
        network = load_onnx(entry).module
        with pytest.raises((RuntimeError, ValueError, CamserveError)):
            network(torch.zeros(1, 3, 8, 8))
        return
    with pytest.raises(UnsupportedModel, match=reason):
        load_onnx(entry)


def test_a_network_of_several_inputs(entry: Entry) -> None:
    model = make([node("Add", ["x", "z"], ["y"])])
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, IMAGE))
    with pytest.raises(UnsupportedModel, match=r"2 inputs \(x, z\).*with the others fixed"):
        load_onnx(write(entry, model))


def with_outside_data(entry: Entry, location: str) -> None:
    """A model whose weight lies in a file of this name."""
    tensor = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "W")
    onnx.external_data_helper.set_external_data(tensor, location, 0, 24)
    tensor.ClearField("raw_data")
    model = make([node("Conv", ["x", "W"], ["y"])])
    model.graph.initializer.append(tensor)
    write(entry, model)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret"])
def test_weights_outside_the_folder_are_not_read(
    entry: Entry, tmp_path: Path, location: str
) -> None:
    (tmp_path / "secret").write_bytes(bytes(24))
    with_outside_data(entry, location)
    with pytest.raises(InvalidCard, match="is not inside the model's folder"):
        load_onnx(entry)


def test_a_link_out_of_the_folder_is_not_followed(entry: Entry, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(24))
    (entry.folder / "inside").symlink_to(tmp_path / "secret")
    with_outside_data(entry, "inside")
    with pytest.raises(InvalidCard, match="a link that leads out of the model's folder"):
        load_onnx(entry)


def test_weights_that_are_missing_or_cut(entry: Entry) -> None:
    with_outside_data(entry, "w.bin")
    with pytest.raises(ModelUnavailable, match=r"in the file 'w.bin', which is missing: copy it"):
        load_onnx(entry)
    (entry.folder / "w.bin").write_bytes(bytes(23))
    with pytest.raises(UnsupportedModel, match=r"'w.bin' do not fit 'model.onnx'.*copy both files"):
        load_onnx(entry)
    (entry.folder / "w.bin").write_bytes(bytes(24))
    assert load_onnx(entry).module(torch.ones(1, 3, 8, 8)).abs().max() == 0


def test_without_the_package(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    write(entry, make([RELU]))
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ModelUnavailable, match=r"pip install 'camserve\[onnx\]'"):
        load_onnx(entry)
