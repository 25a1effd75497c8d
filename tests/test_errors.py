"""The tree of errors: complete, public, and helpful."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

from camserve import errors
from camserve.errors import CamserveError, ErrorCode, Failure, near_names

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, CamserveError)
]
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "EmptyBody": (),
    "ClassIndexOutOfRange": (9, 4),
    "UnknownLabel": ("hart", ["heart", "star"]),
    "InvalidExpression": ("there is no function 'sun'", "sun(x)", 1, ["sum"]),
    "SignatureInvalid": (),
    "RateLimited": (60, 0.25),
    "RequestTimeout": (30,),
    "ShuttingDown": (),
    "TooManyConnections": (1000,),
    "ScopeMissing": ("name", "admin"),
    "NotAcceptable": ("text/html", ["image/png"]),
    "IdempotencyConflict": ("key",),
    "Canceled": (),
    "ModelNotFound": ("shape", ["shapes"]),
    "ExplanationNotFound": ("id",),
    "LayerNotFound": ("stage9", ["stage1", "stage3"]),
    "QueueFull": ("m", "bulk", 3, 1.2),
    "ModelChanged": ("m", "1f4a"),
    "ModelQuarantined": ("m", "1f4a", "loading it ended the worker process 2 times"),
    "QueueUnavailable": (),
    "NoWorker": (None,),
    "DeadlineExceeded": (),
    "WaitExceeded": (30, "fetch it later"),
    "UrlNotAllowed": ("host", "that host is not on the list"),
    "UrlUnreachable": ("timeout", "no answer in time"),
    "Failure": (ErrorCode.NOT_READY, "not yet"),
}


def test_all_is_complete() -> None:
    public = {
        name
        for name, value in vars(errors).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == errors.__name__
    }
    assert set(errors.__all__) == public
    assert sorted(errors.__all__) == sorted(set(errors.__all__))


def test_the_drawing_names_every_class() -> None:
    drawing = inspect.getdoc(errors) or ""
    assert [cls.__name__ for cls in CLASSES if cls.__name__ not in drawing] == []


def test_every_code_belongs_to_a_class_or_to_http() -> None:
    codes = {cls.code for cls in CLASSES}
    assert set(ErrorCode) - codes == {ErrorCode.METHOD_NOT_ALLOWED}
    grouping = {"CamserveError", "RequestError", "ModelError", "ServiceError", "Failure"}
    own = {cls.__name__ for cls in CLASSES if "code" in vars(cls)}
    assert own == {cls.__name__ for cls in CLASSES} - grouping | {"CamserveError"}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_each_error_has_a_code_a_sentence_and_json_members(cls: type[CamserveError]) -> None:
    error = cls(*ARGUMENTS.get(cls.__name__, ("what is wrong",)))
    assert isinstance(error.error_code, ErrorCode)
    assert len(str(error)) > 5
    assert not str(error).endswith(".")
    json.dumps(error.extensions)


def test_a_failure_has_the_code_of_another_process() -> None:
    failure = Failure(ErrorCode.QUEUE_FULL, "full", retry_after_s=3)
    assert (failure.error_code, str(failure)) == (ErrorCode.QUEUE_FULL, "full")
    assert failure.extensions == {"retry_after_s": 3}


NAMES = ["heart", "Star", "stage1", "stage2", "layer4.2.conv3", "tabby, tabby cat"]


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("hart", "heart"),
        ("STAR", "Star"),
        ("stage 1", "stage1"),
        ("layer4.2.conv", "layer4.2.conv3"),
        ("tabby", "tabby, tabby cat"),
        ("conv3", "layer4.2.conv3"),
        ("zzzz", None),
        ("", None),
    ],
)
def test_near_names(name: str, first: str | None) -> None:
    near = near_names(name, NAMES)
    assert (near[0] if near else None) == first
    assert set(near) <= set(NAMES)


def test_near_names_are_few_and_quick() -> None:
    import time

    many = [f"layer{i}.block{j}" for i in range(100) for j in range(50)]
    started = time.process_time()
    assert len(near_names("layer", many)) == 5
    assert len(near_names("x" * 300, many)) == 0
    assert time.process_time() - started < 1


def test_an_unknown_model_among_many() -> None:
    error = errors.ModelNotFound("zzz", [f"model-{i}" for i in range(12)])
    assert str(error).endswith("'model-7', among others")
    assert error.extensions["near"] == []
    assert len(error.extensions["models"]) == 10
    few = errors.ModelNotFound("shape", ["shapes", "other"])
    assert few.extensions["near"] == ["shapes"]
    assert few.extensions["models"] == ["other", "shapes"]
    assert "among" not in str(errors.ModelNotFound("zzz", ["a"]))


def test_messages_say_the_remedy() -> None:
    assert "4 classes, 0 to 3" in str(errors.ClassIndexOutOfRange(9, 4))
    assert "one class, of index 0" in str(errors.ClassIndexOutOfRange(9, 1))
    assert "'heart'" in str(errors.UnknownLabel("hart", ["heart"]))
    assert "'stage1'" in str(errors.LayerNotFound("stage", ["stage1"]))
    assert "python -m workers" in str(errors.NoWorker("m"))
    assert "2 s" in str(errors.QueueFull("m", "bulk", 3, 1.2))
