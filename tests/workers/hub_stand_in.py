"""Stand-ins for servers of weights: any folder, and the few URLs of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["FileServer", "HubStandIn"]

COMMIT = "c0ffee" + "0" * 34


class FileServer:
    """Serves the files of a folder by their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                pass

            def do_HEAD(self) -> None:
                server.answer(self, with_body=False)

            def do_GET(self) -> None:
                server.answer(self, with_body=True)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        self.asked.append(f"{request.command} {request.path}")
        body = (self.folder / request.path.rpartition("/")[2]).read_bytes()
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if with_body:
            request.wfile.write(body)


class HubStandIn(FileServer):
    """Serves one repository from a folder. `cut`: the connection breaks in the middle of it."""

    def __init__(self, repo: str, folder: Path) -> None:
        super().__init__(folder)
        self.repo = repo
        self.cut: str | None = None

    def answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = request.path.partition("?")[0]
        self.asked.append(f"{request.command} {path}")
        files = {file.name: file for file in self.folder.iterdir()}
        name = path.rpartition("/")[2]
        if path in (f"/api/models/{self.repo}", f"/api/models/{self.repo}/revision/main"):
            siblings = [{"rfilename": name} for name in files]
            about = {"id": self.repo, "sha": COMMIT, "siblings": siblings}
            self._reply(request, json.dumps(about).encode(), with_body=with_body)
        elif path == f"/{self.repo}/resolve/main/{name}" and name in files:
            self._reply(request, files[name].read_bytes(), name=name, with_body=with_body)
        else:
            code = "EntryNotFound" if self.repo in path else "RepoNotFound"
            request.send_response(404)
            request.send_header("X-Error-Code", code)
            request.send_header("X-Repo-Commit", COMMIT)
            request.send_header("Content-Length", "0")
            request.end_headers()

    def _reply(
        self, request: BaseHTTPRequestHandler, body: bytes, *, with_body: bool, name: str = ""
    ) -> None:
        request.send_response(200)
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if with_body:
            request.wfile.write(body[: len(body) // 2] if name and name == self.cut else body)
