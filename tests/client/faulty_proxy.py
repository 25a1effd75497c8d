"""A proxy in front of a real service that does to requests what networks do, or holds them back."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, Literal

import httpx

__all__ = ["FaultyProxy", "Gate", "Seen", "faulty_proxy"]

Fault = Literal["busy", "unavailable", "gateway", "cut", "lost answer", "none"]


@dataclass(frozen=True)
class Seen:
    """A request that came, what was done to it, and the service's answer if it was passed on."""

    method: str
    path: str
    headers: dict[str, str]
    fault: Fault
    answer: Any = None


class Gate:
    """Lets so many POSTs through, and holds the next ones until it is opened."""

    def __init__(self, let_through: float = math.inf, hold: int = 0) -> None:
        """hold: how many must wait at once for `is_full` to be set."""
        self.is_full = Event()
        self._opened = Event()
        self._lock = Lock()
        self._left = let_through
        self._missing = hold

    def open(self) -> None:
        self._opened.set()

    def pass_through(self, method: str) -> None:
        if method != "POST":
            return
        with self._lock:
            self._left -= 1
            if self._left >= 0:
                return
            self._missing -= 1
            if self._missing == 0:
                self.is_full.set()
        self._opened.wait()


@dataclass
class FaultyProxy:
    url: str = ""
    gate: Gate = field(default_factory=Gate)
    faults: list[Fault] = field(default_factory=list)
    retry_after: str = "0"
    seen: list[Seen] = field(default_factory=list)


def _problem(code: str, status: int) -> bytes:
    return json.dumps({"code": code, "status": status, "detail": "later", "title": ""}).encode()


def _handler(proxy: FaultyProxy, target: httpx.Client) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = proxy.faults.pop(0) if proxy.faults else "none"
            proxy.gate.pass_through(self.command)
            answer = None
            if fault in ("lost answer", "none"):
                skipped = {"host", "content-length", "connection"}
                headers = {k: v for k, v in self.headers.items() if k.lower() not in skipped}
                answer = target.request(self.command, self.path, content=body, headers=headers)
            is_json = answer is not None and "json" in answer.headers["content-type"]
            proxy.seen.append(
                Seen(
                    self.command,
                    self.path,
                    dict(self.headers.items()),
                    fault,
                    answer.json() if answer is not None and is_json else None,
                )
            )
            match fault:
                case "none" if answer is not None:
                    self.reply(answer.status_code, answer.headers["content-type"], answer.content)
                case "busy":
                    self.reply(429, "application/problem+json", _problem("queue_full", 429))
                case "unavailable":
                    self.reply(503, "application/problem+json", _problem("queue_unavailable", 503))
                case "gateway":
                    self.reply(502, "text/html", b"<h1>Bad Gateway</h1>")
                case _:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

        def reply(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            if status in (429, 503):
                self.send_header("Retry-After", proxy.retry_after)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: the test's output is its own."""

    return Handler


@contextmanager
def faulty_proxy(target_url: str) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy()
    with (
        httpx.Client(base_url=target_url, timeout=60, trust_env=False) as target,
        ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy, target)) as server,
    ):
        server.daemon_threads = True
        proxy.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.gate.open()
            server.shutdown()
            thread.join()
