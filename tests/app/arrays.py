"""Models that take arrays, arrays for them, and what comes back."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import numpy as np
from PIL import Image

from camserve.contracts.cards import ResolvedCard
from camserve.contracts.input_specs import InputSpec, TensorSpec
from tests.app.front import CARD, Front

__all__ = [
    "FILM",
    "RANDOM",
    "SEQUENCE",
    "SPECTROGRAM",
    "URL",
    "VIDEO",
    "VOLUME",
    "WAVE",
    "ask",
    "card",
    "coded",
    "job_axes",
    "loaded",
    "npy",
    "one_map",
    "opened",
    "sample",
]

URL = "/v1/explanations"
RANDOM = np.random.default_rng(0)
SEQUENCE = TensorSpec(format="BCT", shape=(2, 0))
WAVE = TensorSpec(format="BT", shape=(0,))
VOLUME = TensorSpec(format="BCSSS", shape=(1, 8, 12, 10))
VIDEO = TensorSpec(format="BTCSS", shape=(0, 3, 12, 10))
FILM = TensorSpec(format="BTCSSS", shape=(0, 1, 6, 7, 8))
SPECTROGRAM = TensorSpec(format="BCST", shape=(1, 16, 0))


def card(spec: InputSpec, **others: Any) -> ResolvedCard:
    return CARD.model_copy(update={"input": spec, **others})


def sample(spec: TensorSpec) -> np.ndarray:
    shape = [size or 9 for size in spec.shape]
    return RANDOM.normal(size=shape).astype(np.float32)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def coded(array: np.ndarray) -> str:
    return base64.b64encode(npy(array)).decode()


def one_map(*shape: int) -> Any:
    made = np.random.default_rng(shape).normal(size=shape).astype(np.float32)
    return lambda number: made * (number + 1)


async def ask(front: Front, array: np.ndarray, **params: Any) -> tuple[httpx.Response, Any, Any]:
    """A raw body, with its worker."""
    maps = params.pop("maps", one_map(3))
    headers = {"Content-Type": "application/x-npy"}
    return await front.done(front.post(npy(array), params=params, headers=headers), maps)


def loaded(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.load(io.BytesIO(response.content))


def opened(response: httpx.Response) -> Image.Image:
    assert response.status_code == 200, response.text
    return Image.open(io.BytesIO(response.content))


def job_axes(spec: TensorSpec) -> int:
    return sum(letter in "ST" for letter in spec.format)
