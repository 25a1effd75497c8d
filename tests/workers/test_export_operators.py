"""`export:`: a program's operators compute, and touch neither files nor the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camserve.errors import UnsupportedModel
from tests.workers.cards import entry_of, write_model
from tests.workers.programs import CARD, SHAPES, changed
from workers.repository import Entry
from workers.sources import program_operators
from workers.sources.export import load_export

X = (3, 8, 8)
Nodes = list[dict[str, Any]]


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return entry_of(write_model(tmp_path, "m", CARD))


def _exported(path: Path, module: nn.Module) -> None:
    program = torch.export.export(
        module.eval(), (torch.zeros(2, *X),), dynamic_shapes=({0: torch.export.Dim.AUTO},)
    )
    torch.export.save(program, path)


def _argument(name: str, **value: Any) -> dict[str, Any]:
    return {"name": name, "arg": value, "kind": 1}


class _Filling(nn.Module):
    """Makes a tensor of bytes, and fills it: the place where a file may be put."""

    def forward(self, x: Tensor) -> Tensor:
        letters = torch.full([16], 0, dtype=torch.uint8)
        letters.fill_(65)
        return x.mean((2, 3)) + letters.float().mean()


def _on_a_file(file: Path) -> Callable[[Nodes], None]:
    def change(nodes: Nodes) -> None:
        (node,) = (node for node in nodes if node["target"] == "torch.ops.aten.full.default")
        node["target"] = "torch.ops.aten.from_file.default"
        node["inputs"] = [
            _argument("filename", as_string=str(file)),
            _argument("shared", as_bool=True),
            _argument("size", as_int=16),
            *(given for given in node["inputs"] if given["name"] == "dtype"),
        ]

    return change


def test_a_program_that_writes_a_file_is_refused(entry: Entry, tmp_path: Path) -> None:
    mark, plain = tmp_path / "written", tmp_path / "plain.pt2"
    _exported(plain, _Filling())
    changed(entry.folder / "model.pt2", plain, _on_a_file(mark))
    with pytest.raises(UnsupportedModel, match=r"from_file.*only compute.*torch.export.save"):
        load_export(entry).module(torch.zeros(1, *X))
    assert not mark.exists()


class _Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))


def _set_inside(nodes: Any, old: str, new: str) -> None:
    """In the graphs that nodes hold as arguments."""
    if isinstance(nodes, dict):
        if nodes.get("target") == old:
            nodes["target"] = new
        nodes = list(nodes.values())
    if isinstance(nodes, list):
        for value in nodes:
            _set_inside(value, old, new)


def test_graphs_within_graphs_are_looked_at(entry: Entry, tmp_path: Path) -> None:
    plain = tmp_path / "plain.pt2"
    _exported(plain, _Branches())
    old, new = "torch.ops.aten.cos.default", "torch.ops.aten.save.default"
    changed(entry.folder / "model.pt2", plain, lambda nodes: _set_inside(nodes, old, new))
    with pytest.raises(UnsupportedModel, match=r"uses 'torch.ops.aten.save.default'"):
        load_export(entry)


@pytest.mark.parametrize(
    "name",
    [
        "torch.os.system", "os.system", "torch.load", "torch.ops.load_library", "_operator.call",
        "math.factorial", "#x:y", "torch.ops.aten._print.default", "torch.ops.aten.save.default",
        "torch.ops.aten.__class__.mro", "torch.ops.aten.relu.__class__", "torch.ops.aten.relu",
        "torch.ops.aten.from_file.out", "torch.ops.higher_order.call_torchbind",
        "torch.ops.higher_order.inductor_compiled_code",
        "torch.ops.profiler._record_function_enter",
        "torch.ops.aten._sparse_coo_tensor_unsafe.default", "torch.ops.aten.unheard_of.default",
    ],
)  # fmt: skip
def test_other_names_are_refused(entry: Entry, name: str) -> None:
    def change(nodes: Nodes) -> None:
        nodes[0]["target"] = name

    changed(entry.folder / "model.pt2", SHAPES, change)
    with pytest.raises(UnsupportedModel, match=f"uses {name!r}.*export the network without it"):
        load_export(entry)


def test_an_operator_that_is_an_argument_is_looked_at(entry: Entry, tmp_path: Path) -> None:
    def change(nodes: Nodes) -> None:
        nodes[0]["inputs"].append(_argument("op", as_operator="torch.os.system"))

    changed(entry.folder / "model.pt2", SHAPES, change)
    with pytest.raises(UnsupportedModel, match=r"uses 'torch.os.system'"):
        load_export(entry)


def test_a_program_behind_another_is_refused(entry: Entry) -> None:
    """Python reads the last archive of a file; torch counts from its beginning."""
    program = SHAPES.read_bytes()
    (entry.folder / "model.pt2").write_bytes(program + program)
    with pytest.raises(UnsupportedModel, match="does not begin with its first entry"):
        load_export(entry)


def test_every_operator_that_is_let_through_takes_no_name_of_a_file() -> None:
    """Of all that this torch has: what a later one adds is found here."""
    taking = set()
    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = name.partition("::")
        operator, _, overload = rest.partition(".")
        if namespace == "aten":
            path = f"torch.ops.aten.{operator}.{overload or 'default'}"
            schema = torch._C._get_schema(f"aten::{operator}", overload)
            named = {given.name for given in schema.arguments if "str" in str(given.type)}
            if named & {"filename", "file", "path", "s"} and program_operators.only_computes(path):
                taking.add(path)
    assert taking == set()


class _Sizes(nn.Module):
    """Arithmetic on sizes, and checks of what only the numbers tell."""

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[0] // 2 + x.shape[0] % 3 + torch.sym_max(x.shape[0], 4)
        positive = (x > 0).sum().item()
        torch._check(positive >= 0)
        return x.mean((2, 3)) * count + positive


class _Contexts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.conv(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return y + self.conv(x)


@pytest.mark.parametrize("module", [_Filling(), _Branches(), _Sizes(), _Contexts()])
def test_what_torch_exports_is_loaded(entry: Entry, module: nn.Module) -> None:
    _exported(entry.folder / "model.pt2", module)
    x = torch.rand(2, *X)
    torch.testing.assert_close(load_export(entry).module(x), module(x), rtol=1e-2, atol=1e-2)
