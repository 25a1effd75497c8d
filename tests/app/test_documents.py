"""The JSON document: what is wrong in it is named by its path."""

from __future__ import annotations

import base64
import gc
import json
import re
import textwrap
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.documents import decoded, inline_uploads, parse_document, validated
from app.findings import _PATTERNS
from camserve.contracts.options import ArrayOptions, PictureOptions
from camserve.contracts.requests import ExplanationRequest
from camserve.errors import InvalidRequest, MalformedRequest
from camserve.settings import Settings

SETTINGS = Settings(redis_url="redis://unused")


def check(**document: Any) -> ExplanationRequest:
    return validated({"model": "toy", **document}, SETTINGS, ExplanationRequest)


def test_malformed_json_is_located() -> None:
    with pytest.raises(MalformedRequest) as caught:
        parse_document(b'{"model": "toy",\n "inputs": [}')
    assert caught.value.extensions == {"line": 2, "column": 13}


@pytest.mark.parametrize(
    "text", [b"[]", b'"x"', b"1", b"null", b"\xff\xfe", b"{" * 10**6, b'{"a":' * 2000, b"NaN"]
)
def test_what_is_no_object_is_malformed(text: bytes) -> None:
    with pytest.raises(MalformedRequest):
        parse_document(text)


def test_millions_of_lists_are_not_searched_for_cycles() -> None:
    """It would keep the event loop waiting for seconds."""
    rounds: list[str] = []
    gc.callbacks.append(lambda phase, _: rounds.append(phase))
    try:
        parse_document(b'{"a":[' + b"[]," * 100_000 + b"[]]}")
        assert len(rounds) <= 4  # what those few objects of our own may set off
        assert gc.isenabled()
        with pytest.raises(MalformedRequest):
            parse_document(b"{")
        assert gc.isenabled()
        gc.disable()
        parse_document(b"{}")
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.callbacks.pop()


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"modle": 1}, "modle", "unknown field 'modle'"),
    ({"output": {"alfa": 1}}, "output.alfa", "unknown field 'alfa'"),
    ({"output": {"alpha": 1.5}}, "output.alpha", "must be at most 1"),
    ({"output": {"size": "huge"}}, "output.size", "must be one of `original`: the upload's"),
    ({"output": {"colour_map": "jet"}}, "output.colour_map", "did you mean 'colormap'?"),
    ({"output": {"alpha": "x"}}, "output.alpha", "must be a number"),
    ({"output": {"color_bar": "x"}}, "output.color_bar", "must be true or false"),
    ({"output": 3}, "output", "must be an object"),
    ({"targets": []}, "targets", "needs at least 1"),
    ({"targets": 3}, "targets", "must be a list"),
    ({"targets": [{"class_index": []}]}, "targets.0.class_index", "needs at least 1"),
    ({"targets": [{"class_index": 1, "top": 2}]}, "targets.0", "exactly one of"),
    ({"targets": [{}]}, "targets.0", "exactly one of"),
    ({"targets": [{"top": 0}]}, "targets.0.top", "must be at least 1"),
    ({"targets": [{"top": "3"}]}, "targets.0.top", "must be a whole number"),
    ({"targets": [{"class_index": -1}]}, "targets.0.class_index", "must be at least 0"),
    ({"targets": [{"class_index": 1.5}]}, "targets.0.class_index", "must be a whole number"),
    ({"targets": [{"class_index": [0, "x"]}]}, "targets.0.class_index.1", "must be a whole number"),
    ({"targets": [{"class_index": 1, "extra": 2}]}, "targets.0.extra", "unknown field 'extra'"),
    ({"targets": [{"reduction": "Sum!"}]}, "targets.0.reduction", "small letters"),
    (
        {"targets": [{"reduction": "sum", "params": {"k": 1}}]},
        "targets.0.params.k",
        "unknown field 'k'",
    ),
    ({"inputs": [{}]}, "inputs.0", "exactly one of image, tensor"),
    ({"inputs": [{"image": {"base64": ""}, "tensor": {}}]}, "inputs.0", "exactly one of"),
    (
        {"targets": [{"reduction": "class_margin", "params": {"class_idx": 1}}]},
        "targets.0.params.class_idx",
        "did you mean 'class_index'?",
    ),
    ({"targets": [{"reduction": "class_score"}]}, "targets.0.reduction", "needs params.class_in"),
    (
        {"targets": [{"reduction": "sum", "params": {"class_index": 1}}]},
        "targets.0.reduction",
        "does not take params.class_index: it takes no parameters",
    ),
    (
        {"targets": [{"reduction": "class_margin", "params": {"class_index": 1, "against": 1}}]},
        "targets.0.reduction",
        "against itself",
    ),
    ({"inputs": [{"image": {"uri": "x"}}]}, "inputs.0.image.uri", "did you mean 'url'?"),
    ({"inputs": [{"image": {"url": ""}}]}, "inputs.0.image.url", "at least 1 character"),
    ({"inputs": [{"image": {"url": "x" * 2049}}]}, "inputs.0.image.url", "at most 2048 characters"),
    ({"inputs": [{"image": {"bas64": "x"}}]}, "inputs.0.image.bas64", "did you mean 'base64'?"),
    ({"convention": "captun"}, "convention", "'captum'"),
    ({"deadline_ms": 0}, "deadline_ms", "must be at least 1"),
    ({"model": ""}, "model", "at least 1 character"),
]


@pytest.mark.parametrize(("document", "field", "detail"), WRONG, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_named_by_its_path(
    document: dict[str, Any], field: str, detail: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(**document)
    findings = caught.value.extensions["errors"]
    assert caught.value.extensions["field"] == field, findings
    assert detail in str(caught.value)
    assert str(caught.value).startswith(field)
    for finding in findings:  # pydantic's own words are of Python
        assert not re.search(r"Tuple|tuple|Input should|String|Field|pattern", finding["detail"])


def test_a_misspelt_field_comes_before_the_one_that_is_missing() -> None:
    with pytest.raises(InvalidRequest) as caught:
        validated({"modle": "toy", "output": {"alpha": 2}}, SETTINGS, ExplanationRequest)
    findings = {f["field"]: f["detail"] for f in caught.value.extensions["errors"]}
    assert list(findings) == ["modle", "model", "output.alpha"]
    assert findings["modle"] == "unknown field 'modle'; did you mean 'model'?"


def test_what_follows_a_pattern_is_told_in_words() -> None:
    patterns = set()
    for model in (ExplanationRequest, ArrayOptions, PictureOptions):
        text = json.dumps(model.model_json_schema())
        patterns |= {json.loads(f'"{one}"') for one in re.findall(r'"pattern": "(.*?)"', text)}
    assert patterns == set(_PATTERNS)
    mistakes = {"format": "BCHW", "execution": "gpu", "feature_format": "BTC:0x4"}
    with pytest.raises(InvalidRequest) as caught:
        check(**mistakes, output={"size": "big"}, targets=[{"reduction": "Sum!"}])
    findings = {f["field"]: f["detail"] for f in caught.value.extensions["errors"]}
    assert set(findings) == {*mistakes, "output.size", "targets.0.reduction"}
    assert not any("pattern" in detail or "^" in detail for detail in findings.values())


def test_several_mistakes_are_all_told() -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(convention="x", output={"alpha": 2, "colormap": "x"})
    fields = [finding["field"] for finding in caught.value.extensions["errors"]]
    assert fields == ["convention", "output.colormap", "output.alpha"]


# made when they are needed: together they take some hundred megabytes
HOSTILE: list[Callable[[], dict[str, Any]]] = [
    lambda: {f"key{i}": 0 for i in range(500_000)},
    lambda: {"output": {f"key{i}": 0 for i in range(500_000)}},
    lambda: {"inputs": [{"image": {f"key{i}": 0 for i in range(500_000)}}]},
    lambda: {"targets": [{"reduction": "sum", "params": {f"key{i}": 0 for i in range(500_000)}}]},
    lambda: {"targets": [{"class_index": ["x"] * 2_000_000}]},
    lambda: {"inputs": [{}] * 2_000_000},
]


@pytest.mark.parametrize("make", HOSTILE, ids=range(len(HOSTILE)))
def test_mistakes_by_the_million_are_not_all_told(make: Callable[[], dict[str, Any]]) -> None:
    """Pydantic would make a report of a kilobyte for each, for seconds."""
    from camserve.errors import RequestError

    document = make()
    started = time.process_time()
    with pytest.raises(RequestError) as caught:
        check(**document)
    assert len(json.dumps(caught.value.extensions)) < 10_000
    assert time.process_time() - started < 1.0


PICTURE = b"\x89PNG and so on, long enough to be broken into several lines of base64, as files are"
B64 = base64.b64encode(PICTURE).decode()


@pytest.mark.parametrize(
    "text", [B64, f"data:image/png;base64,{B64}", base64.encodebytes(PICTURE).decode()]
)
def test_base64_with_and_without_lines_or_a_data_url(text: str) -> None:
    (upload,) = inline_uploads(check(inputs=[{"image": {"base64": text}}]))
    assert upload.data == PICTURE


INLINE = [
    ({"image": {"base64": "not base64!"}}, "inputs.1.image.base64", "is not base64"),
    ({"image": {"base64": B64[:-1]}}, "inputs.1.image.base64", "padding"),
    ({"image": {"base64": "é"}}, "inputs.1.image.base64", "is not base64"),
    ({"image": {"base64": "data:image/png;base64"}}, "inputs.1.image.base64", "is empty"),
    ({"image": {}}, "inputs.1.image", "exactly one of base64, url"),
    ({"image": {"url": "http://a@b/"}}, "inputs.1.image.url", "user name"),
    ({"image": {"url": "data:,x"}}, "inputs.1.image.url", "goes into base64"),
    ({"tensor": {}}, "inputs.1.tensor", "exactly one of data, npy_base64"),
    ({"tensor": {"data": [1], "npy_base64": "x"}}, "inputs.1.tensor", "exactly one of"),
    ({"tensor": {"npy_base64": B64}}, "inputs.1.tensor.npy_base64", "not a .npy file"),
]


@pytest.mark.parametrize(("wrong", "field", "detail"), INLINE)
def test_inline_inputs_that_cannot_be_read(wrong: dict[str, Any], field: str, detail: str) -> None:
    request = check(inputs=[{"image": {"base64": B64}}, wrong])
    with pytest.raises(InvalidRequest, match=detail) as caught:
        inline_uploads(request)
    assert caught.value.extensions["field"] == field


@pytest.mark.parametrize("length", [1, 2, 3, 196_607, 196_608, 196_609, 400_000])
def test_base64_is_decoded_in_steps_as_if_at_once(length: int) -> None:
    data = bytes(range(256)) * (length // 256) + bytes(range(length % 256))
    text = base64.b64encode(data).decode()
    assert decoded(text, "x") == decoded("\n".join(textwrap.wrap(text, 76)), "x") == data
    # padding within is none, also where a step ends with it
    step = base64.b64encode(bytes(196_607)).decode()
    for wrong in (text[:-1] if text.endswith("=") else f"{text}A", f"{step}{text}", f"{text}é"):
        with pytest.raises(InvalidRequest, match="x is not base64"):
            decoded(wrong, "x")
