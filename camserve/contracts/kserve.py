"""Messages of KServe's V1 protocol."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from camserve.contracts.base import Message
from camserve.contracts.explanations import Numbers, ResultSummary

__all__ = ["Explanations", "InstancesRequest", "Predictions"]


class InstancesRequest(Message):
    """Instances, and how to treat them."""

    instances: Annotated[list[Any], Field(min_length=1)] = Field(
        description='Pictures as `{"b64": "..."}` (or under a name, `{"image": {"b64": "..."}}`); '
        "tensors as nested lists, ready for the model; or the inputs of `POST /v1/explanations`.",
        examples=[[{"b64": "..."}]],
    )
    parameters: dict[str, Any] = Field(
        {},
        description="The options of `POST /v1/explanations`, nested as there or flat as in a form: "
        '`{"class_index": 3}`.',
    )


class Explanations(Message):
    """One entry for each instance and target; `map.data` is the finished map."""

    explanations: tuple[ResultSummary, ...]
    id: str
    model: str
    model_version: str
    href: str = Field(description="The explanation, with its pictures, as long as it is kept.")


class Predictions(Message):
    """What the model returned for each instance."""

    predictions: tuple[Numbers, ...] = Field(
        description="Nested lists of the shape of the model's output; null where not finite."
    )
    model: str
    model_version: str
