"""A client that says exactly what it is told to, and a receiver for webhooks and uploads. Both are real."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from small_catalogs import InstantGenerator, draw_photo
from wire_client import KEY, Client

from trellis_pipeline.service.testing import running_service


@dataclass
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A server that writes down what it gets. answers: statuses to give first, then 200."""

    origin: str
    received: list[Received] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def take(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            here.received.append(Received(self.command, self.path, dict(self.headers), body))
            self.send_response(here.answers.pop(0) if here.answers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_PUT = take

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield here
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A square RGBA PNG: a crop as our own client sends it."""
    return draw_photo(tmp_path_factory.mktemp("photo") / "bottle.png").read_bytes()


@pytest.fixture(scope="session")
def picture(photo: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(photo).decode()


@pytest.fixture(scope="module")
def closing() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Ends services beside the next tests: a server takes a fifth of a second for it."""
    with ThreadPoolExecutor(8) as pool:
        ends: list[Future[None]] = []
        yield lambda end: ends.append(pool.submit(end))
        for end in ends:
            end.result()


@pytest.fixture
def start(
    tmp_path: Path, picture: str, closing: Callable[[Callable[[], None]], None]
) -> Iterator[Callable[..., Client]]:
    """Starts services; each call gives a client of a new one."""
    stack = contextlib.ExitStack()

    def begin(generator: Any = None, *, key: str = KEY, **options: Any) -> Client:
        options.setdefault("folder", tmp_path / "service")
        service = stack.enter_context(running_service(generator or InstantGenerator(), **options))
        client = Client(service, picture, key)
        stack.callback(client.http.close)
        return client

    yield begin
    closing(stack.close)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, picture: str) -> Iterator[Client]:
    """One service for tests that leave nothing behind."""
    folder = tmp_path_factory.mktemp("shared")
    with running_service(InstantGenerator(), folder=folder, api_keys=[KEY, "another-key"]) as service:
        client = Client(service, picture)
        yield client
        client.http.close()
