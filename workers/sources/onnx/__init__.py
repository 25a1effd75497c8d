"""`onnx:model.onnx`: what torch.onnx, MATLAB's exportONNXNetwork, tf2onnx and others write."""

from __future__ import annotations

from camserve.errors import CamserveError, UnsupportedModel
from workers.repository import Entry
from workers.sources.loaded import Loaded
from workers.sources.onnx.document import read_document
from workers.sources.onnx.graph import read_graph
from workers.sources.onnx.network import Network
from workers.sources.onnx.operators import OPERATORS, NotTranslated
from workers.sources.refusals import EXPORT_ADVICE
from workers.sources.shapes import input_fields

__all__ = ["load_onnx"]


def load_onnx(entry: Entry) -> Loaded:
    """Translate the graph into torch modules, one a node, named as the nodes are.

    All floating-point numbers are computed in float32, whatever the file says: half precision
    underflows in gradients. Raises UnsupportedModel, ModelUnavailable or InvalidCard.
    """
    model = read_document(entry, frozenset({*OPERATORS, "Constant"}))
    opset = max((item.version for item in model.opset_import), default=1)
    try:
        graph, taken = read_graph(model, entry.name)
        fields = input_fields(taken.shape, model=entry.name)
        module = Network(graph).eval()
    except CamserveError:
        raise
    except NotTranslated as error:
        raise UnsupportedModel(
            f"model {entry.name!r}: {entry.reference!r} uses {error} (opset {opset}), "
            f"{_reason(str(error))}: export the network without it, or {EXPORT_ADVICE}"
        ) from error
    except Exception as error:  # a file that passes ONNX's checks and makes no sense
        raise UnsupportedModel(
            f"model {entry.name!r}: {entry.reference!r} cannot be computed "
            f"({type(error).__name__}: {str(error)[:200]}): write it again"
        ) from error
    if taken.grey_levels and "height" in fields:
        fields["scale"] = 1.0
    return Loaded(module, fields)


def _reason(what: str) -> str:
    if any(part in what for part in ("Quantize", "QLinear", "Integer")):
        return "whose rounding has no gradient"
    return "which camserve does not compute"
