"""From a checked request to a job in the queue."""

from __future__ import annotations

import hashlib
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import save

from app.admission import admit, payload_made, prepared
from app.handing_in import Submission, hand_in
from app.layers import check_layers, reduction_layer
from app.negotiation import PICTURES
from app.payloads import payload_tensors
from app.requested import check_answer
from app.state import AppState
from app.targets import default_targets, resolve_targets
from app.uploads import Arrival
from camserve.broker import Priority, new_job_id
from camserve.contracts.jobs import Caching, Job, ScalarTarget
from camserve.contracts.layers import layer_names
from camserve.contracts.requests import ExplanationRequest

__all__ = ["digested", "picture_name", "submit"]


def digested(job: Job, tensors: dict[str, NDArray[Any]]) -> tuple[Job, bytes]:
    """The job with the digest of its payload, and the payload: a millisecond or two a megabyte."""
    payload = save(tensors)
    digest = hashlib.sha256(payload).hexdigest()
    return job.model_copy(update={"input_digest": digest}), payload


def picture_name(index: int) -> str:
    """Name of the attachment that holds the display copy of an input."""
    return f"picture.{index}"


async def submit(
    state: AppState,
    arrival: Arrival[ExplanationRequest],
    *,
    form: str,
    idempotency_key: str | None,
    owner: str,
    request_id: str | None,
    caching: Caching,
) -> Submission:
    """Check the request against the model, prepare its inputs, and enqueue the job.

    form: media type of the answer. owner: whose the idempotency key is. Returns the submission
    under the id that answers it (an earlier one's for a repeated idempotency key). Raises
    RequestError for what the caller can mend, ModelError or ServiceError.
    """
    request = arrival.asked
    state.webhooks.check(request.webhook)
    admission = await admit(state, arrival, request.model, caching)
    card = admission.card
    asked = request.targets or default_targets(card)
    targets = resolve_targets(
        asked,
        card,
        request.reduction_layer,
        max_expression_nodes=state.settings.max_expression_nodes,
    )
    check_layers(request, card)
    inputs = await prepared(state, arrival, admission, caching)
    job = Job(
        model=card.name,
        model_version=card.version,
        model_interface=card.interface,
        inputs=tuple(prepared.meta for prepared in inputs),
        targets=targets,
        method=request.method,
        method_options=request.method_options,
        feature_layers=layer_names(request.feature_layer),
        feature_format=request.feature_format,
        reduction_layer=reduction_layer(request, targets, card),
        precision=request.precision,
        evaluate=request.evaluate,
        convention=request.convention,
        upsampling=request.upsampling,
        fusion=request.fusion,
        output=request.output,
        request_id=request_id,
        webhook=request.webhook,
        caching=caching,
    )

    def with_payload() -> tuple[Job, bytes]:
        check_answer(job, inputs, form, state.settings)
        return digested(job, payload_tensors(asked, inputs, state.settings))

    job, payload = await payload_made(
        state, inputs, with_payload, admission.deadline_s, plain=_is_plain(job, form)
    )
    submission = Submission(
        job_id=new_job_id(card.name),
        job=job,
        payload=payload,
        pictures={picture_name(i): one.picture for i, one in enumerate(inputs)},
        priority=Priority(request.priority),
        execution=request.execution,
        arrived_s=arrival.arrived_s,
        deadline_s=admission.deadline_s,
        idempotency_key=idempotency_key,
        owner=owner,
        fingerprint=_fingerprint(job, request.execution) if idempotency_key else None,
        lack=admission.lack,
    )
    return await hand_in(state, submission)


def _is_plain(job: Job, form: str) -> bool:
    """Whether no region is laid over the inputs, and no picture opened to see how large it is."""
    is_measured = form in PICTURES and job.output.size is not None
    return not is_measured and not any(isinstance(one, ScalarTarget) for one in job.targets)


def _fingerprint(job: Job, execution: str) -> str:
    """What must be equal for a repeated request to be the same request. The payload is, by its
    digest."""
    same = job.model_dump_json(
        # the same bytes under another name are the same, and so is a retry after a model's reload
        exclude={
            **dict.fromkeys(("request_id", "model_version", "model_interface"), True),
            **dict.fromkeys(("replay_of", "caching"), True),
            "inputs": {"__all__": {"name"}},
        }
    )
    return hashlib.sha256(f"{execution}\n{same}".encode()).hexdigest()
