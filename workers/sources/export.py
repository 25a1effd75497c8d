"""`export:model.pt2`: a program written by torch.export. Data, not code."""

from __future__ import annotations

import warnings

import torch
from torch.export.graph_signature import InputKind, TensorArgument

from camserve.contracts.input_specs import PROBE_SIZE
from camserve.errors import ModelUnavailable, UnsupportedModel
from workers.repository import Entry
from workers.sources.archive import check_archive, written_by
from workers.sources.loaded import Loaded
from workers.sources.shapes import input_fields
from workers.sources.weights import never_unpickle

__all__ = ["load_export"]


def load_export(entry: Entry) -> Loaded:
    """Load and unflatten: module names and hooks live on (`ExportedProgram.module()` is flat)."""
    path = entry.path(entry.reference)
    if not path.is_file():
        raise ModelUnavailable(f"model {entry.name!r}: the file {entry.reference!r} is missing")
    check_archive(path, entry.name)
    try:
        with never_unpickle(), warnings.catch_warnings():
            # torch 2.13 warns of its own deprecated pytree classes while it copies the program
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.export.load(path)
            module = torch.export.unflatten(program)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UnsupportedModel(
            f"model {entry.name!r}: torch {torch.__version__} cannot read {entry.reference!r}, "
            f"written by {written_by(path)} ({type(error).__name__}: {reason}): write it again "
            "with torch.export.save and the torch that the worker runs"
        ) from error
    shape, probe = _input_shape(program)
    return Loaded(module, input_fields(shape, model=entry.name, probe=probe))


def _input_shape(
    program: torch.export.ExportedProgram,
) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
    """Shape of the first input, None for a size that is not fixed; () if it is no tensor.

    And the sizes to try for those, where the program's own constraints exclude the usual one.
    """
    names = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument)
    }
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            sizes = node.meta["val"].shape
            fixed = tuple(size if isinstance(size, int) else None for size in sizes)
            return fixed, tuple(
                _trial(size, program) if at and not isinstance(size, int) else None
                for at, size in enumerate(sizes)
            )
    return (), ()


def _trial(size: torch.SymInt, program: torch.export.ExportedProgram) -> int | None:
    """The allowed size that is nearest to the usual probe's; None if that one is allowed.

    size: a symbol, or a multiple of one and a rest (`8*s`), with the symbol's range.
    """
    expression = size.node.expr
    if len(expression.free_symbols) != 1:
        return None
    (symbol,) = expression.free_symbols
    allowed = program.range_constraints.get(symbol)
    least, most = (int(allowed.lower), int(min(allowed.upper, 2**31))) if allowed else (2, 2**31)
    step = int(expression.subs(symbol, least + 1)) - int(expression.subs(symbol, least))
    start = int(expression.subs(symbol, least))
    chosen = min(max(round((PROBE_SIZE - start) / step) + least, least), most) if step else least
    trial = int(expression.subs(symbol, chosen))
    return None if trial == PROBE_SIZE else trial
