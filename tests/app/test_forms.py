"""Forms and flat fields: what curl sends, and what it sends by mistake."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest

from app.flat_fields import flat_fields, request_from_fields
from camserve.contracts.options import OutputOptions
from camserve.contracts.requests import ExplanationRequest, PredictionRequest
from camserve.contracts.targets import TARGET_KEYS
from camserve.errors import (
    CamserveError,
    EmptyBody,
    InvalidRequest,
    MalformedRequest,
    TooLarge,
)
from tests.app.arrays import npy
from tests.app.front import png
from tests.app.requests import read, read_stream, wire

pytestmark = pytest.mark.anyio

FILE = ("cat.png", png())


def flat(**fields: str | list[str]) -> dict[str, Any]:
    pairs = [
        (name, one)
        for name, value in fields.items()
        for one in (value if isinstance(value, list) else [value])
    ]
    return request_from_fields(pairs)


def test_every_option_has_a_flat_field() -> None:
    nested = {*ExplanationRequest.model_fields, *OutputOptions.model_fields}
    fields = flat_fields(ExplanationRequest)
    flat = {*TARGET_KEYS, "params", "url"}
    assert set(fields) == nested - {"inputs", "targets", "output"} | flat
    assert len(fields) == len(set(fields))
    own = PredictionRequest.model_fields.keys() - {"inputs"}
    assert set(flat_fields(PredictionRequest)) == own | {"url"}


def test_flat_targets() -> None:
    assert flat(class_index=["1", "3, 5"])["targets"] == [
        {"class_index": 1}, {"class_index": 3}, {"class_index": 5}
    ]  # fmt: skip
    assert flat(class_label=["a, b", "c"])["targets"] == [
        {"class_label": "a, b"}, {"class_label": "c"}
    ]  # fmt: skip
    assert flat(reduction=["sum", "mean"])["targets"] == [
        {"reduction": "sum", "params": {}}, {"reduction": "mean", "params": {}}
    ]  # fmt: skip
    assert flat(model="m") == {"model": "m"}


def test_classes_are_counted_before_they_are_read() -> None:
    """A body has ten million of them, which were two gigabytes."""
    assert len(flat(class_index=["1," * 499 + "1", "2," * 499 + "2"])["targets"]) == 1000
    with pytest.raises(TooLarge, match="1001 classes") as caught:
        flat(class_index=["x," * 500 + "x", "2," * 499 + "2"])
    assert caught.value.extensions == {"limit": 1000}


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"colour_map": "jet"}, "colour_map", "did you mean 'colormap'"),
    ({"Class_Index": "1"}, "Class_Index", "did you mean 'class_index'"),
    ({"class_index": "1", "reduction": "sum"}, "reduction", "exactly one of"),
    ({"class_index": "1", "top": "1"}, "top", "class_index and top are both given"),
    ({"model": ["a", "b"]}, "model", "given 2 times"),
    ({"top": ["1", "2"]}, "top", "given 2 times"),
    ({"class_index": "one"}, "class_index", "'one' is not a whole number"),
    ({"class_index": "1,"}, "class_index", "'' is not a whole number"),
    ({"class_index": "1.0"}, "class_index", "not a whole number"),
    ({"class_index": "9" * 5000}, "class_index", "not a whole number"),
    ({"top": "best"}, "top", "not a whole number"),
    ({"class_index": "1_0"}, "class_index", "not a whole number"),
    ({"class_index": "\uff11"}, "class_index", "not a whole number"),
    ({"deadline_ms": "1_0"}, "deadline_ms", "not a whole number"),
    ({"alpha": "0_0.5"}, "alpha", "is not a number"),
    ({"alpha": "\uff11"}, "alpha", "is not a number"),
    ({"alpha": "half"}, "alpha", "'half' is not a number"),
    ({"deadline_ms": "1e3"}, "deadline_ms", "not a whole number"),
    ({"params": "{}"}, "params", "go with a reduction"),
    ({"reduction": "sum", "params": "[1]"}, "params", "must be a JSON object"),
    ({"reduction": "sum", "params": "{"}, "params", "not JSON"),
]


@pytest.mark.parametrize(("fields", "field", "detail"), WRONG, ids=lambda value: str(value)[:40])
def test_flat_fields_that_mean_nothing(fields: dict[str, Any], field: str, detail: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        flat(**fields)
    assert detail in str(caught.value)
    assert caught.value.extensions["field"] == field


@pytest.mark.parametrize("alpha", ["nan", "inf", "-1", "2"])
async def test_an_opacity_is_from_0_to_1(alpha: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await read(data={"model": "toy", "alpha": alpha}, files={"input": FILE})
    assert caught.value.extensions["field"] == "output.alpha"


async def test_a_form_with_a_document_and_fields() -> None:
    document = {"targets": [{"top": 2}], "output": {"colormap": "jet"}}
    fields = {"model": "toy", "request": json.dumps(document), "alpha": "0.25"}
    asked, uploads = await read(data=fields, files={"input": FILE})
    assert asked.targets[0].model_dump() == {"top": 2}
    assert (asked.output.colormap, asked.output.alpha) == ("jet", 0.25)
    assert (uploads[0].data, uploads[0].name) == (FILE[1], FILE[0])


async def test_a_document_may_come_as_a_file() -> None:
    """curl -F 'request=@request.json;type=application/json'"""
    document = json.dumps({"model": "toy", "targets": [{"top": 2}]})
    files = {"request": ("request.json", document, "application/json"), "input": FILE}
    asked, uploads = await read(files=files)
    assert asked.model == "toy"
    assert len(uploads) == 1


DOCUMENT = json.dumps({"model": "toy", "targets": [{"top": 2}], "output": {"alpha": 1}})
MISTAKES: list[tuple[dict[str, Any], type[CamserveError], str]] = [
    ({"data": {"model": "toy"}, "files": {"file": FILE}}, InvalidRequest, "field 'input'"),
    ({"data": {"model": "toy"}, "files": {"input": ("a", b"")}}, EmptyBody, "'a' is empty"),
    ({"data": {"request": DOCUMENT, "top": "1"}, "files": {"input": FILE}}, InvalidRequest,
     "targets is given twice"),
    ({"data": {"request": DOCUMENT, "alpha": "1"}, "files": {"input": FILE}}, InvalidRequest,
     "alpha is given twice"),
    ({"data": {"request": [DOCUMENT, DOCUMENT]}, "files": {"input": FILE}}, InvalidRequest,
     "given 2 times"),
    ({"data": {"request": ""}, "files": {"input": FILE}}, MalformedRequest, "not JSON"),
    ({"data": {"request": '{"output": 3}', "alpha": "1"}, "files": {"input": FILE}},
     InvalidRequest, "output is given twice"),
    ({"data": {"model": "toy", "input": "cat.png"}, "files": {"x": FILE}}, InvalidRequest,
     "-F input=@cat.jpg"),
    ({"data": {"model": "toy"}, "files": {"request": ("r", b"{}")}}, InvalidRequest, "no input"),
    ({"data": {f"f{i}": "x" for i in range(101)}, "files": {"input": FILE}}, MalformedRequest,
     "Too many fields"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "detail"), MISTAKES, ids=[m[2] for m in MISTAKES])
async def test_mistakes_in_forms(
    options: dict[str, Any], error: type[CamserveError], detail: str
) -> None:
    with pytest.raises(error) as caught:
        await read(**options)
    assert detail in str(caught.value)


BROKEN = {
    "no boundary": ("multipart/form-data", b"--x\r\n"),
    "another boundary": ("multipart/form-data; boundary=y", b"--x--\r\n"),
    "no name": (
        "multipart/form-data; boundary=x",
        b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n",
    ),
    "garbage": ("multipart/form-data; boundary=x", b"\x00" * 100),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_form_is_malformed(case: str) -> None:
    content_type, body = BROKEN[case]
    with pytest.raises(MalformedRequest):
        await read_stream({"Content-Type": content_type}, [body])


async def test_a_form_that_is_cut_off_anywhere_is_malformed() -> None:
    """A lost last field must not change what is explained."""
    headers, body, _ = wire(files={"input": FILE}, data={"model": "toy", "class_index": "1"})
    for end in (*range(1, len(body) - 4, 7), len(body) - 5):
        with pytest.raises(MalformedRequest):
            await read_stream(headers, [body[:end]])


@pytest.mark.parametrize("charset", ["unicode_escape", "undefined", "idna", "utf-7", "hex", "?"])
async def test_a_charset_of_the_clients_choice_is_not_used(charset: str) -> None:
    """Some codecs make text that is not Unicode, others raise at anything."""
    headers, body, _ = wire(data={"model": "a\\ud800+AAA-"}, files={"input": ("\\ud800", b"x")})
    headers["content-type"] += f"; charset={charset}"
    asked, uploads = await read_stream(headers, [body])
    assert asked.model == "a\\ud800+AAA-"
    assert uploads[0].name == "\\ud800"


async def test_bytes_that_are_no_text_stay_harmless() -> None:
    headers, body, _ = wire(data={"model": "toy"}, files={"input": ("?" * 1000, b"x")})
    body = body.replace(b"???", b"\xff\xfe\xed").replace(b"toy", b"\xed\xa0\x80")
    asked, uploads = await read_stream(headers, [body])
    asked.model_dump_json()
    assert uploads[0].name is not None
    assert len(uploads[0].name.encode()) < 1000


MASK = ("mask.png", png(4, 4), "image/png")
SEGMENTATION = {"model": "toy", "reduction": "segmentation", "params": '{"class_index": 3}'}


async def test_a_mask_is_the_region_of_the_one_reduction() -> None:
    files = [("input", FILE), ("mask", MASK)]
    asked, uploads = await read(data=SEGMENTATION, files=files)
    assert len(uploads) == 1
    (target,) = asked.targets
    assert (target.reduction, target.params.class_index) == ("segmentation", 3)
    assert base64.b64decode(target.params.region.mask.base64) == MASK[1]
    # and with the reduction in the document
    document = {"targets": [{"reduction": "segmentation", "params": {"class_index": 3}}]}
    fields = {"model": "toy", "request": json.dumps(document)}
    again, _ = await read(data=fields, files=files)
    assert again.targets == asked.targets


MASK_MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"class_index": "1"}, "mask", "region of one reduction: give reduction=segmentation"),
    ({}, "mask", "region of one reduction"),
    ({"reduction": ["segmentation", "sum"], "params": '{"class_index": 1}'}, "mask", "of one"),
    ({"reduction": "segmentation", "params": '{"class_index": 1, "region": "all"}'}, "mask",
     "mask and params.region are both given"),
    ({"request": '{"targets": [{"reduction": "segmentation", "params": 3}]}'}, "targets.0.params",
     "must be an object"),
    ({"request": '{"targets": 3}'}, "mask", "region of one reduction"),
    ({"request": '{"targets": [3]}'}, "mask", "region of one reduction"),
    ({"reduction": "sum"}, "targets.0.reduction", "does not take params.region"),
    ({"reduction": "segmentation", "params": "{}"}, "targets.0.reduction",
     "needs params.class_index"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "field", "detail"), MASK_MISTAKES, ids=lambda one: str(one)[:50]
)
async def test_a_mask_without_its_reduction_is_refused(
    fields: dict[str, Any], field: str, detail: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await read(data={"model": "toy", **fields}, files=[("input", FILE), ("mask", MASK)])
    assert detail in str(caught.value)
    assert caught.value.extensions["field"] == field


async def test_a_mask_is_one_file() -> None:
    with pytest.raises(InvalidRequest, match="mask is given 2 times"):
        await read(data=SEGMENTATION, files=[("input", FILE), ("mask", MASK), ("mask", MASK)])
    with pytest.raises(InvalidRequest, match="-F mask=@mask"):
        await read(data={**SEGMENTATION, "mask": "mask.png"}, files=[("input", FILE)])
    with pytest.raises(InvalidRequest, match="no input"):
        await read(data=SEGMENTATION, files=[("mask", MASK)])
    # beside as many inputs as are allowed, and not instead of one
    files = [("input", FILE)] * 32 + [("mask", MASK)]
    _, uploads = await read(data=SEGMENTATION, files=files)
    assert len(uploads) == 32
    fields = {"reduction": "segmentation", "params": '{"class_index": 3}'}
    document = ("request.json", b'{"model": "toy"}', "application/json")
    _, uploads = await read(data=fields, files=[*files, ("request", document)])
    assert len(uploads) == 32
    with pytest.raises(TooLarge, match="more than 32"):
        await read(data=SEGMENTATION, files=[("input", FILE), *files])


async def test_a_repeated_feature_layer_is_a_list_and_a_single_one_a_name() -> None:
    for layers, expected in (("a", "a"), (["a"], "a"), (["a", "b"], ("a", "b"))):
        asked, _ = await read(data={"model": "toy", "feature_layer": layers}, files={"input": FILE})
        assert asked.feature_layer == expected
    with pytest.raises(InvalidRequest, match="takes at most 8"):
        await read(data={"model": "toy", "feature_layer": ["a"] * 9}, files={"input": FILE})


async def test_objects_and_expressions_in_flat_fields() -> None:
    fields = {
        "model": "toy",
        "method": "finercam",
        "method_options": '{"comparisons": 2, "comparison_strength": 0.5}',
        "evaluate": '{"metrics": ["deletion"], "steps": 5}',
        "expression": ["x[1] - x[0]", "max(x)"],
        "fusion": "max",
        "format": "SSC",
        "execution": "cuda:1",
        "precision": "bfloat16",
        "feature_format": "BTC:14x14",
    }
    array = npy(np.zeros((4, 4, 3), np.float32))
    asked, _ = await read(data=fields, files={"input": ("x.npy", array)})
    assert asked.method_options.comparisons == 2
    assert asked.method_options.comparison_strength == 0.5
    assert (asked.evaluate.metrics, asked.evaluate.steps) == (("deletion",), 5)
    assert [target.expression for target in asked.targets] == ["x[1] - x[0]", "max(x)"]
    names = ("fusion", "format", "execution", "precision", "feature_format")
    assert [getattr(asked, name) for name in names] == [fields[name] for name in names]
    # the same in a query
    query = httpx.QueryParams([
        (name, one) for name, value in fields.items()
        for one in (value if isinstance(value, list) else [value])
    ])  # fmt: skip
    raw, _ = await read(content=array, params=query, headers={"Content-Type": "application/x-npy"})
    assert raw == asked


OBJECT_MISTAKES = [
    ({"method_options": "3"}, "method_options", "must be a JSON object"),
    ({"method_options": "{"}, "method_options", "not JSON"),
    ({"method_options": '{"comparisons": 2}'}, "", "goes with finercam"),
    ({"method_options": '{"chanels": 2}'}, "method_options.chanels", "did you mean 'channels'"),
    ({"evaluate": "deletion"}, "evaluate", "not JSON"),
    ({"evaluate": '{"metrics": ["deletions"]}'}, "evaluate.metrics.0", "must be 'deletion'"),
    ({"evaluate": ["{}", "{}"]}, "evaluate", "given 2 times"),
    ({"expression": ""}, "targets.0.expression", "needs at least 1 character"),
    ({"format": "ssc"}, "format", "letters B, C, S, T and U"),
    ({"execution": "gpu"}, "execution", "auto, cpu, cuda"),
    ({"fusion": "sum"}, "fusion", "must be 'mean' or 'max'"),
]


@pytest.mark.parametrize(
    ("fields", "field", "detail"), OBJECT_MISTAKES, ids=lambda one: str(one)[:40]
)
async def test_mistakes_in_objects_and_words(
    fields: dict[str, Any], field: str, detail: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await read(data={"model": "toy", **fields}, files={"input": FILE})
    assert detail in str(caught.value)
    assert caught.value.extensions["field"] == field


@pytest.mark.parametrize(("text", "truth"), [("true", True), ("1", True), ("False", False)])
async def test_a_truth_is_text_in_a_form_and_none_in_json(text: str, truth: bool) -> None:
    asked, _ = await read(data={"model": "toy", "color_bar": text}, files={"input": FILE})
    assert asked.output.color_bar is truth
    for wrong in (text, int(truth)):
        document = json.dumps({"model": "toy", "output": {"color_bar": wrong}})
        with pytest.raises(InvalidRequest, match=r"output\.color_bar: must be true or false"):
            await read(data={"request": document}, files={"input": FILE})
    with pytest.raises(InvalidRequest, match="color_bar: must be true or false"):
        await read(data={"model": "toy", "color_bar": "perhaps"}, files={"input": FILE})
    document = json.dumps({"model": "toy", "output": {"alpha": "0.5"}})
    with pytest.raises(InvalidRequest, match=r"output\.alpha: must be a number"):
        await read(data={"request": document}, files={"input": FILE})
