"""Clients of a scene: they ask over HTTP, and write down what they are answered."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx

from tests.faults.network import Deed
from tests.faults.record import TERMINAL, Call, Observation, Submission
from tests.faults.scene import MODEL, Scene
from tests.faults.values import input_array, npy

__all__ = ["Clients", "clients"]

PAUSE_S = 0.2
AGAIN = (None, 404, 429, 503)
"""Answers after which a client asks again. None: its connection broke; 404: Redis lost the model,
too, and its workers tell of it in a moment."""
EXPLANATIONS = "/v1/explanations"
_GATES = itertools.count(1)
BEYOND_S = 10.0
"""How much longer a client waits than is tolerated, before it counts as left hanging."""


class Clients:
    """All clients of a scene. http: one pool of connections for each front end."""

    def __init__(self, scene: Scene, http: Mapping[str, httpx.AsyncClient]) -> None:
        self.scene = scene
        self.record = scene.record
        self._http = http

    async def wait_for(self, condition: Callable[[], Any]) -> Any:
        """As the scene's, while clients go on."""
        return await asyncio.to_thread(self.scene.wait_for, condition)

    @staticmethod
    def new_gate() -> int:
        """What jobs can wait for; a float32 holds it exactly."""
        return next(_GATES)

    def submission(
        self,
        deed: Deed = Deed.NOTHING,
        *,
        key: bool = False,
        is_sync: bool = True,
        deadline_s: float | None = None,
        **about: Any,
    ) -> Submission:
        """A job that a client wants. key: with an idempotency key, so that it may ask again."""
        number = self.record.new_number()
        made = Submission(
            number, deed, f"key-{number}" if key else None, deadline_s, is_sync, **about
        )
        self.record.submissions[number] = made
        return made

    async def submit(
        self,
        front: str,
        submission: Submission,
        *,
        value: float = 0.0,
        priority: str = "interactive",
        webhook: str | None = None,
    ) -> Call:
        """One POST. value: for the deed."""
        query: dict[str, str] = {"model": MODEL, "class_index": "0", "priority": priority}
        headers = {"Content-Type": "application/x-npy"}
        if submission.deadline_s is not None:
            query["deadline_ms"] = str(round(submission.deadline_s * 1000))
        if webhook:
            query["webhook"] = webhook
        if submission.idempotency_key:
            headers["Idempotency-Key"] = submission.idempotency_key
        if not submission.is_sync:
            headers["Prefer"] = "respond-async"
        call = self.record.begin_call(
            "POST", front, self._patience_s(submission), number=submission.number
        )
        submission.calls.append(call)
        body = npy(input_array(submission.number, Deed(submission.deed), value))
        document = await self._ask(call, EXPLANATIONS, params=query, headers=headers, content=body)
        if call.state:
            self._observe(call, document, "post")
        return call

    def _patience_s(self, submission: Submission) -> float:
        settings = self.scene.settings
        deadline_s = submission.deadline_s or float(str(settings["deadline_s"]))
        wait_s = min(deadline_s, float(str(settings["sync_wait_s"])))
        return (wait_s if submission.is_sync else 0.0) + self.scene.limits.lease_s

    async def look(self, front: str, job_id: str) -> Call:
        """GET of an explanation."""
        call = self.record.begin_call("GET", front, 0.0)
        document = await self._ask(call, f"{EXPLANATIONS}/{job_id}")
        if call.status == 200:
            self._observe(call, document, "get")
        return call

    async def cancel(self, front: str, submission: Submission) -> Call:
        call = self.record.begin_call("DELETE", front, 0.0, number=submission.number)
        document = await self._ask(call, f"{EXPLANATIONS}/{submission.job_ids[-1]}")
        if call.status == 200:
            submission.cancel_answer = document["state"], document["attempts"]
            self._observe(call, document, "delete")
        return call

    async def follow(self, front: str, job_id: str) -> None:
        """The events of an explanation, to the end of the stream."""
        call = self.record.begin_call("GET", front, self.scene.limits.job_ttl_s)
        url = f"{EXPLANATIONS}/{job_id}/events"
        try:
            # a comment comes every 15 s, if nothing else does
            async with self._http[front].stream("GET", url, timeout=60) as stream:
                call.status = stream.status_code
                call.retry_after = stream.headers.get("Retry-After")
                async for line in stream.aiter_lines():
                    if line.startswith("data:"):
                        self._observe(call, json.loads(line[5:]), "event")
        except httpx.TransportError as error:
            call.broken = repr(error)
        call.ended_s = time.time()

    async def finish(self, submission: Submission, *fronts: str, **options: Any) -> str:
        """Ask until the job has ended, at one front end after the other. With an idempotency key
        what was not answered, or was lost, is handed in again; without one it might then be done
        twice.

        Returns the state in which it ended, else the code of the last answer; "lost" or "unknown"
        where nothing else can be known without a key.
        """
        known = submission.job_ids[-1] if submission.job_ids else None
        for front in itertools.cycle(fronts):
            if known:
                call = await self.look(front, known)
                known = None if call.status == 404 else known
                if not known and not submission.idempotency_key:
                    return "lost"
            else:
                call = await self.submit(front, submission, **options)
                known = call.job_id
                again = AGAIN if submission.idempotency_key else (429,)
                if not known and call.status not in again:
                    return call.code or "unknown"
            if call.state in TERMINAL:
                return str(call.state)
            await asyncio.sleep(PAUSE_S)
        raise AssertionError("no front end to ask")

    async def _ask(self, call: Call, url: str, **request: Any) -> Any:
        http = self._http[call.front]
        limit_s = call.patience_s + self.scene.limits.slack_s + BEYOND_S
        try:
            answer = await http.request(call.method, url, timeout=limit_s, **request)
        except httpx.TimeoutException:
            return None  # it hangs: the call has no end
        except httpx.TransportError as error:
            call.ended_s, call.broken = time.time(), repr(error)
            return None
        call.ended_s, call.status = time.time(), answer.status_code
        call.retry_after = answer.headers.get("Retry-After")
        if "json" not in answer.headers.get("Content-Type", ""):
            call.code = "no JSON"
            return None
        document = answer.json()
        call.job_id, call.state = document.get("id"), document.get("state")
        call.code, call.detail = document.get("code"), document.get("detail")
        if href := document.get("explanation"):  # of one that failed
            call.job_id = href.rpartition("/")[2]
        return document

    def _observe(self, call: Call, document: dict[str, Any], source: str) -> None:
        results = tuple(
            (one["target"]["score"], one["map"]["min"], one["map"]["max"])
            for one in document["results"]
        )
        seen = Observation(
            document["id"],
            call.sent_s,
            time.time(),
            document["state"],
            document["attempts"],
            results,
            source,
        )
        self.record.observations.append(seen)


@asynccontextmanager
async def clients(scene: Scene) -> AsyncIterator[Clients]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    async with AsyncExitStack() as stack:
        http = {
            name: await stack.enter_async_context(
                httpx.AsyncClient(base_url=front.url, limits=limits, trust_env=False)
            )
            for name, front in scene.fronts.items()
        }
        yield Clients(scene, http)
