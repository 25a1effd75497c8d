"""The service as it comes: the network made faster, what it made of an input remembered."""

from __future__ import annotations

import io
import time
from pathlib import Path

import httpx
import numpy as np

from camserve.broker.embedded import EmbeddedServer
from tests.service import ROOT, Service, make_repository

PATIENCE_S = 120
SHAPES = ROOT / "models" / "shapes"
PICTURES = [(SHAPES / "samples" / f"{name}.png").read_bytes() for name in ("star", "heart")]


def explained(client: httpx.Client, picture: bytes, index: int, **headers: str) -> np.ndarray:
    answer = client.post(
        "/v1/explanations",
        data={"model": "shapes", "class_index": str(index)},
        files={"input": ("picture.png", picture)},
        headers={"Accept": "application/x-npy", **headers},
    )
    answer.raise_for_status()
    array: np.ndarray = np.load(io.BytesIO(answer.content))
    return array


def lookups(client: httpx.Client) -> dict[str, float]:
    """Of activations, by their results. Workers tell them twice a second."""
    text = client.get("/metrics").raise_for_status().text
    start = 'camserve_activation_cache_lookups_total{model="shapes",result="'
    found = [line.removeprefix(start) for line in text.splitlines() if line.startswith(start)]
    return {line.split('"')[0]: float(line.split()[-1]) for line in found}


def test_maps_are_those_of_the_network_as_it_is_and_the_card_says_how_it_is_run(
    tmp_path: Path,
) -> None:
    models = make_repository(tmp_path / "models", SHAPES)
    with (
        EmbeddedServer(tmp_path / "server") as server,
        Service(server.url, models, tmp_path, optimization="fold", activation_cache_mb=16) as one,
        httpx.Client(base_url=one.url, timeout=60, trust_env=False) as client,
    ):
        until_s = time.monotonic() + PATIENCE_S
        while not (card := client.get("/v1/models/shapes").raise_for_status().json())[
            "optimizations"
        ]:
            assert time.monotonic() < until_s, card
        assert card["undivided"] is None
        assert card["optimizations"][0]["precision"] == "float32"
        found = [[explained(client, picture, k) for k in range(3)] for picture in PICTURES]
        again = explained(client, PICTURES[0], 0, **{"Cache-Control": "no-cache"})
        while (told := lookups(client)) != {"hit": 4, "miss": 2}:
            assert time.monotonic() < until_s, told
    with (
        EmbeddedServer(tmp_path / "plain") as server,
        Service(server.url, models, tmp_path) as plain,
        httpx.Client(base_url=plain.url, timeout=60, trust_env=False) as client,
    ):
        card = client.get("/v1/models/shapes").raise_for_status().json()
        assert card["optimizations"] == []
        expected = [[explained(client, picture, k) for k in range(3)] for picture in PICTURES]
    np.testing.assert_allclose(again, found[0][0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
