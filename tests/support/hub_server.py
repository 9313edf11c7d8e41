"""A hub on loopback: as much of its protocol as fetching files needs, and its faults.

Two servers, as there are two in life: the hub, which knows names, gates and hashes, and a content network on
another port, to which it redirects for large files. `HubServer.faults` breaks answers on purpose.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from trellis_pipeline.trellis2.published import REPOSITORIES, PublishedFile

LARGE_BYTES = 100_000
"""Files from this size on are stored on the content network, as those in LFS are."""


@dataclass
class Asked:
    """One request. to: `hub` or `content`. sent: bytes of the body that went out."""

    to: str
    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0


@dataclass
class Fault:
    """What one answer with a body does wrong. after: bytes that go out before it.

    kind: `break` (the connection ends), `stall` (nothing more comes until `HubServer.go_on` is set), `whole`
    (ignores the range that was asked for), `elsewhere` (another range), `more` (too many bytes), `status`.
    """

    kind: str
    after: int = 0
    status: int = 503


@dataclass
class HubServer:
    """files: bytes by `owner/name/path`. revisions: by repository; `main` always exists too.

    gated: repositories that need `token`. says: by place, what the hub states as SHA-256 instead of the
    truth. slow_seconds: between blocks of 256 KiB. go_on: ends a stall.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_let_me_in"
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    says: dict[str, str] = field(default_factory=dict)
    requests: list[Asked] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)
    slow_seconds: float = 0.0
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['hub']}"

    def bodies(self, place: str) -> list[Asked]:
        """The requests for a file's bytes."""
        return [asked for asked in self.requests if asked.method == "GET" and asked.path.endswith(place)]

    def serve(self, file: PublishedFile, content: bytes, *, under: str | None = None) -> None:
        """Have a file, under the name of another repository if one is given."""
        repository = under or file.repository
        self.files[f"{repository}/{file.path}"] = content
        if repository in REPOSITORIES:
            self.revisions[repository] = REPOSITORIES[repository].revision


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer
    name: str

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        asked = Asked(self.name, self.command, unquote(self.path), dict(self.headers.items()))
        self.hub.requests.append(asked)
        if self.name == "content":
            place = asked.path.removeprefix("/store/")
            self._send(asked, place, self.hub.files[place], body=body, headers={})
            return None
        owner, name, kind, revision, path = asked.path.lstrip("/").split("/", 4)
        assert kind == "resolve"
        repository = f"{owner}/{name}"
        place = f"{repository}/{path}"
        refusal = self._refusal(repository, revision, place)
        if refusal is not None:
            return self._refuse(*refusal)
        content = self.hub.files[place]
        commit = {"X-Repo-Commit": self.hub.revisions.get(repository, "0" * 40)}
        if len(content) < LARGE_BYTES:
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            return self._send(asked, place, content, body=body, headers={**commit, "ETag": f'"{blob}"'})
        sha256 = self.hub.says.get(place) or hashlib.sha256(content).hexdigest()
        self.send_response(302)
        for key, value in {
            **commit,
            "Location": f"http://127.0.0.1:{self.hub.ports['content']}/store/{place}",
            "X-Linked-Etag": f'"{sha256}"',
            "X-Linked-Size": str(len(content)),
            "Content-Length": "0",
        }.items():
            self.send_header(key, value)
        self.end_headers()
        return None

    def _refusal(self, repository: str, revision: str, place: str) -> tuple[int, str] | None:
        if not any(other.startswith(f"{repository}/") for other in self.hub.files):
            return 401, "RepoNotFound"
        if repository in self.hub.gated and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return (403 if "Authorization" in self.headers else 401), "GatedRepo"
        if revision not in {"main", self.hub.revisions.get(repository)}:
            return 404, "RevisionNotFound"
        return None if place in self.hub.files else (404, "EntryNotFound")

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "no")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, asked: Asked, place: str, content: bytes, *, body: bool, headers: dict[str, str]) -> None:
        faults = self.hub.faults.get(place, [])
        fault = faults.pop(0) if body and faults else Fault("none")
        if fault.kind == "status":
            return self._refuse(fault.status, "Broken")
        wanted = asked.headers.get("Range") or asked.headers.get("range")
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and fault.kind != "whole" else 0
        if first >= len(content):
            return self._refuse(416, "RangeNotSatisfiable")
        shown = first + 1 if fault.kind == "elsewhere" else first
        extra = b"!" * 1000 if fault.kind == "more" else b""
        part = content[first:] + extra
        self.send_response(206 if wanted and fault.kind != "whole" else 200)
        if wanted and fault.kind != "whole":
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if not body:
            return None
        if fault.kind in {"break", "stall"}:
            part = part[: fault.after]
        with contextlib.suppress(OSError):
            for start in range(0, len(part), 1 << 18):
                self.wfile.write(part[start : start + (1 << 18)])
                asked.sent += len(part[start : start + (1 << 18)])
                time.sleep(self.hub.slow_seconds)
            self.wfile.flush()
            if fault.kind == "stall":
                self.hub.go_on.wait(120)
        if fault.kind in {"break", "stall"}:
            self.close_connection = True
        return None

    def log_message(self, *args: object) -> None:
        """Nobody reads it."""


@contextlib.contextmanager
def hub_server() -> Iterator[HubServer]:
    hub = HubServer()
    servers = []
    for name in ("hub", "content"):
        handler = type("Handler", (_Handler,), {"hub": hub, "name": name})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        hub.ports[name] = server.server_address[1]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
    try:
        yield hub
    finally:
        hub.go_on.set()
        for server in servers:
            server.shutdown()
            server.server_close()
