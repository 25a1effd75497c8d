"""All that a service may be sent, valid and not, in a stream that is the same for a seed."""

# ruff: noqa: ARG005 - each takes the dice, whether it throws them or not

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import psutil

from tests.app.examples import requests as examples
from tests.app.hostile_files import ACCEPTED, FOREIGN, REFUSED
from tests.service import ROOT, Service

__all__ = ["Report", "Usage", "flood"]

SAMPLES = [path.read_bytes() for path in sorted((ROOT / "models/shapes/samples").glob("*.png"))]
SMALL_BYTES = 2_000_000
URL = "/v1/explanations"
CHANGING = ("load", "unload")  # of the model that all others ask


@dataclass
class Report:
    """statuses: how many answers of each. errors: what must not be, with the request's name."""

    statuses: Counter[int | str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Usage:
    """Of the API and of the workers: resident bytes, and open files."""

    resident: dict[str, int]
    files: dict[str, int]

    @classmethod
    def of(cls, service: Service) -> Usage:
        resident, files = {}, {}
        for part, process in service.processes.items():
            parent = psutil.Process(process.pid)
            family = [parent, *parent.children(recursive=True)]
            resident[part] = sum(one.memory_info().rss for one in family)
            files[part] = sum(one.num_fds() for one in family)
        return cls(resident, files)


def raw(data: bytes, kind: str = "image/png", **query: Any) -> dict[str, Any]:
    return {
        "method": "POST", "url": URL, "params": {"model": "shapes"} | query, "content": data,
        "headers": {"Content-Type": kind},
    }  # fmt: skip


def form(*files: bytes, **fields: Any) -> dict[str, Any]:
    return {
        "method": "POST", "url": URL, "data": {"model": "shapes"} | fields,
        "files": [("input", ("picture", file)) for file in files],
    }  # fmt: skip


def in_json(**document: Any) -> dict[str, Any]:
    picture = {"image": {"base64": base64.b64encode(SAMPLES[0]).decode()}}
    return {
        "method": "POST",
        "url": URL,
        "json": {"model": "shapes", "inputs": [picture]} | document,
    }


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def files() -> dict[str, bytes]:
    """The hostile ones that are not large."""
    made = {name: make() for name, (make, *_) in (REFUSED | FOREIGN).items()}
    made |= {name: make() for name, make in ACCEPTED.items()}
    return {name: data for name, data in made.items() if len(data) < SMALL_BYTES}


def choices() -> dict[str, Callable[[random.Random], dict[str, Any]]]:
    """Name: a request, with what varies in it."""
    hostile = files()
    tensor = np.random.default_rng(0).normal(size=(3, 128, 128)).astype(np.float32)
    form_bytes = httpx.Request("POST", "http://x", **{
        key: value for key, value in form(SAMPLES[0]).items() if key in ("data", "files")
    })  # fmt: skip
    whole = form_bytes.read()
    kind = form_bytes.headers["content-type"]
    found: dict[str, Callable[[random.Random], dict[str, Any]]] = {
        "a raw picture": lambda r: raw(r.choice(SAMPLES), top=r.randint(1, 3)),
        "an overlay": lambda r: raw(
            r.choice(SAMPLES), **{"as": r.choice(["png", "jpeg", "webp", "npy", "zip"])}
        ),
        "a form": lambda r: form(*r.sample(SAMPLES, r.randint(1, 3)), class_index=r.randint(0, 7)),
        "JSON": lambda r: in_json(targets=[{"top": 2}], output={"map": "npy_base64", "size": "16"}),
        "an array": lambda r: raw(npy(tensor), "application/x-npy"),
        "numbers": lambda r: in_json(inputs=[{"tensor": {"data": tensor.round(2).tolist()}}]),
        "an expression": lambda r: form(SAMPLES[0], expression="x[3] - x[5]"),
        "not waited for": lambda r: raw(SAMPLES[0]) | {
            "headers": {"Content-Type": "image/png", "Prefer": "respond-async"}
        },
        "the page": lambda r: {"method": "GET", "url": "/docs"},
        "nothing there": lambda r: {"method": "GET", "url": f"/v1/nothing/{r.randint(0, 9)}"},
        "a wrong method": lambda r: {"method": "PUT", "url": URL},
        "no class": lambda r: form(SAMPLES[0], class_index=99),
        "no model": lambda r: form(SAMPLES[0], model="nothing"),
        "no layer": lambda r: form(SAMPLES[0], feature_layer="nothing"),
        "no option": lambda r: form(SAMPLES[0], nothing=1),
        "no JSON": lambda r: raw(b'{"model": ', "application/json") | {"params": {}},
        "no body": lambda r: raw(b""),
        "half a form": lambda r: {
            "method": "POST", "url": URL, "content": whole[: r.randrange(1, len(whole))],
            "headers": {"Content-Type": kind},
        },
        "half a picture": lambda r: raw(SAMPLES[0][: r.randrange(1, len(SAMPLES[0]))]),
        "a hostile file": lambda r: raw(hostile[r.choice(sorted(hostile))]),
        "hostile in a form": lambda r: form(SAMPLES[0], hostile[r.choice(sorted(hostile))]),
        "a wrong array": lambda r: raw(npy(tensor)[: r.randrange(1, 200)], "application/x-npy"),
        "random bytes": lambda r: raw(r.randbytes(r.randint(1, 3000)), r.choice(
            ["application/json", "image/jpeg", "multipart/form-data; boundary=x", "text/plain"]
        )),
        "too large": lambda r: raw(bytes(21_000_000)),
    }  # fmt: skip
    return found


def stream(count: int, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Half of what there is an example of, half of the above; `{id}` is that of an explanation."""
    dice = random.Random(seed)
    ours = choices()
    # 20 MB a time is a load of its own
    names = [name for name in sorted(ours) if name != "too large"]
    theirs = {name: one for name, one in examples().items() if name not in CHANGING}
    for number in range(count):
        if number % 500 == 250:
            yield "too large", ours["too large"](dice)
        elif dice.random() < 0.5:
            name = dice.choice(sorted(theirs))
            one = theirs[name]
            json_body = {"json": one["json"]} if "json" in one else {}
            yield name, {"method": one["method"], "url": one["path"], **json_body}
        else:
            name = dice.choice(names)
            yield name, ours[name](dice)


async def flood(service: Service, count: int, *, seed: int = 1, at_once: int = 16) -> Report:
    """Send so many, of which each tenth is given up on: before its body is there, or its answer."""
    report = Report()
    waiting = stream(count, seed)
    numbers = iter(range(count))
    limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    async with httpx.AsyncClient(
        base_url=service.url, timeout=60, limits=limits, trust_env=False
    ) as client:
        made = await client.post(URL, params={"model": "shapes"}, content=SAMPLES[0])
        known = str(made.json()["id"])

        async def one_after_another() -> None:
            for name, request in waiting:
                number = next(numbers)
                asked = request | {"url": request["url"].replace("{id}", known)}
                if number % 20 == 7:
                    await leave_early(service, asked)
                    report.statuses["left"] += 1
                    continue
                try:
                    patience_s = 0.01 if number % 20 == 17 else 60
                    answer = await client.request(**asked, timeout=patience_s)
                except httpx.TimeoutException:
                    report.statuses["gave up"] += 1
                    if patience_s == 60:
                        report.errors.append(f"{name}: no answer")
                    continue
                except httpx.TransportError as error:
                    # an upload that is too large is answered before it is all there
                    report.statuses["refused early"] += 1
                    if name != "too large":
                        report.errors.append(f"{name}: {error!r}")
                    continue
                report.statuses[answer.status_code] += 1
                if answer.status_code >= 500:
                    report.errors.append(f"{name}: {answer.status_code} {answer.text[:300]}")

        await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    return report


async def leave_early(service: Service, request: dict[str, Any]) -> None:
    """Say that a body comes, send half of it, and go."""
    body = request.get("content") or json.dumps(request.get("json", {})).encode()
    head = (
        f"{request['method']} {request['url']} HTTP/1.1\r\nHost: x\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(head.encode() + body[: len(body) // 2])
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    writer.transport.abort()
