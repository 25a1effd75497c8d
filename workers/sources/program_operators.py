"""Which operators a torch.export program may name: those that compute, and touch nothing else.

A program names its operators as paths in Python, `torch.ops.aten.relu.default`, and torch calls
whatever stands at such a path: `torch.os.system` as well, or an operator that writes a file.
"""

from __future__ import annotations

import re

import torch

__all__ = ["only_computes"]

_COMPUTATION = re.compile(r"torch\.ops\.aten\.(\w+)\.([A-Za-z]\w*)")
_BEYOND = re.compile(
    r"from_file|_print|_cufft_\w+"  # files, the log, settings of the process
    r"|_sparse_\w+_unsafe|_nested_view_from_buffer\w*"  # memory that is not the tensor's own
)
_ARITHMETIC = frozenset(
    f"{module}.{name}"
    for module, names in {
        "_operator": "eq ne le ge lt gt neg pos mul add sub floordiv mod pow truediv and_ or_ "
        "lshift rshift",
        "math": "trunc floor ceil",
        "torch": "sym_not sym_int sym_float sym_ite sym_max sym_min sym_sqrt sym_sum",
    }.items()
    for name in names.split()
)
"""Of symbolic sizes."""
_AROUND_GRAPHS = frozenset(
    f"torch.ops.higher_order.{name}"
    for name in (
        *("cond", "map_impl", "scan", "associative_scan", "while_loop", "invoke_subgraph"),
        *("wrap_with_set_grad_enabled", "wrap_with_autocast", "tag_activation_checkpoint"),
    )
)
"""They run graphs of the program, whose operators are looked at as well."""


def only_computes(operator: object) -> bool:
    """Whether a program may name it. False as well for what this torch does not have."""
    if not isinstance(operator, str):
        return False
    if operator in _ARITHMETIC or operator in _AROUND_GRAPHS:
        return True
    found = _COMPUTATION.fullmatch(operator)
    if found is None or _BEYOND.fullmatch(found[1]):
        return False
    overload = "" if found[2] == "default" else found[2]
    # those of TorchScript's interpreter answer to such paths too, `aten::save` among them
    return bool(torch._C._dispatch_has_kernel(f"aten::{found[1]}{overload and '.'}{overload}"))  # noqa: SLF001
