"""A finished explanation without a worker, and what is drawn of it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from app.documents import Upload
from app.drawing import draw
from app.inputs import prepare
from app.negotiation import PNG
from app.results import Finished
from camserve.broker import JobRecord, Priority, State
from camserve.contracts.input_specs import InputSpec, PictureSpec
from camserve.contracts.jobs import Job, JobResult, ResultRow
from camserve.contracts.options import PictureOptions
from camserve.contracts.targets import TopTarget
from camserve.settings import Settings

__all__ = ["SIGNED", "encoded", "finished", "picture"]

SPEC = PictureSpec(height=32, width=32)
SIGNED = np.random.default_rng(3).normal(size=(4, 4)).astype(np.float32)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def finished(
    *uploads: bytes,
    maps: list[np.ndarray] | None = None,
    spec: InputSpec = SPEC,
    labels: str | None = None,
    computed: str | None = None,
    **job: Any,
) -> tuple[Finished, dict[int, bytes]]:
    """A done explanation of `uploads`, with as many maps for each input as there are.

    labels: of arrays. computed: the reduction layer that the worker used, where the job names none.
    """
    prepared = [
        one for upload in uploads for one in prepare(Upload(upload), spec, Settings(), labels)
    ]
    signed = maps or [SIGNED] * len(prepared)
    per_input = len(signed) // len(prepared)
    rows = tuple(
        ResultRow(input=n // per_input, target=0, class_index=n, score=1)
        for n in range(len(signed))
    )
    result = JobResult(
        model_version="1", feature_layers=("f",), rows=rows, compute_ms=1,
        reduction_layer=job.get("reduction_layer") or computed or "output",
        batch_size=1, forward_passes=1, precision="float32", worker="w", device="cpu",
    )  # fmt: skip
    document = Job(
        model="toy",
        model_version="1",
        inputs=tuple(one.meta for one in prepared),
        targets=(TopTarget(top=per_input),),
        **job,
    )
    record = JobRecord(
        id="x", model="toy", state=State.SUCCEEDED, attempts=1, priority=Priority.BULK,
        created_ms=0, started_ms=0, completed_ms=0, deadline_ms=0, cancel_requested=False,
        document=b"", failure=None, progress=None, owner=None, consumer=None, delivery=None,
        lookup=None, is_stored=False,
    )  # fmt: skip
    pictures = {index: one.picture for index, one in enumerate(prepared)}
    maps = tuple((one,) for one in signed)
    return Finished(record, document, result, maps, is_small=True), pictures


def picture(
    done: tuple[Finished, dict[int, bytes]],
    numbers: tuple[int, ...] = (0,),
    form: str = PNG,
    max_megapixels: float = 16,
    **options: Any,
) -> Image.Image:
    data = draw(
        done[0],
        numbers,
        done[1],
        PictureOptions(**options),
        form=form,
        max_megapixels=max_megapixels,
    )
    return Image.open(io.BytesIO(data))
