"""The Python client: `pip install 'camserve[client]'`.

    with Client() as camserve:
        explanation = camserve.explain("cat.jpg", model="resnet50", class_label="tabby")
        explanation.results[0].overlay().save("overlay.png")
        explanation.results[0].map()  # a NumPy array of the picture's size

`AsyncClient` is the same for asyncio. docs/client.md has the rest.
"""

from importlib.util import find_spec

if find_spec("httpx") is None:
    raise ModuleNotFoundError(
        "camserve.client needs httpx: pip install 'camserve[client]'", name="httpx"
    )

from camserve.client.arguments import (
    ExplainArguments,
    MapArguments,
    PictureArguments,
    PredictArguments,
)
from camserve.client.asynchronous import AsyncClient, AsyncExplanation, AsyncResult
from camserve.client.errors import (
    Busy,
    ClientError,
    Conflict,
    ExplanationFailed,
    InvalidRequest,
    NotFound,
    ProblemError,
    Refused,
    ServiceFault,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from camserve.client.inputs import Input
from camserve.client.pictures import Picture
from camserve.client.retries import Wait
from camserve.client.synchronous import Client, Explanation, Result

__all__ = [
    "AsyncClient",
    "AsyncExplanation",
    "AsyncResult",
    "Busy",
    "Client",
    "ClientError",
    "Conflict",
    "ExplainArguments",
    "Explanation",
    "ExplanationFailed",
    "Input",
    "InvalidRequest",
    "MapArguments",
    "NotFound",
    "Picture",
    "PictureArguments",
    "PredictArguments",
    "ProblemError",
    "Refused",
    "Result",
    "ServiceFault",
    "TimedOut",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
    "Wait",
]
