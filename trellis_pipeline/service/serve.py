"""Running the service: uvicorn around the application, until somebody says stop.

SIGTERM and Ctrl-C end it in good order: no new requests, a few seconds for those under way, and what was
being generated goes on with the next start.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator

import uvicorn

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.generation.generator import Generator
from trellis_pipeline.service.app import build_service
from trellis_pipeline.service.faults import FaultPlan
from trellis_pipeline.service.options import ServiceOptions, check_bind

GRACE_SECONDS = 5
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. port: 0 for any free one. Raises ConfigError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(f"the service cannot listen on {host}:{port}: {error.strerror or error}") from None
    return listener


class Server(uvicorn.Server):
    """uvicorn, but a signal that was obeyed is not raised once more: the caller returns instead of dying."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Only the main thread may listen to signals; elsewhere, set `should_exit`."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def make_server(
    options: ServiceOptions,
    generator: Generator,
    faults: FaultPlan | None = None,
    *,
    grace_seconds: int = GRACE_SECONDS,
) -> Server:
    """A server that has not begun. grace_seconds: for requests under way when it ends.

    Raises ConfigError where it would be open to the network without keys.
    """
    check_bind(options)
    config = uvicorn.Config(
        build_service(options, generator, faults),
        log_config=None,
        # Query strings hold signatures, so nobody writes requests down.
        access_log=False,
        lifespan="on",
        server_header=False,
        # Behind a proxy, `public_url` says what links look like; headers that anybody can send do not.
        proxy_headers=False,
        timeout_graceful_shutdown=grace_seconds,
        timeout_keep_alive=30,
        ws="none",
    )
    return Server(config)


def serve(options: ServiceOptions, generator: Generator, *, faults: FaultPlan | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises ConfigError for an address that is refused or taken."""
    server = make_server(options, generator, faults)
    listener = bind(options.host, options.port)
    with listener:
        server.run(sockets=[listener])
