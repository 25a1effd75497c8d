"""The service beside LitServe, KServe, BentoML and bare FastAPI, by the same clients.

Each has the same network, weights, pictures, preprocessing and number of CPU threads, runs alone,
and is tuned as its documentation advises (see the files of `inside/`). Each answers the map of one
class: as a .npy file of 224 x 224, or as its protocol has it. Nothing is measured before the answer
is our map. What uses a cache of ours is left out: our requests say `Cache-Control: no-cache`. Our
workers come in two arrangements; for each number of clients the better one counts.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.figures import Figure, Missing, Row, at_least
from benchmarks.load import Answer, Load, ask, closed_loop, request
from benchmarks.options import Options
from benchmarks.rivals.children import environment
from benchmarks.rivals.environments import Unavailable, python_of
from benchmarks.rivals.libraries import check
from benchmarks.running import await_answer, free_port, running, saved, stop
from benchmarks.service import FRESH, explain_path, network_for, photographs

__all__ = ["measure"]

CLIENTS = (1, 32)
CLASS_INDEX = 0
INSIDE = "benchmarks.rivals.inside"


@dataclass(frozen=True)
class Server:
    """environment: where it is installed. command: what starts it, `{}` for its port. ready: what
    answers 200 once it is. asked: the request for one picture; found: the map of an answer, and
    whether it is signed."""

    name: str
    environment: str
    command: Sequence[str]
    ready: str
    asked: Callable[[bytes], bytes]
    found: Callable[[Answer], Tensor]
    signed: bool = False


def posted_json(path: str, document: Callable[[str], Any]) -> Callable[[bytes], bytes]:
    def asked(picture: bytes) -> bytes:
        body = json.dumps(document(base64.b64encode(picture).decode())).encode()
        return request(path, body, "application/json")

    return asked


def npy(data: bytes) -> Tensor:
    return torch.from_numpy(np.load(io.BytesIO(data)))


SERVERS = (
    Server(
        "FastAPI + pytorch-grad-cam", "fastapi",
        ("python", "-m", f"{INSIDE}.serve_fastapi", "{}"), "/ready",
        lambda picture: request(f"/explain?class_index={CLASS_INDEX}", picture),
        lambda answer: npy(answer.body),
    ),
    Server(
        "LitServe + pytorch-grad-cam", "litserve",
        ("python", "-m", f"{INSIDE}.serve_litserve", "{}"), "/health",
        posted_json("/explain", lambda text: {"image": text, "class_index": CLASS_INDEX}),
        lambda answer: npy(answer.body),
    ),
    Server(
        "BentoML + pytorch-grad-cam", "bentoml",
        ("bentoml", "serve", f"{INSIDE}.serve_bentoml:GradCam", "--host", "127.0.0.1",
         "--port", "{}"), "/readyz",
        posted_json(
            "/explain",
            lambda text: {"questions": [{"image": text, "class_index": CLASS_INDEX}]},
        ),
        lambda answer: npy(base64.b64decode(json.loads(answer.body)[0])),
    ),
    Server(
        "KServe + Captum", "kserve",
        ("python", "-m", f"{INSIDE}.serve_kserve", "{}"), "/v1/models/network",
        posted_json(
            "/v1/models/network:explain",
            lambda text: {
                "instances": [{"b64": text}],
                "parameters": {"class_index": CLASS_INDEX},
            },
        ),
        lambda answer: torch.tensor(json.loads(answer.body)["explanations"][0]),
        signed=True,
    ),
)  # fmt: skip


def measure(options: Options) -> Iterator[Row]:
    if options.device != "cpu":
        yield Missing("the servers", "they are compared on the CPU alone")
        return
    pictures = photographs()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = saved(network_for(options), folder / "model")
        ours: dict[int, float] = dict.fromkeys(CLIENTS, 0.0)
        for arrangement, settings in _arrangements(options).items():
            loads, expected = _ours(model, pictures, options, settings)
            yield from _told(arrangement, loads)
            for clients, load in loads.items():
                ours[clients] = max(ours[clients], load.per_s)
        best: dict[int, float] = dict.fromkeys(CLIENTS, 0.0)
        for server in SERVERS:
            try:
                with started(server, model, options.threads, folder) as port:
                    first = asyncio.run(ask(port, server.asked(pictures[0])))
                    if problem := _problem(server, first, expected):
                        yield Missing(server.name, problem)
                        continue
                    loads = _loads(port, [server.asked(one) for one in pictures], options)
                yield from _told(server.name, loads)
            except (Unavailable, RuntimeError, OSError) as error:
                yield Missing(server.name, str(error)[-500:])
                continue
            for clients, load in loads.items():
                best[clients] = max(best[clients], load.per_s)
                ratio = ours[clients] / load.per_s
                yield Figure(
                    f"{clients} clients: camserve / {server.name}, maps a second", ratio, "x"
                )
    most = CLIENTS[-1]
    if best[most]:
        ratio = ours[most] / best[most]
        yield Figure(
            f"{most} clients: camserve / the best rival, maps a second", ratio, "x", at_least(4)
        )


def _arrangements(options: Options) -> dict[str, dict[str, str | int]]:
    """Our settings: as we come, and as docs/operating.md advises those whose cores are all busy."""
    workers, threads = options.several_workers
    known: dict[str, dict[str, str | int]] = {"camserve": {}}
    if workers > 1:
        devices = ",".join(["cpu"] * workers)
        known[f"camserve, {workers} workers"] = {"devices": devices, "threads": threads}
    return known


def _ours(
    model: Path, pictures: Sequence[bytes], options: Options, settings: Mapping[str, str | int]
) -> tuple[dict[int, Load], Tensor]:
    """Our loads, and our signed map of the first picture at the feature layer's size."""
    path = explain_path("npy&size=224", CLASS_INDEX)
    signed = explain_path("npy&convention=captum&size=feature", CLASS_INDEX)
    with running(model, **(options.settings | dict(settings))) as service:
        expected = npy(asyncio.run(ask(service.port, request(signed, pictures[0]))).body)
        return _loads(
            service.port, [request(path, one, **FRESH) for one in pictures], options
        ), expected


def _loads(port: int, requests: Sequence[bytes], options: Options) -> dict[int, Load]:
    # adaptive batching learns from what it sees
    asyncio.run(closed_loop(port, requests, CLIENTS[-1], options.lasting(8)))
    return {
        clients: asyncio.run(closed_loop(port, requests, clients, options.lasting(10)))
        for clients in CLIENTS
    }


def _told(name: str, loads: dict[int, Load]) -> Iterator[Row]:
    for clients, load in loads.items():
        yield load.latencies(f"{name}, {clients} client{'s' * (clients > 1)}")


def _problem(server: Server, answer: Answer, expected: Tensor) -> str:
    """Why the answer is not our map; empty if it is."""
    if answer.status != 200:
        return f"it answers {answer.status}: {answer.body[:300].decode(errors='replace')}"
    found = server.found(answer)
    return check(found[None, None], expected[None, None], signed=server.signed)


@contextlib.contextmanager
def started(server: Server, model: Path, threads: int, folder: Path) -> Iterator[int]:
    """The port of the server, which is ready, and stopped at the end."""
    python = python_of(server.environment)
    port = free_port()
    program, *arguments = (word.replace("{}", str(port)) for word in server.command)
    log = folder / f"{server.environment}.log"
    known = environment(
        RIVAL_MODEL=str(model), RIVAL_THREADS=str(threads), BENTOML_HOME=str(folder / "bentoml"),
        BENTOML_DO_NOT_TRACK="true", OMP_NUM_THREADS=str(threads),
    )  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python.parent / program, *arguments],
            cwd=folder, env=known, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        await_answer(port, server.ready, process, log)
        yield port
    finally:
        stop(process)
